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
mod reader;
mod recorder;
pub mod schema;
pub mod ticks;
mod writer;

pub use ending::{Damage, Ending, ReadError};
pub use input::Input;
pub use output::{Keep, MAX_FLIGHT_BYTES, Rotate, WriteError, Written};
pub use reader::{AtEnd, FilePosition, Reader};
pub use recorder::{Failure, RecordPlan, Recorder, RecorderStatus, Recording, start};

#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod tests;
