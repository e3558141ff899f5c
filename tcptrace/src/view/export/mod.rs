//! Exports a recording as a table for other programs: CSV, JSON lines or Parquet.
//!
//! Two tables: `events`, one row per state transition as in `tcptrace events`, and `records`, one complete row per
//! observation. docs/session-format.md lists their columns.

mod csv;
mod events;
mod jsonl;
mod parquet;
mod records;

use std::{borrow::Cow, io};

pub use events::{EVENTS, row as event_row};
pub use records::{RECORDS, row as record_row};

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportColumn {
    /// Its name.
    pub name: &'static str,
    /// The type of its values.
    pub kind: ColumnKind,
}

/// Type of a column. Any value may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Nanoseconds since the epoch; in Parquet a timestamp.
    Time,
    /// An unsigned integer; in Parquet 64 bits.
    Number,
    /// A signed integer.
    Signed,
    /// True or false.
    Flag,
    /// A text.
    Text,
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportValue<'a> {
    /// No value.
    Missing,
    /// For [`ColumnKind::Time`] and [`ColumnKind::Number`].
    Number(u64),
    /// For [`ColumnKind::Signed`].
    Signed(i64),
    /// For [`ColumnKind::Flag`].
    Flag(bool),
    /// For [`ColumnKind::Text`].
    Text(Cow<'a, str>),
}

impl<'a> ExportValue<'a> {
    fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    fn optional<T: Into<u64>>(number: Option<T>) -> Self {
        number.map_or(Self::Missing, |number| Self::Number(number.into()))
    }
}

/// Writes rows in one format.
pub trait Table: Send {
    /// Writes one row: a value per column.
    fn row(&mut self, row: &[ExportValue<'_>]) -> io::Result<()>;
    /// Writes the rest after the last row.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// RFC 4180, with a header line.
    Csv,
    /// A JSON object per line.
    Jsonl,
    /// Apache Parquet, compressed with zstd.
    Parquet,
}

impl ExportFormat {
    /// The format of a file name extension.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Creates a table of `columns` that writes to `out`.
    pub fn table(
        self,
        columns: &'static [ExportColumn],
        out: Box<dyn io::Write + Send>,
    ) -> io::Result<Box<dyn Table>> {
        Ok(match self {
            Self::Csv => Box::new(csv::Csv::new(columns, out)?),
            Self::Jsonl => Box::new(jsonl::Jsonl::new(columns, out)),
            Self::Parquet => Box::new(parquet::Parquet::new(columns, out)?),
        })
    }
}

const fn column(name: &'static str, kind: ColumnKind) -> ExportColumn {
    ExportColumn { name, kind }
}

#[cfg(test)]
mod tests;
