//! Tracks the life of every socket: turns records into [`Event`]s, one per state change.
//!
//! Pure: no clock, no file, no environment. All time is in the records, so a replay gives exactly the same result as
//! the live run.
//!
//! A socket keeps one [`SocketId`](crate::model::SocketId) from its first to its last state, while three kernel objects
//! represent it in turn: a request socket (handshake), a full socket, a timewait socket (TIME_WAIT, orphan FIN_WAIT2).
//! `tracker` dispatches records: `full` handles full sockets, `handshake` request sockets, `timewait` timewait sockets,
//! `seed` sockets older than the trace, `sweep` the periodic `sock_diag` listings.

mod checkpoint;
mod closing;
mod connects;
mod counted;
mod ended;
mod event;
mod full;
mod handshake;
mod handshakes;
mod listed;
mod listeners;
mod namespaces;
mod pending;
mod port_ranges;
mod processes;
mod recent_names;
mod recently_closed;
mod rekeyed;
mod seed;
mod socket;
mod suspicions;
mod sweep;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod timewait;
mod tracker;

pub use counted::{Counted, PortUse};
pub use event::Event;
pub use processes::{ProcessId, Processes};
pub use socket::Socket;
pub use tracker::{Counters, Observer, Tracker, TrackerLimits};

// The types of the fields of an [`Event`] and a [`Socket`].
pub use crate::model::{Bound, Closer, Dwell, End, EndReason, OwnerKind, Phase, Role, Since};
