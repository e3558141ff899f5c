//! Fixed-size history of the latest state changes of all sockets, plus the changes of one followed socket.

use std::collections::VecDeque;

use crate::{
    lifecycle::{Dwell, EndReason, Event},
    model::{Nanos, SocketId, TcpState},
};

/// One state change of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Time of the change.
    pub ts: Nanos,
    /// The previous state.
    pub from: TcpState,
    /// The new state.
    pub to: TcpState,
    /// Time in `from`, if known.
    pub dwell: Option<Dwell>,
    /// Reason, if the socket ended.
    pub end_reason: Option<EndReason>,
    /// Whether it is the first change of the socket.
    pub begins: bool,
    /// Whether the socket has no owner, if `to` is FIN_WAIT2.
    pub orphan: bool,
}

/// Changes kept of all sockets: some seconds on a busy host, a day on a quiet one, 4 MiB of memory.
const KEPT: usize = 1 << 16;
/// Changes kept of the followed socket; a socket that is reconnected repeatedly has many.
const FOLLOWED_CAPACITY: usize = 1_000;

/// The history.
#[derive(Clone, Debug)]
pub struct Journal {
    recent: VecDeque<(SocketId, StateChange)>,
    kept: usize,
    /// Time of the latest dropped change.
    dropped: Option<Nanos>,
    followed: Option<Followed>,
}

/// The socket whose changes are kept separately.
#[derive(Clone, Debug)]
struct Followed {
    id: SocketId,
    steps: Vec<StateChange>,
    /// Time of the latest change that may be missing from `steps`.
    dropped: Option<Nanos>,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_room(KEPT)
    }
}

impl Journal {
    fn with_room(kept: usize) -> Self {
        Self { recent: VecDeque::new(), kept, dropped: None, followed: None }
    }

    /// A journal with room for three changes.
    #[cfg(test)]
    pub(super) fn cramped() -> Self {
        Self::with_room(3)
    }

    /// Memory in bytes.
    pub fn size_bytes(&self) -> usize {
        self.recent.len() * size_of::<(SocketId, StateChange)>()
    }

    /// Records a state change.
    pub fn take(&mut self, event: &Event<'_>) {
        let step = StateChange {
            ts: event.ts,
            from: event.from,
            to: event.to,
            dwell: event.dwell,
            end_reason: event.end_reason,
            begins: event.begins,
            orphan: event.orphan == Some(true),
        };
        if self.recent.len() == self.kept
            && let Some((_, dropped)) = self.recent.pop_front()
        {
            self.dropped = Some(dropped.ts);
        }
        self.recent.push_back((event.id, step));
        if let Some(followed) = &mut self.followed
            && followed.id == event.id
        {
            if followed.steps.len() == FOLLOWED_CAPACITY {
                followed.dropped = Some(followed.steps.remove(0).ts);
            }
            followed.steps.push(step);
        }
    }

    /// Follows socket `id` only, starting with its changes that are still in the history.
    pub fn follow(&mut self, id: Option<SocketId>) {
        if self.followed.as_ref().map(|followed| followed.id) == id {
            return;
        }
        self.followed = id.map(|id| Followed { id, steps: self.recent_of(id), dropped: self.dropped });
    }

    /// Known changes of a socket.
    pub fn of(&self, id: SocketId) -> Vec<StateChange> {
        match &self.followed {
            Some(followed) if followed.id == id => followed.steps.clone(),
            _ => self.recent_of(id),
        }
    }

    fn recent_of(&self, id: SocketId) -> Vec<StateChange> {
        self.recent.iter().filter(|(of, _)| *of == id).map(|(_, step)| *step).collect()
    }

    /// Changes of the followed socket up to this time may be missing; `None`: all since the start of the trace are
    /// present.
    pub fn kept_since(&self) -> Option<Nanos> {
        self.followed.as_ref().map_or(self.dropped, |followed| followed.dropped)
    }
}
