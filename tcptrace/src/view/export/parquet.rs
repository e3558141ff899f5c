//! Writes rows as Apache Parquet: collects a row group column by column and writes it at once.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        reader::{FileReader as _, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::types::{Type, TypePtr},
};

use super::table::{ColumnKind, ExportColumn, ExportValue, Table};

/// Rows per row group, held in memory.
pub(super) const GROUP: usize = 256 << 10;

/// Parquet writer.
pub struct Parquet<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<ColumnValues>,
    rows: usize,
}

/// The present values of one column of the row group, and their definition levels.
struct ColumnValues {
    values: ParquetValues,
    /// 1 if the row has a value: Parquet's definition levels.
    levels: Vec<i16>,
}

enum ParquetValues {
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
    Texts(Vec<ByteArray>),
}

impl<W: Write + Send> Parquet<W> {
    /// Starts a file. `metadata` is for readers: names and values.
    pub fn new(columns: &[ExportColumn], metadata: &[(&'static str, String)], out: W) -> io::Result<Self> {
        let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        let schema =
            Type::group_type_builder("schema").with_fields(fields).build().map_err(io::Error::other)?;
        let metadata = metadata.iter().map(|(name, value)| KeyValue::new((*name).to_owned(), value.clone()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(metadata.collect()))
            .build();
        let file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
            .map_err(io::Error::other)?;
        let columns = columns.iter().map(|column| ColumnValues::new(column.kind)).collect();
        Ok(Self { file, columns, rows: 0 })
    }

    /// Adds a row to the row group; the caller writes the group.
    pub(super) fn push(&mut self, row: &[ExportValue<'_>]) {
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value);
        }
        self.rows += 1;
    }

    /// Rows held in memory.
    pub(super) const fn held(&self) -> usize {
        self.rows
    }

    /// Writes the rows held in memory as a row group.
    pub(super) fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            let levels = Some(&column.levels[..]);
            match &column.values {
                ParquetValues::Numbers(values) => {
                    writer.typed::<Int64Type>().write_batch(values, levels, None)?
                }
                ParquetValues::Flags(values) => {
                    writer.typed::<BoolType>().write_batch(values, levels, None)?
                }
                ParquetValues::Texts(values) => {
                    writer.typed::<ByteArrayType>().write_batch(values, levels, None)?
                }
            };
            writer.close()?;
            column.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl<W: Write + Send> Table for Parquet<W> {
    fn row(&mut self, row: &[ExportValue<'_>]) -> io::Result<()> {
        self.push(row);
        if self.rows < GROUP { Ok(()) } else { self.write_group().map_err(io::Error::other) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.rows > 0 {
            self.write_group().map_err(io::Error::other)?;
        }
        self.file.close().map(|_| ()).map_err(io::Error::other)
    }
}

impl ColumnValues {
    const fn new(kind: ColumnKind) -> Self {
        let values = match kind {
            ColumnKind::Time | ColumnKind::Number | ColumnKind::Signed => ParquetValues::Numbers(Vec::new()),
            ColumnKind::Flag => ParquetValues::Flags(Vec::new()),
            ColumnKind::Text => ParquetValues::Texts(Vec::new()),
        };
        Self { values, levels: Vec::new() }
    }

    /// A value of the wrong type is a bug in a table of columns; it counts as missing.
    fn push(&mut self, value: &ExportValue<'_>) {
        let is_there = match (&mut self.values, value) {
            (ParquetValues::Numbers(values), ExportValue::Number(number)) => {
                values.push(number.cast_signed());
                true
            }
            (ParquetValues::Numbers(values), ExportValue::Signed(number)) => {
                values.push(*number);
                true
            }
            (ParquetValues::Flags(values), ExportValue::Flag(flag)) => {
                values.push(*flag);
                true
            }
            (ParquetValues::Texts(values), ExportValue::Text(text)) => {
                values.push(ByteArray::from(text.as_ref()));
                true
            }
            _ => false,
        };
        self.levels.push(i16::from(is_there));
    }

    /// Forgets the values, and frees their memory: a partitioned export has hundreds of files open.
    fn clear(&mut self) {
        match &mut self.values {
            ParquetValues::Numbers(values) => *values = Vec::new(),
            ParquetValues::Flags(values) => *values = Vec::new(),
            ParquetValues::Texts(values) => *values = Vec::new(),
        }
        self.levels = Vec::new();
    }
}

fn field(column: &ExportColumn) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.kind {
        ColumnKind::Time => {
            let unit = TimeUnit::NANOS;
            (Physical::INT64, Some(LogicalType::timestamp(true, unit)))
        }
        ColumnKind::Number => (Physical::INT64, Some(LogicalType::integer(64, false))),
        ColumnKind::Signed => (Physical::INT64, Some(LogicalType::integer(64, true))),
        ColumnKind::Flag => (Physical::BOOLEAN, None),
        ColumnKind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let field = Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    field.build().map(Arc::new)
}

/// The value of `name` in the metadata of a Parquet file; `None` if it is none, or has no such name.
pub fn file_metadata(file: std::fs::File, name: &str) -> Option<String> {
    let reader = SerializedFileReader::new(file).ok()?;
    let all = reader.metadata().file_metadata().key_value_metadata()?;
    all.iter().find(|pair| pair.key == name)?.value.clone()
}

#[cfg(test)]
mod tests {
    use super::{super::table::column, *};

    #[test]
    fn a_written_group_leaves_no_memory() {
        let columns = [column("n", ColumnKind::Number), column("text", ColumnKind::Text)];
        let mut table = Parquet::new(&columns, &[], Vec::new()).expect("memory");
        let held = |table: &Parquet<Vec<u8>>| -> Vec<usize> {
            table
                .columns
                .iter()
                .map(|column| {
                    let values = match &column.values {
                        ParquetValues::Numbers(values) => values.capacity(),
                        ParquetValues::Flags(values) => values.capacity(),
                        ParquetValues::Texts(values) => values.capacity(),
                    };
                    values + column.levels.capacity()
                })
                .collect()
        };
        for number in 0..1_000 {
            table.push(&[ExportValue::Number(number), ExportValue::text("a")]);
        }
        assert!(held(&table).iter().all(|rows| *rows >= 2_000));
        table.write_group().expect("memory");
        assert!(held(&table).iter().all(|rows| *rows == 0));
    }
}
