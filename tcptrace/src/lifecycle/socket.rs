//! State of one tracked socket.

use serde::{Deserialize, Serialize};

use super::{Bound, Closer, Dwell, OwnerKind, Role, closing::Reset, processes::ProcessId};
use crate::{
    filter::StateSet,
    model::{Endpoint, Nanos, NetnsId, TcpState, Tuple, addr::Addr},
};

/// When the current state began, and how precisely that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Observed.
    Exact(Nanos),
    /// Was in this state at that time, possibly earlier.
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
            // An end that is an upper bound cannot give a lower bound.
            (Self::AtLatest(_), Self::Exact(_)) => Bound::AtLeast,
            _ => Bound::Inferred,
        };
        Some(Dwell { length, bound })
    }

    /// Time in this state at `now`, and its precision.
    pub fn age(self, now: Nanos) -> Option<Dwell> {
        let bound = match self {
            Self::Exact(_) => Bound::Exact,
            Self::AtLatest(_) => Bound::AtLeast,
            Self::Inferred(_) => Bound::Inferred,
            Self::Unknown => return None,
        };
        Some(Dwell { length: now.since(self.time()?), bound })
    }

    /// The earlier of two; at equal times the inexact one, which may have begun before.
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

/// Which kernel object represents the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A request socket: the handshake is not finished.
    Request,
    /// A full socket.
    Full,
    /// A timewait socket.
    Timewait,
}

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

/// One tracked socket.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub struct Socket {
    /// Both ends, as far as known.
    pub tuple: Tuple,
    /// Network namespace.
    pub netns: NetnsId,
    /// Current state.
    pub state: TcpState,
    /// Previous state; distinguishes a duplicate from a gap.
    pub previous: TcpState,
    /// When `state` began.
    pub since: Since,
    /// FIN_WAIT2: when the last process closed it.
    pub orphan_since: Option<Nanos>,
    /// Current kernel object.
    pub phase: Phase,
    /// Which side opened it.
    pub role: Role,
    /// Whether `role` was guessed from the listeners.
    pub role_guessed: bool,
    /// Inbound: the listener is bound to any address, so the service is `*:port`.
    pub listener_is_any: bool,
    /// Which side ended it.
    pub closer: Closer,
    /// It was already closed by one side when first seen.
    pub closed_before: bool,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner.
    pub process: Option<ProcessId>,
    /// Outbound: `bind()` chose the local port, which blocks it for every destination.
    pub bound: bool,
    /// Known from the seed only: no hook has reported it yet.
    pub only_seeded: bool,
    /// A late segment armed the TIME_WAIT timer again.
    pub extended: bool,
    /// The timer revealed the FIN that began TIME_WAIT; the segment record of that FIN is still to come.
    pub awaits_fin: bool,
    /// It went to CLOSE; the kernel has yet to report why.
    pub is_closing: bool,
    /// The RST that is about to end the socket.
    pub reset: Option<Reset>,
    /// Kernel address of the timewait socket, once a record carried it.
    pub object: u64,
    /// Number of the last sweep that listed it, modulo 256.
    pub listed: u8,
    /// For the observer: the states in which it is shown.
    pub shown: StateSet,
    /// For the observer: the group it is counted in.
    pub group: u32,
    /// For the observer: how it counts among local ports.
    pub port_use: PortUse,
    /// For the observer: the destination it counts for.
    pub destination: u32,
    /// For the observer: the closer counted in its group.
    pub counted_closer: Closer,
}

impl Socket {
    /// `group` of a socket that is in no group.
    pub const NO_GROUP: u32 = u32::MAX;

    /// Creates a socket of which only the tuple, the namespace and the state are known.
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
            is_closing: false,
            reset: None,
            object: 0,
            listed: 0,
            shown: StateSet::ALL,
            group: Self::NO_GROUP,
            port_use: PortUse::None,
            destination: 0,
            counted_closer: Closer::None,
        }
    }

    /// The end that names the traffic: the listener's for inbound, the remote one for outbound.
    pub const fn service(&self) -> Endpoint {
        match self.role {
            Role::Inbound if self.listener_is_any => {
                Endpoint { addr: Addr::ANY, port: self.tuple.sport, ifindex: 0 }
            }
            Role::Inbound | Role::Listener => self.tuple.local(),
            Role::Outbound | Role::Unknown => self.tuple.remote(),
        }
    }

    /// Whether it is shown in its current state. CLOSE is not a connection.
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

    /// Whether its tuple is compatible with `seen`: every field known to both is equal.
    pub fn matches_tuple(&self, seen: &Tuple) -> bool {
        let ours = &self.tuple;
        (ours.sport == seen.sport || ours.sport == 0 || seen.sport == 0)
            && (ours.dport == seen.dport || ours.dport == 0 || seen.dport == 0)
            && (ours.saddr == seen.saddr || ours.saddr.is_any() || seen.saddr.is_any())
            && (ours.daddr == seen.daddr || ours.daddr.is_any() || seen.daddr.is_any())
    }

    /// Copies the known fields of `seen`: the kernel sets ports and addresses late and clears them early. Returns
    /// whether anything changed.
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
