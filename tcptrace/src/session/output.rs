//! Outputs of a recording: one file, a series of files, or memory until a dump is requested.

mod files;
mod flight;
mod series;

use std::path::Path;

use super::written::{Failure, Keep, WriteError, Written};
use crate::{model::Nanos, output_file::Existing};
use files::Files;
use flight::Flight;
pub use flight::MAX_FLIGHT_BYTES;
#[cfg(test)]
pub use series::numbered;

/// Stores a recording in pieces: each begins with a head, and is readable without the earlier ones.
pub enum RecordingOutput {
    /// One file, or several.
    Files(Box<Files>),
    /// Memory.
    Flight(Flight),
}

impl RecordingOutput {
    /// Opens the first file, if the output needs one now.
    pub fn open(path: &Path, keep: Keep, existing: Existing) -> Result<Self, WriteError> {
        if let Keep::Last(last) | Keep::Incidents { last, .. } = keep {
            return Flight::open(path, last, keep).map(Self::Flight);
        }
        Files::open(path, keep, existing).map(Box::new).map(Self::Files)
    }

    /// Whether only incidents are written.
    pub const fn is_for_incidents(&self) -> bool {
        matches!(self, Self::Flight(flight) if flight.is_for_incidents())
    }

    /// Whether each piece has its own header. Pieces in memory become one file, with the header of the newest.
    pub const fn has_header_per_piece(&self) -> bool {
        matches!(self, Self::Files(_))
    }

    /// Begins a piece at `ts`; `header` is the start of a file.
    pub fn begin(&mut self, header: &[u8], ts: Nanos) -> Result<(), WriteError> {
        match self {
            Self::Files(files) => files.begin(header, ts),
            Self::Flight(flight) => {
                flight.begin(header, ts);
                Ok(())
            }
        }
    }

    /// Appends the head of a piece: the state when it began.
    pub fn head(&mut self, batches: &[u8]) -> Result<(), WriteError> {
        match self {
            Self::Files(files) => files.write(batches),
            Self::Flight(flight) => {
                flight.newest().head.extend_from_slice(batches);
                Ok(())
            }
        }
    }

    /// Appends batches containing `records` hook records. Their times are not older than `began`, unless the
    /// piece began earlier, and not newer than `ts`.
    pub fn append(
        &mut self,
        batches: &[u8],
        records: u64,
        began: Nanos,
        ts: Nanos,
    ) -> Result<(), WriteError> {
        match self {
            Self::Files(files) => files.append(batches, records, began, ts),
            Self::Flight(flight) => {
                flight.append(batches, records, began, ts);
                Ok(())
            }
        }
    }

    /// Whether a new piece is due at `now`.
    pub fn wants_piece(&self, now: Nanos) -> bool {
        match self {
            Self::Files(files) => files.is_full(now),
            Self::Flight(flight) => flight.is_due(now),
        }
    }

    /// Bytes written, or held in memory.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Files(files) => files.bytes(),
            Self::Flight(flight) => flight.bytes(),
        }
    }

    /// Writes the records held in memory to a numbered file that begins with `header`, and keeps holding them: more dumps may follow.
    pub fn dump(&mut self, header: &[u8]) -> Option<Result<Written, Failure>> {
        match self {
            Self::Files(_) => None,
            Self::Flight(flight) => Some(flight.dump(header)),
        }
    }

    /// Writes the records held in memory, and closes the file.
    pub fn finish(&mut self) -> Result<Written, Failure> {
        match self {
            Self::Files(files) => {
                files.close().map_err(|cause| Failure { cause, written: files.written() })?;
                Ok(files.written())
            }
            Self::Flight(flight) => flight.finish(),
        }
    }

    /// The current file, or the one to be written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Files(files) => files.current(),
            Self::Flight(flight) => flight.path(),
        }
    }

    /// Describes the last file written.
    pub fn written(&self) -> Written {
        match self {
            Self::Files(files) => files.written(),
            Self::Flight(flight) => Written { left_out: flight.records(), ..Written::none(flight.path()) },
        }
    }
}
