//! The sockets of one group: those that are in their state the longest.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{
    lifecycle::{Bound, Closer, Dwell, OwnerKind, Phase, Processes, Role, Since, Socket},
    model::{Nanos, NetnsId, SocketId, TcpState, Tuple, record::Process},
};

/// Sockets picked of each state.
pub const PER_STATE: usize = 250;

/// How long TIME_WAIT lasts: `TCP_TIMEWAIT_LEN`, a constant of the kernel.
const TIME_WAIT_LENGTH: Nanos = Nanos(60_000_000_000);

/// One socket of a group.
#[derive(Clone, Debug)]
pub struct SocketRow {
    /// Which one.
    pub id: SocketId,
    /// Both ends.
    pub tuple: Tuple,
    /// Its network namespace.
    pub netns: NetnsId,
    /// The state it is in; CLOSE once it is gone.
    pub state: TcpState,
    /// The state before.
    pub previous: TcpState,
    /// Since when.
    pub since: Since,
    /// Which side opened it.
    pub role: Role,
    /// Whether that was guessed from the listeners.
    pub role_guessed: bool,
    /// Which side ended it.
    pub closer: Closer,
    /// No process holds it: a minisocket.
    pub orphan: bool,
    /// TIME_WAIT was armed again by a late segment: it lasts longer than a minute.
    pub extended: bool,
    /// How the owner is known.
    pub owner: OwnerKind,
    /// The owner.
    pub process: Option<Process>,
}

impl SocketRow {
    /// How long it has been in its state at `now`.
    pub fn age(&self, now: Nanos) -> Option<Dwell> {
        self.since.age(now)
    }

    /// How much longer its TIME_WAIT lasts: 0 when the minute is over, which the timer shows up to one bucket
    /// late. `None` in other states, which have no set end.
    pub fn time_left(&self, now: Nanos) -> Option<Dwell> {
        if self.state != TcpState::TimeWait {
            return None;
        }
        let age = self.age(now)?;
        let bound = if self.extended { Bound::AtLeast } else { age.bound };
        Some(Dwell { length: TIME_WAIT_LENGTH.since(age.length), bound })
    }
}

/// What a view is shown of a socket.
pub fn row_of(id: SocketId, socket: &Socket, processes: &Processes) -> SocketRow {
    SocketRow {
        id,
        tuple: socket.tuple,
        netns: socket.netns,
        state: socket.state,
        previous: socket.previous,
        since: socket.since,
        role: socket.role,
        role_guessed: socket.role_guessed,
        closer: socket.closer,
        orphan: socket.phase == Phase::Minisocket || socket.is_orphan_fin_wait2(),
        extended: socket.extended,
        owner: socket.owner,
        process: socket.process.and_then(|id| processes.get(id)).map(|process| Process::clone(process)),
    }
}

/// Of every state the [`PER_STATE`] that are in it the longest, and how many there are of all.
pub fn pick<'a>(
    sockets: impl Iterator<Item = (SocketId, &'a Socket)>,
    processes: &Processes,
) -> (Vec<SocketRow>, u64) {
    let mut of_state: [BinaryHeap<Candidate<'a>>; TcpState::COUNT] = Default::default();
    let mut total = 0;
    for (id, socket) in sockets {
        total += 1;
        let heap = &mut of_state[socket.state.index()];
        let candidate = Candidate { since: socket.since.time().unwrap_or_default(), id, socket };
        if heap.len() < PER_STATE {
            heap.push(candidate);
        } else if let Some(mut youngest) = heap.peek_mut()
            && candidate < *youngest
        {
            *youngest = candidate;
        }
    }
    let rows = of_state.into_iter().flatten().map(|one| row_of(one.id, one.socket, processes)).collect();
    (rows, total)
}

/// The youngest is the greatest: it is the first to go. What began at an unknown time is taken for the oldest.
struct Candidate<'a> {
    since: Nanos,
    id: SocketId,
    socket: &'a Socket,
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.since, self.id).cmp(&(other.since, other.id))
    }
}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Candidate<'_> {}
