//! Joins the two ends of each connection: events of both sockets in, one [`JoinedConnection`] out.
//!
//! The ends may be sockets of two hosts, of two network namespaces of one host, or of one loopback interface. They belong
//! together if their addresses and ports are the same in reverse order and they became ESTABLISHED at the same time, by
//! wall clocks that may differ (`offsets`). Some seconds after an end was established, the nearest in time is chosen, one to
//! one (`matching`). Memory is bounded: see [`MAX_ENDS`].

mod connection;
mod end;
mod index;
mod matching;
mod nat;
mod offsets;
mod reasons;
mod summary;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;

use hashbrown::HashMap;

use self::{index::EndIndex, nat::TranslatedEnds, offsets::ClockOffsets, reasons::JoinHosts};
use crate::{
    filter::{Filter, Subject},
    lifecycle::{Event, Processes, Role, Socket},
    model::{
        IdKind, Record, SocketId, TcpState,
        record::{HostFacts, KernelLosses},
    },
};

pub use connection::{ClosedFirst, JoinStatus, JoinedConnection, UnmatchedReason};
pub use end::ConnectionEnd;
pub use summary::{FirstCounts, JoinSummary};

/// Most ends followed at once; some 300 bytes each. Beyond, the ends that have waited longest for their peer are given up.
const MAX_ENDS: usize = 1 << 19;
/// After this long an end looks for its peer: by then several connections show the offset of the clocks.
const SETTLE_NS: u64 = 5_000_000_000;
/// An end that has ended waits this long for a peer whose clock is behind.
const HOLD_NS: u64 = 120_000_000_000;

/// Joins ends into connections.
pub struct Joiner {
    filter: Filter,
    limit: usize,
    hosts: JoinHosts,
    /// By number, which counts up.
    ends: HashMap<u64, ConnectionEnd>,
    next: u64,
    /// The numbers of those that have not ended, by host and socket.
    open: HashMap<(u16, SocketId), u64>,
    index: EndIndex,
    offsets: ClockOffsets,
    nat: TranslatedEnds,
    /// Ends that look for their peer at that time.
    settling: VecDeque<(u64, u64)>,
    /// Ends without a peer that are given up at that time.
    waiting: VecDeque<(u64, u64)>,
    /// The newest wall-clock time.
    now_ns: u64,
    ready: Vec<JoinedConnection>,
    summary: JoinSummary,
}

