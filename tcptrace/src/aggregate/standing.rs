//! The sockets that wait for somebody, one by one: listeners, unanswered connects, and those that only a `close()`
//! ends. Each process is told of with its oldest.

use std::collections::BTreeMap;

use super::Snapshot;
use crate::{
    lifecycle::{Role, Since, Socket, Tracker},
    model::{Endpoint, Nanos, NetnsId, SocketId, TcpState, record::Process},
};

/// Sockets told of one by one.
const MOST_TOLD: usize = 16;

/// The sockets of one process in one state towards one service.
#[derive(Clone, Debug)]
pub struct Standing {
    /// LISTEN, SYN_SENT, CLOSE_WAIT, or a FIN_WAIT2 that a process holds.
    pub state: TcpState,
    /// Network namespace.
    pub netns: NetnsId,
    /// Which side opened them.
    pub role: Role,
    /// What they are about.
    pub service: Endpoint,
    /// The process, where it is known.
    pub process: Option<Process>,
    /// How many.
    pub count: u64,
    /// Those of them that are [`old`].
    pub old: u64,
    /// The oldest, oldest first.
    pub oldest: Vec<One>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct One {
    /// Which.
    pub id: SocketId,
    /// The local end.
    pub local: Endpoint,
    /// The remote end.
    pub remote: Endpoint,
    /// How long it is known to have been in the state.
    pub age: Nanos,
    /// Whether it may be older.
    pub at_least: bool,
}

/// What has waited for so long in a trace of the length `traced` is old: half of it, within reason.
pub fn old(traced: Nanos) -> Nanos {
    Nanos((traced.0 / 2).clamp(Nanos::SECOND.0, 5 * Nanos::SECOND.0))
}

/// Where nothing is traced, a socket not seen for so long is gone.
const GONE: Nanos = Nanos(2 * Nanos::SECOND.0);

/// All of them, at the time of `snapshot`.
pub fn of(tracker: &Tracker, snapshot: &Snapshot) -> Vec<Standing> {
    let (began, ts) = (snapshot.began, snapshot.ts);
    let waiting = &snapshot.observed.waiting;
    let is_there = |id: SocketId, socket: &Socket| {
        let is_seen = || waiting.get(&id).is_some_and(|&seen| ts.since(seen) < GONE);
        !snapshot.host.blind || socket.state == TcpState::Listen || is_seen()
    };
    let old = old(ts.since(began));
    let mut found: BTreeMap<_, Standing> = BTreeMap::new();
    for (id, socket) in tracker.sockets().filter(|(id, socket)| stands(socket) && is_there(*id, socket)) {
        let service = socket.service();
        let process = socket.process.and_then(|id| tracker.processes().get(id));
        let pid = process.map(|process| process.pid);
        let key = (socket.state as u8, socket.netns, service.addr.0, service.port, socket.role as u8, pid);
        let standing = found.entry(key).or_insert_with(|| Standing {
            state: socket.state,
            netns: socket.netns,
            role: socket.role,
            service,
            process: process.map(|process| Process::clone(process)),
            count: 0,
            old: 0,
            oldest: Vec::new(),
        });
        let age = ts.since(socket.since.time().unwrap_or(ts));
        standing.count += 1;
        standing.old += u64::from(age >= old);
        let one = One {
            id,
            local: socket.tuple.local(),
            remote: socket.tuple.remote(),
            age,
            at_least: !matches!(socket.since, Since::Exact(_)),
        };
        let place = standing.oldest.partition_point(|other| (other.age, other.id.0) > (age, id.0));
        if place < MOST_TOLD {
            standing.oldest.truncate(MOST_TOLD - 1);
            standing.oldest.insert(place, one);
        }
    }
    found.into_values().collect()
}

fn stands(socket: &Socket) -> bool {
    let waits = match socket.state {
        TcpState::Listen | TcpState::SynSent | TcpState::CloseWait => true,
        TcpState::FinWait2 => !socket.is_orphan_fin_wait2(),
        _ => false,
    };
    waits && socket.is_shown()
}
