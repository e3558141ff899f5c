//! Checkpoints the tracker's state from one recording to the next, so that a file that begins in the middle of a
//! trace is correct on its own: first every socket, then the state beside the sockets.
//!
//! Every struct here is destructured field by field without `..`, so the compiler rejects a new field until this file
//! decides whether the checkpoint includes it.

use serde::{Deserialize, Serialize};
use tcptrace_common::record as raw;

use super::{
    Closer, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    closing::{Closing, Reset},
    pending::{CancelCause, Pending},
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple, record::Process};

/// A socket that was tracked before the file began.
#[derive(Clone, Debug)]
pub struct SocketCheckpoint {
    /// Time of the checkpoint.
    pub ts: Nanos,
    /// The socket.
    pub id: SocketId,
    /// Its state.
    pub socket: Socket,
    /// Its owner.
    pub process: Option<Process>,
}

/// State of a socket that has no column in the table of sockets. Fields unknown to older versions have defaults.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// [`Socket::since`].
    pub since: Since,
    /// [`Socket::orphan_since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan_since: Option<Nanos>,
    /// [`Socket::phase`].
    pub phase: Phase,
    /// [`Socket::role`].
    pub role: Role,
    /// [`Socket::role_guessed`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub role_guessed: bool,
    /// [`Socket::listener_is_any`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub listener_is_any: bool,
    /// [`Socket::closer`].
    pub closer: Closer,
    /// [`Socket::owner`].
    pub owner: OwnerKind,
    /// [`Socket::bound`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub bound: bool,
    /// [`Socket::only_seeded`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub only_seeded: bool,
    /// [`Socket::extended`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub extended: bool,
    /// [`Socket::awaits_fin`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub awaits_fin: bool,
    /// [`Socket::reset`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
}

/// State beside the sockets; the last record of a checkpoint, after the sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerCheckpoint {
    /// Time of the checkpoint.
    #[serde(skip)]
    pub ts: Nanos,
    /// Time of the first record.
    began: Option<Nanos>,
    /// Timer ticks per second, if known.
    hz: Option<i64>,
    /// Number of ids assigned so far to handshakes and to rekeyed timewait sockets.
    handshakes: u64,
    rekeyed: u64,
    /// Recently closed sockets, oldest first.
    #[serde(default)]
    closed: Vec<(SocketId, Nanos)>,
    /// Threads inside `connect()`.
    #[serde(default)]
    connecting: Vec<(u32, SocketId, Nanos)>,
    /// Cancelled timers without an explanation so far, oldest first.
    #[serde(default)]
    cancelled: Vec<(SocketId, Cancelled)>,
    /// Rekeyed timewait sockets and their cookies, which other connections have now.
    #[serde(default)]
    aside: Vec<(SocketId, u64)>,
    /// Namespaces that are followed.
    #[serde(default)]
    netns: Vec<u32>,
}

/// A cancelled timer whose reason is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    ts: Nanos,
    of: TimerOf,
}

/// Owner of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimerOf {
    /// A timewait socket's, with the values of the record.
    Timewait {
        substate: u8,
        arg0: u64,
        arg1: u64,
    },
    /// A timewait socket's; a thread was connecting to the same remote end.
    TakenOver {
        substate: u8,
        arg0: u64,
        arg1: u64,
    },
    Request,
    /// A handshake's, which expired.
    RequestExpired,
    /// No timer: a full socket that went to CLOSE.
    Closing(Closing),
}

impl Cancelled {
    const fn of(pending: Pending) -> Self {
        let of = match pending.cause {
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
        Self { ts: pending.ts, of }
    }

    fn pending(self, id: SocketId, socket: &Socket) -> Pending {
        let record = |substate, arg0, arg1| raw::Record {
            ts_ns: self.ts.0,
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
        let cause = match self.of {
            TimerOf::Timewait { substate, arg0, arg1 } => CancelCause::Timewait(record(substate, arg0, arg1)),
            TimerOf::TakenOver { substate, arg0, arg1 } => {
                CancelCause::TakenOver(record(substate, arg0, arg1))
            }
            TimerOf::Request => CancelCause::Request,
            TimerOf::RequestExpired => CancelCause::RequestExpired,
            TimerOf::Closing(closing) => CancelCause::Closing(closing),
        };
        Pending { id, ts: self.ts, cause }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Memory {
    /// Extracts the state of `socket` that has no column.
    pub const fn of(socket: &Socket) -> Self {
        let Socket {
            since,
            orphan_since,
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
            // Belong to the observer, and the reader has its own.
            shown: _,
            group: _,
            port_use: _,
            destination: _,
            // A replay does not sweep.
            listed: _,
            counted_closer: _,
            // Recomputed: whatever is closed at the checkpoint was closed before the new file.
            closed_before: _,
        } = *socket;
        Self {
            since,
            orphan_since,
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
        }
    }

    /// Rebuilds the socket from this state and its columns.
    pub const fn socket(&self, tuple: Tuple, netns: NetnsId, state: TcpState) -> Socket {
        let mut socket = Socket::new(tuple, netns, state, self.since);
        socket.orphan_since = self.orphan_since;
        socket.phase = self.phase;
        socket.role = self.role;
        socket.role_guessed = self.role_guessed;
        socket.listener_is_any = self.listener_is_any;
        socket.closer = self.closer;
        socket.closed_before = !matches!(self.closer, Closer::None);
        socket.owner = self.owner;
        socket.bound = self.bound;
        socket.only_seeded = self.only_seeded;
        socket.extended = self.extended;
        socket.awaits_fin = self.awaits_fin;
        socket.reset = self.reset;
        socket
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
                let socket = Socket { previous, object, ..Memory::of(socket).socket(tuple, netns, state) };
                SocketCheckpoint { ts, id, process: process.map(|process| Process::clone(process)), socket }
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
            cancelled: pending.oldest_first().map(|pending| (pending.id, Cancelled::of(pending))).collect(),
            aside: rekeyed.cookies(),
            netns: namespaces.sorted().into_iter().map(|netns| netns.0).collect(),
        };
        (carried, continuation)
    }

    /// Restores a socket that was tracked before the file began.
    pub(super) fn restore_socket(&mut self, carried: &SocketCheckpoint, out: &mut impl Observer) {
        let SocketCheckpoint { id, ref socket, ref process, ts } = *carried;
        if self.sockets.contains(id) || !self.is_in_scope(socket.netns, &socket.tuple) {
            return;
        }
        let owner = process.as_ref().map(|process| self.processes.acquire_process(process, ts));
        let socket = Socket { process: owner, ..socket.clone() };
        let (netns, tuple, object, phase) = (socket.netns, socket.tuple, socket.object, socket.phase);
        if self.appear(id, socket, out).is_none() {
            // The table is full.
            if let Some(owner) = owner {
                self.processes.release(owner);
            }
            return;
        }
        if phase == Phase::Request {
            self.handshakes.restore_handshake(id, object, netns, &tuple);
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
        self.hz = self.hz.or(hz);
        for &(id, at) in closed {
            self.recently_closed.push(id, at);
        }
        for &(tid, id, since) in connecting {
            self.connects.insert(tid, id, since);
        }
        for &(id, cancelled) in cancelled {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.is_closing = matches!(cancelled.of, TimerOf::Closing(_));
                self.pending.push(cancelled.pending(id, socket));
            }
        }
        for &(id, cookie) in aside {
            if let Some(socket) = self.sockets.get(id) {
                self.rekeyed.insert(id, cookie, socket.netns, &socket.tuple);
            }
        }
    }
}
