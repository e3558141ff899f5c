//! Columns of a batch while it is put together: values go in row by row, Arrow's buffers come out.
//!
//! Most columns are null in most rows. A column is only touched where it has a value; what is missing
//! before that is filled in then.

/// Which rows of a column have a value: Arrow's validity bitmap, which is made when the first row has none.
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

    /// Sets the bit of `row`, and those of the rows before the first that has no value.
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

    /// Empty when every row has a value.
    fn finish(&mut self, rows: usize) -> Bytes<'_> {
        if self.count == rows {
            return Bytes::Of(&[]);
        }
        if self.count == 0 {
            return Bytes::Zeros(rows.div_ceil(8));
        }
        if self.bits.is_empty() {
            self.note_all(self.count);
        }
        self.bits.resize(rows.div_ceil(8), 0);
        Bytes::Of(&self.bits)
    }

    fn clear(&mut self) {
        self.bits.clear();
        self.count = 0;
    }
}

/// A column of numbers.
#[derive(Debug, Default)]
pub struct Numbers<T> {
    values: Vec<T>,
    validity: Validity,
}

impl<T: bytemuck::Pod + Default> Numbers<T> {
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
    /// Where each row's text begins in `bytes`, and the end of the last.
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

    /// The same, with what `write` appends, which must be UTF-8.
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

/// A column whose rows are all there, as Arrow's buffers.
pub struct Buffers<'a> {
    /// Rows without a value.
    pub nulls: usize,
    /// Validity, which is empty when every row has a value.
    pub validity: Bytes<'a>,
    /// The values; for a text where each begins.
    pub values: Bytes<'a>,
    /// For a text: the bytes.
    pub bytes: Option<Bytes<'a>>,
}

/// What is in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes<'a> {
    /// These.
    Of(&'a [u8]),
    /// So many zeros: a column without a value is not filled, and most columns have none.
    Zeros(usize),
}

/// Any column.
pub trait Finish {
    /// Fills it up to `rows` and hands its buffers out.
    fn finish(&mut self, rows: usize) -> Buffers<'_>;
    /// Makes it empty.
    fn clear(&mut self);
}

impl<T: bytemuck::Pod + Default> Finish for Numbers<T> {
    fn finish(&mut self, rows: usize) -> Buffers<'_> {
        let nulls = rows - self.validity.count;
        let values = if nulls == rows {
            Bytes::Zeros(rows * size_of::<T>())
        } else {
            self.values.resize(rows, T::default());
            Bytes::Of(bytemuck::cast_slice(&self.values))
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
            Bytes::Zeros((rows + 1) * size_of::<i32>())
        } else {
            self.pad(rows);
            Bytes::Of(bytemuck::cast_slice(&self.offsets))
        };
        Buffers { nulls, validity: self.validity.finish(rows), values, bytes: Some(Bytes::Of(&self.bytes)) }
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
    fn rows_that_were_not_set_are_null() {
        let mut numbers = Numbers::<u16>::default();
        numbers.set(1, 7);
        numbers.set(9, 8);
        let buffers = numbers.finish(11);
        assert_eq!(buffers.nulls, 9);
        assert_eq!(buffers.validity, Bytes::Of(&[0b10, 0b10]));
        let values: [u16; 11] = [0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        assert_eq!(buffers.values, Bytes::Of(bytemuck::cast_slice(&values)));
        numbers.clear();
        numbers.set(0, 1);
        let full = numbers.finish(1);
        assert_eq!((full.nulls, full.validity), (0, Bytes::Of(&[])));
    }

    #[test]
    fn rows_before_the_first_null_are_noted() {
        for full in 1..=17_usize {
            let expected: Vec<u8> =
                (0..3).map(|byte| (0..8).map(|bit| u8::from(byte * 8 + bit < full) << bit).sum()).collect();
            let mut numbers = Numbers::<u8>::default();
            (0..full).for_each(|row| numbers.set(row, 1));
            assert_eq!(numbers.finish(24).validity, Bytes::Of(&expected), "{full} of 24");
            let mut numbers = Numbers::<u8>::default();
            (0..full).for_each(|row| numbers.set(row, 1));
            numbers.set(23, 1);
            let with_the_last = [expected[0], expected[1], expected[2] | 1 << 7];
            assert_eq!(numbers.finish(24).validity, Bytes::Of(&with_the_last), "{full} and one of 24");
        }
    }

    #[test]
    fn a_column_without_a_value_is_zeros() {
        let mut numbers = Numbers::<u32>::default();
        let buffers = numbers.finish(9);
        assert_eq!((buffers.nulls, buffers.validity, buffers.values), (9, Bytes::Zeros(2), Bytes::Zeros(36)));
    }

    #[test]
    fn texts_keep_where_they_begin() {
        let mut texts = Texts::default();
        texts.set(1, "ab");
        texts.set(3, "c");
        let buffers = texts.finish(5);
        let offsets: [i32; 6] = [0, 0, 2, 2, 3, 3];
        assert_eq!(buffers.values, Bytes::Of(bytemuck::cast_slice(&offsets)));
        assert_eq!(buffers.bytes, Some(Bytes::Of(b"abc")));
        assert_eq!(buffers.nulls, 3);
        texts.clear();
        assert_eq!(texts.finish(0).values, Bytes::Zeros(4));
    }
}
