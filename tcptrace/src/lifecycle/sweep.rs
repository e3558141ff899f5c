//! Compares the `sock_diag` sweeps of a live run with the table: turns parts of a [`Listing`] into records that correct
//! wrong sockets.
//!
//! Two consecutive full sweeps must agree, with no record about the socket between them: hook records are newer than
//! any listing, and a sweep is not atomic (`source::sock_diag` describes what it may miss). So the first difference
//! raises a suspicion, and a record about the socket clears it.
//!
//! Only a live run receives listings. A recording stores the resulting records, and a replay applies the same ones.

use hashbrown::HashSet;
use tcptrace_common::record as raw;

use super::{
    EndReason, Observer, Phase, Since, Socket, Tracker,
    listed::{closer_of, phase_of, time_wait_entry},
    suspicions::{Difference, Suspect},
    table::SlotRef,
};
use crate::model::{
    IdKind, Nanos, NetnsId, Record, SeedSocket, SocketId, TcpState, Tuple,
    record::{Listing, SeedObject, Sweep, SweepEnd},
};

impl Tracker {
    /// Compares a part of a sweep with the table. Returns records that correct the table once the tracker processes
    /// them.
    pub fn compare(&mut self, listing: &Listing) -> Vec<Record> {
        let mut corrections = Vec::new();
        for listed in &listing.sockets {
            match listing.sweep {
                Sweep::Whole => {
                    if self.needs_correction(listed) {
                        corrections.push(Record::Found(*listed));
                    }
                }
                Sweep::FinWait2 => {
                    let known = self.find_listed(listed).map(|at| at.id);
                    self.sweeps.listed_in_fin_wait2.extend(known);
                }
            }
        }
        if let Some(end) = &listing.end {
            let gone = match listing.sweep {
                Sweep::Whole => self.finish_full_sweep(end),
                Sweep::FinWait2 => self.finish_fin_wait2_sweep(end),
            };
            corrections.extend(gone.into_iter().filter_map(|id| self.missing(id, end.ts, listing.sweep)));
        }
        corrections
    }

    fn missing(&self, id: SocketId, ts: Nanos, from: Sweep) -> Option<Record> {
        let socket = self.sockets.get(id)?;
        Some(Record::Missing { ts, id, netns: socket.netns, tuple: socket.tuple, from })
    }

    /// Whether the table is wrong about `listed`: confirmed by a second sweep, or at once for a missing port or a lost
    /// owner, which hooks do not report.
    fn needs_correction(&mut self, listed: &SeedSocket) -> bool {
        if listed.state == TcpState::Close || !self.is_in_scope(listed.netns, &listed.tuple) {
            return false;
        }
        let Some(at) = self.find_listed(listed) else {
            let suspect = match listed.object {
                SeedObject::Full => Suspect::Full(listed.id),
                _ => Suspect::with_ends(listed.netns, &listed.tuple),
            };
            // A full table leaves sockets out on purpose.
            return self.has_room() && self.sweeps.suspect(suspect, Difference::Unknown);
        };
        let socket = &mut self.sockets[at];
        socket.listed = self.sweeps.number();
        if !agrees(socket, listed) {
            return self.sweeps.suspect(Suspect::Tracked(at.id), Difference::Otherwise);
        }
        let knows_port = socket.tuple.sport != 0 || listed.tuple.sport == 0;
        let has_owner = !has_lost_owner(socket, listed);
        self.sweeps.clear(Suspect::Tracked(at.id));
        !knows_port || !has_owner
    }

