//! Columns of a batch while it is put together: values go in row by row, Arrow's buffers come out.
//!
//! Most columns are null in most rows. A column is only touched where it has a value; what is missing
//! before that is filled in then.

/// Which rows of a column have a value: Arrow's validity bitmap.
#[derive(Debug, Default)]
struct Validity {
    bits: Vec<u8>,
    count: usize,
}

impl Validity {
    fn set(&mut self, row: usize) {
        let byte = row / 8;
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        self.bits[byte] |= 1 << (row % 8);
        self.count += 1;
    }

    fn finish(&mut self, rows: usize) {
        self.bits.resize(rows.div_ceil(8), 0);
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
    pub validity: &'a [u8],
    /// The values; for a text where each begins.
    pub values: &'a [u8],
    /// For a text: the bytes.
    pub bytes: Option<&'a [u8]>,
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
        self.values.resize(rows, T::default());
        self.validity.finish(rows);
        let nulls = rows - self.validity.count;
        Buffers {
            nulls,
            validity: if nulls == 0 { &[] } else { &self.validity.bits },
            values: bytemuck::cast_slice(&self.values),
            bytes: None,
        }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.validity.clear();
    }
}

impl Finish for Texts {
    fn finish(&mut self, rows: usize) -> Buffers<'_> {
        self.pad(rows);
        self.validity.finish(rows);
        let nulls = rows - self.validity.count;
        Buffers {
            nulls,
            validity: if nulls == 0 { &[] } else { &self.validity.bits },
            values: bytemuck::cast_slice(&self.offsets),
            bytes: Some(&self.bytes),
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
    fn rows_that_were_not_set_are_null() {
        let mut numbers = Numbers::<u16>::default();
        numbers.set(1, 7);
        numbers.set(9, 8);
        let buffers = numbers.finish(11);
        assert_eq!(buffers.nulls, 9);
        assert_eq!(buffers.validity, [0b10, 0b10]);
        assert_eq!(bytemuck::cast_slice::<u8, u16>(buffers.values), [0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        numbers.clear();
        numbers.set(0, 1);
        let full = numbers.finish(1);
        assert_eq!((full.nulls, full.validity), (0, &[][..]));
    }

    #[test]
    fn texts_keep_where_they_begin() {
        let mut texts = Texts::default();
        texts.set(1, "ab");
        texts.set(3, "c");
        let buffers = texts.finish(5);
        assert_eq!(bytemuck::cast_slice::<u8, i32>(buffers.values), [0, 0, 2, 2, 3, 3]);
        assert_eq!(buffers.bytes, Some(&b"abc"[..]));
        assert_eq!(buffers.nulls, 3);
        texts.clear();
        assert_eq!(bytemuck::cast_slice::<u8, i32>(texts.finish(0).values), [0]);
    }
}
