//! Tracks timewait sockets (TIME_WAIT, and FIN_WAIT2 without an owner) by their timers.

use tcptrace_common::record::{self as raw, flag};

use super::{
    End, EndReason, Observer, Phase, Since, Socket, Tracker,
    ended::Ended,
    pending::{CancelCause, Pending},
    table::SlotRef,
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple};

const FIN: u64 = 1;
const RST: u64 = 1 << 2;
/// Both reports of a segment, and those of a hand-over on two CPUs, come back to back; a retransmitted FIN comes much
/// later (`TCP_RTO_MIN`).
const DUPLICATE_WINDOW: Nanos = Nanos(1_000_000);
/// Duration of the TIME_WAIT timer (`TCP_TIMEWAIT_LEN`), in seconds.
const TIMEWAIT_SECONDS: i64 = 60;

/// Thread id when no system call cancelled the timer.
const NO_THREAD: u32 = 0;

/// The thread whose system call cancelled a timer.
const fn thread_of(raw: &raw::RawRecord) -> u32 {
    (raw.arg1 >> 32) as u32
}

impl Socket {
    /// Whether it entered its state so recently that a record at `ts` may report the same step again.
    fn has_just_entered(&self, ts: Nanos) -> bool {
        matches!(self.since, Since::Exact(entry) if ts.since(entry) < DUPLICATE_WINDOW)
    }

    /// Whether a segment may reach its timewait socket in the state `substate` before `timewait_armed` is reported:
    /// `inet_twsk_hashdance_schedule()` makes the socket visible to other CPUs before it arms the timer.
    const fn may_be_handing_over(&self, substate: TcpState) -> bool {
        matches!(
            (self.state, substate),
            (TcpState::FinWait2, TcpState::FinWait2 | TcpState::TimeWait)
                | (TcpState::Closing, TcpState::TimeWait)
        )
    }
}

impl Tracker {
    /// A timewait socket was created, or its timer was armed again.
    pub(super) fn timewait_armed(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        let ts = Nanos(raw.ts_ns);
        let substate = TcpState::from_kernel(raw.new);
        let Some(substate @ (TcpState::FinWait2 | TcpState::TimeWait)) = substate else {
            // A timewait socket has no other substate.
            self.counters.undecodable += 1;
            return;
        };
        if substate == TcpState::TimeWait {
            self.learn_hz(raw.arg0 as i64);
        }
        let Some(at) = self.find_timewait(raw) else {
            return self.begin_timewait(substate, raw, out);
        };
        if self.sockets[at].phase != Phase::Timewait {
            // tcp_time_wait() is called in no other state.
            if !self.sockets[at].may_be_handing_over(substate) {
                self.correct(at, TcpState::FinWait2, out);
            }
            self.change_phase(at, Phase::Timewait);
            let socket = &mut self.sockets[at];
            socket.object = raw.object;
            if socket.learn_tuple(&Tuple::of(raw)) {
                out.identified(socket, &self.processes);
            }
            return self.become_timewait(at, substate, ts, out);
        }
        self.pending.take(at.id);
        if substate != TcpState::TimeWait {
            return;
        }
        let socket = &mut self.sockets[at];
        if socket.state == TcpState::TimeWait {
            socket.extended |= !socket.has_just_entered(ts);
        } else if !self.sees_segments {
            // This may be a retransmitted FIN: the first one armed the timer unseen if it stayed in the same bucket.
            self.enter_inferred(at, TcpState::TimeWait, ts, out);
        } else {
            // tcp_timewait_state_process() arms the timer while it handles the peer's FIN.
            socket.awaits_fin = true;
            self.enter(at, TcpState::TimeWait, ts, None, out);
        }
    }

    fn become_timewait(&mut self, at: SlotRef, substate: TcpState, ts: Nanos, out: &mut impl Observer) {
        if substate == TcpState::TimeWait {
            return self.enter(at, TcpState::TimeWait, ts, None, out);
        }
        if self.sockets[at].state != TcpState::FinWait2 {
            self.enter(at, TcpState::FinWait2, ts, None, out);
        }
        let socket = &mut self.sockets[at];
        if socket.orphan_since.is_none() {
            socket.orphan_since = Some(ts);
            out.orphaned(socket);
        }
    }

