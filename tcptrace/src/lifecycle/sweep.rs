//! What `sock_diag` lists while tracing, compared with the table: a part of a [`Listing`] in, records about
//! sockets that it shows to be wrong out.
//!
//! Two whole sweeps in a row must agree, and no record about the socket may come between: what the stream tells
//! is newer than any listing, and a sweep is no snapshot (`source::sock_diag` says what it may miss). So a
//! difference is first a suspicion; a record about the socket ends it.
//!
//! Only a live run is given listings. A recording has what came of them, and a replay does the same with it.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::record as raw;

use super::{EndReason, Observer, Phase, Since, Socket, Tracker, table::Place, tracker::tuple_of};
use crate::model::{
    Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{Listing, SeedObject, Sweep, SweepEnd},
};

/// The sweep under way, and what the last one left to be confirmed.
#[derive(Clone, Debug, Default)]
pub struct Sweeps {
    /// How many whole sweeps are complete.
    complete: u32,
    suspects: FxHashMap<Suspect, Suspicion>,
    /// Orphans that the look at FIN_WAIT2 now under way has found still there.
    still_in_fin_wait2: FxHashSet<SocketId>,
    /// Namespaces that were seen to be taken down: they can't be listed any more.
    dying: FxHashSet<NetnsId>,
}

/// Whom a suspicion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Suspect {
    Socket(SocketId),
    /// A request socket that is not known: only its ends tell it from others.
    Handshake(NetnsId, Tuple),
}

impl Suspect {
    /// `sock_diag` and the hooks tell different interfaces.
    const fn handshake(netns: NetnsId, tuple: &Tuple) -> Self {
        Self::Handshake(netns, Tuple { ifindex: 0, ..*tuple })
    }
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    of: Difference,
    /// The number of the sweep that raised it.
    sweep: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// Listed, and not in the table.
    Unknown,
    /// Listed in another state.
    Otherwise,
    /// In the table, and not listed.
    Gone,
}

impl Sweeps {
    /// Suspicions at once; what comes beyond is left to the next sweeps.
    const MOST_SUSPECTS: usize = 1 << 20;

    /// Namespaces that are being taken down at once.
    const MOST_DYING: usize = 1 << 10;

    /// The number of the sweep that is under way or comes next, as [`Socket::listed`] has it.
    pub const fn number(&self) -> u8 {
        self.complete as u8
    }

    /// Entries in all its tables.
    pub fn len(&self) -> usize {
        self.suspects.len() + self.still_in_fin_wait2.len() + self.dying.len()
    }

    /// Namespace `netns` is being taken down.
    pub fn note_dying(&mut self, netns: NetnsId) {
        if self.dying.len() < Self::MOST_DYING {
            self.dying.insert(netns);
        }
    }

    /// Raises a suspicion; returns whether it confirms the one of the sweep before.
    fn suspect(&mut self, suspect: Suspect, of: Difference) -> bool {
        match self.suspects.get(&suspect) {
            Some(before) if before.of == of && before.sweep < self.complete => {
                self.suspects.remove(&suspect);
                return true;
            }
            // Listed twice in one sweep.
            Some(before) if before.of == of => {}
            _ if self.suspects.len() >= Self::MOST_SUSPECTS => {}
            _ => {
                self.suspects.insert(suspect, Suspicion { of, sweep: self.complete });
            }
        }
        false
    }

    fn clear(&mut self, suspect: Suspect) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&suspect);
        }
    }
}

impl Tracker {
    /// Compares a part of a sweep with the table. What is shown to be wrong goes to `tell`, as records that are
    /// to be taken in.
    pub fn compare(&mut self, listing: &Listing) -> Vec<Record> {
        let mut told = Vec::new();
        for listed in &listing.sockets {
            match listing.sweep {
                Sweep::Whole => {
                    if self.is_otherwise(listed) {
                        told.push(Record::Found(*listed));
                    }
                }
                Sweep::FinWait2 => {
                    self.sweeps.still_in_fin_wait2.insert(listed.id);
                }
            }
        }
        if let Some(end) = &listing.end {
            let gone = match listing.sweep {
                Sweep::Whole => self.end_sweep(end),
                Sweep::FinWait2 => self.end_look(end),
            };
            told.extend(gone.into_iter().filter_map(|id| self.missing(id, end.ts, listing.sweep)));
        }
        told
    }

    fn missing(&self, id: SocketId, ts: Nanos, from: Sweep) -> Option<Record> {
        let socket = self.sockets.get(id)?;
        Some(Record::Missing { ts, id, netns: socket.netns, tuple: socket.tuple, from })
    }

