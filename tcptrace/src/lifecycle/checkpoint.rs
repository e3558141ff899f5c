//! Checkpoints the tracker's state from one recording to the next, so that a file that begins in the middle of a
//! trace is correct on its own: first every socket, then the state beside the sockets.
//!
//! Every struct here is destructured field by field without `..`, so the compiler rejects a new field until this file
//! decides whether the checkpoint includes it.

use tcptrace_common::record as raw;

use super::{
    Observer, Socket, Tracker,
    pending::{CancelCause, Pending},
    recently_closed::RecentlyClosed,
};
use crate::model::{
    Closer, Nanos, NetnsId, Phase, SocketId,
    checkpoint::{Cancelled, ExtraState, SocketCheckpoint, TimerOf, TrackerCheckpoint},
    record::Process,
};

/// Ticks per second that no kernel exceeds.
const MOST_HZ: i64 = 100_000;

impl Pending {
    const fn cancelled(self) -> Cancelled {
        let of = match self.cause {
            CancelCause::Timewait(raw) => {
                TimerOf::Timewait { substate: raw.new, arg0: raw.arg0, arg1: raw.arg1 }
            }
            CancelCause::TakenOver(raw) => {
                TimerOf::TakenOver { substate: raw.new, arg0: raw.arg0, arg1: raw.arg1 }
            }
            CancelCause::Request => TimerOf::Request,
            CancelCause::RequestExpired => TimerOf::RequestExpired,
            CancelCause::Closing(closing) => TimerOf::Closing(closing),
        };
        Cancelled { ts: self.ts, of }
    }

    fn restored(id: SocketId, cancelled: Cancelled, socket: &Socket) -> Self {
        let record = |substate, arg0, arg1| raw::RawRecord {
            ts_ns: cancelled.ts.0,
            cookie: id.0,
            object: socket.object,
            arg0,
            arg1,
            saddr: socket.tuple.saddr.0,
            daddr: socket.tuple.daddr.0,
            netns: socket.netns.0,
            ifindex: socket.tuple.ifindex,
            sport: socket.tuple.sport,
            dport: socket.tuple.dport,
            kind: raw::Kind::TimewaitCancelled as u8,
            old: 0,
            new: substate,
            flags: 0,
        };
        let cause = match cancelled.of {
            TimerOf::Timewait { substate, arg0, arg1 } => CancelCause::Timewait(record(substate, arg0, arg1)),
            TimerOf::TakenOver { substate, arg0, arg1 } => {
                CancelCause::TakenOver(record(substate, arg0, arg1))
            }
            TimerOf::Request => CancelCause::Request,
            TimerOf::RequestExpired => CancelCause::RequestExpired,
            TimerOf::Closing(closing) => CancelCause::Closing(closing),
        };
        Self { id, ts: cancelled.ts, cause }
    }
}

impl Socket {
    /// Its state that has no column.
    const fn extra(&self) -> ExtraState {
        let Self {
            since,
            orphan_since,
            orphan_inferred,
            phase,
            role,
            role_guessed,
            listener_is_any,
            closer,
            owner,
            bound,
            only_seeded,
            extended,
            awaits_fin,
            reset,
            opened_by,
            closed_by,
            // Stored with the pending ends.
            is_closing: _,
            // These have columns.
            tuple: _,
            netns: _,
            state: _,
            previous: _,
            object: _,
            // A process id is local to this tracker; the checkpoint stores the process itself.
            process: _,
            // The reader has an observer of its own.
            counted: _,
            // A replay does not sweep.
            listed: _,
            // Recomputed: whatever is closed at the checkpoint was closed before the new file.
            closed_before: _,
        } = *self;
        ExtraState {
            since,
            orphan_since,
            orphan_inferred,
            phase,
            role,
            role_guessed,
            listener_is_any,
            closer,
            owner,
            bound,
            only_seeded,
            extended,
            awaits_fin,
            reset,
            opened_by,
            closed_by,
        }
    }

    /// Rebuilds the socket of a checkpoint, without its owner.
    const fn restored(carried: &SocketCheckpoint) -> Self {
        let SocketCheckpoint { tuple, netns, state, previous, object, ref memory, .. } = *carried;
        let ExtraState {
            since,
            orphan_since,
            orphan_inferred,
            phase,
            role,
            role_guessed,
            listener_is_any,
            closer,
            owner,
            bound,
            only_seeded,
            extended,
            awaits_fin,
            reset,
            opened_by,
            closed_by,
        } = *memory;
        Self {
            previous,
            object,
            orphan_since,
            orphan_inferred,
            phase,
            role,
            role_guessed,
            listener_is_any,
            closer,
            closed_before: !matches!(closer, Closer::None),
            owner,
            bound,
            only_seeded,
            extended,
            awaits_fin,
            reset,
            opened_by,
            closed_by,
            ..Self::new(tuple, netns, state, since)
        }
    }
}