    /// Adds an untracked socket that is already a timewait socket. One without a cookie is older than the trace and in
    /// a namespace that the seed could not visit.
    fn begin_timewait(&mut self, substate: TcpState, raw: &raw::RawRecord, out: &mut impl Observer) {
        if raw.cookie == 0 {
            return;
        }
        let ts = Nanos(raw.ts_ns);
        self.count_unannounced(NetnsId(raw.netns));
        let mut socket = Socket::new(Tuple::of(raw), NetnsId(raw.netns), substate, Since::Exact(ts));
        socket.phase = Phase::Timewait;
        socket.object = raw.object;
        if substate == TcpState::FinWait2 {
            // It was in FIN_WAIT2 before, with or without an owner.
            socket.since = Since::AtLatest(ts);
            socket.orphan_since = Some(ts);
        }
        self.guess_role(&mut socket);
        if let Some(at) = self.add_timewait(SocketId(raw.cookie), socket, out) {
            self.inherit_owner(at.id, out);
        }
    }

    /// Adds a timewait socket that no record announced: under its cookie, or rekeyed when another socket has that
    /// cookie.
    pub(super) fn add_timewait(
        &mut self,
        cookie: SocketId,
        socket: Socket,
        out: &mut impl Observer,
    ) -> Option<SlotRef> {
        if !self.sockets.contains(cookie) {
            return self.appear(cookie, socket, out);
        }
        let id = self.rekeyed.next_id();
        let (netns, tuple) = (socket.netns, socket.tuple);
        let at = self.appear(id, socket, out)?;
        self.rekeyed.insert(id, cookie.0, netns, &tuple);
        Some(at)
    }

    /// A timewait socket's timer was cancelled: its end becomes pending unless the reason is known.
    pub(super) fn timewait_cancelled(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        let is_dying = raw.flags & flag::NETNS_DYING != 0;
        if is_dying {
            self.sweeps.add_dying_namespace(NetnsId(raw.netns));
        }
        let Some(at) = self.ending_timewait(raw, out) else { return };
        let ts = Nanos(raw.ts_ns);
        if is_dying {
            return self.end_timewait(at, raw, End::sure(EndReason::Purged), out);
        }
        let taken_over = raw.new == TcpState::TimeWait as u8 && self.is_reused_by(thread_of(raw), at, ts);
        // A due timer may also have expired in an interrupt, on top of a thread that happens to connect.
        if taken_over && raw.arg0 as i64 > 0 {
            return self.end_timewait(at, raw, End::sure(EndReason::Reused), out);
        }
        // Do not apply the TIME_WAIT substate yet: if the timer is armed again, that record gives the exact time.
        // Store the tracked tuple, as a checkpoint does.
        let Tuple { saddr, daddr, sport, dport, .. } = self.sockets[at].tuple;
        let raw = raw::RawRecord { saddr: saddr.0, daddr: daddr.0, sport, dport, ..*raw };
        let cause = if taken_over { CancelCause::TakenOver(raw) } else { CancelCause::Timewait(raw) };
        self.pending.push(Pending { id: at.id, ts, cause });
    }

    /// A timewait socket's timer expired.
    pub(super) fn timewait_expired(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        if let Some(at) = self.ending_timewait(raw, out) {
            self.end_timewait(at, raw, End::sure(EndReason::Expired), out);
        }
    }

    /// A segment reached a timewait socket.
    pub(super) fn timewait_segment(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) {
        let is_time_wait = raw.new == TcpState::TimeWait as u8;
        let Some(at) = self.known_timewait(raw, out) else {
            // Older than the trace; the seed may have listed it just before this FIN.
            if self.seeding
                && is_time_wait
                && raw.arg0 & FIN != 0
                && self.find_timewait(raw).is_none()
                && !self.ended_in_seed.contains(&Ended::timewait(raw))
            {
                self.begin_timewait(TcpState::TimeWait, raw, out);
            }
            return;
        };
        let socket = &mut self.sockets[at];
        let ts = Nanos(raw.ts_ns);
        if raw.arg0 & FIN != 0 && is_time_wait {
            if socket.state == TcpState::FinWait2 {
                return self.enter(at, TcpState::TimeWait, ts, None, out);
            }
            // The FIN restarts the timer; no record shows this when the new time falls into the same bucket.
            let is_first_fin =
                std::mem::replace(&mut socket.awaits_fin, false) || socket.has_just_entered(ts);
            socket.extended |= !is_first_fin;
        }
        let reason = if raw.arg0 & RST != 0 {
            EndReason::Reset
        } else if !is_time_wait {
            EndReason::Aborted
        } else {
            return;
        };
        if let Some(pending) = self.pending.take(at.id) {
            self.end_pending(&pending, End::sure(reason), out);
        }
    }

