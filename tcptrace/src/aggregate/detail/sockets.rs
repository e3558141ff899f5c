//! Sockets of a group that are longest in their state.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{
    lifecycle::{Bound, Closer, Dwell, OwnerKind, Phase, Processes, Role, Since, Socket},
    model::{Nanos, NetnsId, SocketId, TcpState, Tuple, record::Process, stack::StackUse},
};

/// Sockets picked per state.
pub const PER_STATE: usize = 250;

/// Duration of TIME_WAIT: `TCP_TIMEWAIT_LEN`, a kernel constant.
const TIME_WAIT_LENGTH: Nanos = Nanos(60_000_000_000);

/// One socket of a group.
#[derive(Clone, Debug)]
pub struct SocketRow {
    /// Socket id.
    pub id: SocketId,
    /// Local and remote endpoint.
    pub tuple: Tuple,
    /// Network namespace.
    pub netns: NetnsId,
    /// Current state; CLOSE once it has ended.
    pub state: TcpState,
    /// Previous state.
    pub previous: TcpState,
    /// Entry into the state.
    pub since: Since,
    /// Which side opened it.
    pub role: Role,
    /// Whether the role was guessed from the listeners.
    pub role_guessed: bool,
    /// Which side closed it first.
    pub closer: Closer,
    /// No process holds it: a timewait socket.
    pub orphan: bool,
    /// A late segment rearmed the TIME_WAIT timer: it lasts longer than a minute.
    pub extended: bool,
    /// Stack of the `connect()` that opened it, or of the `accept()` that received it.
    pub opened_by: StackUse,
    /// Stack of the call that sent its FIN.
    pub closed_by: StackUse,
    /// Source of the owner.
    pub owner: OwnerKind,
    /// The owning process.
    pub process: Option<Process>,
}

impl SocketRow {
    /// Time in its state at `now`.
    pub fn age(&self, now: Nanos) -> Option<Dwell> {
        self.since.age(now)
    }

    /// Rest of its TIME_WAIT: 0 once the minute is over, because the timer fires up to one bucket late. `None` in
    /// other states, which have no fixed end.
    pub fn time_left(&self, now: Nanos) -> Option<Dwell> {
        if self.state != TcpState::TimeWait {
            return None;
        }
        let age = self.age(now)?;
        let bound = if self.extended { Bound::AtLeast } else { age.bound };
        Some(Dwell { length: TIME_WAIT_LENGTH.since(age.length), bound })
    }
}

/// Row of a socket for the views.
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
        orphan: socket.phase == Phase::Timewait || socket.is_orphan_fin_wait2(),
        extended: socket.extended,
        opened_by: socket.opened_by,
        closed_by: socket.closed_by,
        owner: socket.owner,
        process: socket.process.and_then(|id| processes.get(id)).map(|process| Process::clone(process)),
    }
}

/// The [`PER_STATE`] sockets longest in each state, and the total number of sockets.
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

/// The youngest is the greatest and is dropped first. An unknown start counts as the oldest.
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
