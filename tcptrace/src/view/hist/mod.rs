//! `hist`: how long sockets stayed in every state.
//!
//! A [`Snapshot`](crate::aggregate::Snapshot) in; charts as [text], one [json] document, or an
//! interval log ([hlog]) out.
//!
//! Only dwells whose both ends were seen are in the histograms. Those that began before the trace, those
//! whose beginning was computed and those that have not ended are counted beside them. FIN_WAIT2 has two
//! parts that are measured apart: `orphan` is the time without an owner, of every dwell that had such a
//! time; `held` is the time that a process had the socket open, of every dwell that had such a time. A
//! dwell that was first held and then orphaned is in both, with its parts.

pub(super) mod closes;
pub mod hlog;
pub mod json;
pub(super) mod scale;
pub mod text;

#[cfg(test)]
mod tests;