    /// Ends a pending timewait socket whose tuple a new connection from the peer reuses.
    pub(super) fn end_reopened(&mut self, netns: NetnsId, tuple: &Tuple, out: &mut impl Observer) {
        let Some(id) = self.pending.timewait_with(netns, tuple) else { return };
        if let Some(pending) = self.pending.take(id) {
            self.end_pending(&pending, End::sure(EndReason::Reopened), out);
        }
    }

    /// Ends the sockets whose pending ends no later record explained in time.
    pub(super) fn settle(&mut self, now: Nanos, out: &mut impl Observer) {
        while let Some(pending) = self.pending.pop_expired(now, self.limits.sockets) {
            let end = match &pending.cause {
                CancelCause::Request | CancelCause::RequestExpired => {
                    self.end_expired_request(&pending, out);
                    continue;
                }
                CancelCause::Closing(closing) => {
                    self.end_expired_closing(&pending, *closing, out);
                    continue;
                }
                CancelCause::TakenOver(_) => End::sure(EndReason::Reused),
                // A system call other than connect(): `ss -K`.
                CancelCause::Timewait(raw) if !matches!(thread_of(raw), NO_THREAD | raw::KERNEL_THREAD) => {
                    End::sure(EndReason::Killed)
                }
                // The timer was due, and any action of the network would show in a segment: the expiry record is late,
                // as on a machine that was paused, or lost.
                CancelCause::Timewait(raw) if self.sees_segments && raw.arg0 as i64 <= 0 => {
                    End::sure(EndReason::Expired)
                }
                // Its own work, or that of a softirq that it runs.
                CancelCause::Timewait(raw) if thread_of(raw) == raw::KERNEL_THREAD => {
                    End::sure(EndReason::Unexplained)
                }
                // tcp_v4_rcv(): TCP_TW_SYN. The listener did not answer that SYN, for example because its accept queue
                // is full; a RST would have shown in a segment.
                CancelCause::Timewait(raw) if self.sees_segments && raw.new == TcpState::TimeWait as u8 => {
                    End::inferred(EndReason::Reopened)
                }
                CancelCause::Timewait(_) => End::sure(EndReason::Unexplained),
            };
            self.end_pending(&pending, end, out);
        }
    }

    /// Forgets that the end of the socket at `at` is pending: it goes on.
    pub(super) fn drop_pending_end(&mut self, at: SlotRef) {
        self.pending.take(at.id);
        self.sockets[at].is_closing = false;
    }

    fn end_pending(&mut self, pending: &Pending, end: End, out: &mut impl Observer) {
        if let CancelCause::Timewait(raw) | CancelCause::TakenOver(raw) = &pending.cause
            && let Some(at) = self.sockets.find(pending.id)
        {
            self.end_timewait(at, raw, end, out);
        }
    }

    /// Moves the timewait socket at `at` to a new id, because its cookie begins a new connection.
    pub(super) fn rekey_timewait(&mut self, at: SlotRef) {
        let aside = self.rekeyed.next_id();
        if let Some(pending) = self.pending.take(at.id) {
            self.pending.push(Pending { id: aside, ..pending });
        }
        let cookie = at.id.0;
        let at = self.sockets.rename(at, aside);
        let socket = &self.sockets[at];
        self.rekeyed.insert(aside, cookie, socket.netns, &socket.tuple);
    }

    /// Frees `cookie` for another socket: rekeys a timewait socket that has it.
    pub(super) fn free_cookie(&mut self, cookie: SocketId) {
        if let Some(at) = self.sockets.find(cookie)
            && self.sockets[at].phase == Phase::Timewait
        {
            self.rekey_timewait(at);
        }
    }

    fn end_timewait(&mut self, at: SlotRef, raw: &raw::RawRecord, end: End, out: &mut impl Observer) {
        self.apply_unseen_time_wait(at, raw, out);
        self.close(at, Nanos(raw.ts_ns), end, out);
    }

    /// Applies an unseen step from FIN_WAIT2 to TIME_WAIT. Without segment records it shows only at the end, in
    /// `tw_entry_stamp` or in the time the timer was last set to; this is more exact than an entry that a FIN_WAIT2
    /// sweep has found.
    fn apply_unseen_time_wait(&mut self, at: SlotRef, raw: &raw::RawRecord, out: &mut impl Observer) {
        if raw.new != TcpState::TimeWait as u8 {
            return;
        }
        let entry = self.time_wait_entry(raw);
        let socket = &mut self.sockets[at];
        match (socket.state, socket.since) {
            (TcpState::FinWait2, since) => {
                let entry = entry.max(since.time().unwrap_or_default());
                self.enter_inferred(at, TcpState::TimeWait, entry, out);
            }
            (TcpState::TimeWait, Since::Inferred(at_latest)) => {
                socket.since = Since::Inferred(entry.min(at_latest));
            }
            _ => {}
        }
    }