    /// Whether `listed` shows for the second time that the table is wrong, or for the first time what could not
    /// be known before.
    fn is_otherwise(&mut self, listed: &SeedSocket) -> bool {
        if listed.state == TcpState::Close || !self.is_in_scope(listed.netns, &listed.tuple) {
            return false;
        }
        let Some(at) = self.listed_place(listed) else {
            let suspect = match listed.object {
                SeedObject::Request { .. } => Suspect::handshake(listed.netns, &listed.tuple),
                _ => Suspect::Socket(listed.id),
            };
            // What did not fit into the table is not there for a reason.
            return self.has_room() && self.sweeps.suspect(suspect, Difference::Unknown);
        };
        let socket = &mut self.sockets[at];
        socket.listed = self.sweeps.number();
        if !agrees(socket, listed) {
            return self.sweeps.suspect(Suspect::Socket(at.id), Difference::Otherwise);
        }
        let knows_port = socket.tuple.sport != 0 || listed.tuple.sport == 0;
        self.sweeps.clear(Suspect::Socket(at.id));
        !knows_port
    }

    /// A whole sweep is complete; returns who was missing in it and in the one before.
    fn end_sweep(&mut self, end: &SweepEnd) -> Vec<SocketId> {
        let Self { sockets, sweeps, .. } = self;
        let visited: FxHashSet<NetnsId> = end.netns.iter().copied().collect();
        sweeps.dying.retain(|netns| !visited.contains(netns));
        let number = sweeps.number();
        let mut still_dying = FxHashSet::default();
        let mut gone = Vec::new();
        for (id, socket) in sockets.iter() {
            let is_dying = sweeps.dying.contains(&socket.netns);
            if is_dying {
                still_dying.insert(socket.netns);
            }
            if socket.listed != number
                && (is_dying || visited.contains(&socket.netns))
                && sweeps.suspect(Suspect::Socket(id), Difference::Gone)
            {
                gone.push(id);
            }
        }
        sweeps.dying = still_dying;
        let this = sweeps.complete;
        sweeps.suspects.retain(|_, suspicion| suspicion.sweep == this);
        sweeps.complete += 1;
        // The order of a hash table is its own.
        gone.sort_unstable();
        gone
    }

    /// A look at FIN_WAIT2 is complete; returns the orphans that were not in it.
    fn end_look(&mut self, end: &SweepEnd) -> Vec<SocketId> {
        let still = std::mem::take(&mut self.sweeps.still_in_fin_wait2);
        let is_gone = |(id, socket): &(SocketId, &Socket)| {
            socket.phase == Phase::Minisocket
                && socket.is_orphan_fin_wait2()
                && socket.orphan_since.is_some_and(|since| since < end.began)
                && end.netns.contains(&socket.netns)
                && !still.contains(id)
        };
        let mut gone: Vec<SocketId> = self.sockets.iter().filter(is_gone).map(|(id, _)| id).collect();
        gone.sort_unstable();
        gone
    }

    /// A hook has reported: what a sweep saw before does not count.
    pub(super) fn hear(&mut self, raw: &raw::Record) {
        if self.sweeps.suspects.is_empty() {
            return;
        }
        self.sweeps.suspects.remove(&Suspect::Socket(SocketId(raw.cookie)));
        let (netns, tuple) = (NetnsId(raw.netns), tuple_of(raw));
        if raw.kind >= raw::Kind::RequestArmed as u8 {
            self.sweeps.suspects.remove(&Suspect::handshake(netns, &tuple));
        }
        let also = self.handshakes.id_of(netns, &tuple).or_else(|| self.minisocket_id(raw));
        if let Some(id) = also {
            self.sweeps.suspects.remove(&Suspect::Socket(id));
        }
    }

    /// Whom a line of a sweep is about, when it is in the table.
    fn listed_place(&self, listed: &SeedSocket) -> Option<Place> {
        let by_ends = match listed.object {
            SeedObject::Request { .. } => self.handshakes.id_of(listed.netns, &listed.tuple),
            SeedObject::Minisocket { .. } => self.aside_with(listed.id, &listed.tuple),
            SeedObject::Full => None,
        };
        self.sockets.find(by_ends.unwrap_or(listed.id))
    }

    /// Whom [`Record::Missing`] is about: handshakes have other numbers in a recording that began later.
    pub(super) fn swept_id(&self, id: SocketId, netns: NetnsId, tuple: &Tuple) -> SocketId {
        let handshake = id.is_handshake().then(|| self.handshakes.id_of(netns, tuple)).flatten();
        handshake.unwrap_or(id)
    }