impl Joiner {
    /// A joiner of connections of which `filter` selects at least one end.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            limit: MAX_ENDS,
            hosts: JoinHosts::default(),
            ends: HashMap::new(),
            next: 0,
            open: HashMap::new(),
            index: EndIndex::default(),
            offsets: ClockOffsets::default(),
            nat: TranslatedEnds::default(),
            settling: VecDeque::new(),
            waiting: VecDeque::new(),
            now_ns: 0,
            ready: Vec::new(),
            summary: JoinSummary::default(),
        }
    }

    /// The same with room for `limit` ends.
    #[cfg(test)]
    fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Takes a change of the state of one socket of `host`.
    pub fn event(&mut self, event: &Event<'_>, host: &HostFacts) {
        // The child of a handshake is another socket.
        if event.role == Role::Listener || event.id.kind() == IdKind::Handshake {
            return;
        }
        let ts_ns = host.wall_ns(event.ts);
        let host = self.hosts.number(host, ts_ns);
        self.pass(ts_ns);
        let known = self.open.get(&(host, event.id)).copied();
        let number = match known {
            Some(number) if !event.begins => number,
            // Its end was not seen.
            Some(number) => {
                self.finish_end(number, ts_ns);
                let Some(number) = self.begin(host, event, ts_ns) else { return };
                number
            }
            // TIME_WAIT is not followed, and a socket in it is older than the recording.
            None if matches!(event.from, TcpState::TimeWait) => return,
            None => {
                let Some(number) = self.begin(host, event, ts_ns) else { return };
                number
            }
        };
        let Some(end) = self.ends.get_mut(&number) else { return };
        let states = self.filter.states(&Subject::from(event));
        end.is_shown |= states.contains(event.from) || states.contains(event.to);
        end.change(event, ts_ns);
        self.index_end(number);
        if self.ends.get(&number).is_some_and(|end| end.ended_ns.is_some()) {
            self.finish_end(number, ts_ns);
        }
    }

    /// Takes a socket of `host` that no change of its state announced.
    pub fn appeared(&mut self, id: SocketId, socket: &Socket, processes: &Processes, host: &HostFacts) {
        if matches!(socket.state, TcpState::Listen | TcpState::TimeWait | TcpState::Close | TcpState::SynRecv)
        {
            return;
        }
        let number = self.hosts.number(host, 0);
        if self.open.contains_key(&(number, id)) {
            return;
        }
        if !self.has_room() {
            self.summary.refused += 1;
            return;
        }
        let mut end = ConnectionEnd::new(number, id, socket.netns, socket.tuple, self.now_ns, socket.state);
        end.role = socket.role;
        end.closer = socket.closer;
        end.began_before = socket.state != TcpState::SynSent;
        let subject = socket.subject(processes);
        end.own(subject.process);
        end.is_shown = self.filter.states(&subject).contains(socket.state);
        let number = self.insert(end);
        self.index_end(number);
    }

    /// Takes another record of `host`: time, losses, translated addresses.
    pub fn record(&mut self, record: &Record, host: &HostFacts) {
        match record {
            Record::Tick { ts } => {
                let ts_ns = host.wall_ns(*ts);
                self.hosts.number(host, ts_ns);
                self.pass(ts_ns);
            }
            Record::Loss { losses, .. } => self.hosts.lost(host, total(losses)),
            Record::Conntrack { conntrack, .. } => self.nat.add(conntrack),
            _ => {}
        }
    }

    /// Connections that are complete, in the order in which they became so.
    pub fn drain(&mut self) -> std::vec::Drain<'_, JoinedConnection> {
        self.ready.drain(..)
    }

    /// Completes all others at the end of the source.
    pub fn finish(&mut self) {
        let mut numbers: Vec<u64> = self.ends.keys().copied().collect();
        numbers.sort_unstable();
        for &number in &numbers {
            self.settle(number);
        }
        for number in numbers {
            let Some(partner) = self.ends.get(&number).map(|end| end.partner) else { continue };
            match partner {
                Some(partner) => self.emit_pair(number, partner),
                None => self.give_up(number, None),
            }
        }
    }

    /// Counts of everything drained so far, and of what is ready.
    pub const fn summary(&self) -> &JoinSummary {
        &self.summary
    }

    fn has_room(&mut self) -> bool {
        while self.ends.len() >= self.limit {
            let Some((_, number)) = self.waiting.pop_front() else { return false };
            self.give_up(number, Some(UnmatchedReason::Evicted));
        }
        true
    }

    /// Adds the end that `event` begins; `None` if there is no room.
    fn begin(&mut self, host: u16, event: &Event<'_>, ts_ns: u64) -> Option<u64> {
        if !self.has_room() {
            self.summary.refused += u64::from(event.to == TcpState::Established);
            return None;
        }
        let mut end = ConnectionEnd::new(host, event.id, event.netns, event.tuple, ts_ns, event.to);
        let is_new =
            matches!(event.from, TcpState::Close | TcpState::SynSent | TcpState::SynRecv | TcpState::Listen);
        end.began_before = !is_new;
        Some(self.insert(end))
    }

    fn insert(&mut self, end: ConnectionEnd) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert((end.host, end.id), number);
        self.ends.insert(number, end);
        number
    }

    /// Makes an end known to its peer once both of its addresses and ports are known.
    fn index_end(&mut self, number: u64) {
        let Some(end) = self.ends.get_mut(&number) else { return };
        if end.is_indexed || !end.is_connection() || !end.has_tuple() {
            return;
        }
        end.is_indexed = true;
        let end = &self.ends[&number];
        self.hosts.has_address(end.host, end.tuple.saddr);
        for peer in self.index.of(&end.key().reversed()) {
            let Some(peer) = self.ends.get(peer) else { continue };
            if let (Some(a), Some(b)) = (end.established_ns, peer.established_ns) {
                self.offsets.observe(end.host, peer.host, a.wrapping_sub(b).cast_signed());
            }
        }
        self.index.insert(end.key(), number);
        self.settling.push_back((self.now_ns.saturating_add(SETTLE_NS), number));
    }

    /// Ends a socket: its connection is complete if the other end has ended, too.
    fn finish_end(&mut self, number: u64, ts_ns: u64) {
        let Some(end) = self.ends.get_mut(&number) else { return };
        end.ended_ns.get_or_insert(ts_ns);
        let (key, partner, is_connection) = ((end.host, end.id), end.partner, end.is_connection());
        self.open.remove(&key);
        if !is_connection {
            self.give_up(number, None);
        } else if let Some(partner) = partner {
            self.emit_when_ended(number, partner);
        } else {
            self.waiting.push_back((self.now_ns.saturating_add(HOLD_NS), number));
        }
    }

    /// Lets time pass up to `ts_ns`.
    fn pass(&mut self, ts_ns: u64) {
        self.now_ns = self.now_ns.max(ts_ns);
        while let Some(number) = pop_due(&mut self.settling, self.now_ns) {
            self.settle(number);
        }
        while let Some(number) = pop_due(&mut self.waiting, self.now_ns) {
            self.settle(number);
            if self.ends.get(&number).is_some_and(|end| end.partner.is_none()) {
                self.give_up(number, None);
            }
        }
    }

    fn emit_when_ended(&mut self, one: u64, other: u64) {
        let has_ended =
            |number| self.ends.get(&number).is_some_and(|end: &ConnectionEnd| end.ended_ns.is_some());
        if has_ended(one) && has_ended(other) {
            self.emit_pair(one, other);
        }
    }

    /// Emits a connection with both ends.
    fn emit_pair(&mut self, one: u64, other: u64) {
        let (Some(one), Some(other)) = (self.remove(one), self.remove(other)) else { return };
        let status = self.status(&one, &other);
        let is_translated = one.key() != other.key().reversed();
        let is_shown = one.is_shown || other.is_shown;
        let mut connection = JoinedConnection::of(one, Some(other), status);
        connection.is_translated = is_translated;
        if let (Some(client), Some(server)) = (&connection.client, &connection.server) {
            connection.clock_offset_ns = self.offsets.ahead_ns(client.host, server.host).unwrap_or(0);
        }
        if is_shown {
            self.emit(connection);
        }
    }

    fn status(&mut self, one: &ConnectionEnd, other: &ConnectionEnd) -> JoinStatus {
        /// The last segments of a close may still be on their way.
        const GRACE_NS: u64 = 1_000_000_000;
        let (ended, waiting) = match (one.ended_ns, other.ended_ns) {
            (Some(_), Some(_)) => return JoinStatus::Closed,
            (None, None) => return JoinStatus::Open,
            (Some(_), None) => (one, other),
            (None, Some(_)) => (other, one),
        };
        let ahead_ns = self.offsets.ahead_ns(waiting.host, ended.host).unwrap_or(0);
        let ended_ns = ended.ended_ns.unwrap_or_default().saturating_add_signed(ahead_ns);
        let is_over = ended_ns.saturating_add(GRACE_NS) < self.hosts.until_ns(waiting.host);
        if is_over { JoinStatus::HalfOpen } else { JoinStatus::Open }
    }

    /// Emits an end without its peer.
    fn give_up(&mut self, number: u64, reason: Option<UnmatchedReason>) {
        if self.ends.get(&number).is_none_or(|end| end.partner.is_some()) {
            return;
        }
        let Some(end) = self.remove(number) else { return };
        let reason = reason.unwrap_or_else(|| self.hosts.reason(&end, &self.nat, &mut self.offsets));
        if end.is_shown {
            self.emit(JoinedConnection::of(end, None, JoinStatus::Unmatched(reason)));
        }
    }

    fn emit(&mut self, connection: JoinedConnection) {
        self.summary.add(&connection);
        self.ready.push(connection);
    }

    /// Removes an end from all tables.
    fn remove(&mut self, number: u64) -> Option<ConnectionEnd> {
        let end = self.ends.remove(&number)?;
        if end.is_indexed {
            self.index.remove(&end.key(), number);
        }
        if self.open.get(&(end.host, end.id)) == Some(&number) {
            self.open.remove(&(end.host, end.id));
        }
        Some(end)
    }

    /// Name of the host with this number. Untrusted.
    pub fn host_name(&self, number: u16) -> &str {
        self.hosts.name(number)
    }
}

/// The next number that is due at `now_ns`.
fn pop_due(queue: &mut VecDeque<(u64, u64)>, now_ns: u64) -> Option<u64> {
    queue
        .front()
        .is_some_and(|(due_ns, _)| *due_ns <= now_ns)
        .then(|| queue.pop_front())?
        .map(|(_, number)| number)
}

/// Records lost for any cause.
const fn total(losses: &KernelLosses) -> u64 {
    losses.ring_full
        + losses.recursion_missed
        + losses.read_faults
        + losses.decode_errors
        + losses.not_recorded
}