    /// Completes a full sweep; returns the sockets missing in it and in the previous one.
    fn finish_full_sweep(&mut self, end: &SweepEnd) -> Vec<SocketId> {
        let Self { sockets, sweeps, .. } = self;
        let visited: HashSet<NetnsId> = end.netns.iter().copied().collect();
        let mut dying = std::mem::take(&mut sweeps.dying);
        dying.retain(|netns| !visited.contains(netns));
        let number = sweeps.number();
        let is_dying = |socket: &Socket| dying.contains(&socket.netns);
        let is_expected = |socket: &Socket| socket.listed != number && visited.contains(&socket.netns);
        let missing = sockets.select(|socket| is_dying(socket) || is_expected(socket));
        let mut still_dying = HashSet::default();
        let mut gone = Vec::new();
        for id in missing {
            let Some(socket) = sockets.get(id) else { continue };
            if is_dying(socket) {
                still_dying.insert(socket.netns);
            }
            if socket.listed != number && sweeps.suspect(Suspect::Tracked(id), Difference::Gone) {
                gone.push(id);
            }
        }
        sweeps.dying = still_dying;
        let this = sweeps.complete;
        sweeps.suspects.retain(|_, suspicion| suspicion.sweep == this);
        sweeps.complete += 1;
        // Hash order is random.
        gone.sort_unstable();
        gone
    }

    /// Completes a FIN_WAIT2 sweep; returns the orphans missing in it. Where an orphan's timer was cancelled, the records
    /// that follow say more than its absence.
    fn finish_fin_wait2_sweep(&mut self, end: &SweepEnd) -> Vec<SocketId> {
        let still = std::mem::take(&mut self.sweeps.listed_in_fin_wait2);
        let visited: HashSet<NetnsId> = end.netns.iter().copied().collect();
        let may_be_gone = |socket: &Socket| {
            socket.phase == Phase::Timewait
                && socket.is_orphan_fin_wait2()
                && socket.orphan_since.is_some_and(|since| since < end.began)
                && visited.contains(&socket.netns)
        };
        let mut gone = self.sockets.select(may_be_gone);
        gone.retain(|id| !still.contains(id) && !self.pending.contains(*id));
        gone.sort_unstable();
        gone
    }

    /// Clears the suspicions about the socket of a hook record: the record is newer than the sweep.
    pub(super) fn clear_suspicion(&mut self, raw: &raw::RawRecord) {
        if self.sweeps.suspects.is_empty() {
            return;
        }
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
        let cookie = SocketId(raw.cookie);
        let also = self.handshakes.id_of(netns, &tuple).or_else(|| Some(self.find_timewait(raw)?.id));
        let about = [
            Some(Suspect::Tracked(cookie)),
            Some(Suspect::Full(cookie)),
            Some(Suspect::with_ends(netns, &tuple)),
            also.map(Suspect::Tracked),
        ];
        for suspect in about.into_iter().flatten() {
            self.sweeps.suspects.remove(&suspect);
        }
    }

    /// Finds the tracked socket of a `sock_diag` entry; several sockets may share its cookie.
    pub(super) fn find_listed(&self, listed: &SeedSocket) -> Option<SlotRef> {
        let SeedSocket { id, netns, ref tuple, object, .. } = *listed;
        let by_ends = match object {
            SeedObject::Request { .. } => self.handshakes.id_of(netns, tuple),
            SeedObject::Timewait { .. } | SeedObject::Full => self.rekeyed.find(id.0, netns, tuple),
        };
        // Only one full socket has the cookie; all others are timewait sockets, whose tuples are known.
        let is_it = |at: &SlotRef| {
            let socket = &self.sockets[*at];
            let is_timewait = socket.phase == Phase::Timewait || phase_of(listed) == Phase::Timewait;
            !is_timewait || socket.matches_tuple(tuple)
        };
        let by_cookie = self.sockets.find(id).filter(is_it);
        let by_ends = by_ends.and_then(|by_ends| self.sockets.find(by_ends));
        if object == SeedObject::Full { by_cookie.or(by_ends) } else { by_ends.or(by_cookie) }
    }

    /// Finds the socket of [`Record::Missing`]: ids that tcptrace assigns differ in a recording that began later, or
    /// that is read through a filter.
    pub(super) fn resolve_missing_id(&self, id: SocketId, netns: NetnsId, tuple: &Tuple) -> SocketId {
        let by_ends = match id.kind() {
            IdKind::Handshake => self.handshakes.id_of(netns, tuple),
            IdKind::Rekeyed => self.rekeyed.with_ends(netns, tuple),
            IdKind::Cookie | IdKind::Invalid => None,
        };
        by_ends.unwrap_or(id)
    }

