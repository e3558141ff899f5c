//! Decodes batches of a recording into records. Checks every length, offset and number before use.

mod rows;

use polars_arrow_format::ipc::{self as fb, planus};
use tcptrace_common::record as raw;
use zstd::bulk::Decompressor;

use super::{
    compat::{self, FileLayout},
    dictionary::DictEntry,
    encode::MOST_ROWS,
    schema::{self, Column, RowKind},
};
use crate::model::{Record, record::KernelLosses};

/// Most bytes of text in a batch.
const MOST_TEXT_BYTES: usize = 64 << 20;
/// Capacity of a text column kept between batches: the text of a full batch.
const RETAINED_TEXT_BYTES: usize = 16 << 20;
/// Most bytes of facts in one row, checkpoints excepted: parsed into objects they take ten times as much.
const MAX_FACTS_BYTES: usize = 1 << 20;
/// The same for the frames of a stack, of which there are many.
const MAX_STACK_BYTES: usize = 128 << 10;
/// Most entries in a dictionary with an index of one byte.
const MAX_DICT_NAMES: usize = 256;

/// What is invalid in a batch.
pub type Wrong = &'static str;

/// Decodes batches into records.
pub struct Decoder {
    layout: FileLayout,
    zstd: Decompressor<'static>,
    columns: [DecodedColumn; Column::ALL.len()],
    kinds: Vec<Option<RowKind>>,
    from: Vec<Option<u8>>,
    to: Vec<Option<u8>>,
    entries: Vec<DictEntry>,
    tasks: Vec<raw::Task>,
    before: KernelLosses,
    /// Rows of kinds this version does not know.
    pub unknown_rows: u64,
}

/// One column of a batch, decompressed.
#[derive(Debug, Default)]
struct DecodedColumn {
    rows: usize,
    /// Empty if every row has a value.
    validity: Vec<u8>,
    /// For a text: the offsets.
    fixed: Vec<u8>,
    bytes: Vec<u8>,
}

impl DecodedColumn {
    fn has(&self, row: usize) -> bool {
        row < self.rows
            && (self.validity.is_empty()
                || self.validity.get(row / 8).is_some_and(|bits| bits & (1 << (row % 8)) != 0))
    }

    fn number<const N: usize>(&self, row: usize) -> Option<[u8; N]> {
        if !self.has(row) {
            return None;
        }
        self.fixed.get(row * N..row * N + N)?.try_into().ok()
    }

    fn u8(&self, row: usize) -> Option<u8> {
        self.number(row).map(|[byte]| byte)
    }

    fn u16(&self, row: usize) -> Option<u16> {
        self.number(row).map(u16::from_le_bytes)
    }

    fn u32(&self, row: usize) -> Option<u32> {
        self.number(row).map(u32::from_le_bytes)
    }

    fn u64(&self, row: usize) -> Option<u64> {
        self.number(row).map(u64::from_le_bytes)
    }

    fn text(&self, row: usize) -> Result<Option<&str>, Wrong> {
        if !self.has(row) {
            return Ok(None);
        }
        let offset = |row: usize| {
            let bytes = self.fixed.get(row * 4..row * 4 + 4)?.try_into().ok()?;
            usize::try_from(i32::from_le_bytes(bytes)).ok()
        };
        let (begin, end) = offset(row).zip(offset(row + 1)).ok_or("a text without a place")?;
        let bytes = self.bytes.get(begin..end).ok_or("a text out of its place")?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| "a text that is not UTF-8")
    }
}

/// The buffers of one batch, in order.
struct BatchBody<'a> {
    body: &'a [u8],
    buffers: planus::vectors::Iter<'a, fb::BufferRef<'a>>,
}

