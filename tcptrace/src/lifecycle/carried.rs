//! What the tracker knows of every socket, handed over from one recording to the next: a file that
//! begins in the middle of a trace is right on its own.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use tcptrace_common::record as raw;

use super::{
    Closer, Observer, OwnerKind, Phase, PortUse, Role, Since, Socket, Tracker,
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
    /// What is known of it. In CLOSE it is gone, and remembered for a moment only.
    pub socket: Socket,
    /// Its owner.
    pub process: Option<Process>,
    /// The rest.
    pub memory: Memory,
}

/// What has no place in a table of sockets. Fields that an older version did not know have defaults.
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
    /// Its timer was cancelled, and nothing has told why yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancelled>,
    /// An orphan that the look at FIN_WAIT2 now under way has found still there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub still_in_fin_wait2: bool,
    /// The thread that is in its `connect()`, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connecting: Option<(u32, Nanos)>,
    /// A minisocket: timer ticks per second, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hz: Option<i64>,
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
    const fn of(pending: &Pending) -> Self {
        let of = match &pending.cause {
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

impl Carried {
    /// The socket with the ends, the states and the kernel object that stand beside its memory.
    pub const fn socket(tuple: Tuple, netns: NetnsId, state: TcpState, memory: &Memory) -> Socket {
        let mut socket = Socket::new(tuple, netns, state, memory.since);
        socket.orphan_since = memory.orphan_since;
        socket.phase = memory.phase;
        socket.role = memory.role;
        socket.role_guessed = memory.role_guessed;
        socket.listener_is_any = memory.listener_is_any;
        socket.closer = memory.closer;
        socket.owner = memory.owner;
        socket.bound = memory.bound;
        socket.only_seeded = memory.only_seeded;
        socket.extended = memory.extended;
        socket.awaits_fin = memory.awaits_fin;
        socket
    }
}

impl Tracker {
    /// Everything that is known now, in an order that [`Tracker::take_carried`] can take it in.
    pub fn carry(&self, ts: Nanos) -> Vec<Carried> {
        let mut carried: Vec<Carried> = self.recently_closed().map(|(id, at)| closed(ts, id, at)).collect();
        carried.reserve(self.sockets.len());
        // The order in which cancelled timers are settled is theirs.
        let mut waiting = FxHashSet::default();
        for pending in self.pending.oldest_first() {
            if let Some(socket) = self.sockets.get(&pending.id)
                && waiting.insert(pending.id)
            {
                carried.push(self.carry_one(ts, pending.id, socket, Some(&pending)));
            }
        }
        carried.extend(
            self.sockets
                .iter()
                .filter(|(id, _)| !waiting.contains(id))
                .map(|(&id, socket)| self.carry_one(ts, id, socket, None)),
        );
        let connecting: FxHashMap<SocketId, (u32, Nanos)> = self.connects.under_way(ts).collect();
        for one in &mut carried {
            one.memory.connecting = connecting.get(&one.id).copied();
        }
        carried
    }

    fn carry_one(&self, ts: Nanos, id: SocketId, socket: &Socket, pending: Option<&Pending>) -> Carried {
        let mut socket = socket.clone();
        if socket.phase == Phase::Request {
            socket.object = self.handshakes.object_of(id, socket.netns, &socket.tuple);
        }
        let memory = Memory {
            since: socket.since,
            orphan_since: socket.orphan_since,
            phase: socket.phase,
            role: socket.role,
            role_guessed: socket.role_guessed,
            listener_is_any: socket.listener_is_any,
            closer: socket.closer,
            owner: socket.owner,
            bound: socket.bound,
            only_seeded: socket.only_seeded,
            extended: socket.extended,
            awaits_fin: socket.awaits_fin,
            cancelled: pending.map(Cancelled::of),
            still_in_fin_wait2: self.still_in_fin_wait2.contains(&id),
            connecting: None,
            hz: if socket.phase == Phase::Minisocket { self.minisockets.hz() } else { None },
        };
        let process =
            socket.process.and_then(|id| self.processes.get(id)).map(|process| Process::clone(process));
        Carried { ts, id, socket, process, memory }
    }

    /// Goes on with a socket that was followed before the file began.
    pub(super) fn take_carried(&mut self, carried: &Carried, out: &mut impl Observer) {
        let Carried { id, ref socket, ref process, ref memory, .. } = *carried;
        if socket.state == TcpState::Close {
            if let Since::Exact(at) = socket.since {
                self.note_closed(id, at);
            }
            return;
        }
        if self.sockets.contains_key(&id) {
            return;
        }
        let owner = process.as_ref().map(|process| self.processes.acquire_process(process));
        let socket =
            Socket { process: owner, group: Socket::NO_GROUP, port_use: PortUse::None, ..socket.clone() };
        let (netns, tuple, object) = (socket.netns, socket.tuple, socket.object);
        self.appear(id, socket, out);
        if !self.sockets.contains_key(&id) {
            // The table is full.
            if let Some(owner) = owner {
                self.processes.release(owner);
            }
            return;
        }
        if memory.phase == Phase::Request {
            self.handshakes.go_on(id, object, netns, &tuple);
        }
        self.minisockets.go_on(id, object, memory.hz);
        if let Some(cancelled) = memory.cancelled {
            self.pending.push(cancelled.pending(id, &carried.socket));
        }
        if memory.still_in_fin_wait2 {
            self.still_in_fin_wait2.insert(id);
        }
        if let Some((tid, since)) = memory.connecting {
            self.connects.insert(tid, id, since);
        }
    }
}

/// One that is gone: nothing but its id is left.
fn closed(ts: Nanos, id: SocketId, at: Nanos) -> Carried {
    let any = crate::model::Addr::ANY;
    let tuple = Tuple { saddr: any, daddr: any, sport: 0, dport: 0, ifindex: 0 };
    let socket = Socket::new(tuple, NetnsId(0), TcpState::Close, Since::Exact(at));
    let memory = Memory {
        since: socket.since,
        orphan_since: None,
        phase: Phase::Full,
        role: Role::Unknown,
        role_guessed: false,
        listener_is_any: false,
        closer: Closer::None,
        owner: OwnerKind::Unknown,
        bound: false,
        only_seeded: false,
        extended: false,
        awaits_fin: false,
        cancelled: None,
        still_in_fin_wait2: false,
        connecting: None,
        hz: None,
    };
    Carried { ts, id, socket, process: None, memory }
}
