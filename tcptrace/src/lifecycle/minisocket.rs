//! Minisockets: TIME_WAIT, and FIN_WAIT2 without an owner. Their timers tell their life.

use rustc_hash::FxHashMap;
use tcptrace_common::record::{self as raw, flag};

use super::{
    EndReason, Observer, Phase, Since, Socket, Tracker,
    pending::{Cause, Pending},
    table::Place,
    tracker::tuple_of,
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple};

const FIN: u64 = 1;
const RST: u64 = 1 << 2;
/// Both reports of one segment come from one CPU, one after the other; a FIN is sent again much later
/// (`TCP_RTO_MIN`).
const DOUBLE_WINDOW: Nanos = Nanos(1_000_000);
/// TIME_WAIT arms its timer for this long (`TCP_TIMEWAIT_LEN`), in seconds.
const TIMEWAIT_SECONDS: i64 = 60;

/// What belongs to minisockets alone.
#[derive(Clone, Debug, Default)]
pub struct Minisockets {
    /// Minisockets whose cookie lives on in another connection (a socket that connects again), by it.
    by_cookie: FxHashMap<u64, Vec<SocketId>>,
    /// The cookie of each.
    cookies: FxHashMap<SocketId, u64>,
    /// How many were set aside so far.
    made: u64,
    /// Timer ticks per second, learned from the first TIME_WAIT armed.
    hz: Option<i64>,
}

impl Minisockets {
    /// How many were set aside and live.
    pub fn len(&self) -> usize {
        self.cookies.len()
    }

    /// Timer ticks per second, where a TIME_WAIT has shown them.
    pub const fn hz(&self) -> Option<i64> {
        self.hz
    }

    /// How many were set aside so far.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Goes on after `made` of them.
    pub fn go_on_from(&mut self, made: u64, hz: Option<i64>) {
        self.made = self.made.max(made);
        self.hz = self.hz.or(hz);
    }

    /// Those that were set aside, and their cookies.
    pub fn aside(&self) -> impl Iterator<Item = (SocketId, u64)> {
        self.cookies.iter().map(|(&id, &cookie)| (id, cookie))
    }

    /// The minisocket `aside` keeps its place, while `cookie` goes on.
    pub fn note(&mut self, aside: SocketId, cookie: u64) {
        self.by_cookie.entry(cookie).or_default().push(aside);
        self.cookies.insert(aside, cookie);
    }

    fn with_cookie(&self, cookie: u64) -> &[SocketId] {
        self.by_cookie.get(&cookie).map_or(&[], Vec::as_slice)
    }

    /// Forgets one that ended.
    pub fn forget(&mut self, id: SocketId) {
        let Some(cookie) = self.cookies.remove(&id) else { return };
        if let Some(ids) = self.by_cookie.get_mut(&cookie) {
            ids.retain(|aside| *aside != id);
            if ids.is_empty() {
                self.by_cookie.remove(&cookie);
            }
        }
    }
}

/// The `connect()` calls under way, by thread: one that takes a TIME_WAIT over cancels its timer from
/// the same thread.
#[derive(Clone, Debug, Default)]
pub struct Connects {
    by_thread: FxHashMap<u32, (SocketId, Nanos)>,
}

impl Connects {
    /// The port is chosen inside `connect()`, right after the state is set.
    const WINDOW: Nanos = Nanos::SECOND;
    /// Past this many, those that are over are thrown out.
    const MANY: usize = 4096;

    /// How many are remembered, those that are over among them.
    pub fn len(&self) -> usize {
        self.by_thread.len()
    }

    /// Thread `tid` has begun to connect the socket `id`.
    pub fn insert(&mut self, tid: u32, id: SocketId, ts: Nanos) {
        if self.by_thread.len() >= Self::MANY {
            self.by_thread.retain(|_, (_, at)| ts.since(*at) < Self::WINDOW);
        }
        self.by_thread.insert(tid, (id, ts));
    }

    /// Those still under way at `now`: the thread, the socket and since when.
    pub fn under_way(&self, now: Nanos) -> impl Iterator<Item = (u32, SocketId, Nanos)> {
        self.by_thread
            .iter()
            .filter(move |(_, (_, at))| now.since(*at) < Self::WINDOW)
            .map(|(&tid, &(id, at))| (tid, id, at))
    }

    fn of_thread(&self, tid: u32, ts: Nanos) -> Option<SocketId> {
        let (id, at) = self.by_thread.get(&tid)?;
        (ts.since(*at) < Self::WINDOW).then_some(*id)
    }
}

/// It was no system call.
const NO_THREAD: u32 = 0;

