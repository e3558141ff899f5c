//! Tracks every socket: dispatches each record by kernel object, and holds the state transitions that all objects
//! share.

use hashbrown::HashSet;
use tcptrace_common::{
    filter::{Ends, KernelFilter},
    record::Kind,
};

use super::{
    Closer, End, EndReason, Event, OwnerKind, Phase, ProcessId, Processes, Role, Since, Socket, closing,
    connects::Connects,
    ended::{Ended, EndedInSeed},
    handshakes::Handshakes,
    listeners::Listeners,
    namespaces::Namespaces,
    pending::PendingEnds,
    port_ranges::PortRanges,
    recently_closed::RecentlyClosed,
    rekeyed::Rekeyed,
    suspicions::SweepComparison,
    table::{SlotRef, Sockets},
};
use crate::model::{Bound, Dwell, HookRecord, Nanos, NetnsId, Record, SocketId, TcpState, Tuple};

/// Receives the changes. Counts of sockets per state follow from these calls alone, except for the sockets that
/// [`Tracker::scoped`] excludes.
pub trait Observer {
    /// A socket appeared without a transition: it is older than the trace, or its first transition was missed.
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes);
    /// A socket changed its state; `socket` is already in the new one. With [`Event::begins`] it is new; after CLOSE
    /// it is removed.
    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes);
    /// A missed transition was repaired: the socket was counted in `from`, and `socket` has the correct state. In
    /// `from` it was an orphan when [`Socket::orphan_since`] is set.
    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes);
    /// The owner, the role or an address or port became known, or known with more certainty.
    fn identified(&mut self, socket: &mut Socket, processes: &Processes);
    /// The owner is the same, in another cgroup or with another name.
    fn owner_moved(&mut self, socket: &mut Socket, processes: &Processes) {
        self.identified(socket, processes);
    }

    /// A system call accepted a connection: [`Socket::opened_by`] is its stack.
    fn accepted(&mut self, _socket: &Socket, _processes: &Processes) {}
    /// A socket in FIN_WAIT2 lost its owner.
    fn orphaned(&mut self, socket: &mut Socket);
    /// A socket turned out to be outside of [`Tracker::scoped`]: no further call follows for it.
    fn forgotten(&mut self, _socket: &mut Socket) {}
}

/// Bounds of the tracker's memory.
#[derive(Clone, Copy, Debug)]
pub struct TrackerLimits {
    /// Sockets tracked at once; further sockets are counted as evicted.
    pub sockets: usize,
}

impl Default for TrackerLimits {
    fn default() -> Self {
        Self { sockets: 4_000_000 }
    }
}

/// Counts of inexact tracking, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets whose known state differed from the old state of the next transition.
    pub healed: u64,
    /// Sockets without a beginning in a namespace that was not visited: probably older than the trace, not a loss.
    pub unseeded: u64,
    /// Sockets not tracked because the table was full.
    pub evicted: u64,
    /// Records with a state or kind that TCP does not have.
    pub undecodable: u64,
    /// Transitions reported by two copies of the program: dropped, not lost.
    pub doubles: u64,
}

/// Tracks every socket through its states.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub(super) sockets: Sockets,
    pub(super) processes: Processes,
    pub(super) listeners: Listeners,
    pub(super) port_ranges: PortRanges,
    pub(super) namespaces: Namespaces,
    /// Namespaces that the next pass over all sockets covers.
    pub(super) changed: HashSet<NetnsId>,
    pub(super) handshakes: Handshakes,
    pub(super) rekeyed: Rekeyed,
    /// Timer ticks per second, learned from the first TIME_WAIT armed.
    pub(super) hz: Option<i64>,
    pub(super) connects: Connects,
    pub(super) pending: PendingEnds,
    pub(super) sweeps: SweepComparison,
    pub(super) ended_in_seed: EndedInSeed,
    pub(super) seeding: bool,
    /// Time of the first record: the hooks were attached by then.
    pub(super) began: Option<Nanos>,
    /// Whether the hooks report segments that reach timewait sockets.
    pub(super) sees_segments: bool,
    /// Whether the hooks report RSTs and errors of full sockets.
    pub(super) sees_ends: bool,
    pub(super) counters: Counters,
    pub(super) recently_closed: RecentlyClosed,
    pub(super) limits: TrackerLimits,
    /// Sockets outside of this filter are not tracked.
    pub(super) scope: KernelFilter,
}

