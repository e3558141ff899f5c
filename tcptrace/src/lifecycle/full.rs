//! Tracks full sockets: applies their transitions.

use tcptrace_common::record::{self as raw, ResetReason, flag};

use super::{
    Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    closing::Evidence,
    pending::{CancelCause, Pending},
    table::SlotRef,
};
use crate::model::{
    HookRecord, Nanos, NetnsId, SocketId, TcpState, Tuple,
    checkpoint::{Closing, Reset},
    stack::StackUse,
};

/// One transition of a full socket, decoded.
#[derive(Clone, Copy, Debug)]
struct Transition {
    old: TcpState,
    new: TcpState,
}

impl Transition {
    /// `inet_csk_clone_lock()`: a listener's child. Before 6.15 the record still carries the
    /// listener's cookie and tuple.
    const fn is_child_being_cloned(self) -> bool {
        matches!((self.old, self.new), (TcpState::Listen, TcpState::SynRecv))
    }
}

/// The round trip of a SYN, from `srtt_us`, which is eight times the first one.
fn round_trip(raw: &raw::RawRecord) -> Option<Nanos> {
    (raw.arg0 > 0).then(|| Nanos((raw.arg0 / 8).saturating_mul(1_000)))
}

impl Tracker {
    pub(super) fn apply_transition(&mut self, seen: &HookRecord, out: &mut impl Observer) {
        let (Some(old), Some(new)) =
            (TcpState::from_kernel(seen.raw.old), TcpState::from_kernel(seen.raw.new))
        else {
            self.counters.undecodable += 1;
            return;
        };
        let id = SocketId(seen.raw.cookie);
        if old == new {
            // `shutdown(WR)` and then `close()` sets FIN_WAIT1 twice. The kernel side omits it.
            return;
        }
        let change = Transition { old, new };
        if change.is_child_being_cloned() {
            return self.child_cloned(id, &seen.raw, out);
        }
        let Some(at) = self.resolve_socket(id, change, &seen.raw, out) else { return };
        if self.sockets[at].state != old {
            self.correct(at, old, out);
        }
        self.advance_full(at, change, seen, out);
        if old == TcpState::SynSent {
            self.drop_out_of_scope(id, Nanos(seen.raw.ts_ns), out);
        }
    }

    /// Finds or adds the full socket of a transition; `None` when the transition needs no event.
    fn resolve_socket(
        &mut self,
        id: SocketId,
        change: Transition,
        raw: &raw::RawRecord,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        let Transition { old, new } = change;
        let Some(at) = self.sockets.find(id) else {
            if !self.is_in_scope(NetnsId(raw.netns), &Tuple::of(raw)) {
                return None;
            }
            if new == TcpState::Close && self.recently_closed.contains(id, Nanos(raw.ts_ns)) {
                self.counters.doubles += 1;
                return None;
            }
            return self.begin_full(id, change, raw, out);
        };
        let socket = &self.sockets[at];
        match socket.phase {
            // The full socket hands over to its timewait socket, which is already tracked.
            Phase::Timewait if new == TcpState::Close => None,
            Phase::Timewait => {
                self.rekey_timewait(at);
                self.begin_full(id, change, raw, out)
            }
            Phase::Full if socket.is_closing && (socket.state, TcpState::Close) == (old, new) => {
                self.counters.doubles += 1;
                None
            }
            Phase::Full if socket.is_closing => {
                // The socket connects again.
                let evidence = Evidence::before(socket.reset);
                self.end_closing(at, evidence, out);
                self.begin_full(id, change, raw, out)
            }
            _ if socket.state == new && socket.previous == old && !socket.only_seeded => {
                self.counters.doubles += 1;
                None
            }
            // A seeded handshake whose child inherited the cookie; before 6.15 the child appears only now.
            Phase::Request if old == TcpState::SynRecv => {
                self.begin_child(id, raw, out);
                let at = self.sockets.find(id)?;
                self.change_phase(at, Phase::Full);
                Some(at)
            }
            Phase::Request | Phase::Full => {
                self.change_phase(at, Phase::Full);
                Some(at)
            }
        }
    }

