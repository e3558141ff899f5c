//! Tracks `connect()` calls in progress by thread: a call that reuses a TIME_WAIT cancels its timer on the same thread.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::model::{Nanos, SocketId};

/// The `connect()` calls in progress.
#[derive(Clone, Debug, Default)]
pub struct Connects {
    by_thread: HashMap<u32, (SocketId, Nanos)>,
    /// Oldest first; an entry is stale once its thread has begun another `connect()`.
    oldest: VecDeque<(u32, Nanos)>,
}

impl Connects {
    /// The port is chosen inside `connect()`, right after the state is set.
    const WINDOW: Nanos = Nanos::SECOND;
    /// Most calls kept; beyond this, the oldest is removed.
    const MOST: usize = 1 << 16;

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.oldest.len()
    }

    /// Thread `tid` has begun to connect the socket `id`.
    pub fn insert(&mut self, tid: u32, id: SocketId, ts: Nanos) {
        self.remove_expired(ts);
        if self.oldest.len() >= Self::MOST {
            self.remove_oldest();
        }
        self.by_thread.insert(tid, (id, ts));
        self.oldest.push_back((tid, ts));
    }

    /// Removes calls older than the window at `now`; `insert` alone would keep the last ones.
    pub fn remove_expired(&mut self, now: Nanos) {
        while self.oldest.front().is_some_and(|&(_, at)| now.since(at) >= Self::WINDOW) {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some((tid, at)) = self.oldest.pop_front() else { return };
        if self.by_thread.get(&tid).is_some_and(|&(_, newest)| newest == at) {
            self.by_thread.remove(&tid);
        }
    }

    /// Calls in progress at `now`, oldest first: thread, socket and start time.
    pub fn calls_in_progress(&self, now: Nanos) -> impl Iterator<Item = (u32, SocketId, Nanos)> {
        self.oldest.iter().filter_map(move |&(tid, at)| {
            let &(id, newest) = self.by_thread.get(&tid)?;
            (newest == at && now.since(at) < Self::WINDOW).then_some((tid, id, at))
        })
    }

    /// The socket that thread `tid` is connecting at `ts`.
    pub fn socket_of_thread(&self, tid: u32, ts: Nanos) -> Option<SocketId> {
        let (id, at) = self.by_thread.get(&tid)?;
        (ts.since(*at) < Self::WINDOW).then_some(*id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_connects_are_removed_and_the_newest_per_thread_wins() {
        let mut connects = Connects::default();
        let at = |ms| Nanos::of_millis(ms);
        connects.insert(1, SocketId(7), at(0));
        connects.insert(2, SocketId(8), at(10));
        connects.insert(1, SocketId(9), at(900));
        assert_eq!(connects.socket_of_thread(1, at(950)), Some(SocketId(9)));
        let calls_in_progress: Vec<_> = connects.calls_in_progress(at(950)).collect();
        assert_eq!(calls_in_progress, [(2, SocketId(8), at(10)), (1, SocketId(9), at(900))]);
        connects.insert(3, SocketId(10), at(1_100));
        assert_eq!(
            (connects.socket_of_thread(1, at(1_100)), connects.socket_of_thread(2, at(1_100))),
            (Some(SocketId(9)), None)
        );
        assert_eq!(connects.len(), 2);
        connects.remove_expired(at(1_900));
        assert_eq!((connects.len(), connects.by_thread.len()), (1, 1));
        connects.remove_expired(at(2_100));
        assert_eq!((connects.len(), connects.by_thread.len()), (0, 0));
    }

    #[test]
    fn connects_are_bounded() {
        let mut connects = Connects::default();
        for tid in 0..2 * Connects::MOST as u32 {
            connects.insert(tid, SocketId(tid.into()), Nanos(0));
        }
        assert_eq!(connects.len(), Connects::MOST);
        assert_eq!(connects.socket_of_thread(0, Nanos(0)), None);
        assert!(connects.socket_of_thread(2 * Connects::MOST as u32 - 1, Nanos(0)).is_some());
    }
}