impl Counters {
    /// Adds all of `other`.
    pub const fn add(&mut self, other: &Self) {
        self.healed += other.healed;
        self.unseeded += other.unseeded;
        self.evicted += other.evicted;
        self.undecodable += other.undecodable;
        self.doubles += other.doubles;
    }
}

impl Tracker {
    /// Creates an empty tracker.
    pub fn new(limits: TrackerLimits) -> Self {
        Self {
            sockets: Sockets::default(),
            processes: Processes::default(),
            listeners: Listeners::default(),
            port_ranges: PortRanges::default(),
            namespaces: Namespaces::default(),
            changed: HashSet::default(),
            handshakes: Handshakes::default(),
            rekeyed: Rekeyed::default(),
            hz: None,
            connects: Connects::default(),
            pending: PendingEnds::default(),
            sweeps: SweepComparison::default(),
            ended_in_seed: EndedInSeed::default(),
            seeding: true,
            began: None,
            sees_segments: true,
            sees_ends: false,
            counters: Counters::default(),
            recently_closed: RecentlyClosed::default(),
            limits,
            scope: KernelFilter::default(),
        }
    }

    /// Tracks only the sockets that `scope` passes: the result is the same whether the kernel side applies this filter
    /// or reports all sockets. A socket that turns out to be outside, once its local port is known, is dropped without
    /// an end event.
    #[must_use]
    pub fn scoped(self, scope: KernelFilter) -> Self {
        Self { scope, ..self }
    }

    /// Whether `record` may matter: the seed lists all sockets, the hooks report those in scope.
    pub fn follows(&self, record: &Record) -> bool {
        match record {
            Record::Seed(seed) | Record::Found(seed) => self.is_in_scope(seed.netns, &seed.tuple),
            _ => true,
        }
    }

    /// Counts of inexact tracking so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Calls [`Observer::identified`] again for every socket in `netns`, because facts about the namespace changed at
    /// `ts`. With many sockets, one pass covers all namespaces that changed since the last pass.
    pub fn revisit_namespace(&mut self, netns: NetnsId, ts: Nanos, out: &mut impl Observer) {
        /// A pass over this many sockets costs about as much as a few records.
        const FEW: usize = 1 << 10;
        self.changed.insert(netns);
        if self.sockets.len() <= FEW {
            self.pass(out);
        } else {
            self.processes.request_pass(ts);
        }
    }