    /// Drops a connection that its local port, known only now, puts out of scope.
    fn drop_out_of_scope(&mut self, id: SocketId, ts: Nanos, out: &mut impl Observer) {
        if self.scope.is_everything() {
            return;
        }
        let Some(at) = self.sockets.find(id) else { return };
        let socket = &mut self.sockets[at];
        if !self.scope.passes(&socket.tuple.ends(socket.netns)) {
            out.forgotten(socket);
            self.remove(at, ts);
        }
    }

    /// Adds an untracked socket that is about to leave the state `old`.
    fn begin_full(
        &mut self,
        id: SocketId,
        change: Transition,
        raw: &raw::RawRecord,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        let tuple = Tuple::of(raw);
        let netns = NetnsId(raw.netns);
        if change.old == TcpState::Close {
            // Its first transition: `advance_full` announces it.
            return self.insert(id, Socket::new(tuple, netns, TcpState::Close, Since::Unknown));
        }
        if change.old == TcpState::SynRecv {
            // Before 6.15 a child gets its own cookie and tuple only now.
            self.begin_child(id, raw, out);
            return self.sockets.find(id);
        }
        let since = self.count_unannounced(netns);
        let mut socket = Socket::new(tuple, netns, change.old, since);
        self.guess_role(&mut socket);
        let at = self.appear(id, socket, out);
        self.inherit_owner(id, out);
        at
    }

    /// Corrects a socket whose tracked state is not the old state of its transition.
    pub(super) fn correct(&mut self, at: SlotRef, old: TcpState, out: &mut impl Observer) {
        let socket = &mut self.sockets[at];
        if socket.only_seeded {
            // The seed was read after this transition, or between it and the previous one.
            socket.since = self.began.map_or(Since::Unknown, Since::AtLatest);
        } else {
            self.counters.healed += 1;
            socket.since = Since::Unknown;
        }
        self.correct_state(at, old, out);
    }

    /// Sets the state that a socket is found to be in.
    pub(super) fn correct_state(&mut self, at: SlotRef, state: TcpState, out: &mut impl Observer) {
        let socket = &mut self.sockets[at];
        let from = std::mem::replace(&mut socket.state, state);
        if from == TcpState::Listen {
            self.listeners.remove(at.id);
        }
        out.corrected(from, socket, &self.processes);
        if state != TcpState::FinWait2 {
            socket.clear_orphan();
        }
    }

    /// Applies a transition to a socket that is in its old state.
    fn advance_full(&mut self, at: SlotRef, change: Transition, seen: &HookRecord, out: &mut impl Observer) {
        let ts = Nanos(seen.raw.ts_ns);
        let socket = &mut self.sockets[at];
        if socket.learn_tuple(&Tuple::of(&seen.raw)) {
            out.identified(socket, &self.processes);
        }
        match change.new {
            TcpState::SynSent => {
                socket.role = Role::Outbound;
                socket.role_guessed = false;
                // connect() chooses a port only after this.
                socket.bound = seen.raw.sport != 0;
                (socket.opened_by, socket.closed_by) = (StackUse::of(seen.raw.arg0), StackUse::NONE);
            }
            TcpState::FinWait1 | TcpState::LastAck => socket.closed_by = StackUse::of(seen.raw.arg0),
            TcpState::Listen => {
                socket.role = Role::Listener;
                self.listeners.insert(at.id, socket.netns, &socket.tuple);
            }
            _ => {}
        }
        if change.new == TcpState::FinWait2 && seen.raw.flags & flag::ORPHAN != 0 {
            socket.orphan_since = Some(ts);
        }
        if let Some(task) = &seen.task {
            let owner = self.processes.acquire_task(task, ts);
            self.own(at, owner, OwnerKind::Exact, out);
            if change.new == TcpState::SynSent {
                self.connects.insert(task.tid, at.id, ts);
            }
        }
        if change.new == TcpState::Close {
            return self.close_full(at, &seen.raw, out);
        }
        if (change.old, change.new) == (TcpState::SynSent, TcpState::Established) {
            return self.enter_answered(at, ts, round_trip(&seen.raw), out);
        }
        self.enter(at, change.new, ts, None, out);
    }

