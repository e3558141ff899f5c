//! `hist`: histograms of the time that sockets spend in each state.
//!
//! Renders a [`Snapshot`](crate::aggregate::Snapshot) as [text] charts, one [json] document, or an interval log
//! ([hlog]).
//!
//! The histograms contain only dwells observed from start to end. Dwells that began before the trace, dwells with an
//! inferred start and dwells that have not ended are counted separately. FIN_WAIT2 has two parts, measured separately:
//! `orphan` is the time without an owner, `held` the time that a process had the socket open. A dwell that was first
//! held and then orphaned counts in both, with its parts.

pub(super) mod closes;
pub mod hlog;
pub mod json;
pub(super) mod scale;
pub mod text;

#[cfg(test)]
mod tests;
