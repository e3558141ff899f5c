//! Exports a recording as a table for other programs: CSV, JSON lines or Parquet.
//!
//! Two tables: `events`, one row per state transition as in `tcptrace events`, and `records`, one complete row per
//! observation. docs/session-format.md lists their columns.

mod csv;
mod events;
mod jsonl;
mod parquet;
mod partition;
mod records;
mod table;

use std::io;

pub use events::{EVENTS, row as event_row};
pub use parquet::file_metadata;
pub use partition::{PartitionKey, PartitionedEvents};
pub use records::{RECORDS, row as record_row};
pub use table::{ColumnKind, ExportColumn, ExportValue, Table};

/// Version of the columns of events, in the metadata of Parquet files: a new minor version adds columns at the end, a new major
/// version changes others.
pub const EVENTS_VERSION: &str = "1.0";

/// The metadata with this version.
pub fn schema_version() -> (&'static str, String) {
    ("tcptrace.events", EVENTS_VERSION.to_owned())
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
            Self::Parquet => {
                let metadata = if columns == EVENTS { &[schema_version()][..] } else { &[] };
                Box::new(parquet::Parquet::new(columns, metadata, out)?)
            }
        })
    }
}

#[cfg(test)]
mod tests;