impl<'a> BatchBody<'a> {
    /// The next buffer: its length when decompressed, and its zstd frame.
    fn next(&mut self) -> Result<(usize, &'a [u8]), Wrong> {
        let buffer = self.buffers.next().ok_or("a column without its values")?;
        let place = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let (begin, length) = place.ok_or("values without a place")?;
        if length == 0 {
            return Ok((0, &[]));
        }
        let end = begin.checked_add(length).ok_or("values without a place")?;
        let bytes = self.body.get(begin..end).ok_or("values outside their batch")?;
        let (claimed, frame) = bytes.split_first_chunk::<8>().ok_or("values without a length")?;
        let claimed =
            usize::try_from(i64::from_le_bytes(*claimed)).map_err(|_| "values that are not compressed")?;
        Ok((claimed, frame))
    }
}

impl Decoder {
    /// Creates a decoder for recordings with this layout.
    pub fn new(layout: FileLayout) -> std::io::Result<Self> {
        Ok(Self {
            layout,
            zstd: Decompressor::new()?,
            columns: Default::default(),
            kinds: Vec::new(),
            from: Vec::new(),
            to: Vec::new(),
            entries: Vec::new(),
            tasks: Vec::new(),
            before: KernelLosses::default(),
            unknown_rows: 0,
        })
    }

    /// A copy with the same dictionaries, which continues with the next batch.
    pub fn fork(&self) -> std::io::Result<Self> {
        Ok(Self {
            kinds: self.kinds.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            entries: self.entries.clone(),
            tasks: self.tasks.clone(),
            before: self.before,
            unknown_rows: self.unknown_rows,
            ..Self::new(self.layout.clone())?
        })
    }