    /// Latest time at which the timewait socket that ends with `raw` entered TIME_WAIT.
    fn time_wait_entry(&self, raw: &raw::RawRecord) -> Nanos {
        let ts = Nanos(raw.ts_ns);
        match (raw.arg1 as u32, self.hz) {
            (0, None) => ts,
            (0, Some(hz)) => {
                let ticks = (TIMEWAIT_SECONDS * hz).saturating_sub(raw.arg0 as i64).max(0);
                ts.minus(Nanos((ticks as u64).saturating_mul(1_000_000_000 / hz as u64)))
            }
            (stamp_ms, _) => {
                let ago_ms = ((ts.0 / 1_000_000) as u32).wrapping_sub(stamp_ms);
                ts.minus(Nanos(u64::from(ago_ms) * 1_000_000))
            }
        }
    }

    fn is_reused_by(&self, tid: u32, at: SlotRef, ts: Nanos) -> bool {
        let connecting = self.connects.socket_of_thread(tid, ts).and_then(|id| self.sockets.get(id));
        let (Some(new), old) = (connecting, &self.sockets[at]) else { return false };
        new.state == TcpState::SynSent
            && new.netns == old.netns
            && new.tuple.daddr == old.tuple.daddr
            && new.tuple.dport == old.tuple.dport
            && (new.tuple.sport == 0 || new.tuple.sport == old.tuple.sport)
    }

    fn learn_hz(&mut self, left: i64) {
        if self.hz.is_none() && left > 0 && left % TIMEWAIT_SECONDS == 0 {
            self.hz = Some(left / TIMEWAIT_SECONDS);
        }
    }

    /// Finds the socket of a timewait record by cookie and tuple.
    pub(super) fn find_timewait(&self, raw: &raw::RawRecord) -> Option<SlotRef> {
        let (netns, tuple) = (NetnsId(raw.netns), Tuple::of(raw));
        let aside = self.rekeyed.find(raw.cookie, netns, &tuple).and_then(|id| self.sockets.find(id));
        // The kernel address of a socket older than the trace is not known.
        let is_it =
            |at: &SlotRef| matches!(self.sockets[*at].object, 0) || self.sockets[*at].object == raw.object;
        aside.filter(is_it).or_else(|| {
            let at = self.sockets.find(SocketId(raw.cookie)).filter(|_| raw.cookie != 0)?;
            self.sockets[at].matches_tuple(&tuple).then_some(at)
        })
    }

    /// Finds the tracked timewait socket of a record. If it is still tracked as a full socket, the transitions between
    /// were missed, and its state is corrected.
    fn known_timewait(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) -> Option<SlotRef> {
        let at = self.find_timewait(raw)?;
        let socket = &mut self.sockets[at];
        if socket.phase == Phase::Full {
            let substate = TcpState::from_kernel(raw.new)
                .filter(|state| matches!(state, TcpState::FinWait2 | TcpState::TimeWait))?;
            if socket.tuple.without_interface() != Tuple::of(raw).without_interface() {
                // The cookie belongs to another connection by now, whose port is not known yet.
                return None;
            }
            if raw.kind == raw::Kind::Segment as u8 && socket.may_be_handing_over(substate) {
                socket.object = raw.object;
                self.change_phase(at, Phase::Timewait);
                self.become_timewait(at, substate, Nanos(raw.ts_ns), out);
                return Some(at);
            }
            self.counters.healed += 1;
            socket.since = Since::Unknown;
            self.change_phase(at, Phase::Timewait);
            self.correct_state(at, substate, out);
            let socket = &mut self.sockets[at];
            if substate == TcpState::FinWait2 && socket.orphan_since.is_none() {
                socket.orphan_since = Some(Nanos(raw.ts_ns));
                out.orphaned(socket);
            }
        }
        let socket = &mut self.sockets[at];
        if socket.phase != Phase::Timewait {
            return None;
        }
        if std::mem::replace(&mut socket.object, raw.object) != raw.object {
            // The pending end was that of an earlier timewait socket.
            self.drop_pending_end(at);
        }
        Some(at)
    }

    /// Like `known_timewait`, for a record that may be the last. The seed must not bring back a socket that ends before
    /// it is read.
    fn ending_timewait(&mut self, raw: &raw::RawRecord, out: &mut impl Observer) -> Option<SlotRef> {
        let known = self.known_timewait(raw, out);
        if known.is_none() && self.seeding && raw.cookie != 0 {
            self.remember_ended_in_seed(Ended::timewait(raw));
        }
        known
    }
}
