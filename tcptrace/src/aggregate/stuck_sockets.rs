//! Sockets that wait for a process or a peer: listeners, unanswered connects, and sockets that only a `close()` ends.
//! Grouped by process, with the oldest sockets of each.

use std::collections::BTreeMap;

use super::host_counters::Observed;
use crate::{
    lifecycle::{Role, Since, Socket, Tracker},
    model::{
        Endpoint, Nanos, NetnsId, SocketId, TcpState,
        record::{HostFacts, Process},
    },
};

/// Sockets listed individually per group.
const MAX_LISTED_SOCKETS: usize = 16;

/// Sockets of one process in one state for one service.
#[derive(Clone, Debug)]
pub struct StuckSockets {
    /// LISTEN, SYN_SENT, CLOSE_WAIT, or a FIN_WAIT2 that a process holds.
    pub state: TcpState,
    /// Network namespace.
    pub netns: NetnsId,
    /// Which side opened them.
    pub role: Role,
    /// Service they belong to.
    pub service: Endpoint,
    /// The owning process, if known.
    pub process: Option<Process>,
    /// Number of sockets.
    pub count: u64,
    /// Number of them that are [`old`].
    pub old: u64,
    /// The oldest sockets, oldest first.
    pub oldest: Vec<One>,
}

/// One stuck socket.
#[derive(Clone, Copy, Debug)]
pub struct One {
    /// Socket id.
    pub id: SocketId,
    /// The local end.
    pub local: Endpoint,
    /// The remote end.
    pub remote: Endpoint,
    /// Time in the state, or the known part of it.
    pub age: Nanos,
    /// Whether `age` is a lower bound.
    pub at_least: bool,
}

/// Age from which a socket counts as old in a trace of length `traced`: half of it, clamped to 1-5 s.
pub fn old(traced: Nanos) -> Nanos {
    Nanos((traced.0 / 2).clamp(Nanos::SECOND.0, 5 * Nanos::SECOND.0))
}

/// Without tracing, a socket not seen for this long is gone.
const GONE: Nanos = Nanos(2 * Nanos::SECOND.0);

/// All stuck sockets at `ts`, in a trace of `host` that began at `began`.
pub fn of(
    tracker: &Tracker,
    host: &HostFacts,
    observed: &Observed,
    began: Nanos,
    ts: Nanos,
) -> Vec<StuckSockets> {
    let is_there = |id: SocketId, socket: &Socket| {
        let is_seen = || observed.waiting.get(&id).is_some_and(|&seen| ts.since(seen) < GONE);
        !host.blind || socket.state == TcpState::Listen || is_seen()
    };
    let old = old(ts.since(began));
    let mut found: BTreeMap<_, StuckSockets> = BTreeMap::new();
    for (id, socket) in tracker.sockets_where(stands).into_iter().filter(|(id, socket)| is_there(*id, socket))
    {
        let service = socket.service();
        let process = socket.process.and_then(|id| tracker.processes().get(id));
        let pid = process.map(|process| process.pid);
        let key = (socket.state as u8, socket.netns, service.addr.0, service.port, socket.role as u8, pid);
        let stuck = found.entry(key).or_insert_with(|| StuckSockets {
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
        stuck.count += 1;
        stuck.old += u64::from(age >= old);
        let one = One {
            id,
            local: socket.tuple.local(),
            remote: socket.tuple.remote(),
            age,
            at_least: !matches!(socket.since, Since::Exact(_)),
        };
        let place = stuck.oldest.partition_point(|other| (other.age, other.id.0) > (age, id.0));
        if place < MAX_LISTED_SOCKETS {
            stuck.oldest.truncate(MAX_LISTED_SOCKETS - 1);
            stuck.oldest.insert(place, one);
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
