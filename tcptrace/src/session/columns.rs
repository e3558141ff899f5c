//! Builds the columns of a batch row by row, and produces Arrow's buffers.
//!
//! Most columns are null in most rows. A column is only touched in rows where it has a value; gaps before a
//! value are filled at that point.

/// Arrow's validity bitmap of a column, allocated at the first row without a value.
#[derive(Debug, Default)]
struct Validity {
    bits: Vec<u8>,
    count: usize,
}

impl Validity {
    fn set(&mut self, row: usize) {
        if self.count < row {
            self.note(row);
        }
        self.count += 1;
    }

    /// Sets the bit of `row`; first adds the bits of the rows before the first null.
    fn note(&mut self, row: usize) {
        if self.bits.is_empty() {
            self.note_all(self.count);
        }
        let byte = row / 8;
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        self.bits[byte] |= 1 << (row % 8);
    }

    fn note_all(&mut self, rows: usize) {
        self.bits.resize(rows / 8, u8::MAX);
        if !rows.is_multiple_of(8) {
            self.bits.push((1 << (rows % 8)) - 1);
        }
    }

    /// Produces the bitmap; empty when every row has a value.
    fn finish(&mut self, rows: usize) -> ColumnBuffer<'_> {
        if self.count == rows {
            return ColumnBuffer::Of(&[]);
        }
        if self.count == 0 {
            return ColumnBuffer::Zeros(rows.div_ceil(8));
        }
        if self.bits.is_empty() {
            self.note_all(self.count);
        }
        self.bits.resize(rows.div_ceil(8), 0);
        ColumnBuffer::Of(&self.bits)
    }

    fn clear(&mut self) {
        self.bits.clear();
        self.count = 0;
    }
}

/// A column of numbers.
#[derive(Debug, Default)]
pub struct NumberColumn<T> {
    values: Vec<T>,
    validity: Validity,
}

impl<T: bytemuck::Pod + Default> NumberColumn<T> {
    /// Sets the value in `row`, which is past every row set before.
    pub fn set(&mut self, row: usize, value: T) {
        if self.values.len() < row {
            self.values.resize(row, T::default());
        }
        self.values.push(value);
        self.validity.set(row);
    }
}

/// A column of texts.
#[derive(Debug)]
pub struct Texts {
    /// Start of each row's text in `bytes`, and the end of the last.
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    validity: Validity,
}

impl Default for Texts {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new(), validity: Validity::default() }
    }
}

impl Texts {
    /// Sets the text in `row`, which is past every row set before.
    pub fn set(&mut self, row: usize, text: &str) {
        self.write(row, |bytes| bytes.extend_from_slice(text.as_bytes()));
    }

    /// Sets the text in `row` to the bytes that `write` appends, which must be UTF-8.
    pub fn write(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.pad(row);
        write(&mut self.bytes);
        self.offsets.push(self.bytes.len() as i32);
        self.validity.set(row);
    }

    /// Bytes of text so far.
    pub const fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn pad(&mut self, rows: usize) {
        if self.offsets.len() <= rows {
            self.offsets.resize(rows + 1, self.bytes.len() as i32);
        }
    }
}

/// Arrow's buffers of a complete column.
pub struct Buffers<'a> {
    /// Rows without a value.
    pub nulls: usize,
    /// Validity, which is empty when every row has a value.
    pub validity: ColumnBuffer<'a>,
    /// The values; for a text the offsets.
    pub values: ColumnBuffer<'a>,
    /// For a text: the bytes.
    pub bytes: Option<ColumnBuffer<'a>>,
}

/// Contents of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnBuffer<'a> {
    /// These bytes.
    Of(&'a [u8]),
    /// This many zeros: a column without a value is not materialized, and most columns have none.
    Zeros(usize),
}

/// A column of any type.
pub trait Finish {
    /// Pads the column to `rows` and returns its buffers.
    fn finish(&mut self, rows: usize) -> Buffers<'_>;
    /// Removes all rows.
    fn clear(&mut self);
}

