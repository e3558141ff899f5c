//! Remembers the sockets that closed last.

use std::collections::VecDeque;

use crate::model::{Nanos, SocketId};

/// Recently closed sockets: the duplicate report of a close no longer finds its socket.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentlyClosed {
    last: VecDeque<(SocketId, Nanos)>,
}

impl RecentlyClosed {
    const LENGTH: usize = 4_096;
    /// Between both reports of a transition. Usually a CPU emits them back to back; where tracing programs are preemptible (7.2),
    /// other threads may run in between: 14 ms have been seen.
    const WINDOW: Nanos = Nanos::SECOND;

    /// From ids and close times, oldest first.
    pub fn restored(closed: &[(SocketId, Nanos)]) -> Self {
        let kept = closed.len().saturating_sub(Self::LENGTH);
        Self { last: closed[kept..].iter().copied().collect() }
    }

    pub fn push(&mut self, id: SocketId, ts: Nanos) {
        while self.last.len() == Self::LENGTH
            || self.last.front().is_some_and(|&(_, at)| ts.since(at) >= Self::WINDOW)
        {
            self.last.pop_front();
        }
        self.last.push_back((id, ts));
    }

    /// Ids and close times, oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = (SocketId, Nanos)> {
        self.last.iter().copied()
    }

    /// Whether the socket closed shortly before `ts`.
    pub fn contains(&self, id: SocketId, ts: Nanos) -> bool {
        self.last.iter().rev().any(|&(closed, at)| closed == id && ts.since(at) < Self::WINDOW)
    }
}
