//! Rows as Apache Parquet: a group of rows is gathered column by column and written at once.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::{Type, TypePtr},
};

use super::{Column, Kind, Table, Value};

/// Rows gathered in memory.
const GROUP: usize = 256 << 10;

/// Writes Parquet.
pub struct Parquet<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Gathered>,
    rows: usize,
}

/// The values of one column that are not missing, and where they are.
struct Gathered {
    values: Values,
    /// 1 where there is a value: Parquet's definition levels.
    levels: Vec<i16>,
}

enum Values {
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
    Texts(Vec<ByteArray>),
}

impl<W: Write + Send> Parquet<W> {
    /// Begins a file.
    pub fn new(columns: &[Column], out: W) -> io::Result<Self> {
        let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        let schema =
            Type::group_type_builder("schema").with_fields(fields).build().map_err(io::Error::other)?;
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
            .map_err(io::Error::other)?;
        let columns = columns.iter().map(|column| Gathered::new(column.kind)).collect();
        Ok(Self { file, columns, rows: 0 })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            let levels = Some(&column.levels[..]);
            match &column.values {
                Values::Numbers(values) => writer.typed::<Int64Type>().write_batch(values, levels, None)?,
                Values::Flags(values) => writer.typed::<BoolType>().write_batch(values, levels, None)?,
                Values::Texts(values) => writer.typed::<ByteArrayType>().write_batch(values, levels, None)?,
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
    fn row(&mut self, row: &[Value<'_>]) -> io::Result<()> {
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value);
        }
        self.rows += 1;
        if self.rows < GROUP { Ok(()) } else { self.write_group().map_err(io::Error::other) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.rows > 0 {
            self.write_group().map_err(io::Error::other)?;
        }
        self.file.close().map(|_| ()).map_err(io::Error::other)
    }
}

impl Gathered {
    const fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Time | Kind::Number | Kind::Signed => Values::Numbers(Vec::new()),
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Text => Values::Texts(Vec::new()),
        };
        Self { values, levels: Vec::new() }
    }

    /// A value of another kind than the column's would be an error in a table of columns; it is missing.
    fn push(&mut self, value: &Value<'_>) {
        let is_there = match (&mut self.values, value) {
            (Values::Numbers(values), Value::Number(number)) => {
                values.push(number.cast_signed());
                true
            }
            (Values::Numbers(values), Value::Signed(number)) => {
                values.push(*number);
                true
            }
            (Values::Flags(values), Value::Flag(flag)) => {
                values.push(*flag);
                true
            }
            (Values::Texts(values), Value::Text(text)) => {
                values.push(ByteArray::from(text.as_ref()));
                true
            }
            _ => false,
        };
        self.levels.push(i16::from(is_there));
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Numbers(values) => values.clear(),
            Values::Flags(values) => values.clear(),
            Values::Texts(values) => values.clear(),
        }
        self.levels.clear();
    }
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Time => {
            let unit = TimeUnit::NANOS;
            (Physical::INT64, Some(LogicalType::timestamp(true, unit)))
        }
        Kind::Number => (Physical::INT64, Some(LogicalType::integer(64, false))),
        Kind::Signed => (Physical::INT64, Some(LogicalType::integer(64, true))),
        Kind::Flag => (Physical::BOOLEAN, None),
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let field = Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    field.build().map(Arc::new)
}
