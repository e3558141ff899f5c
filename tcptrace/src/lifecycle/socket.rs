//! State of one tracked socket.

use super::{
    counted::Counted,
    processes::{ProcessId, Processes},
};
use crate::{
    filter::Subject,
    model::{
        Addr, Closer, Endpoint, Nanos, NetnsId, OwnerKind, Phase, Role, Since, TcpState, Tuple,
        checkpoint::Reset, stack::StackUse,
    },
};

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
    /// A sweep found that: it may have been earlier.
    pub orphan_inferred: bool,
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
    /// Stack of the `connect()` that opened it, or of the `accept()` that received it.
    pub opened_by: StackUse,
    /// Stack of the `close()` or `shutdown()` that sent its FIN.
    pub closed_by: StackUse,
    /// How the observer counts it.
    pub counted: Counted,
}

impl Socket {
    /// It is no orphan.
    pub const fn clear_orphan(&mut self) {
        self.orphan_since = None;
        self.orphan_inferred = false;
    }

    /// Creates a socket of which only the tuple, the namespace and the state are known.
    pub const fn new(tuple: Tuple, netns: NetnsId, state: TcpState, since: Since) -> Self {
        Self {
            tuple,
            netns,
            state,
            previous: TcpState::Close,
            since,
            orphan_since: None,
            orphan_inferred: false,
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
            opened_by: StackUse::NONE,
            closed_by: StackUse::NONE,
            counted: Counted::NEW,
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

    /// The properties that a filter tests; its owner is in `processes`.
    pub fn subject<'a>(&self, processes: &'a Processes) -> Subject<'a> {
        Subject {
            tuple: self.tuple,
            netns: self.netns,
            role: self.role,
            closer: self.closer,
            owner: self.owner,
            process: self.process.and_then(|id| processes.get(id)).map(AsRef::as_ref),
        }
    }

    /// Whether it is shown in its current state. CLOSE is not a connection.
    pub fn is_shown(&self) -> bool {
        self.state != TcpState::Close && self.counted.shown.contains(self.state)
    }

    /// Whether it is counted in a group.
    pub const fn is_counted(&self) -> bool {
        self.counted.group != Counted::NO_GROUP
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
