//! Recordings: records in, a file out, and back.
//!
//! A recording is an Arrow IPC stream of zstd-compressed batches; docs/session-format.md tells what is in
//! it. Writing: [`Recorder`] takes records from the pipeline and never waits, `writer` is the thread behind it,
//! `encode` makes rows of them, `message` makes batches of the rows, `output` keeps the files. Reading: `frame`
//! takes the stream apart and trusts nothing in it, `compat` finds the columns whatever version wrote them,
//! `decode` makes records of the rows, and [`Reader`] is the source.

mod columns;
mod compat;
mod decode;
mod encode;
mod frame;
mod known;
mod message;
mod output;
mod reader;
mod recorder;
pub mod schema;
pub mod ticks;
mod writer;

pub use output::{
    Existing, Keep, MOST_FLIGHT_BYTES, Rotate, Unwritten, Written, create, numbered, standard_output,
};
pub use reader::{AtEnd, Damage, Ending, Place, ReadError, Reader};
pub use recorder::{Failure, Plan, Recorder, Recording, Status, start};

#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod tests;
