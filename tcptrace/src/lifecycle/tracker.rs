//! Who follows the sockets: records in, each handed to who knows its kernel object; and the steps that all of them
//! take.

use rustc_hash::FxHashSet;
use tcptrace_common::{
    filter::{Ends, KernelFilter},
    record::{self as raw, Kind},
};

use super::{
    Closer, EndReason, Event, OwnerKind, Phase, ProcessId, Processes, Role, Since, Socket, closing,
    full::RecentlyClosed,
    handshake::Handshakes,
    listeners::Listeners,
    minisocket::{Connects, Minisockets},
    pending::PendingEnds,
    sweep::Sweeps,
    table::{Place, Sockets},
};
use crate::model::{Addr, Nanos, NetnsId, Observation, Record, SocketId, TcpState, Tuple};

/// Who is told what happens. Counts of sockets per state follow from these calls alone, those apart that
/// [`Tracker::scoped`] leaves out.
pub trait Observer {
    /// A socket is there that no transition announced: it is older than the trace, or its beginning
    /// was missed.
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes);
    /// A socket changed its state; `socket` is already in the new one. With [`Event::begins`] it was
    /// not there before; in CLOSE it is gone afterwards.
    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes);
    /// A missed transition is made up for: the socket was counted in `from` and is in its state. In
    /// `from` it was an orphan when [`Socket::orphan_since`] is set.
    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes);
    /// The owner, the role or an end became known, or known better.
    fn identified(&mut self, socket: &mut Socket, processes: &Processes);
    /// A socket in FIN_WAIT2 lost its owner.
    fn orphaned(&mut self, socket: &mut Socket);
    /// A socket turned out to be outside of [`Tracker::scoped`]: nothing more will be told of it.
    fn forgotten(&mut self, _socket: &mut Socket) {}
}

/// Bounds of the tracker's memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sockets tracked at once; what comes beyond is counted as evicted.
    pub sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sockets: 4_000_000 }
    }
}

/// What could not be followed exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets whose known state was not the old state of the next transition.
    pub healed: u64,
    /// Sockets not tracked because the table was full.
    pub evicted: u64,
    /// Records with a state or kind that TCP does not have.
    pub undecodable: u64,
    /// Transitions reported by both copies of the program: dropped, not lost.
    pub doubles: u64,
}

/// Follows every socket through its states.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub(super) sockets: Sockets,
    pub(super) processes: Processes,
    pub(super) listeners: Listeners,
    pub(super) handshakes: Handshakes,
    pub(super) minisockets: Minisockets,
    pub(super) connects: Connects,
    pub(super) pending: PendingEnds,
    pub(super) sweeps: Sweeps,
    /// Ended while the seed is still being read: it must not bring them back.
    pub(super) ended_in_seed: FxHashSet<SocketId>,
    pub(super) seeding: bool,
    /// When the first record came: the hooks were attached by then.
    pub(super) began: Option<Nanos>,
    /// Whether segments that reach minisockets are seen.
    pub(super) sees_segments: bool,
    pub(super) counters: Counters,
    pub(super) recently_closed: RecentlyClosed,
    pub(super) limits: Limits,
    /// Sockets outside of it are not followed.
    pub(super) scope: KernelFilter,
}

