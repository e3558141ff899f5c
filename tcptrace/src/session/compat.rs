//! Maps the schema of a recording of any version to the columns this version knows.
//!
//! Columns and kinds are found by name. Unknown ones, from a newer minor version, are skipped. Another major
//! version is rejected. There is one major version so far; conversions from older ones belong here.

use polars_arrow_format::ipc as fb;

use super::{
    ending::ReadError,
    schema::{ArrowType, Column, FORMAT, KINDS, RowKind, Version, key},
};
use crate::model::incident::Incident;

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
    /// Findings that the file was written for.
    pub incidents: Vec<Incident>,
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
    pub fn of(schema: fb::SchemaRef<'_>) -> Result<Self, ReadError> {
        let metadata = |wanted: &str| {
            let pairs = schema.custom_metadata().ok()??;
            pairs.iter().flatten().find(|pair| pair.key().ok().flatten() == Some(wanted))?.value().ok()?
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
        let fields = schema.fields().ok().flatten().ok_or(ReadError::Header("its columns"))?;
        if fields.len() > MAX_COLUMNS {
            return Err(ReadError::Header("its columns"));
        }
        let field = |read: fb::planus::Result<_>| field(read.map_err(|_| ReadError::Header("its columns"))?);
        let fields: Vec<Field> = fields.iter().map(field).collect::<Result<_, _>>()?;
        for column in [Column::Ts, Column::Kind] {
            if !fields.iter().any(|field| field.column == Some(column)) {
                return Err(ReadError::Column { name: column.name().into(), what: "is missing" });
            }
        }
        let boot_id = metadata(key::BOOT_ID).unwrap_or_default().into();
        let host = metadata(key::HOST).unwrap_or_default().into();
        let incidents = metadata(key::INCIDENTS).map(Incident::of_metadata).unwrap_or_default();
        Ok(Self { version, clock_offset_ns, boot_id, host, incidents, fields })
    }
}

fn field(field: fb::FieldRef<'_>) -> Result<Field, ReadError> {
    let name = field.name().ok().flatten().unwrap_or_default();
    let column = Column::ALL.into_iter().find(|column| column.name() == name);
    let wrong = |what| ReadError::Column { name: crate::model::text::sanitise(name).into_owned(), what };
    let unreadable = |_| wrong("can't be made out");
    if field.children().map_err(unreadable)?.is_some_and(|children| !children.is_empty()) {
        return Err(wrong("has columns inside"));
    }
    let dictionary = field.dictionary().map_err(unreadable)?;
    let of_type = field.type_().map_err(unreadable)?;
    let buffers = match of_type {
        _ if dictionary.is_some() => 2,
        Some(
            fb::TypeRef::Int(_)
            | fb::TypeRef::Timestamp(_)
            | fb::TypeRef::Bool(_)
            | fb::TypeRef::FloatingPoint(_)
            | fb::TypeRef::Duration(_)
            | fb::TypeRef::FixedSizeBinary(_),
        ) => 2,
        Some(fb::TypeRef::Utf8(_) | fb::TypeRef::Binary(_)) => 3,
        _ => return Err(wrong("has a type this version does not know")),
    };
    if let Some(column) = column
        && !is_of_type(of_type, dictionary, column.of_type())
    {
        return Err(wrong("has another type than it should"));
    }
    let dictionary = dictionary.map(|dictionary| dictionary.id()).transpose().map_err(unreadable)?;
    Ok(Field { column, buffers, dictionary })
}

fn is_of_type(
    of_type: Option<fb::TypeRef<'_>>,
    dictionary: Option<fb::DictionaryEncodingRef<'_>>,
    wanted: ArrowType,
) -> bool {
    let is_int = |int: fb::IntRef<'_>, bits, signed| {
        (int.bit_width().ok(), int.is_signed().ok()) == (Some(bits), Some(signed))
    };
    let int = |bits, signed| matches!(of_type, Some(fb::TypeRef::Int(int)) if is_int(int, bits, signed));
    let is_text = matches!(of_type, Some(fb::TypeRef::Utf8(_)));
    match (wanted, dictionary) {
        (ArrowType::Kind | ArrowType::State, Some(dictionary)) => {
            let index = dictionary.index_type().ok().flatten();
            is_text && index.is_some_and(|index| is_int(index, 8, false))
        }
        (_, Some(_)) | (ArrowType::Kind | ArrowType::State, None) => false,
        (ArrowType::U8, _) => int(8, false),
        (ArrowType::U16, _) => int(16, false),
        (ArrowType::U32, _) => int(32, false),
        (ArrowType::U64, _) => int(64, false),
        (ArrowType::I64, _) => int(64, true),
        (ArrowType::Addr, _) => {
            matches!(of_type, Some(fb::TypeRef::FixedSizeBinary(binary)) if binary.byte_width().ok() == Some(16))
        }
        (ArrowType::Text, _) => is_text,
        (ArrowType::Time, _) => {
            let unit = Some(fb::TimeUnit::Nanosecond);
            matches!(of_type, Some(fb::TypeRef::Timestamp(time)) if time.unit().ok() == unit)
        }
    }
}

/// The row kind of a name in the dictionary of kinds; `None` for one this version does not know.
pub fn row_kind(name: &str) -> Option<RowKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind)
}