/// The thread whose system call cancelled a timer.
const fn thread_of(raw: &raw::Record) -> u32 {
    (raw.arg1 >> 32) as u32
}

/// Whether these are the socket's ends, whatever interface it is bound to.
fn has_ends(socket: &Socket, tuple: &Tuple) -> bool {
    socket.tuple == Tuple { ifindex: socket.tuple.ifindex, ..*tuple }
}

impl Tracker {
    /// A minisocket was made, or its timer was set again.
    pub(super) fn minisocket_armed(&mut self, raw: &raw::Record, out: &mut impl Observer) {
        let ts = Nanos(raw.ts_ns);
        let substate = TcpState::from_kernel(raw.new);
        let Some(substate @ (TcpState::FinWait2 | TcpState::TimeWait)) = substate else {
            // A minisocket has no other substate.
            self.counters.undecodable += 1;
            return;
        };
        if substate == TcpState::TimeWait {
            self.learn_hz(raw.arg0 as i64);
        }
        let Some(id) = self.minisocket_id(raw) else { return };
        let Some(at) = self.sockets.find(id) else {
            return self.begin_minisocket(id, substate, raw, out);
        };
        let socket = &mut self.sockets[at];
        if socket.phase != Phase::Minisocket {
            socket.phase = Phase::Minisocket;
            socket.object = raw.object;
            if socket.learn_tuple(&tuple_of(raw)) {
                out.identified(socket, &self.processes);
            }
            return self.become_minisocket(at, substate, ts, out);
        }
        self.pending.take(id);
        if substate != TcpState::TimeWait {
            return;
        }
        if socket.state == TcpState::TimeWait {
            socket.extended = true;
        } else if !self.sees_segments {
            // It may be a FIN sent again: the first one armed the timer unseen, when its bucket stayed
            // the same.
            self.enter_inferred(at, TcpState::TimeWait, ts, out);
        } else {
            // tcp_timewait_state_process() arms the timer while it handles the peer's FIN.
            socket.awaits_fin = true;
            self.enter(at, TcpState::TimeWait, ts, None, out);
        }
    }

