//! Sources of records: the live kernel, and `/proc` for what it does not report. All reading from the host
//! happens here; the modules below are pure.

mod counters;
pub mod host;
mod host_poller;
pub mod live;
pub mod names;
pub mod netns;
pub mod own_cost;
pub mod owners;
mod poller;
pub mod polling_source;
mod procfs;
mod seed;
mod settings;
pub mod sock_diag;
mod sweep;
mod sysctl_files;

pub use host_poller::PollKind;
pub use seed::may_be_in;

use crate::{model::Record, privileges::Work};

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