impl Tracker {
    /// Creates a checkpoint at `ts`: sockets by id, and the state beside them.
    pub fn carry(&self, ts: Nanos) -> (Vec<SocketCheckpoint>, TrackerCheckpoint) {
        let Self {
            sockets,
            processes,
            handshakes,
            rekeyed,
            hz,
            namespaces,
            connects,
            pending,
            began,
            recently_closed,
            // Derived from the sockets.
            listeners: _,
            // The seed is complete by then.
            ended_in_seed: _,
            // The records of namespace settings precede the sockets.
            changed: _,
            seeding: _,
            // A replay does not sweep.
            sweeps: _,
            // The records of host facts and settings, which come first, carry these.
            sees_segments: _,
            sees_ends: _,
            port_ranges: _,
            // Each file has its own.
            counters: _,
            // The reader of the file sets these.
            limits: _,
            scope: _,
        } = self;
        let mut carried: Vec<SocketCheckpoint> = sockets
            .iter()
            .map(|(id, socket)| {
                let process = socket.process.and_then(|id| processes.get(id));
                let Socket { tuple, netns, state, previous, object, phase, .. } = *socket;
                let is_request = phase == Phase::Request;
                let object = if is_request { handshakes.object_of(id, netns, &tuple) } else { object };
                let process = process.map(|process| Process::clone(process));
                SocketCheckpoint {
                    ts,
                    id,
                    tuple,
                    netns,
                    state,
                    previous,
                    object,
                    memory: socket.extra(),
                    process,
                }
            })
            .collect();
        carried.sort_unstable_by_key(|carried| carried.id);
        let continuation = TrackerCheckpoint {
            ts,
            began: *began,
            hz: *hz,
            handshakes: handshakes.made(),
            rekeyed: rekeyed.made(),
            closed: recently_closed.oldest_first().collect(),
            connecting: connects.calls_in_progress(ts).collect(),
            cancelled: pending.oldest_first().map(|pending| (pending.id, pending.cancelled())).collect(),
            aside: rekeyed.cookies(),
            netns: namespaces.sorted().into_iter().map(|netns| netns.0).collect(),
        };
        (carried, continuation)
    }

    /// Restores a socket that was tracked before the file began.
    pub(super) fn restore_socket(&mut self, carried: &SocketCheckpoint, out: &mut impl Observer) {
        let SocketCheckpoint { id, ts, netns, ref tuple, object, ref memory, ref process, .. } = *carried;
        if self.sockets.contains(id) || !self.is_in_scope(netns, tuple) {
            return;
        }
        let owner = process.as_ref().map(|process| self.processes.acquire_process(process, ts));
        let socket = Socket { process: owner, ..Socket::restored(carried) };
        if self.appear(id, socket, out).is_none() {
            // The table is full.
            if let Some(owner) = owner {
                self.processes.release(owner);
            }
            return;
        }
        if memory.phase == Phase::Request {
            self.handshakes.restore_handshake(id, object, netns, tuple);
        }
    }

    /// Restores the state beside the sockets.
    pub(super) fn restore_tracker(&mut self, known: &TrackerCheckpoint) {
        let TrackerCheckpoint {
            ts: _,
            began,
            hz,
            handshakes,
            rekeyed,
            ref closed,
            ref connecting,
            ref cancelled,
            ref aside,
            ref netns,
        } = *known;
        for &netns in netns {
            self.namespaces.follow(NetnsId(netns));
        }
        self.began = began.or(self.began);
        self.handshakes.go_on_from(handshakes);
        self.rekeyed.go_on_from(rekeyed);
        // Of a file: anything.
        self.hz = self.hz.or(hz.filter(|hz| (1..=MOST_HZ).contains(hz)));
        self.recently_closed = RecentlyClosed::restored(closed);
        for &(tid, id, since) in connecting {
            self.connects.insert(tid, id, since);
        }
        for &(id, cancelled) in cancelled {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.is_closing = matches!(cancelled.of, TimerOf::Closing(_));
                self.pending.push(Pending::restored(id, cancelled, socket));
            }
        }
        for &(id, cookie) in aside {
            if let Some(socket) = self.sockets.get(id) {
                self.rekeyed.insert(id, cookie, socket.netns, &socket.tuple);
            }
        }
    }
}
