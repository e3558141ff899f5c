//! Remembers the sockets that closed last.

use std::collections::VecDeque;

use crate::model::{Nanos, SocketId};

/// Recently closed sockets: the duplicate report of a close no longer finds its socket.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentlyClosed {
    last: VecDeque<(SocketId, Nanos)>,
}

impl RecentlyClosed {
    const LENGTH: usize = 64;
    /// One CPU emits both reports of a transition, back to back.
    const WINDOW: Nanos = Nanos(1_000_000);

    pub fn push(&mut self, id: SocketId, ts: Nanos) {
        if self.last.len() == Self::LENGTH {
            self.last.pop_front();
        }
        self.last.push_back((id, ts));
    }

    /// Ids and close times, oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = (SocketId, Nanos)> {
        self.last.iter().copied()
    }

    /// Whether the socket closed just before `ts`.
    pub fn contains(&self, id: SocketId, ts: Nanos) -> bool {
        self.last.iter().rev().any(|&(closed, at)| closed == id && ts.since(at) < Self::WINDOW)
    }
}
