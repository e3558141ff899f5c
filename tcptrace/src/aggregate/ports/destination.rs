//! Counters of one destination: connections from one local address to one remote address and port.

use super::{expiries::Expiries, rate::Rate, search::Searches};
use crate::{
    aggregate::{owners::OwnerCounts, table::Row},
    lifecycle::{EndReason, Event, PortUse, Processes, Socket},
    model::{Addr, Nanos, NetnsId, TcpState},
};

/// Connections that differ only in their local port, which must be unique among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DestinationKey {
    pub(super) netns: NetnsId,
    pub(super) saddr: Addr,
    pub(super) daddr: Addr,
    pub(super) dport: u16,
    pub(super) ifindex: u32,
}

impl DestinationKey {
    /// Key of the destinations without a row of their own.
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
    pub(super) key: DestinationKey,
    joined: u64,
    /// Connections whose port `connect()` chose, `choosing` included.
    pub(super) counts: [u32; TcpState::COUNT],
    /// Connections whose port is not known yet: each holds a port or searches for one.
    pub(super) choosing: u32,
    /// Connections whose port `bind()` took.
    pub(super) bound: u32,
    /// Connections whose port is outside the range, or reserved.
    pub(super) outside: u32,
    pub(super) owners: OwnerCounts,
    /// Whether a socket matched the filter.
    pub(super) is_wanted: bool,
    pub(super) time_wait: Expiries,
    /// Ports taken by `connect()`.
    pub(super) opened: Rate,
    /// Ports returned in any way.
    pub(super) returned: Rate,
    /// Ports returned without a TIME_WAIT.
    pub(super) closed: Rate,
    /// Connections that entered TIME_WAIT.
    pub(super) time_wait_entries: Rate,
    /// Times in SYN_SENT.
    pub(super) searches: Searches,
    /// `connect()` calls that found no port.
    pub(super) failures: u64,
    pub(super) last_failure: Option<Nanos>,
    /// Ports held at the latest failure of `connect()`.
    pub(super) held_at_failure: u64,
    /// TIME_WAIT sockets old enough for reuse at the latest failure of `connect()`.
    pub(super) skipped_reusable: u64,
    /// TIME_WAIT sockets reused by `connect()`.
    pub(super) reused: u64,
    pub(super) last_reused: Option<Nanos>,
}

impl Row for Destination {
    type Key = DestinationKey;

    fn key(&self) -> &DestinationKey {
        &self.key
    }

    fn sockets(&self) -> u64 {
        self.held() + u64::from(self.bound) + u64::from(self.outside)
    }

    /// Fewer sockets and failures first, then fewer sockets ever.
    fn weight(&self) -> (u64, u64) {
        (Row::sockets(self) + self.failures, self.joined)
    }
}

impl Destination {
    pub(super) fn new(key: DestinationKey) -> Self {
        Self {
            key,
            joined: 0,
            counts: [0; TcpState::COUNT],
            choosing: 0,
            bound: 0,
            outside: 0,
            owners: OwnerCounts::default(),
            is_wanted: false,
            time_wait: Expiries::default(),
            opened: Rate::default(),
            returned: Rate::default(),
            closed: Rate::default(),
            time_wait_entries: Rate::default(),
            searches: Searches::default(),
            failures: 0,
            last_failure: None,
            held_at_failure: 0,
            skipped_reusable: 0,
            reused: 0,
            last_reused: None,
        }
    }

    /// Connections that hold a port of the range, or still search for one.
    pub(super) fn held(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    pub(super) fn in_time_wait(&self) -> u64 {
        u64::from(self.counts[TcpState::TimeWait.index()])
    }

    /// Adds a socket in its current state.
    pub(super) fn add(&mut self, socket: &Socket) {
        self.joined += 1;
        match socket.counted.port_use {
            PortUse::Bound => self.bound += 1,
            PortUse::Outside => self.outside += 1,
            port_use => {
                self.counts[socket.state.index()] += 1;
                self.choosing += u32::from(port_use == PortUse::Choosing);
                if socket.state == TcpState::TimeWait {
                    self.time_wait.add(socket.since.time().unwrap_or_default());
                }
            }
        }
    }

    /// Removes a socket that was counted as `port_use` in `state`.
    pub(super) fn sub(&mut self, port_use: PortUse, state: TcpState, socket: &Socket) {
        let count = match port_use {
            PortUse::Bound => &mut self.bound,
            PortUse::Outside => &mut self.outside,
            _ => &mut self.counts[state.index()],
        };
        *count = count.saturating_sub(1);
        if port_use == PortUse::Choosing {
            self.choosing = self.choosing.saturating_sub(1);
        }
        if port_use == PortUse::Chosen && state == TcpState::TimeWait {
            self.time_wait.remove(socket.since.time().unwrap_or_default());
        }
    }

    /// Counts the owner of a socket, and notes whether the socket matches the filter.
    pub(super) fn note(&mut self, socket: &Socket, processes: &Processes) {
        self.is_wanted |= !socket.counted.shown.is_empty();
        self.owners.note(socket, processes);
    }

    /// Records that `event` opened a connection in `state`.
    pub(super) fn opened(&mut self, event: &Event<'_>, state: TcpState) {
        if event.begins && state == TcpState::SynSent {
            self.opened.add(event.ts, 1);
        }
    }

    /// Records that the port of a connection became known and is in the range.
    pub(super) fn has_chosen(&mut self) {
        self.choosing = self.choosing.saturating_sub(1);
    }

    /// Records a state change; a socket in CLOSE stays counted there.
    pub(super) fn changed(&mut self, event: &Event<'_>, socket: &Socket, reuse_delay: Nanos) {
        self.searches.take(event);
        let before = &mut self.counts[event.from.index()];
        *before = before.saturating_sub(1);
        self.counts[event.to.index()] += 1;
        if event.from == TcpState::TimeWait {
            self.time_wait.remove(event.dwell.map_or(Nanos(0), |dwell| event.ts.minus(dwell.length)));
        }
        match event.to {
            TcpState::TimeWait => {
                self.time_wait.add(socket.since.time().unwrap_or(event.ts));
                self.time_wait_entries.add(event.ts, 1);
            }
            TcpState::Close => self.ended(event, reuse_delay),
            _ => {}
        }
    }

    fn ended(&mut self, event: &Event<'_>, reuse_delay: Nanos) {
        if event.end_reason == Some(EndReason::NoPort) {
            self.revert_opened();
            self.failures += 1;
            self.last_failure = Some(event.ts);
            // Without this one, which is still counted.
            self.held_at_failure = self.held().saturating_sub(1);
            self.skipped_reusable = self.time_wait.began_before(event.ts.minus(reuse_delay));
            return;
        }
        self.returned.add(event.ts, 1);
        if event.from != TcpState::TimeWait {
            self.closed.add(event.ts, 1);
        }
        if event.end_reason == Some(EndReason::Reused) {
            self.reused += 1;
            self.last_reused = Some(event.ts);
        }
    }

    /// Reverts the latest [`Self::opened()`]: that connection took no port of the range.
    pub(super) fn revert_opened(&mut self) {
        self.opened.take_back();
    }

    /// Adds the counts of `other`.
    pub(super) fn fold(&mut self, other: &Self) {
        self.joined += other.joined;
        self.bound += other.bound;
        self.choosing += other.choosing;
        self.outside += other.outside;
        self.failures += other.failures;
        self.reused += other.reused;
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }
}