    /// Brings a socket to where sweeps found it.
    pub(super) fn take_found(&mut self, found: &SeedSocket, out: &mut impl Observer) {
        if found.state == TcpState::Close {
            return;
        }
        let known = self.listed_place(found).or_else(|| self.finished_handshake(found));
        let Some(at) = known else {
            self.counters.healed += 1;
            self.appear_seeded(found, out);
            return self.inherit_owner(found.id, out);
        };
        let entry = time_wait_entry(found);
        let socket = &mut self.sockets[at];
        if agrees(socket, found) {
            if socket.learn_tuple(&found.tuple) {
                out.identified(socket, &self.processes);
            }
            return;
        }
        if !self.sees_segments && socket.is_orphan_fin_wait2() && entry.is_some() {
            // Nothing was lost: this step can't be seen.
            return self.enter_inferred(at, TcpState::TimeWait, entry.unwrap_or(found.ts), out);
        }
        self.counters.healed += 1;
        self.correct_as_found(at, found, out);
    }

    fn correct_as_found(&mut self, at: Place, found: &SeedSocket, out: &mut impl Observer) {
        self.pending.take(at.id);
        let socket = &mut self.sockets[at];
        let was_listening = socket.state == TcpState::Listen;
        let netns = socket.netns;
        socket.phase = phase_of(found);
        socket.previous = TcpState::Close;
        socket.since = time_wait_entry(found).map_or(Since::AtLatest(found.ts), Since::Inferred);
        socket.only_seeded = true;
        if socket.closer == super::Closer::None {
            socket.closer = super::seed::closer_of(found.state);
        }
        socket.learn_tuple(&found.tuple);
        // In the state before it may match a filter in another way now.
        out.identified(socket, &self.processes);
        let from = std::mem::replace(&mut socket.state, found.state);
        out.corrected(from, socket, &self.processes);
        if was_listening {
            self.listeners.remove(at.id);
        }
        if found.state == TcpState::Listen {
            self.listeners.insert(at.id, netns, &socket.tuple);
        }
        let is_orphan = found.state == TcpState::FinWait2 && found.inode == 0;
        if !is_orphan {
            socket.orphan_since = None;
        } else if socket.orphan_since.is_none() {
            socket.orphan_since = Some(found.ts);
            out.orphaned(socket);
        }
    }

    /// The handshake of a connection whose last step was missed: it goes on under the connection's id.
    fn finished_handshake(&mut self, found: &SeedSocket) -> Option<Place> {
        if found.object != SeedObject::Full || found.state == TcpState::Listen {
            return None;
        }
        let handshake = self.handshakes.id_of(found.netns, &found.tuple)?;
        self.handshakes.forget(handshake, found.netns, &found.tuple);
        self.pending.take(handshake);
        let at = self.sockets.find(handshake)?;
        let at = self.sockets.rename(at, found.id);
        self.sockets[at].phase = Phase::Full;
        Some(at)
    }

    /// A socket is no longer where it was last known to be.
    pub(super) fn take_missing(&mut self, id: SocketId, ts: Nanos, from: Sweep, out: &mut impl Observer) {
        let Some(at) = self.sockets.find(id) else { return };
        let socket = &mut self.sockets[at];
        match from {
            Sweep::FinWait2 => {
                if socket.is_orphan_fin_wait2() {
                    self.enter_inferred(at, TcpState::TimeWait, ts, out);
                }
            }
            Sweep::Whole => {
                self.counters.healed += 1;
                socket.since = Since::Unknown;
                self.pending.take(id);
                self.enter(at, TcpState::Close, ts, Some(EndReason::Lost), out);
            }
        }
    }
}

/// Whether a socket is in the state that `listed` says, and has its ends as far as they are known.
fn agrees(socket: &Socket, listed: &SeedSocket) -> bool {
    let (ours, theirs) = (&socket.tuple, &listed.tuple);
    socket.state == listed.state
        && socket.phase == phase_of(listed)
        && (ours.sport == theirs.sport || ours.sport == 0)
        && (ours.dport == theirs.dport || ours.dport == 0)
        && (ours.saddr == theirs.saddr || ours.saddr.is_any() || theirs.saddr.is_any())
        && (ours.daddr == theirs.daddr || ours.daddr.is_any() || theirs.daddr.is_any())
}

/// Which object `listed` is.
pub(super) const fn phase_of(listed: &SeedSocket) -> Phase {
    match listed.object {
        SeedObject::Full => Phase::Full,
        SeedObject::Minisocket { .. } => Phase::Minisocket,
        SeedObject::Request { .. } => Phase::Request,
    }
}

/// TIME_WAIT's timer (`TCP_TIMEWAIT_LEN`).
const TIMEWAIT: Nanos = Nanos(60_000_000_000);

/// When a minisocket entered TIME_WAIT, as the time left tells; `None` for all others.
pub(super) fn time_wait_entry(listed: &SeedSocket) -> Option<Nanos> {
    match listed.object {
        SeedObject::Minisocket { left } if listed.state == TcpState::TimeWait => {
            Some(listed.ts.minus(TIMEWAIT.since(left)))
        }
        _ => None,
    }
}