    /// Approximate size of a [`Self::fork`], in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.tasks)
    }

    /// The recording's layout.
    pub const fn layout(&self) -> &FileLayout {
        &self.layout
    }

    /// Reads a dictionary.
    pub fn dictionary(&mut self, dictionary: fb::DictionaryBatchRef<'_>, body: &[u8]) -> Result<(), Wrong> {
        let id = Some(dictionary.id().map_err(unreadable)?);
        let Some(field) = self.layout.fields.iter().find(|field| field.dictionary == id) else {
            return Ok(());
        };
        let Some(column) = field.column else { return Ok(()) };
        let batch = dictionary.data().map_err(unreadable)?.ok_or("a dictionary without entries")?;
        if dictionary.is_delta().map_err(unreadable)? {
            return Err("a dictionary that grows");
        }
        let rows = rows_of(batch, MAX_DICT_NAMES)?;
        let mut body = body_of(batch, body)?;
        let mut names = DecodedColumn::default();
        self.fill_text(&mut body, rows, false, &mut names)?;
        let names: Vec<&str> =
            (0..rows).map(|row| names.text(row).map(Option::unwrap_or_default)).collect::<Result<_, _>>()?;
        match column {
            Column::Kind => self.kinds = names.into_iter().map(compat::row_kind).collect(),
            Column::From => self.from = names.into_iter().map(schema::state_number).collect(),
            Column::To => self.to = names.into_iter().map(schema::state_number).collect(),
            _ => {}
        }
        Ok(())
    }

    /// Reads a batch: emits its records to `take` in order until one is invalid.
    pub fn batch(
        &mut self,
        batch: fb::RecordBatchRef<'_>,
        body: &[u8],
        take: &mut dyn FnMut(Record),
    ) -> Result<(), Wrong> {
        let rows = rows_of(batch, 4 * MOST_ROWS)?;
        for values in &mut self.columns {
            values.bytes.clear();
            values.bytes.shrink_to(RETAINED_TEXT_BYTES);
        }
        self.fill(batch, body, rows)?;
        for row in 0..rows {
            if let Some(record) = self.row(row)? {
                take(record);
            }
        }
        Ok(())
    }

    fn fill(&mut self, batch: fb::RecordBatchRef<'_>, body: &[u8], rows: usize) -> Result<(), Wrong> {
        let mut body = body_of(batch, body)?;
        let mut nodes = batch.nodes().map_err(unreadable)?.ok_or("a batch without columns")?.iter();
        for index in 0..self.layout.fields.len() {
            let field = self.layout.fields[index];
            let node = nodes.next().ok_or("a batch with too few columns")?;
            let Some(column) = field.column else {
                for _ in 0..field.buffers {
                    body.next()?;
                }
                continue;
            };
            if node.length() != rows as i64 {
                return Err("a column of another length than its batch");
            }
            let is_null = node.null_count() == rows as i64;
            let mut values = std::mem::take(&mut self.columns[column as usize]);
            let filled = match column.of_type().width() {
                Some(width) => self.fill_numbers(&mut body, rows, width, is_null, &mut values),
                None => self.fill_text(&mut body, rows, is_null, &mut values),
            };
            self.columns[column as usize] = values;
            filled?;
        }
        Ok(())
    }

    fn fill_numbers(
        &mut self,
        body: &mut BatchBody<'_>,
        rows: usize,
        width: usize,
        is_null: bool,
        values: &mut DecodedColumn,
    ) -> Result<(), Wrong> {
        let (validity, numbers) = (body.next()?, body.next()?);
        values.rows = if is_null { 0 } else { rows };
        if is_null {
            return Ok(());
        }
        self.validity(validity, rows, values)?;
        self.decompress(numbers, rows * width, &mut values.fixed)
    }

    fn fill_text(
        &mut self,
        body: &mut BatchBody<'_>,
        rows: usize,
        is_null: bool,
        values: &mut DecodedColumn,
    ) -> Result<(), Wrong> {
        let (validity, offsets, bytes) = (body.next()?, body.next()?, body.next()?);
        values.rows = if is_null { 0 } else { rows };
        if is_null {
            return Ok(());
        }
        self.validity(validity, rows, values)?;
        self.decompress(offsets, (rows + 1) * 4, &mut values.fixed)?;
        let others: usize = self.columns.iter().map(|values| values.bytes.len()).sum();
        if bytes.0 > MOST_TEXT_BYTES - others.min(MOST_TEXT_BYTES) {
            return Err("texts longer than any");
        }
        self.decompress(bytes, bytes.0, &mut values.bytes)
    }

    fn validity(
        &mut self,
        validity: (usize, &[u8]),
        rows: usize,
        values: &mut DecodedColumn,
    ) -> Result<(), Wrong> {
        if validity.0 == 0 {
            values.validity.clear();
            return Ok(());
        }
        self.decompress(validity, rows.div_ceil(8), &mut values.validity)
    }

    /// Decompresses exactly `wanted` bytes, plus a little padding that a writer may add.
    fn decompress(
        &mut self,
        (claimed, frame): (usize, &[u8]),
        wanted: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Wrong> {
        const PADDING: usize = 64;
        out.clear();
        if claimed < wanted || claimed > wanted + PADDING {
            return Err("values of another length than their column");
        }
        if claimed == 0 {
            return Ok(());
        }
        out.reserve(claimed);
        match self.zstd.decompress_to_buffer(frame, out) {
            Ok(length) if length == claimed => Ok(()),
            _ => Err("values that can't be decompressed, or whose checksum is wrong"),
        }
    }

    fn column(&self, column: Column) -> &DecodedColumn {
        &self.columns[column as usize]
    }
}

fn unreadable(_: planus::Error) -> Wrong {
    "a batch that can't be made out"
}

fn rows_of(batch: fb::RecordBatchRef<'_>, most: usize) -> Result<usize, Wrong> {
    let rows = usize::try_from(batch.length().map_err(unreadable)?).ok();
    rows.filter(|&rows| rows <= most).ok_or("a batch of more rows than any")
}

fn body_of<'a>(batch: fb::RecordBatchRef<'a>, body: &'a [u8]) -> Result<BatchBody<'a>, Wrong> {
    let compression = batch.compression().map_err(unreadable)?;
    if compression.is_none_or(|compression| compression.codec().ok() != Some(fb::CompressionType::Zstd)) {
        return Err("a batch that is not compressed with zstd");
    }
    let buffers = batch.buffers().map_err(unreadable)?.ok_or("a batch without values")?;
    Ok(BatchBody { body, buffers: buffers.iter() })
}
