//! Maps the schema of a recording of any version to the columns this version knows.
//!
//! Columns and kinds are found by name. Unknown ones, from a newer minor version, are skipped. Another major
//! version is rejected. There is one major version so far; conversions from older ones belong here.

use arrow_ipc as fb;

use super::{
    ending::ReadError,
    schema::{ArrowType, Column, FORMAT, KINDS, RowKind, Version, key},
};

/// Most columns in a recording.
const MAX_COLUMNS: usize = 256;

/// Layout of a recording.
#[derive(Clone, Debug)]
pub struct FileLayout {
    /// The version it was written in.
    pub version: Version,
    /// Subtract from `ts` to get `CLOCK_MONOTONIC`.
    pub clock_offset_ns: u64,
    /// Boot id of the recorded host; empty if the file has none.
    pub boot_id: String,
    /// Name of the recorded host; empty if the file has none. Untrusted.
    pub host: String,
    /// Its columns.
    pub fields: Vec<Field>,
}

/// One column of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The known column; `None` for one this version does not know.
    pub column: Option<Column>,
    /// Number of its buffers.
    pub buffers: usize,
    /// The id of its dictionary.
    pub dictionary: Option<i64>,
}

impl FileLayout {
    /// Reads the schema.
    pub fn of(schema: fb::Schema<'_>) -> Result<Self, ReadError> {
        let metadata = |wanted: &str| {
            let pairs = schema.custom_metadata()?;
            pairs.iter().find(|pair| pair.key() == Some(wanted))?.value()
        };
        let version = metadata(key::FORMAT).ok_or(ReadError::Foreign)?;
        let version: Version = version.parse().map_err(|()| ReadError::Header("its version"))?;
        if version.major != FORMAT.major {
            return Err(ReadError::Version {
                version,
                writer: crate::model::text::sanitise(metadata(key::VERSION).unwrap_or("?")).into_owned(),
            });
        }
        let clock_offset_ns = metadata(key::CLOCK_OFFSET_NS)
            .and_then(|text| text.parse().ok())
            .ok_or(ReadError::Header("its clock"))?;
        let fields = schema.fields().ok_or(ReadError::Header("its columns"))?;
        if fields.len() > MAX_COLUMNS {
            return Err(ReadError::Header("its columns"));
        }
        let fields: Vec<Field> = fields.iter().map(field).collect::<Result<_, _>>()?;
        for column in [Column::Ts, Column::Kind] {
            if !fields.iter().any(|field| field.column == Some(column)) {
                return Err(ReadError::Column { name: column.name().into(), what: "is missing" });
            }
        }
        let boot_id = metadata(key::BOOT_ID).unwrap_or_default().into();
        let host = metadata(key::HOST).unwrap_or_default().into();
        Ok(Self { version, clock_offset_ns, boot_id, host, fields })
    }
}

fn field(field: fb::Field<'_>) -> Result<Field, ReadError> {
    let name = field.name().unwrap_or_default();
    let column = Column::ALL.into_iter().find(|column| column.name() == name);
    let wrong = |what| ReadError::Column { name: crate::model::text::sanitise(name).into_owned(), what };
    if field.children().is_some_and(|children| !children.is_empty()) {
        return Err(wrong("has columns inside"));
    }
    let dictionary = field.dictionary();
    let buffers = match field.type_type() {
        _ if dictionary.is_some() => 2,
        fb::Type::Int
        | fb::Type::Timestamp
        | fb::Type::Bool
        | fb::Type::FloatingPoint
        | fb::Type::Duration
        | fb::Type::FixedSizeBinary => 2,
        fb::Type::Utf8 | fb::Type::Binary => 3,
        _ => return Err(wrong("has a type this version does not know")),
    };
    if let Some(column) = column
        && !is_of_type(field, column.of_type())
    {
        return Err(wrong("has another type than it should"));
    }
    Ok(Field { column, buffers, dictionary: dictionary.map(|dictionary| dictionary.id()) })
}

fn is_of_type(field: fb::Field<'_>, wanted: ArrowType) -> bool {
    let is_int = |int: fb::Int<'_>, bits, signed| int.bitWidth() == bits && int.is_signed() == signed;
    let int = |bits, signed| field.type_as_int().is_some_and(|int| is_int(int, bits, signed));
    match (wanted, field.dictionary()) {
        (ArrowType::Kind | ArrowType::State, Some(dictionary)) => {
            field.type_as_utf_8().is_some()
                && dictionary.indexType().is_some_and(|index| is_int(index, 8, false))
        }
        (_, Some(_)) | (ArrowType::Kind | ArrowType::State, None) => false,
        (ArrowType::U8, _) => int(8, false),
        (ArrowType::U16, _) => int(16, false),
        (ArrowType::U32, _) => int(32, false),
        (ArrowType::U64, _) => int(64, false),
        (ArrowType::I64, _) => int(64, true),
        (ArrowType::Addr, _) => {
            field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() == 16)
        }
        (ArrowType::Text, _) => field.type_as_utf_8().is_some(),
        (ArrowType::Time, _) => {
            field.type_as_timestamp().is_some_and(|time| time.unit() == fb::TimeUnit::NANOSECOND)
        }
    }
}

/// The row kind of a name in the dictionary of kinds; `None` for one this version does not know.
pub fn row_kind(name: &str) -> Option<RowKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind)
}
