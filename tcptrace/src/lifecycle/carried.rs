//! What the tracker knows, handed over from one recording to the next: a file that begins in the middle of a
//! trace is right on its own. First every socket, then what has no place beside one.
//!
//! Everything here is taken apart field by field, without a rest: whoever adds a field to what is remembered has
//! to say here whether it is carried over.

use serde::{Deserialize, Serialize};
use tcptrace_common::record as raw;

use super::{
    Closer, Observer, OwnerKind, Phase, Role, Since, Socket, Tracker,
    pending::{Cause, Pending},
};
use crate::model::{Nanos, NetnsId, SocketId, TcpState, Tuple, record::Process};

/// A socket that was followed before the file began.
#[derive(Clone, Debug)]
pub struct Carried {
    /// When it was handed over.
    pub ts: Nanos,
    /// The socket.
    pub id: SocketId,
    /// What is known of it.
    pub socket: Socket,
    /// Its owner.
    pub process: Option<Process>,
}

/// What of a socket has no place in a table of sockets. Fields that an older version did not know have defaults.
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
}

/// What is known beside the sockets; it comes after them, and is the last of what is handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// When it was handed over.
    #[serde(skip)]
    pub ts: Nanos,
    /// When the first record came.
    began: Option<Nanos>,
    /// Timer ticks per second, where they are known.
    hz: Option<i64>,
    /// Handshakes and minisockets that got a number so far.
    handshakes: u64,
    set_aside: u64,
    /// The sockets that closed last, oldest first.
    #[serde(default)]
    closed: Vec<(SocketId, Nanos)>,
    /// The threads in their `connect()`.
    #[serde(default)]
    connecting: Vec<(u32, SocketId, Nanos)>,
    /// Cancelled timers that nothing has explained yet, oldest first.
    #[serde(default)]
    cancelled: Vec<(SocketId, Cancelled)>,
    /// Minisockets whose cookie went on to another connection, and the cookie.
    #[serde(default)]
    aside: Vec<(SocketId, u64)>,
}

/// A cancelled timer that waits for its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    ts: Nanos,
    of: TimerOf,
}

/// Whose timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimerOf {
    /// A minisocket's, with what the record said.
    Minisocket {
        substate: u8,
        arg0: u64,
        arg1: u64,
    },
    /// A minisocket's, whose ends a thread was connecting to.
    TakenOver {
        substate: u8,
        arg0: u64,
        arg1: u64,
    },
    Request,
    /// A handshake's, which ran out.
    RequestExpired,
}

impl Cancelled {
    const fn of(pending: Pending) -> Self {
        let of = match pending.cause {
            Cause::Minisocket(raw) => {
                TimerOf::Minisocket { substate: raw.new, arg0: raw.arg0, arg1: raw.arg1 }
            }
            Cause::TakenOver(raw) => TimerOf::TakenOver { substate: raw.new, arg0: raw.arg0, arg1: raw.arg1 },
            Cause::Request => TimerOf::Request,
            Cause::RequestExpired => TimerOf::RequestExpired,
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
            kind: raw::Kind::MinisocketCancelled as u8,
            old: 0,
            new: substate,
            flags: 0,
        };
        let cause = match self.of {
            TimerOf::Minisocket { substate, arg0, arg1 } => Cause::Minisocket(record(substate, arg0, arg1)),
            TimerOf::TakenOver { substate, arg0, arg1 } => Cause::TakenOver(record(substate, arg0, arg1)),
            TimerOf::Request => Cause::Request,
            TimerOf::RequestExpired => Cause::RequestExpired,
        };
        Pending { id, ts: self.ts, cause }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Memory {
    /// What of `socket` does not stand in columns of its own.
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
            // These have columns.
            tuple: _,
            netns: _,
            state: _,
            previous: _,
            object: _,
            // The number of a process is this tracker's own; the process stands beside it.
            process: _,
            // The observer's, who is another one.
            shown: _,
            group: _,
            port_use: _,
            destination: _,
            // What is read again is not swept.
            listed: _,
            counted_closer: _,
            // Whatever has closed by then did so before the file that goes on.
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
        }
    }

    /// The socket with the ends and the state that stand beside it.
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
        socket
    }
}

impl Tracker {
    /// Everything that is known at `ts`: sockets by id, and the rest.
    pub fn carry(&self, ts: Nanos) -> (Vec<Carried>, Continuation) {
        let Self {
            sockets,
            processes,
            handshakes,
            minisockets,
            connects,
            pending,
            began,
            recently_closed,
            // Follows from the sockets.
            listeners: _,
            // The seed is complete by then.
            ended_in_seed: _,
            seeding: _,
            // What is read again is not swept.
            sweeps: _,
            // Told by the facts about the host, which come first.
            sees_segments: _,
            // Of the file that ends; what begins counts its own.
            counters: _,
            // Of whoever reads it.
            limits: _,
            scope: _,
        } = self;
        let mut carried: Vec<Carried> = sockets
            .iter()
            .map(|(id, socket)| {
                let process = socket.process.and_then(|id| processes.get(id));
                let Socket { tuple, netns, state, previous, object, phase, .. } = *socket;
                let is_request = phase == Phase::Request;
                let object = if is_request { handshakes.object_of(id, netns, &tuple) } else { object };
                let socket = Socket { previous, object, ..Memory::of(socket).socket(tuple, netns, state) };
                Carried { ts, id, process: process.map(|process| Process::clone(process)), socket }
            })
            .collect();
        carried.sort_unstable_by_key(|carried| carried.id);
        let continuation = Continuation {
            ts,
            began: *began,
            hz: minisockets.hz(),
            handshakes: handshakes.made(),
            set_aside: minisockets.made(),
            closed: recently_closed.oldest_first().collect(),
            connecting: connects.under_way(ts).collect(),
            cancelled: pending.oldest_first().map(|pending| (pending.id, Cancelled::of(pending))).collect(),
            aside: minisockets.aside().collect(),
        };
        (carried, continuation)
    }

    /// Goes on with a socket that was followed before the file began.
    pub(super) fn take_carried(&mut self, carried: &Carried, out: &mut impl Observer) {
        let Carried { id, ref socket, ref process, ts: _ } = *carried;
        if self.sockets.contains(id) || !self.is_in_scope(socket.netns, &socket.tuple) {
            return;
        }
        let owner = process.as_ref().map(|process| self.processes.acquire_process(process));
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
            self.handshakes.go_on(id, object, netns, &tuple);
        }
    }

    /// Goes on with the rest.
    pub(super) fn take_continuation(&mut self, known: &Continuation) {
        let Continuation {
            ts: _,
            began,
            hz,
            handshakes,
            set_aside,
            ref closed,
            ref connecting,
            ref cancelled,
            ref aside,
        } = *known;
        self.began = began.or(self.began);
        self.handshakes.go_on_from(handshakes);
        self.minisockets.go_on_from(set_aside, hz);
        for &(id, at) in closed {
            self.recently_closed.push(id, at);
        }
        for &(tid, id, since) in connecting {
            self.connects.insert(tid, id, since);
        }
        for &(id, cancelled) in cancelled {
            if let Some(socket) = self.sockets.get(id) {
                self.pending.push(cancelled.pending(id, socket));
            }
        }
        for &(id, cookie) in aside.iter().filter(|(id, _)| self.sockets.contains(*id)) {
            self.minisockets.note(id, cookie);
        }
    }
}
