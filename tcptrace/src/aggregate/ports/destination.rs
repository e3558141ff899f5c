//! What one destination has seen: the connections from one local address to one remote address and port.

use super::{expiries::Expiries, is_no_port, rate::Rate};
use crate::{
    aggregate::{owners::Owners, table::Row},
    lifecycle::{EndReason, Event, PortUse, Processes, Socket},
    model::{Addr, Nanos, NetnsId, TcpState},
};

/// Connections with the same ends but for their local port: no two of them may have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) netns: NetnsId,
    pub(super) saddr: Addr,
    pub(super) daddr: Addr,
    pub(super) dport: u16,
    pub(super) ifindex: u32,
}

impl Key {
    /// Of what has no place of its own.
    pub(super) const OTHER: Self =
        Self { netns: NetnsId(0), saddr: Addr::ANY, daddr: Addr::ANY, dport: 0, ifindex: 0 };

    pub(super) const fn of(socket: &Socket) -> Self {
        let tuple = &socket.tuple;
        Self {
            netns: socket.netns,
            saddr: tuple.saddr,
            daddr: tuple.daddr,
            dport: tuple.dport,
            ifindex: tuple.ifindex,
        }
    }
}

/// One destination.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) key: Key,
    joined: u64,
    /// Connections whose port `connect()` chose.
    pub(super) counts: [u32; TcpState::COUNT],
    /// Connections whose port `bind()` took.
    pub(super) bound: u32,
    /// Connections whose port is none that `connect()` chooses from.
    pub(super) outside: u32,
    pub(super) owners: Owners,
    /// Whether a socket matched the filter.
    pub(super) is_wanted: bool,
    pub(super) time_wait: Expiries,
    /// Ports taken by `connect()`.
    pub(super) opened: Rate,
    /// Ports given back, in whatever way.
    pub(super) returned: Rate,
    /// Ports given back without a TIME_WAIT.
    pub(super) closed: Rate,
    /// Connections that entered TIME_WAIT.
    pub(super) lingered: Rate,
    /// `connect()` found no port.
    pub(super) failures: u64,
    pub(super) last_failure: Option<Nanos>,
    /// TIME_WAIT taken over by `connect()`.
    pub(super) reused: u64,
}

impl Row for Destination {
    type Key = Key;

    fn key(&self) -> &Key {
        &self.key
    }

    fn sockets(&self) -> u64 {
        self.held() + u64::from(self.bound) + u64::from(self.outside)
    }

    /// Fewer sockets now, then fewer ever.
    fn weight(&self) -> (u64, u64) {
        (Row::sockets(self) + self.failures, self.joined)
    }
}

impl Destination {
    pub(super) fn new(key: Key) -> Self {
        Self {
            key,
            joined: 0,
            counts: [0; TcpState::COUNT],
            bound: 0,
            outside: 0,
            owners: Owners::default(),
            is_wanted: false,
            time_wait: Expiries::default(),
            opened: Rate::default(),
            returned: Rate::default(),
            closed: Rate::default(),
            lingered: Rate::default(),
            failures: 0,
            last_failure: None,
            reused: 0,
        }
    }

    /// Ports of the range that connections of its own hold.
    pub(super) fn held(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    pub(super) fn in_time_wait(&self) -> u64 {
        u64::from(self.counts[TcpState::TimeWait.index()])
    }

    /// A socket belongs here from now on, in its state.
    pub(super) fn add(&mut self, socket: &Socket) {
        self.joined += 1;
        match socket.port_use {
            PortUse::Bound => self.bound += 1,
            PortUse::Outside => self.outside += 1,
            _ => {
                self.counts[socket.state.index()] += 1;
                if socket.state == TcpState::TimeWait {
                    self.time_wait.add(socket.since.time().unwrap_or_default());
                }
            }
        }
    }

    /// A socket that was counted as `port_use`, in `state`, belongs here no longer.
    pub(super) fn sub(&mut self, port_use: PortUse, state: TcpState, socket: &Socket) {
        let count = match port_use {
            PortUse::Bound => &mut self.bound,
            PortUse::Outside => &mut self.outside,
            _ => &mut self.counts[state.index()],
        };
        *count = count.saturating_sub(1);
        if port_use == PortUse::Chosen && state == TcpState::TimeWait {
            self.time_wait.remove(socket.since.time().unwrap_or_default());
        }
    }

    /// Notes whose socket it is, and whether it was asked for.
    pub(super) fn note(&mut self, socket: &Socket, processes: &Processes) {
        self.is_wanted |= !socket.shown.is_empty();
        if let Some(process) = socket.process.and_then(|id| processes.get(id)) {
            self.owners.note(process);
        }
    }

    /// A socket has been added by `event`, which brought it into `state`.
    pub(super) fn opened(&mut self, event: &Event<'_>, state: TcpState) {
        if event.begins && state == TcpState::SynSent {
            self.opened.add(event.ts, 1);
        }
    }

    /// A socket changed its state; one in CLOSE stays counted there.
    pub(super) fn changed(&mut self, event: &Event<'_>, socket: &Socket) {
        let before = &mut self.counts[event.from.index()];
        *before = before.saturating_sub(1);
        self.counts[event.to.index()] += 1;
        if event.from == TcpState::TimeWait {
            self.time_wait.remove(event.dwell.map_or(Nanos(0), |dwell| event.ts.minus(dwell.length)));
        }
        match event.to {
            TcpState::TimeWait => {
                self.time_wait.add(socket.since.time().unwrap_or(event.ts));
                self.lingered.add(event.ts, 1);
            }
            TcpState::Close => self.ended(event),
            _ => {}
        }
    }

    fn ended(&mut self, event: &Event<'_>) {
        if is_no_port(event.end_reason) {
            self.did_not_open();
            self.failures += 1;
            self.last_failure = Some(event.ts);
            return;
        }
        self.returned.add(event.ts, 1);
        if event.from != TcpState::TimeWait {
            self.closed.add(event.ts, 1);
        }
        self.reused += u64::from(event.end_reason == Some(EndReason::Reused));
    }

    /// The connection opened last took no port from here after all.
    pub(super) fn did_not_open(&mut self) {
        self.opened.take_back();
    }

    /// Counts the sockets of `other` as well.
    pub(super) fn fold(&mut self, other: &Self) {
        self.joined += other.joined;
        self.bound += other.bound;
        self.outside += other.outside;
        self.failures += other.failures;
        self.reused += other.reused;
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }
}
