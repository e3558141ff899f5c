//! Interface of a source of records: the live kernel, a poller or a recording.

use super::Record;
use crate::privileges::{self, Work};

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
    /// Called once, on the thread that will call [`Source::fill`]; drops the privileges that the source does
    /// not need.
    fn begin(&mut self) {
        privileges::keep_for(Work::Nothing);
    }

    /// Emits the available records; waits briefly if there are none.
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow>;

    /// Called before the source stops: emits the remaining records.
    fn finish(&mut self, _take: &mut dyn FnMut(Record)) {}
}
