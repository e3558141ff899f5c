//! Events in, a [`Snapshot`] out: sockets per state and group, rates, dwell quantiles, closers.

mod snapshot;

pub use snapshot::{DwellQuantiles, Group, Losses, Minisockets, Snapshot, StateTotal, TimeWaitEnds};