    fn become_minisocket(&mut self, at: Place, substate: TcpState, ts: Nanos, out: &mut impl Observer) {
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

    /// A minisocket of a socket not known yet.
    fn begin_minisocket(
        &mut self,
        id: SocketId,
        substate: TcpState,
        raw: &raw::Record,
        out: &mut impl Observer,
    ) {
        let ts = Nanos(raw.ts_ns);
        if !self.seeding {
            self.counters.healed += 1;
        }
        let mut socket = Socket::new(tuple_of(raw), NetnsId(raw.netns), substate, Since::Exact(ts));
        socket.phase = Phase::Minisocket;
        socket.object = raw.object;
        if substate == TcpState::FinWait2 {
            // It was in FIN_WAIT2 before, with an owner or without.
            socket.since = Since::AtLatest(ts);
            socket.orphan_since = Some(ts);
        }
        self.guess_role(&mut socket);
        self.appear(id, socket, out);
        self.inherit_owner(id, out);
    }

    /// A minisocket's timer was cancelled: `pending` waits for the reason unless it is plain.
    pub(super) fn minisocket_cancelled(&mut self, raw: &raw::Record, out: &mut impl Observer) {
        let is_dying = raw.flags & flag::NETNS_DYING != 0;
        if is_dying {
            self.sweeps.note_dying(NetnsId(raw.netns));
        }
        let Some(at) = self.ending_minisocket(raw, out) else { return };
        let ts = Nanos(raw.ts_ns);
        if is_dying {
            return self.end_minisocket(at, raw, EndReason::Purged, out);
        }
        let taken_over = raw.new == TcpState::TimeWait as u8 && self.is_taken_over_by(thread_of(raw), at, ts);
        // When its time is up it may as well have expired, on top of a thread that happens to connect.
        if taken_over && raw.arg0 as i64 > 0 {
            return self.end_minisocket(at, raw, EndReason::Reused, out);
        }
        // Not noted yet that it may be in TIME_WAIT by now: when it is armed anew, that tells it exactly.
        // Its ends are those it is known by, as where a recording goes on.
        let Tuple { saddr, daddr, sport, dport, .. } = self.sockets[at].tuple;
        let raw = raw::Record { saddr: saddr.0, daddr: daddr.0, sport, dport, ..*raw };
        let cause = if taken_over { Cause::TakenOver(raw) } else { Cause::Minisocket(raw) };
        self.pending.push(Pending { id: at.id, ts, cause });
    }

    /// A minisocket's timer ran out.
    pub(super) fn minisocket_expired(&mut self, raw: &raw::Record, out: &mut impl Observer) {
        if let Some(at) = self.ending_minisocket(raw, out) {
            self.pending.take(at.id);
            self.end_minisocket(at, raw, EndReason::Expired, out);
        }
    }

    /// A segment reached a minisocket.
    pub(super) fn minisocket_segment(&mut self, raw: &raw::Record, out: &mut impl Observer) {
        let is_time_wait = raw.new == TcpState::TimeWait as u8;
        let Some(at) = self.known_minisocket(raw, out) else {
            // Older than the trace, and the seed may have been read just before this step.
            if self.seeding
                && is_time_wait
                && raw.arg0 & FIN != 0
                && let Some(id) = self.minisocket_id(raw)
                && !self.sockets.contains(id)
                && !self.ended_in_seed.contains(&id)
            {
                self.begin_minisocket(id, TcpState::TimeWait, raw, out);
            }
            return;
        };
        let socket = &mut self.sockets[at];
        let ts = Nanos(raw.ts_ns);
        if raw.arg0 & FIN != 0 && is_time_wait {
            if socket.state == TcpState::FinWait2 {
                return self.enter(at, TcpState::TimeWait, ts, None, out);
            }
            // Its timer is set again, silently when the new time falls into the same bucket.
            let is_the_first = std::mem::replace(&mut socket.awaits_fin, false)
                || matches!(socket.since, Since::Exact(entry) if ts.since(entry) < DOUBLE_WINDOW);
            socket.extended |= !is_the_first;
        }
        let reason = if raw.arg0 & RST != 0 {
            EndReason::Reset
        } else if !is_time_wait {
            EndReason::Aborted
        } else {
            return;
        };
        if let Some(pending) = self.pending.take(at.id) {
            self.end_pending(&pending, reason, out);
        }
    }

    /// A new connection from the peer has the ends of a minisocket whose timer was just cancelled.
    pub(super) fn reopened_by(&mut self, netns: NetnsId, tuple: &Tuple, out: &mut impl Observer) {
        let Some(id) = self.pending.minisocket_with(netns, tuple) else { return };
        if let Some(pending) = self.pending.take(id) {
            self.end_pending(&pending, EndReason::Reopened, out);
        }
    }

    /// Ends what no later record explained in time.
    pub(super) fn settle(&mut self, now: Nanos, out: &mut impl Observer) {
        while let Some(pending) = self.pending.take_ripe(now, self.limits.sockets) {
            let reason = match &pending.cause {
                Cause::Request | Cause::RequestExpired => {
                    self.settle_request(&pending, out);
                    continue;
                }
                Cause::TakenOver(_) => EndReason::Reused,
                // A system call that is not connect(): `ss -K`.
                Cause::Minisocket(raw) if thread_of(raw) != NO_THREAD => EndReason::Killed,
                // Its time was up, and whatever the network does to it shows in a segment: the record that it ran out
                // is late, as on a machine that stood still, or lost.
                Cause::Minisocket(raw) if self.sees_segments && raw.arg0 as i64 <= 0 => EndReason::Expired,
                Cause::Minisocket(_) => EndReason::Unexplained,
            };
            self.end_pending(&pending, reason, out);
        }
    }

    fn end_pending(&mut self, pending: &Pending, reason: EndReason, out: &mut impl Observer) {
        if let Cause::Minisocket(raw) | Cause::TakenOver(raw) = &pending.cause
            // Its cookie may have gone on to another connection meanwhile.
            && let Some(at) = self.sockets.find(pending.id)
            && (self.sockets[at].phase, self.sockets[at].object) == (Phase::Minisocket, raw.object)
        {
            self.end_minisocket(at, raw, reason, out);
        }
    }

    /// The minisocket at `at` keeps its place under another id: its cookie begins a new connection.
    pub(super) fn set_minisocket_aside(&mut self, at: Place) {
        self.minisockets.made += 1;
        let aside = SocketId::set_aside(self.minisockets.made);
        if let Some(pending) = self.pending.take(at.id) {
            self.pending.push(Pending { id: aside, ..pending });
        }
        let cookie = at.id.0;
        let at = self.sockets.rename(at, aside);
        let object = self.sockets[at].object;
        for &before in self.minisockets.with_cookie(cookie) {
            // The address is this one's now: the one before went unseen, and no record can be about it any more.
            if let Some(before_socket) = self.sockets.get_mut(before)
                && before_socket.object == object
            {
                before_socket.object = 0;
                self.pending.take(before);
            }
        }
        self.minisockets.note(aside, cookie);
    }

    fn end_minisocket(&mut self, at: Place, raw: &raw::Record, reason: EndReason, out: &mut impl Observer) {
        self.note_substate(at, raw, out);
        self.enter(at, TcpState::Close, Nanos(raw.ts_ns), Some(reason), out);
    }

    /// Where segments are not seen, the step from FIN_WAIT2 to TIME_WAIT shows at the end, in
    /// `tw_entry_stamp` or in the time the timer was last set to; when a look has found it before, the
    /// end still tells more exactly when it was.
    fn note_substate(&mut self, at: Place, raw: &raw::Record, out: &mut impl Observer) {
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

    /// When the minisocket that ends with `raw` entered TIME_WAIT, at the latest.
    fn time_wait_entry(&self, raw: &raw::Record) -> Nanos {
        let ts = Nanos(raw.ts_ns);
        match (raw.arg1 as u32, self.minisockets.hz) {
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

    fn is_taken_over_by(&self, tid: u32, at: Place, ts: Nanos) -> bool {
        let connecting = self.connects.of_thread(tid, ts).and_then(|id| self.sockets.get(id));
        let (Some(new), old) = (connecting, &self.sockets[at]) else { return false };
        new.state == TcpState::SynSent
            && new.netns == old.netns
            && new.tuple.daddr == old.tuple.daddr
            && new.tuple.dport == old.tuple.dport
            && (new.tuple.sport == 0 || new.tuple.sport == old.tuple.sport)
    }

    fn learn_hz(&mut self, left: i64) {
        if self.minisockets.hz.is_none() && left > 0 && left % TIMEWAIT_SECONDS == 0 {
            self.minisockets.hz = Some(left / TIMEWAIT_SECONDS);
        }
    }

    /// The id of the minisocket a record is about; `None` for one that has no cookie: it is older than
    /// the trace and in a namespace that could not be seeded.
    pub(super) fn minisocket_id(&self, raw: &raw::Record) -> Option<SocketId> {
        let is_it = |aside: &&SocketId| {
            self.sockets.get(**aside).is_some_and(|socket| match socket.object {
                // Older than the trace.
                0 => has_ends(socket, &tuple_of(raw)),
                object => object == raw.object,
            })
        };
        let aside = self.minisockets.with_cookie(raw.cookie).iter().find(is_it).copied();
        aside.or_else(|| (raw.cookie != 0).then_some(SocketId(raw.cookie)))
    }

    /// The minisocket with these ends whose cookie went on to another connection.
    pub(super) fn aside_with(&self, cookie: SocketId, tuple: &Tuple) -> Option<SocketId> {
        let has_them = |aside: &&SocketId| self.sockets.get(**aside).is_some_and(|s| has_ends(s, tuple));
        self.minisockets.with_cookie(cookie.0).iter().find(has_them).copied()
    }

    /// The same, when it is tracked. A record of a minisocket that is still thought to be a full socket tells
    /// that the steps between were missed.
    fn known_minisocket(&mut self, raw: &raw::Record, out: &mut impl Observer) -> Option<Place> {
        let at = self.sockets.find(self.minisocket_id(raw)?)?;
        let socket = &mut self.sockets[at];
        if socket.phase == Phase::Full {
            let seen = tuple_of(raw);
            let substate = TcpState::from_kernel(raw.new)
                .filter(|state| matches!(state, TcpState::FinWait2 | TcpState::TimeWait))?;
            if !has_ends(socket, &seen) {
                // A cookie that went on to another connection.
                return None;
            }
            self.counters.healed += 1;
            socket.phase = Phase::Minisocket;
            socket.since = Since::Unknown;
            self.put_right(at, substate, out);
            let socket = &mut self.sockets[at];
            if substate == TcpState::FinWait2 && socket.orphan_since.is_none() {
                socket.orphan_since = Some(Nanos(raw.ts_ns));
                out.orphaned(socket);
            }
        }
        let socket = &mut self.sockets[at];
        if socket.phase != Phase::Minisocket {
            return None;
        }
        socket.object = raw.object;
        Some(at)
    }

    /// The same for a record that may be its last. One that ends before the seed is read must not be brought
    /// back by it.
    fn ending_minisocket(&mut self, raw: &raw::Record, out: &mut impl Observer) -> Option<Place> {
        let known = self.known_minisocket(raw, out);
        if known.is_none()
            && self.seeding
            && let Some(id) = self.minisocket_id(raw)
            && !self.sockets.contains(id)
        {
            self.ended_in_seed.insert(id);
        }
        known
    }
}
