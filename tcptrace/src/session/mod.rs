//! Writes recordings, and reads them back.
//!
//! A recording is an Arrow IPC stream of zstd-compressed batches; docs/session-format.md describes its
//! contents. Writing: [`Recorder`] receives records from the pipeline and never blocks, `writer` is its worker
//! thread, `encode` turns records into rows, `message` turns rows into batches, `output` manages the files.
//! Reading: `input` opens the file, `frame` splits the untrusted stream into messages, `compat` finds the
//! columns of any format version, `decode` turns rows back into records, and [`Reader`] is the source.

mod columns;
mod compat;
mod decode;
mod dictionary;
mod encode;
mod ending;
mod frame;
mod input;
mod message;
mod output;
mod portion;
mod reader;
mod recorder;
pub mod schema;
pub mod ticks;
mod writer;
mod written;

pub use ending::{Damage, Ending, ReadError};
pub use input::Input;
pub use output::MAX_FLIGHT_BYTES;
pub use portion::RecorderStatus;
pub use reader::{AtEnd, FilePosition, OVERLAP, Reader, RecordingHead};
pub use recorder::{RecordPlan, Recorder, Recording, start};

#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod tests;
pub use written::{Failure, Keep, Rotate, WriteError, Written};
