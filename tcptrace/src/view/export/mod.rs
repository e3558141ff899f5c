//! A recording as a table for other programs: rows in, a file of CSV, JSON lines or Parquet out.
//!
//! Two tables: `events`, a row per change of state as `tcptrace events` tells it, and `records`, what was
//! observed, every row whole. docs/session-format.md has their columns.

mod csv;
mod events;
mod jsonl;
mod parquet;
mod records;

use std::{borrow::Cow, io};

pub use events::{EVENTS, row as event_row};
pub use records::{RECORDS, row as record_row};

/// A column: its name, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub kind: Kind,
}

/// What is in a column. Any value may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nanoseconds since the epoch; in Parquet a timestamp.
    Time,
    /// A whole number; in Parquet 64 bits, unsigned.
    Number,
    /// A whole number with a sign.
    Signed,
    /// True or false.
    Flag,
    /// A text.
    Text,
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// None.
    Missing,
    /// For [`Kind::Time`] and [`Kind::Number`].
    Number(u64),
    /// For [`Kind::Signed`].
    Signed(i64),
    /// For [`Kind::Flag`].
    Flag(bool),
    /// For [`Kind::Text`].
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
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
    fn row(&mut self, row: &[Value<'_>]) -> io::Result<()>;
    /// Everything was written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// RFC 4180, with a header line.
    Csv,
    /// A JSON object per line.
    Jsonl,
    /// Apache Parquet, compressed with zstd.
    Parquet,
}

impl Format {
    /// The format that the end of a file's name asks for.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// A table of `columns`, written to `out`.
    pub fn table(
        self,
        columns: &'static [Column],
        out: Box<dyn io::Write + Send>,
    ) -> io::Result<Box<dyn Table>> {
        Ok(match self {
            Self::Csv => Box::new(csv::Csv::new(columns, out)?),
            Self::Jsonl => Box::new(jsonl::Jsonl::new(columns, out)),
            Self::Parquet => Box::new(parquet::Parquet::new(columns, out)?),
        })
    }
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

#[cfg(test)]
mod tests;
