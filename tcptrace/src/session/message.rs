//! Writes messages of an Arrow IPC stream: the schema, a dictionary, a batch, the end mark.
//!
//! Not by the `StreamWriter` of the crate arrow-ipc: it adds no checksums, so that flipped bits become wrong values, and takes longer
//! for small batches (docs/benchmarks.md).

use std::{borrow::Cow, io, ops::Range};

use polars_arrow_format::ipc::{self as fb, planus::Builder};
use zstd::zstd_safe::CParameter;

use super::{
    columns::{Buffers, ColumnBuffer, Finish},
    schema::{ArrowType, Column, KINDS, state_names},
};

/// First bytes of every message.
pub const CONTINUATION: [u8; 4] = [0xff; 4];
/// Last message of a closed stream.
pub const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// Buffers begin at a multiple of this.
const ALIGNMENT: usize = 8;
/// zstd level: about twice as fast as the default for 5 % more bytes.
const LEVEL: i32 = 1;

/// The start of every file: the schema with `metadata`, and the dictionaries, which never change.
pub fn header(metadata: &[(&str, String)], compressor: &mut Compressor) -> io::Result<Vec<u8>> {
    let mut out = schema(metadata);
    for column in Column::ALL {
        let names: Vec<Cow<'static, str>> = match column.of_type() {
            ArrowType::Kind => KINDS.iter().map(|&(name, _)| name.into()).collect(),
            ArrowType::State => state_names().collect(),
            _ => continue,
        };
        compressor.dictionary(column as i64, &names, &mut out)?;
    }
    Ok(out)
}

fn schema(metadata: &[(&str, String)]) -> Vec<u8> {
    let pair = |(key, value): &(&str, String)| fb::KeyValue {
        key: Some((*key).to_owned()),
        value: Some(value.clone()),
    };
    let schema = fb::Schema {
        fields: Some(Column::ALL.into_iter().map(field).collect()),
        custom_metadata: Some(metadata.iter().map(pair).collect()),
        ..fb::Schema::default()
    };
    let mut out = Vec::new();
    finish(&mut Builder::new(), fb::MessageHeader::Schema(Box::new(schema)), &[], &mut out);
    out
}

fn field(column: Column) -> fb::Field {
    let int = |bit_width, is_signed| Box::new(fb::Int { bit_width, is_signed });
    let of_type = match column.of_type() {
        ArrowType::U8 => fb::Type::Int(int(8, false)),
        ArrowType::U16 => fb::Type::Int(int(16, false)),
        ArrowType::U32 => fb::Type::Int(int(32, false)),
        ArrowType::U64 => fb::Type::Int(int(64, false)),
        ArrowType::I64 => fb::Type::Int(int(64, true)),
        ArrowType::Time => fb::Type::Timestamp(Box::new(fb::Timestamp {
            unit: fb::TimeUnit::Nanosecond,
            timezone: Some("UTC".into()),
        })),
        ArrowType::Addr => fb::Type::FixedSizeBinary(Box::new(fb::FixedSizeBinary { byte_width: 16 })),
        ArrowType::Text | ArrowType::Kind | ArrowType::State => fb::Type::Utf8(Box::default()),
    };
    let dictionary = matches!(column.of_type(), ArrowType::Kind | ArrowType::State).then(|| {
        Box::new(fb::DictionaryEncoding {
            id: column as i64,
            index_type: Some(int(8, false)),
            ..fb::DictionaryEncoding::default()
        })
    });
    fb::Field {
        name: Some(column.name().into()),
        nullable: true,
        type_: Some(of_type),
        dictionary,
        // Arrow requires the children vector even when it is empty.
        children: Some(Vec::new()),
        custom_metadata: None,
    }
}

/// Appends a message with `header` and `body`.
fn finish(builder: &mut Builder, header: fb::MessageHeader, body: &[u8], out: &mut Vec<u8>) {
    let message = fb::Message {
        version: fb::MetadataVersion::V5,
        header: Some(header),
        body_length: body.len() as i64,
        custom_metadata: None,
    };
    builder.clear();
    let message = builder.finish(&message, None);
    let padded =
        (CONTINUATION.len() + 4 + message.len()).next_multiple_of(ALIGNMENT) - CONTINUATION.len() - 4;
    out.extend_from_slice(&CONTINUATION);
    out.extend_from_slice(&(padded as i32).to_le_bytes());
    out.extend_from_slice(message);
    out.resize(out.len() + padded - message.len(), 0);
    out.extend_from_slice(body);
}

