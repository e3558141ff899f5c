//! Writes messages of an Arrow IPC stream: the schema, a dictionary, a batch, the end mark.
//!
//! Not by `arrow_ipc::writer::StreamWriter`: it adds no checksums, so that flipped bits become wrong values, and takes longer
//! for small batches (docs/benchmarks.md).

use std::{borrow::Cow, io, ops::Range};

use arrow_ipc as fb;
use flatbuffers::{FlatBufferBuilder, WIPOffset};
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
    let mut fbb = FlatBufferBuilder::new();
    let fields: Vec<_> = Column::ALL.into_iter().map(|column| field(&mut fbb, column)).collect();
    let fields = fbb.create_vector(&fields);
    let pairs: Vec<_> = metadata
        .iter()
        .map(|(key, value)| {
            let args =
                fb::KeyValueArgs { key: Some(fbb.create_string(key)), value: Some(fbb.create_string(value)) };
            fb::KeyValue::create(&mut fbb, &args)
        })
        .collect();
    let pairs = fbb.create_vector(&pairs);
    let args = fb::SchemaArgs { fields: Some(fields), custom_metadata: Some(pairs), ..Default::default() };
    let schema = fb::Schema::create(&mut fbb, &args).as_union_value();
    let mut out = Vec::new();
    finish(&mut fbb, fb::MessageHeader::Schema, schema, &[], &mut out);
    out
}

fn field<'a>(fbb: &mut FlatBufferBuilder<'a>, column: Column) -> WIPOffset<fb::Field<'a>> {
    let name = fbb.create_string(column.name());
    let int = |fbb: &mut FlatBufferBuilder<'a>, bits, is_signed| {
        fb::Int::create(fbb, &fb::IntArgs { bitWidth: bits, is_signed })
    };
    let (type_type, type_) = match column.of_type() {
        ArrowType::U8 => (fb::Type::Int, int(fbb, 8, false).as_union_value()),
        ArrowType::U16 => (fb::Type::Int, int(fbb, 16, false).as_union_value()),
        ArrowType::U32 => (fb::Type::Int, int(fbb, 32, false).as_union_value()),
        ArrowType::U64 => (fb::Type::Int, int(fbb, 64, false).as_union_value()),
        ArrowType::I64 => (fb::Type::Int, int(fbb, 64, true).as_union_value()),
        ArrowType::Time => {
            let args = fb::TimestampArgs {
                unit: fb::TimeUnit::NANOSECOND,
                timezone: Some(fbb.create_string("UTC")),
            };
            (fb::Type::Timestamp, fb::Timestamp::create(fbb, &args).as_union_value())
        }
        ArrowType::Addr => {
            let args = fb::FixedSizeBinaryArgs { byteWidth: 16 };
            (fb::Type::FixedSizeBinary, fb::FixedSizeBinary::create(fbb, &args).as_union_value())
        }
        ArrowType::Text | ArrowType::Kind | ArrowType::State => {
            (fb::Type::Utf8, fb::Utf8::create(fbb, &fb::Utf8Args {}).as_union_value())
        }
    };
    let dictionary = matches!(column.of_type(), ArrowType::Kind | ArrowType::State).then(|| {
        let args = fb::DictionaryEncodingArgs {
            id: column as i64,
            indexType: Some(int(fbb, 8, false)),
            ..Default::default()
        };
        fb::DictionaryEncoding::create(fbb, &args)
    });
    // Arrow requires the children vector even when it is empty.
    let children = fbb.create_vector::<WIPOffset<fb::Field<'_>>>(&[]);
    let args = fb::FieldArgs {
        name: Some(name),
        nullable: true,
        type_type,
        type_: Some(type_),
        dictionary,
        children: Some(children),
        custom_metadata: None,
    };
    fb::Field::create(fbb, &args)
}

/// Appends a message with `header` and `body`.
fn finish(
    fbb: &mut FlatBufferBuilder<'_>,
    header_type: fb::MessageHeader,
    header: WIPOffset<flatbuffers::UnionWIPOffset>,
    body: &[u8],
    out: &mut Vec<u8>,
) {
    let args = fb::MessageArgs {
        version: fb::MetadataVersion::V5,
        header_type,
        header: Some(header),
        bodyLength: body.len() as i64,
        custom_metadata: None,
    };
    let message = fb::Message::create(fbb, &args);
    fbb.finish(message, None);
    let message = fbb.finished_data();
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
    fbb: FlatBufferBuilder<'static>,
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
            fbb: FlatBufferBuilder::new(),
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
        let batch = self.record_batch(rows);
        finish(&mut self.fbb, fb::MessageHeader::RecordBatch, batch.as_union_value(), &self.body, out);
        Ok(())
    }

    fn dictionary(&mut self, id: i64, names: &[Cow<'_, str>], out: &mut Vec<u8>) -> io::Result<()> {
        self.begin();
        let mut texts = super::columns::Texts::default();
        for (row, name) in names.iter().enumerate() {
            texts.set(row, name);
        }
        self.column(names.len(), &texts.finish(names.len()))?;
        let data = Some(self.record_batch(names.len()));
        let batch =
            fb::DictionaryBatch::create(&mut self.fbb, &fb::DictionaryBatchArgs { id, data, isDelta: false });
        finish(&mut self.fbb, fb::MessageHeader::DictionaryBatch, batch.as_union_value(), &self.body, out);
        Ok(())
    }

    fn begin(&mut self) {
        self.fbb.reset();
        self.body.clear();
        self.zeros.clear();
        self.nodes.clear();
        self.buffers.clear();
    }

    fn record_batch(&mut self, rows: usize) -> WIPOffset<fb::RecordBatch<'static>> {
        let nodes = Some(self.fbb.create_vector(&self.nodes));
        let buffers = Some(self.fbb.create_vector(&self.buffers));
        let compression = Some(fb::BodyCompression::create(
            &mut self.fbb,
            &fb::BodyCompressionArgs {
                codec: fb::CompressionType::ZSTD,
                method: fb::BodyCompressionMethod::BUFFER,
            },
        ));
        let args = fb::RecordBatchArgs {
            length: rows as i64,
            nodes,
            buffers,
            compression,
            variadicBufferCounts: None,
        };
        fb::RecordBatch::create(&mut self.fbb, &args)
    }

    fn column(&mut self, rows: usize, column: &Buffers<'_>) -> io::Result<()> {
        self.nodes.push(fb::FieldNode::new(rows as i64, column.nulls as i64));
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
        self.buffers.push(fb::Buffer::new(begin as i64, (self.body.len() - begin) as i64));
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