    /// A full socket goes to CLOSE: ends it now if the reason is known, else when the kernel has reported more.
    fn close_full(&mut self, at: SlotRef, raw: &raw::RawRecord, out: &mut impl Observer) {
        let ts = Nanos(raw.ts_ns);
        let socket = &mut self.sockets[at];
        let closing = Closing::of(raw, socket.bound);
        let evidence = match socket.reset {
            _ if !self.sees_ends => Evidence::NotRecorded,
            reset if closing.awaits_evidence(reset) => {
                socket.is_closing = true;
                return self.pending.push(Pending { id: at.id, ts, cause: CancelCause::Closing(closing) });
            }
            reset => Evidence::before(reset),
        };
        self.close(at, ts, closing.explain(evidence), out);
    }

    /// This host sends a RST for a full socket.
    pub(super) fn reset_sent(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        let (reason, answers) = (ResetReason::from_raw(raw.arg0), raw.arg1 != 0);
        let Some(at) = self.full_socket(raw) else { return };
        if self.sockets[at].is_closing {
            self.end_closing(at, Evidence::ResetAfter { reason, answers }, out);
        } else if !answers {
            // tcp_send_active_reset(): CLOSE comes next. A RST that answers a segment may change nothing.
            self.sockets[at].reset = Some(Reset::Sent(reason as u8));
        }
    }

    /// A RST that ends a full socket was received.
    pub(super) fn reset_received(&mut self, raw: &raw::RawRecord) {
        if let Some(at) = self.full_socket(raw) {
            self.sockets[at].reset = Some(Reset::Received);
        }
    }

    /// A full socket in CLOSE reports its error.
    pub(super) fn error_reported(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        if let Some(at) = self.full_socket(raw)
            && self.sockets[at].is_closing
            && self.sockets[at].reset.is_none()
        {
            self.end_closing(at, Evidence::Error(raw.arg0 as u32), out);
        }
    }

    /// A system call accepted a full socket: its process owns it.
    pub(super) fn accepted(&mut self, seen: &HookRecord, out: &mut impl Observer) {
        let Some(at) = self.full_socket(&seen.raw) else { return };
        let socket = &mut self.sockets[at];
        // A later copy of the program may report it again. No process holds a socket before.
        if socket.role == Role::Inbound && socket.owner == OwnerKind::Exact {
            return;
        }
        socket.opened_by = StackUse::of(seen.raw.arg0);
        if socket.role != Role::Inbound {
            (socket.role, socket.role_guessed) = (Role::Inbound, false);
            out.identified(socket, &self.processes);
        }
        if let Some(task) = &seen.task {
            let owner = self.processes.acquire_task(task, Nanos(seen.raw.ts_ns));
            self.own(at, owner, OwnerKind::Exact, out);
        }
        out.accepted(&self.sockets[at], &self.processes);
    }

    fn full_socket(&self, raw: &raw::RawRecord) -> Option<SlotRef> {
        let at = self.sockets.find(SocketId(raw.cookie))?;
        (self.sockets[at].phase == Phase::Full).then_some(at)
    }

    /// Ends the socket at `at`, which is already in CLOSE, with the reason that `evidence` gives.
    fn end_closing(&mut self, at: SlotRef, evidence: Evidence, out: &mut impl Observer) {
        if let Some(Pending { ts, cause: CancelCause::Closing(closing), .. }) = self.pending.take(at.id) {
            self.close(at, ts, closing.explain(evidence), out);
        }
    }

    /// Ends a socket for which the kernel reported no more evidence in time.
    pub(super) fn end_expired_closing(
        &mut self,
        pending: &Pending,
        closing: Closing,
        out: &mut impl Observer,
    ) {
        if let Some(at) = self.sockets.find(pending.id) {
            let evidence = Evidence::before(self.sockets[at].reset);
            self.close(at, pending.ts, closing.explain(evidence), out);
        }
    }
}