    /// Corrects or adds a socket as sweeps found it.
    pub(super) fn apply_found(&mut self, found: &SeedSocket, out: &mut impl Observer) {
        if found.state == TcpState::Close {
            return;
        }
        let known = self.find_listed(found).or_else(|| self.finished_handshake(found));
        let Some(at) = known else {
            self.count_unannounced(found.netns);
            if let Some(at) = self.add_seeded_socket(found, out) {
                self.inherit_owner(at.id, out);
            }
            return;
        };
        let entry = time_wait_entry(found);
        let socket = &mut self.sockets[at];
        if agrees(socket, found) {
            if socket.learn_tuple(&found.tuple) {
                out.identified(socket, &self.processes);
            }
            if has_lost_owner(socket, found) {
                socket.orphan_since = Some(found.ts);
                socket.orphan_inferred = true;
                out.orphaned(socket);
            }
            return;
        }
        if !self.sees_segments && socket.is_orphan_fin_wait2() && entry.is_some() {
            // Not a loss: without segment records this step is invisible.
            return self.enter_inferred(at, TcpState::TimeWait, entry.unwrap_or(found.ts), out);
        }
        self.counters.healed += 1;
        self.apply_found_state(at, found, out);
    }

    fn apply_found_state(&mut self, at: SlotRef, found: &SeedSocket, out: &mut impl Observer) {
        self.drop_pending_end(at);
        self.change_phase(at, phase_of(found));
        let socket = &mut self.sockets[at];
        let was_listening = socket.state == TcpState::Listen;
        let netns = socket.netns;
        socket.previous = TcpState::Close;
        socket.since = time_wait_entry(found).map_or(Since::AtLatest(found.ts), Since::Inferred);
        socket.only_seeded = true;
        if socket.closer == super::Closer::None {
            socket.closer = closer_of(found.state);
        }
        socket.learn_tuple(&found.tuple);
        // The observer must see the new tuple while the socket is still in its old state: it may match a filter
        // differently.
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
            socket.clear_orphan();
        } else if socket.orphan_since.is_none() {
            socket.orphan_since = Some(found.ts);
            out.orphaned(socket);
        }
        if socket.phase == Phase::Request {
            self.handshakes.seed(at.id, netns, &socket.tuple);
        }
    }

    /// Completes the handshake of a connection whose last step was missed: the socket continues under the connection's
    /// id.
    fn finished_handshake(&mut self, found: &SeedSocket) -> Option<SlotRef> {
        if found.object != SeedObject::Full || found.state == TcpState::Listen {
            return None;
        }
        let handshake = self.handshakes.id_of(found.netns, &found.tuple)?;
        self.free_cookie(found.id);
        self.finish_handshake(handshake, found.id)
    }

    /// Applies [`Record::Missing`]: the socket is no longer where it was last known to be.
    pub(super) fn apply_missing(&mut self, id: SocketId, ts: Nanos, from: Sweep, out: &mut impl Observer) {
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
                self.enter(at, TcpState::Close, ts, Some(EndReason::Lost), out);
            }
        }
    }
}

/// Whether a socket has the state of `listed`, and a compatible tuple.
fn agrees(socket: &Socket, listed: &SeedSocket) -> bool {
    socket.state == listed.state && socket.phase == phase_of(listed) && socket.matches_tuple(&listed.tuple)
}

/// Whether a process held the socket when last observed, and none does now. `close()` in FIN_WAIT2 is no transition;
/// with a `tcp_fin_timeout` or `TCP_LINGER2` above 60 s the full socket remains (`__tcp_close()`).
const fn has_lost_owner(socket: &Socket, listed: &SeedSocket) -> bool {
    matches!(listed.state, TcpState::FinWait2) && listed.inode == 0 && socket.orphan_since.is_none()
}