/// Compresses batches; reuses its memory between them.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    builder: Builder,
    body: Vec<u8>,
    /// Ranges of `body` that hold that many zeros, compressed.
    zeros: Vec<(usize, Range<usize>)>,
    nodes: Vec<fb::FieldNode>,
    buffers: Vec<fb::Buffer>,
}

impl Compressor {
    /// Fails if there is not enough memory.
    pub fn new() -> io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        // The checksum detects corruption by a disk or a copy.
        zstd.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self {
            zstd,
            builder: Builder::new(),
            body: Vec::new(),
            zeros: Vec::new(),
            nodes: Vec::new(),
            buffers: Vec::new(),
        })
    }

    /// Appends a batch of `rows` rows made of `columns`, which are in the order of [`Column::ALL`].
    pub fn batch(
        &mut self,
        rows: usize,
        columns: &mut [&mut dyn Finish],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.begin();
        for column in columns {
            self.column(rows, &column.finish(rows))?;
        }
        let batch = fb::MessageHeader::RecordBatch(Box::new(self.record_batch(rows)));
        finish(&mut self.builder, batch, &self.body, out);
        Ok(())
    }

    fn dictionary(&mut self, id: i64, names: &[Cow<'_, str>], out: &mut Vec<u8>) -> io::Result<()> {
        self.begin();
        let mut texts = super::columns::Texts::default();
        for (row, name) in names.iter().enumerate() {
            texts.set(row, name);
        }
        self.column(names.len(), &texts.finish(names.len()))?;
        let data = Some(Box::new(self.record_batch(names.len())));
        let batch = Box::new(fb::DictionaryBatch { id, data, is_delta: false });
        finish(&mut self.builder, fb::MessageHeader::DictionaryBatch(batch), &self.body, out);
        Ok(())
    }

    fn begin(&mut self) {
        self.body.clear();
        self.zeros.clear();
    }

    fn record_batch(&mut self, rows: usize) -> fb::RecordBatch {
        fb::RecordBatch {
            length: rows as i64,
            nodes: Some(std::mem::take(&mut self.nodes)),
            buffers: Some(std::mem::take(&mut self.buffers)),
            compression: Some(Box::new(fb::BodyCompression {
                codec: fb::CompressionType::Zstd,
                method: fb::BodyCompressionMethod::Buffer,
            })),
            variadic_buffer_counts: None,
        }
    }

    fn column(&mut self, rows: usize, column: &Buffers<'_>) -> io::Result<()> {
        self.nodes.push(fb::FieldNode { length: rows as i64, null_count: column.nulls as i64 });
        self.buffer(column.validity)?;
        self.buffer(column.values)?;
        column.bytes.map_or(Ok(()), |bytes| self.buffer(bytes))
    }

    /// Appends one buffer: its length, then its bytes, compressed.
    fn buffer(&mut self, bytes: ColumnBuffer<'_>) -> io::Result<()> {
        let begin = self.body.len();
        match bytes {
            ColumnBuffer::Of([]) | ColumnBuffer::Zeros(0) => {}
            ColumnBuffer::Of(bytes) => self.compress(bytes)?,
            ColumnBuffer::Zeros(len) => self.compress_zeros(len)?,
        }
        self.buffers.push(fb::Buffer { offset: begin as i64, length: (self.body.len() - begin) as i64 });
        self.body.resize(self.body.len().next_multiple_of(ALIGNMENT), 0);
        Ok(())
    }

    /// Appends `len` zeros; they are compressed once per batch.
    fn compress_zeros(&mut self, len: usize) -> io::Result<()> {
        if let Some((_, there)) = self.zeros.iter().find(|(known, _)| *known == len) {
            self.body.extend_from_within(there.clone());
            return Ok(());
        }
        let begin = self.body.len();
        self.compress(&vec![0; len])?;
        self.zeros.push((len, begin..self.body.len()));
        Ok(())
    }

    fn compress(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body.extend_from_slice(&(bytes.len() as i64).to_le_bytes());
        let at = self.body.len();
        self.body.resize(at + zstd::zstd_safe::compress_bound(bytes.len()), 0);
        let length = self.zstd.compress_to_buffer(bytes, &mut self.body[at..])?;
        self.body.truncate(at + length);
        Ok(())
    }
}
