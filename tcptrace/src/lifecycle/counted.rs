//! The observer's part of a socket: the tracker creates it and keeps it, and never reads it.
//!
//! It is part of the socket, as a type of the observer's would be a parameter of every type that holds sockets, and a
//! table beside that of the sockets would cost a lookup per event.

use crate::model::{Closer, StateSet};

/// How a socket's local port constrains new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortUse {
    /// No constraint: the port is outside the range that `connect()` chooses from, or not known.
    #[default]
    None,
    /// `connect()` is in progress and the port is not known yet: still searching, or the records do not carry it.
    Choosing,
    /// `connect()` chose the port: in use for this destination only.
    Chosen,
    /// `bind()` chose the port before `connect()`: in use for every destination.
    Bound,
    /// An outbound connection whose port is outside the range that `connect()` chooses from.
    Outside,
    /// The port of a listener, or of a connection accepted by one: in use for every destination.
    Served,
}

/// How the observer counts a socket.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The states in which it is shown.
    pub shown: StateSet,
    /// Its group.
    pub group: u32,
    /// How it counts among local ports.
    pub port_use: PortUse,
    /// The destination it counts for.
    pub destination: u32,
    /// The closer counted in its group.
    pub closer: Closer,
}

impl Counted {
    /// `group` of a socket that is in no group.
    pub const NO_GROUP: u32 = u32::MAX;

    /// Not counted yet.
    pub const NEW: Self = Self {
        shown: StateSet::ALL,
        group: Self::NO_GROUP,
        port_use: PortUse::None,
        destination: 0,
        closer: Closer::None,
    };
}
