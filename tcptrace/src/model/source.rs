//! Interface of a source of records: the live kernel, a poller or a recording.

use super::Record;
use crate::privileges::Work;

/// Whether a source may produce more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More may come.
    Running,
    /// The source is exhausted.
    Ended,
}

/// A stream of records, in processing order.
pub trait Source: Send {
    /// The work of the thread that calls the other methods.
    fn work(&self) -> Work {
        Work::Nothing
    }

    /// Emits the available records; waits briefly if there are none.
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow>;

    /// Called before the source stops: emits the remaining records.
    fn finish(&mut self, _take: &mut dyn FnMut(Record)) {}
}