impl Tracker {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            sockets: Sockets::default(),
            processes: Processes::default(),
            listeners: Listeners::default(),
            handshakes: Handshakes::default(),
            minisockets: Minisockets::default(),
            connects: Connects::default(),
            pending: PendingEnds::default(),
            sweeps: Sweeps::default(),
            ended_in_seed: FxHashSet::default(),
            seeding: true,
            began: None,
            sees_segments: true,
            counters: Counters::default(),
            recently_closed: RecentlyClosed::default(),
            limits,
            scope: KernelFilter::default(),
        }
    }

    /// Follows only the sockets that `scope` lets pass: what a kernel side with this filter tells, and from
    /// records of all sockets the same. One that turns out to be outside, once its local port is known, is
    /// forgotten: its end is never told.
    #[must_use]
    pub fn scoped(self, scope: KernelFilter) -> Self {
        Self { scope, ..self }
    }

    /// Whether `record` may matter: a seed tells of all sockets, the hooks of those in scope.
    pub fn follows(&self, record: &Record) -> bool {
        match record {
            Record::Seed(seed) | Record::Found(seed) => self.is_in_scope(seed.netns, &seed.tuple),
            _ => true,
        }
    }

    /// What could not be followed exactly so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Tells `out` of every socket in `netns` once more: what it knows of the namespace has changed.
    pub fn look_again(&mut self, netns: NetnsId, out: &mut impl Observer) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.netns == netns) {
            out.identified(socket, &self.processes);
        }
    }

    /// Roughly what it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.sockets.len() * Sockets::SOCKET_BYTES
    }

    /// Every socket tracked now.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.sockets.iter()
    }

    /// Shows every socket tracked now to an observer, for what is for its use.
    pub fn each_socket(&mut self, mut show: impl FnMut(&mut Socket, &Processes)) {
        for socket in self.sockets.iter_mut() {
            show(socket, &self.processes);
        }
    }

    /// One of them.
    pub fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(id)
    }

    /// The processes that own them.
    pub const fn processes(&self) -> &Processes {
        &self.processes
    }

    /// How many entries the tables beside that of the sockets hold, by name: none may grow for ever.
    #[doc(hidden)]
    pub fn side_tables(&self) -> [(&'static str, usize); 8] {
        [
            ("processes", self.processes.count()),
            ("listeners", self.listeners.len()),
            ("handshakes", self.handshakes.len()),
            ("minisockets set aside", self.minisockets.len()),
            ("connects", self.connects.len()),
            ("pending ends", self.pending.len()),
            ("suspicions of sweeps", self.sweeps.len()),
            ("ended in the seed", self.ended_in_seed.len()),
        ]
    }

    /// Takes one record in.
    pub fn take(&mut self, record: &Record, out: &mut impl Observer) {
        if let Some(ts) = record.ts() {
            self.began.get_or_insert(ts);
            self.settle(ts, out);
        }
        match record {
            Record::Kernel(seen) => self.take_observation(seen, out),
            Record::Seed(seed) => self.take_seed(seed, out),
            Record::SeedEnd { .. } => self.end_seed(out),
            Record::Found(found) => self.take_found(found, out),
            Record::Missing { ts, id, netns, tuple, from } => {
                self.take_missing(self.swept_id(*id, *netns, tuple), *ts, *from, out);
            }
            Record::Owner { id, process, .. } => self.take_owner(*id, process, out),
            Record::OwnersEnd { .. } => self.end_owners(out),
            Record::Carried(carried) => self.take_carried(carried, out),
            Record::Continuation(known) => self.take_continuation(known),
            Record::Host(facts) => self.sees_segments = facts.segments,
            // Comes to nothing by itself: `Tracker::compare`.
            Record::Listing(_)
            | Record::NetnsName { .. }
            | Record::CgroupPath { .. }
            | Record::NetnsSettings { .. }
            | Record::NetnsCounters { .. }
            | Record::Loss { .. }
            | Record::Tick { .. } => {}
        }
    }

    fn take_observation(&mut self, seen: &Observation, out: &mut impl Observer) {
        if !self.scope.is_everything() && !self.scope.passes(&Ends::of(&seen.raw)) {
            return;
        }
        self.hear(&seen.raw);
        match Kind::from_raw(seen.raw.kind) {
            Some(Kind::Transition) => self.take_transition(seen, out),
            Some(Kind::MinisocketArmed) => self.minisocket_armed(&seen.raw, out),
            Some(Kind::MinisocketCancelled) => self.minisocket_cancelled(&seen.raw, out),
            Some(Kind::MinisocketExpired) => self.minisocket_expired(&seen.raw, out),
            Some(Kind::Segment) => self.minisocket_segment(&seen.raw, out),
            Some(Kind::RequestArmed) => self.request_armed(&seen.raw, out),
            Some(Kind::RequestCancelled) => self.request_cancelled(&seen.raw),
            Some(Kind::RequestExpired) => self.request_expired(&seen.raw),
            None => self.counters.undecodable += 1,
        }
    }

    pub(super) fn is_in_scope(&self, netns: NetnsId, tuple: &Tuple) -> bool {
        self.scope.is_everything() || self.scope.passes(&tuple.ends(netns))
    }

    /// Brings a socket into the state `to` and tells so; with CLOSE it is gone.
    pub(super) fn enter(
        &mut self,
        at: Place,
        to: TcpState,
        ts: Nanos,
        end_reason: Option<EndReason>,
        out: &mut impl Observer,
    ) {
        self.step(at, to, Since::Exact(ts), end_reason, out);
    }

    /// The same, where the time was computed: neither the dwell that ends nor the one that begins is
    /// exact.
    pub(super) fn enter_inferred(&mut self, at: Place, to: TcpState, ts: Nanos, out: &mut impl Observer) {
        self.step(at, to, Since::Inferred(ts), None, out);
    }

    fn step(
        &mut self,
        at: Place,
        to: TcpState,
        since: Since,
        end_reason: Option<EndReason>,
        out: &mut impl Observer,
    ) {
        let ts = since.time().unwrap_or_default();
        let socket = &mut self.sockets[at];
        let from = socket.state;
        let begins = from == TcpState::Close;
        socket.closer = closer_after(socket.closer, from, to, end_reason);
        let orphan_since = socket.orphan_since;
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
            dwell: if begins { None } else { socket.since.dwell_until(since) },
            closer: socket.closer,
            end_reason,
            orphan: (from == TcpState::FinWait2 || to == TcpState::FinWait2)
                .then_some(orphan_since.is_some()),
            orphan_for: (from == TcpState::FinWait2)
                .then_some(orphan_since)
                .flatten()
                .map(|since| ts.since(since)),
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
            socket.orphan_since = None;
        }
        if to == TcpState::Close {
            self.remove(at, ts);
        }
    }

    /// A socket is there without a transition that announced it.
    pub(super) fn appear(&mut self, id: SocketId, socket: Socket, out: &mut impl Observer) -> Option<Place> {
        let at = self.insert(id, socket)?;
        let socket = &mut self.sockets[at];
        if socket.state == TcpState::Listen {
            socket.role = Role::Listener;
            self.listeners.insert(id, socket.netns, &socket.tuple);
        }
        out.appeared(id, socket, &self.processes);
        Some(at)
    }

    /// Puts a socket into the table, unless it is full or has it.
    pub(super) fn insert(&mut self, id: SocketId, mut socket: Socket) -> Option<Place> {
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

    /// Makes `owner`, already acquired, the socket's owner, when it is known at least as well as the
    /// one before.
    pub(super) fn own(&mut self, at: Place, owner: ProcessId, kind: OwnerKind, out: &mut impl Observer) {
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

    pub(super) fn remove(&mut self, at: Place, ts: Nanos) {
        let id = at.id;
        let socket = self.sockets.remove(at);
        if let Some(process) = socket.process {
            self.processes.release(process);
        }
        if socket.state == TcpState::Listen {
            self.listeners.remove(id);
        }
        match socket.phase {
            Phase::Request => self.handshakes.forget(id, socket.netns, &socket.tuple),
            Phase::Full => self.recently_closed.push(id, ts),
            Phase::Minisocket => self.minisockets.forget(id),
        }
        if self.seeding && !self.ended_in_seed.contains(&id) {
            if self.ended_in_seed.len() < self.limits.sockets {
                self.ended_in_seed.insert(id);
            } else {
                // Should the seed bring it back, it stays.
                self.counters.evicted += 1;
            }
        }
    }
}

/// Which side ended the connection, as the step `from` -> `to` shows; the first to do so counts.
fn closer_after(before: Closer, from: TcpState, to: TcpState, reason: Option<EndReason>) -> Closer {
    match (before, from, to) {
        (Closer::None, TcpState::Established | TcpState::SynRecv, TcpState::FinWait1) => Closer::Local,
        (Closer::None, TcpState::Established | TcpState::SynRecv, TcpState::CloseWait) => Closer::Remote,
        // Our FIN went first, but the peer's was on its way before ours arrived.
        (_, TcpState::FinWait1, TcpState::Closing) => Closer::Both,
        (Closer::None, _, TcpState::Close) => reason.map_or(Closer::None, closing::closer),
        _ => before,
    }
}

/// Both ends, as a record has them.
pub(super) const fn tuple_of(raw: &raw::Record) -> Tuple {
    Tuple {
        saddr: Addr(raw.saddr),
        daddr: Addr(raw.daddr),
        sport: raw.sport,
        dport: raw.dport,
        ifindex: raw.ifindex,
    }
}
