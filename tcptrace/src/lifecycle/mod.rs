//! The life of a socket: records in, [`Event`]s (one per change of state) out.
//!
//! Pure: no clock, no file, no environment. All time is in the records, so a replay gives exactly
//! what the live run gave.
//!
//! One socket is one [`SocketId`](crate::model::SocketId) from its first to its last state, while three kernel objects take
//! turns: a request socket (handshake), a full socket, a minisocket (TIME_WAIT, orphan FIN_WAIT2).
//! `tracker` hands records on to `full` sockets, `handshake` the request sockets, `minisocket` the
//! minisockets, `seed` what existed before, `sweep` what `sock_diag` says of all of them from time to time.

mod carried;
mod closing;
mod event;
mod full;
mod handshake;
mod listeners;
mod minisocket;
mod pending;
mod processes;
mod seed;
mod socket;
mod sweep;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod tracker;

pub use carried::{Carried, Continuation, Memory};
pub use event::{Bound, Closer, Dwell, EndReason, Event, OwnerKind, Role};
pub use processes::{ProcessId, Processes};
pub use socket::{Phase, PortUse, Since, Socket};
pub use tracker::{Counters, Limits, Observer, Tracker};
