//! The life of a socket: records in, [`Event`]s (one per change of state) out.
//!
//! Pure: no clock, no file, no environment. All time is in the records, so a replay gives exactly
//! what the live run gave.

mod event;

pub use event::{Bound, Closer, Dwell, EndReason, Event, OwnerKind, Role};
