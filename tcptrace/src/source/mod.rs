//! Where observations come from: the live kernel and what `/proc` knows about it. Everything that
//! depends on the host is read here, and nowhere further down.

mod counters;
pub mod host;
pub mod live;
mod looks;
pub mod names;
pub mod netns;
pub mod own_cost;
pub mod owners;
mod seed;
mod settings;
pub mod sock_diag;
pub mod still;
mod sweep;
mod sysctl_files;

pub use looks::Look;
pub use seed::may_be_in;

use crate::{
    model::Record,
    privileges::{self, Work},
};

/// Whether a source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More may come.
    Running,
    /// That was all.
    Ended,
}

/// A stream of records in the order in which they are to be taken in.
pub trait Source: Send {
    /// Called once, on the thread that is going to call [`Source::fill`]: gives up what that needs no privilege for.
    fn begin(&mut self) {
        privileges::keep_for(Work::Nothing);
    }

    /// Hands out what there is, waiting a little when there is nothing.
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow>;

    /// It is to stop: hands out what is still to be said.
    fn finish(&mut self, _take: &mut dyn FnMut(Record)) {}
}