    /// Approximate memory use, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.sockets.len() * Sockets::SOCKET_BYTES
    }

    /// Number of sockets tracked now.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Iterates over every tracked socket.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.sockets.iter()
    }

    /// The tracked sockets for which `test` holds: where they are few of millions, much faster than a filter.
    pub fn sockets_where(&self, test: impl Fn(&Socket) -> bool) -> Vec<(SocketId, &Socket)> {
        let ids = self.sockets.select(test).into_iter();
        ids.filter_map(|id| Some((id, self.sockets.get(id)?))).collect()
    }

    /// Passes every tracked socket to an observer, which may change its own fields in it.
    pub fn for_each_socket(&mut self, mut show: impl FnMut(&mut Socket, &Processes)) {
        for socket in self.sockets.iter_mut() {
            show(socket, &self.processes);
        }
    }

    /// The socket with this id.
    pub fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(id)
    }

    /// The processes that own the sockets.
    pub const fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Names of workloads and programs as records, see [`Processes::names`].
    pub fn names(&self, ts: Nanos) -> (Vec<Record>, Vec<Record>) {
        self.processes.names(ts)
    }

    /// Number of entries in each side table, by name: each table must stay bounded.
    #[doc(hidden)]
    pub fn side_tables(&self) -> [(&'static str, usize); 11] {
        [
            ("processes", self.processes.count()),
            ("workloads", self.processes.named_cgroups()),
            ("process facts", self.processes.known_facts()),
            ("listeners", self.listeners.len()),
            ("handshakes", self.handshakes.len()),
            ("minisockets set aside", self.rekeyed.len()),
            ("connects", self.connects.len()),
            ("pending ends", self.pending.len()),
            ("suspicions of sweeps", self.sweeps.len()),
            ("ended in the seed", self.ended_in_seed.len()),
            ("namespaces", self.namespaces.len()),
        ]
    }

    /// Processes one record.
    pub fn take(&mut self, record: &Record, out: &mut impl Observer) {
        if let Some(ts) = record.ts() {
            self.began.get_or_insert(ts);
            if record.follows_hooks() {
                self.settle(ts, out);
            }
            if self.processes.begin_pass(ts) && (!self.changed.is_empty() || self.processes.any_moved()) {
                self.pass(out);
            }
        }
        self.namespaces.take(record);
        match record {
            Record::Kernel(seen) => self.take_observation(seen, out),
            Record::Seed(seed) => self.add_seeded(seed, out),
            Record::SeedEnd { .. } => self.finish_seed(out),
            Record::Found(found) => self.apply_found(found, out),
            Record::Missing { ts, id, netns, tuple, from } => {
                self.apply_missing(self.resolve_missing_id(*id, *netns, tuple), *ts, *from, out);
            }
            Record::Owner { ts, id, process, .. } => self.apply_owner(*id, process, *ts, out),
            Record::OwnersEnd { .. } => self.finish_owner_search(out),
            Record::SocketCheckpoint(carried) => self.restore_socket(carried, out),
            Record::TrackerCheckpoint(known) => self.restore_tracker(known),
            Record::Host(facts) => {
                self.sees_segments = facts.segments;
                self.sees_ends = facts.ends;
                self.port_ranges.take(record);
            }
            Record::NetnsSettings { .. } => self.port_ranges.take(record),
            Record::CgroupPath { .. } | Record::Workload { .. } | Record::ProcessFacts { .. } => {
                self.processes.take(record);
            }
            Record::Restart { ts } => self.restart(*ts, out),
            Record::Tick { ts } => self.connects.remove_expired(*ts),
            // No change to a socket: `Tracker::compare` handles listings.
            Record::Listing(_)
            | Record::Stream { .. }
            | Record::NetnsName { .. }
            | Record::AddressName { .. }
            | Record::NetnsCounters { .. }
            | Record::Conntrack { .. }
            | Record::BoundPorts { .. }
            | Record::Stack { .. }
            | Record::ClockStep(_)
            | Record::Loss { .. } => {}
        }
    }

    /// Removes every socket without reporting an end: a new seed lists those that exist.
    fn restart(&mut self, ts: Nanos, out: &mut impl Observer) {
        let mut known: Vec<SocketId> = self.sockets.iter().map(|(id, _)| id).collect();
        known.sort_unstable();
        for id in known {
            if let Some(at) = self.sockets.find(id) {
                self.correct_state(at, TcpState::Close, out);
                self.remove(at, ts);
            }
        }
        // Another recording may be of another boot, with other cgroups and pids.
        self.processes = Processes::default();
        self.connects = Connects::default();
        self.pending = PendingEnds::default();
        self.sweeps = SweepComparison::default();
        self.namespaces = Namespaces::default();
        self.ended_in_seed = EndedInSeed::default();
        self.recently_closed = RecentlyClosed::default();
        self.seeding = true;
    }

    /// Calls `out` for every socket whose namespace has changed, or whose process moved to another cgroup or
    /// got a name.
    fn pass(&mut self, out: &mut impl Observer) {
        for socket in self.sockets.iter_mut() {
            if self.changed.contains(&socket.netns) {
                out.identified(socket, &self.processes);
            }
            if socket.process.is_some_and(|id| self.processes.has_moved(id)) {
                out.owner_moved(socket, &self.processes);
            }
        }
        self.processes.end_pass();
        self.changed.clear();
    }

    fn take_observation(&mut self, seen: &HookRecord, out: &mut impl Observer) {
        if !self.scope.is_everything() && !self.scope.passes(&Ends::of(&seen.raw)) {
            return;
        }
        self.clear_suspicion(&seen.raw);
        match Kind::from_raw(seen.raw.kind) {
            Some(Kind::Transition) => self.apply_transition(seen, out),
            Some(Kind::TimewaitArmed) => self.timewait_armed(&seen.raw, out),
            Some(Kind::TimewaitCancelled) => self.timewait_cancelled(&seen.raw, out),
            Some(Kind::TimewaitExpired) => self.timewait_expired(&seen.raw, out),
            Some(Kind::Segment) => self.timewait_segment(&seen.raw, out),
            Some(Kind::RequestArmed) => self.request_armed(&seen.raw, out),
            Some(Kind::RequestCancelled) => self.request_cancelled(&seen.raw),
            Some(Kind::RequestExpired) => self.request_expired(&seen.raw),
            Some(Kind::ResetSent) => self.reset_sent(&seen.raw, out),
            Some(Kind::ResetReceived) => self.reset_received(&seen.raw),
            Some(Kind::ErrorReported) => self.error_reported(&seen.raw, out),
            Some(Kind::Accepted) => self.accepted(seen, out),
            None => self.counters.undecodable += 1,
        }
    }

    pub(super) fn is_in_scope(&self, netns: NetnsId, tuple: &Tuple) -> bool {
        self.scope.is_everything() || self.scope.passes(&tuple.ends(netns))
    }

    /// Moves a socket to the state `to` and reports it; CLOSE removes the socket.
    pub(super) fn enter(
        &mut self,
        at: SlotRef,
        to: TcpState,
        ts: Nanos,
        end_reason: Option<EndReason>,
        out: &mut impl Observer,
    ) {
        self.step(at, to, Since::Exact(ts), end_reason.map(End::sure), None, out);
    }

    /// Ends a socket.
    pub(super) fn close(&mut self, at: SlotRef, ts: Nanos, end: End, out: &mut impl Observer) {
        self.step(at, TcpState::Close, Since::Exact(ts), Some(end), None, out);
    }

    /// Like `enter` with a computed time: neither the dwell that ends nor the one that begins is exact.
    pub(super) fn enter_inferred(&mut self, at: SlotRef, to: TcpState, ts: Nanos, out: &mut impl Observer) {
        self.step(at, to, Since::Inferred(ts), None, None, out);
    }

    /// A connect is answered; the kernel measured this `round_trip` of its SYN.
    pub(super) fn enter_answered(
        &mut self,
        at: SlotRef,
        ts: Nanos,
        round_trip: Option<Nanos>,
        out: &mut impl Observer,
    ) {
        self.step(at, TcpState::Established, Since::Exact(ts), None, round_trip, out);
    }

    fn step(
        &mut self,
        at: SlotRef,
        to: TcpState,
        since: Since,
        end: Option<End>,
        round_trip: Option<Nanos>,
        out: &mut impl Observer,
    ) {
        let end_reason = end.map(|end| end.reason);
        let ts = since.time().unwrap_or_default();
        let socket = &mut self.sockets[at];
        let from = socket.state;
        let begins = from == TcpState::Close;
        socket.closer = closer_after(socket.closer, from, to, end_reason);
        let orphan_since = socket.orphan_since;
        let orphan_bound = if socket.orphan_inferred { Bound::Inferred } else { Bound::Exact };
        let dwell = if begins { None } else { socket.since.dwell_until(since) };
        let event = Event {
            ts,
            id: at.id,
            netns: socket.netns,
            tuple: socket.tuple,
            role: socket.role,
            role_guessed: socket.role_guessed,
            from: if begins && to == TcpState::SynRecv { TcpState::Listen } else { from },
            to,
            begins,
            dwell,
            closer: socket.closer,
            end_reason,
            reason_inferred: end.is_some_and(|end| end.inferred),
            orphan: (from == TcpState::FinWait2 || to == TcpState::FinWait2)
                .then_some(orphan_since.is_some()),
            orphan_for: (from == TcpState::FinWait2)
                .then_some(orphan_since)
                .flatten()
                .map(|since| Dwell { length: ts.since(since), bound: orphan_bound }),
            search: search(from, end_reason, dwell, round_trip),
            extended: socket.extended,
            owner: socket.owner,
            process: socket.process.and_then(|id| self.processes.get(id)).map(AsRef::as_ref),
        };
        socket.previous = from;
        socket.state = to;
        socket.since = since;
        socket.only_seeded = false;
        out.changed(&event, socket, &self.processes);
        if from == TcpState::Listen {
            self.listeners.remove(at.id);
        }
        if to != TcpState::FinWait2 {
            socket.clear_orphan();
        }
        if to == TcpState::Close {
            self.remove(at, ts);
        }
    }

    /// Adds a socket that no transition announced.
    pub(super) fn appear(
        &mut self,
        id: SocketId,
        socket: Socket,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        let at = self.insert(id, socket)?;
        let socket = &mut self.sockets[at];
        if socket.state == TcpState::Listen {
            socket.role = Role::Listener;
            self.listeners.insert(id, socket.netns, &socket.tuple);
        }
        out.appeared(id, socket, &self.processes);
        Some(at)
    }

    /// Inserts a socket, unless the table is full or already has the id.
    pub(super) fn insert(&mut self, id: SocketId, mut socket: Socket) -> Option<SlotRef> {
        if self.sockets.contains(id) {
            return None;
        }
        if !self.has_room() {
            self.counters.evicted += 1;
            return None;
        }
        socket.listed = self.sweeps.number();
        Some(self.sockets.insert(id, socket))
    }

    /// Whether one more socket can be tracked.
    pub(super) fn has_room(&self) -> bool {
        self.sockets.len() < self.limits.sockets
    }

    /// Makes `owner`, already acquired, the socket's owner, unless the current owner is known with more certainty.
    pub(super) fn own(&mut self, at: SlotRef, owner: ProcessId, kind: OwnerKind, out: &mut impl Observer) {
        let socket = &mut self.sockets[at];
        if socket.owner > kind {
            return self.processes.release(owner);
        }
        let before = socket.process.replace(owner);
        let kind_before = std::mem::replace(&mut socket.owner, kind);
        if before != Some(owner) || kind_before != kind {
            out.identified(socket, &self.processes);
        }
        if let Some(before) = before {
            self.processes.release(before);
        }
    }

    pub(super) fn remove(&mut self, at: SlotRef, ts: Nanos) {
        let id = at.id;
        self.pending.take(id);
        let socket = self.sockets.remove(at);
        if let Some(process) = socket.process {
            self.processes.release(process);
        }
        if socket.state == TcpState::Listen {
            self.listeners.remove(id);
        }
        let (netns, tuple) = (socket.netns, socket.tuple);
        let ended = match socket.phase {
            Phase::Request => {
                self.handshakes.forget(id, netns, &tuple);
                Ended::request(netns, &tuple)
            }
            Phase::Full => {
                self.recently_closed.push(id, ts);
                Ended::Full(id.0)
            }
            Phase::Timewait => {
                let cookie = self.rekeyed.cookie_of(id).unwrap_or(id.0);
                self.rekeyed.forget(id);
                Ended::Timewait(cookie, netns, tuple.without_interface())
            }
        };
        if self.seeding {
            self.remember_ended_in_seed(ended);
        }
    }

    /// Counts the cause of a socket that appears in `netns` without a record. Returns when its state began.
    pub(super) fn count_unannounced(&mut self, netns: NetnsId) -> Since {
        let older = self.began.map_or(Since::Unknown, Since::AtLatest);
        if self.seeding {
            older
        } else if self.namespaces.contains(netns) {
            self.counters.healed += 1;
            Since::Unknown
        } else {
            self.counters.unseeded += 1;
            older
        }
    }

    /// Remembers a socket that ended while the seed is being read.
    pub(super) fn remember_ended_in_seed(&mut self, ended: Ended) {
        if !self.ended_in_seed.insert(ended, self.limits.sockets) {
            // If the seed brings it back, it remains.
            self.counters.evicted += 1;
        }
    }
}

