//! What is remembered of one socket.

use serde::{Deserialize, Serialize};

use super::{Bound, Closer, Dwell, OwnerKind, Role, processes::ProcessId};
use crate::{
    filter::StateSet,
    model::{Endpoint, Nanos, NetnsId, TcpState, Tuple, addr::Addr},
};

/// When the current state began, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Seen.
    Exact(Nanos),
    /// It was in this state at that time, and may have been before.
    AtLatest(Nanos),
    /// Computed.
    Inferred(Nanos),
    /// Not known: a transition was missed.
    Unknown,
}

impl Since {
    /// The dwell that ends at `end`.
    pub fn dwell_until(self, end: Self) -> Option<Dwell> {
        let length = end.time()?.since(self.time()?);
        let bound = match (self, end) {
            (Self::Exact(_), Self::Exact(_)) => Bound::Exact,
            // With an end that is an upper bound it is no lower one.
            (Self::AtLatest(_), Self::Exact(_)) => Bound::AtLeast,
            _ => Bound::Inferred,
        };
        Some(Dwell { length, bound })
    }

    /// How long that is at `now`, and how true.
    pub fn age(self, now: Nanos) -> Option<Dwell> {
        let bound = match self {
            Self::Exact(_) => Bound::Exact,
            Self::AtLatest(_) => Bound::AtLeast,
            Self::Inferred(_) => Bound::Inferred,
            Self::Unknown => return None,
        };
        Some(Dwell { length: now.since(self.time()?), bound })
    }

    /// The one that began earlier; of two at one time the one that may have begun before it.
    #[must_use]
    pub fn older(self, other: Self) -> Self {
        let order = |since: Self| (since.time(), matches!(since, Self::Exact(_)));
        if order(other) < order(self) { other } else { self }
    }

    /// The earliest known time in this state.
    pub const fn time(self) -> Option<Nanos> {
        match self {
            Self::Exact(ts) | Self::AtLatest(ts) | Self::Inferred(ts) => Some(ts),
            Self::Unknown => None,
        }
    }
}

/// Which kernel object stands for the connection at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A request socket: the handshake is not finished.
    Request,
    /// A full socket.
    Full,
    /// A minisocket.
    Minisocket,
}

/// What a socket's local port means to new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortUse {
    /// Nothing: it is not in the range of ports that `connect()` chooses from, or not known.
    #[default]
    None,
    /// A port that `connect()` chose: taken for this destination alone.
    Chosen,
    /// A port that `bind()` took before `connect()`: taken for every destination.
    Bound,
    /// A connection from here whose port is not one that `connect()` chooses from.
    Outside,
    /// The port of a listener, or of a connection that came through one: taken for every destination.
    Served,
}

/// One tracked socket.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub struct Socket {
    /// Both ends, as far as they are known.
    pub tuple: Tuple,
    /// Network namespace.
    pub netns: NetnsId,
    /// The state it is in.
    pub state: TcpState,
    /// The state before; tells a double from a gap.
    pub previous: TcpState,
    /// Since when it is in `state`.
    pub since: Since,
    /// FIN_WAIT2: since when no process holds it.
    pub orphan_since: Option<Nanos>,
    /// Which kernel object it is.
    pub phase: Phase,
    /// Which side opened it.
    pub role: Role,
    /// Whether `role` was guessed from the listeners.
    pub role_guessed: bool,
    /// Inbound: the listener waits on any address, so that the service is `*:port`.
    pub listener_is_any: bool,
    /// Which side ended it.
    pub closer: Closer,
    /// It had closed when it was first seen.
    pub closed_before: bool,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner.
    pub process: Option<ProcessId>,
    /// Outbound: its local port was chosen by `bind()`, which takes it from every destination.
    pub bound: bool,
    /// Known from the seed alone: the stream has not spoken of it yet.
    pub only_seeded: bool,
    /// TIME_WAIT was armed again by a late segment.
    pub extended: bool,
    /// The FIN that began TIME_WAIT was seen by its timer; its segment is still to come.
    pub awaits_fin: bool,
    /// Kernel address of the minisocket, once a record told it.
    pub object: u64,
    /// The number of the last sweep that listed it, modulo 256.
    pub listed: u8,
    /// For the observer's use: the states in which it is shown.
    pub shown: StateSet,
    /// For the observer's use: the group it is counted in.
    pub group: u32,
    /// For the observer's use: how it counts among local ports.
    pub port_use: PortUse,
    /// For the observer's use: the destination it counts for.
    pub destination: u32,
    /// For the observer's use: the closer that its group has counted.
    pub counted_closer: Closer,
}

impl Socket {
    /// Not in a group.
    pub const NO_GROUP: u32 = u32::MAX;

    /// A socket about which nothing but its ends and its state is known.
    pub const fn new(tuple: Tuple, netns: NetnsId, state: TcpState, since: Since) -> Self {
        Self {
            tuple,
            netns,
            state,
            previous: TcpState::Close,
            since,
            orphan_since: None,
            phase: Phase::Full,
            role: Role::Unknown,
            role_guessed: false,
            listener_is_any: false,
            closer: Closer::None,
            closed_before: false,
            owner: OwnerKind::Unknown,
            process: None,
            bound: false,
            only_seeded: false,
            extended: false,
            awaits_fin: false,
            object: 0,
            listed: 0,
            shown: StateSet::ALL,
            group: Self::NO_GROUP,
            port_use: PortUse::None,
            destination: 0,
            counted_closer: Closer::None,
        }
    }

    /// The end that names the traffic: inbound the listener's, outbound the remote one.
    pub const fn service(&self) -> Endpoint {
        match self.role {
            Role::Inbound if self.listener_is_any => {
                Endpoint { addr: Addr::ANY, port: self.tuple.sport, ifindex: 0 }
            }
            Role::Inbound | Role::Listener => self.tuple.local(),
            Role::Outbound | Role::Unknown => self.tuple.remote(),
        }
    }

    /// Whether it is shown in the state it is in. CLOSE is no connection.
    pub fn is_shown(&self) -> bool {
        self.state != TcpState::Close && self.shown.contains(self.state)
    }

    /// Whether it is counted in a group.
    pub const fn is_counted(&self) -> bool {
        self.group != Self::NO_GROUP
    }

    /// Whether it is in FIN_WAIT2 and no process holds it.
    pub fn is_orphan_fin_wait2(&self) -> bool {
        self.state == TcpState::FinWait2 && self.orphan_since.is_some()
    }

    /// Takes over what `seen` knows better: ports and addresses are chosen late and cleared early. Returns
    /// whether that was anything.
    pub fn learn_tuple(&mut self, seen: &Tuple) -> bool {
        let before = self.tuple;
        if seen.sport != 0 {
            self.tuple.sport = seen.sport;
        }
        if seen.dport != 0 {
            self.tuple.dport = seen.dport;
        }
        if !seen.saddr.is_any() {
            self.tuple.saddr = seen.saddr;
        }
        if !seen.daddr.is_any() {
            self.tuple.daddr = seen.daddr;
        }
        self.tuple != before
    }
}