impl<T: bytemuck::Pod + Default> Finish for NumberColumn<T> {
    fn finish(&mut self, rows: usize) -> Buffers<'_> {
        let nulls = rows - self.validity.count;
        let values = if nulls == rows {
            ColumnBuffer::Zeros(rows * size_of::<T>())
        } else {
            self.values.resize(rows, T::default());
            ColumnBuffer::Of(bytemuck::cast_slice(&self.values))
        };
        Buffers { nulls, validity: self.validity.finish(rows), values, bytes: None }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.validity.clear();
    }
}

impl Finish for Texts {
    fn finish(&mut self, rows: usize) -> Buffers<'_> {
        let nulls = rows - self.validity.count;
        let values = if nulls == rows {
            ColumnBuffer::Zeros((rows + 1) * size_of::<i32>())
        } else {
            self.pad(rows);
            ColumnBuffer::Of(bytemuck::cast_slice(&self.offsets))
        };
        Buffers {
            nulls,
            validity: self.validity.finish(rows),
            values,
            bytes: Some(ColumnBuffer::Of(&self.bytes)),
        }
    }

    fn clear(&mut self) {
        self.offsets.truncate(1);
        self.bytes.clear();
        self.validity.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_rows_are_null() {
        let mut numbers = NumberColumn::<u16>::default();
        numbers.set(1, 7);
        numbers.set(9, 8);
        let buffers = numbers.finish(11);
        assert_eq!(buffers.nulls, 9);
        assert_eq!(buffers.validity, ColumnBuffer::Of(&[0b10, 0b10]));
        let values: [u16; 11] = [0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        assert_eq!(buffers.values, ColumnBuffer::Of(bytemuck::cast_slice(&values)));
        numbers.clear();
        numbers.set(0, 1);
        let full = numbers.finish(1);
        assert_eq!((full.nulls, full.validity), (0, ColumnBuffer::Of(&[])));
    }

    #[test]
    fn rows_before_the_first_null_are_valid() {
        for full in 1..=17_usize {
            let expected: Vec<u8> =
                (0..3).map(|byte| (0..8).map(|bit| u8::from(byte * 8 + bit < full) << bit).sum()).collect();
            let mut numbers = NumberColumn::<u8>::default();
            (0..full).for_each(|row| numbers.set(row, 1));
            assert_eq!(numbers.finish(24).validity, ColumnBuffer::Of(&expected), "{full} of 24");
            let mut numbers = NumberColumn::<u8>::default();
            (0..full).for_each(|row| numbers.set(row, 1));
            numbers.set(23, 1);
            let with_the_last = [expected[0], expected[1], expected[2] | 1 << 7];
            assert_eq!(numbers.finish(24).validity, ColumnBuffer::Of(&with_the_last), "{full} and one of 24");
        }
    }

    #[test]
    fn a_column_without_a_value_is_zeros() {
        let mut numbers = NumberColumn::<u32>::default();
        let buffers = numbers.finish(9);
        assert_eq!(
            (buffers.nulls, buffers.validity, buffers.values),
            (9, ColumnBuffer::Zeros(2), ColumnBuffer::Zeros(36))
        );
    }

    #[test]
    fn texts_store_their_offsets() {
        let mut texts = Texts::default();
        texts.set(1, "ab");
        texts.set(3, "c");
        let buffers = texts.finish(5);
        let offsets: [i32; 6] = [0, 0, 2, 2, 3, 3];
        assert_eq!(buffers.values, ColumnBuffer::Of(bytemuck::cast_slice(&offsets)));
        assert_eq!(buffers.bytes, Some(ColumnBuffer::Of(b"abc")));
        assert_eq!(buffers.nulls, 3);
        texts.clear();
        assert_eq!(texts.finish(0).values, ColumnBuffer::Zeros(4));
    }
}