/// When a SYN is sent again for the first time (`TCP_TIMEOUT_INIT`).
const SYN_TIMEOUT: Nanos = Nanos::SECOND;

/// The part of a dwell in SYN_SENT before the SYN was sent. With a repeated SYN, the first time after a second, the round trip
/// says nothing about it.
fn search(
    from: TcpState,
    end_reason: Option<EndReason>,
    dwell: Option<Dwell>,
    round_trip: Option<Nanos>,
) -> Option<Nanos> {
    let dwell = dwell.filter(|dwell| from == TcpState::SynSent && dwell.bound == Bound::Exact)?.length;
    match end_reason {
        // No SYN was sent.
        Some(EndReason::NoPort) => Some(dwell),
        Some(_) => None,
        None => round_trip.filter(|_| dwell < SYN_TIMEOUT).map(|round_trip| dwell.since(round_trip)),
    }
}

/// Which side ended the connection, judged by the step `from` -> `to`; the first side to close counts.
fn closer_after(before: Closer, from: TcpState, to: TcpState, reason: Option<EndReason>) -> Closer {
    match (before, from, to) {
        (Closer::None, TcpState::Established | TcpState::SynRecv, TcpState::FinWait1) => Closer::Local,
        (Closer::None, TcpState::Established | TcpState::SynRecv, TcpState::CloseWait) => Closer::Remote,
        // Our FIN went first, but the peer sent its own before ours arrived.
        (_, TcpState::FinWait1, TcpState::Closing) => Closer::Both,
        (Closer::None, _, TcpState::Close) => reason.map_or(Closer::None, closing::closer),
        _ => before,
    }
}
