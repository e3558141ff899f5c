//! Holds ends whose reason is not known yet.
//!
//! `timer_cancel` reports that a timewait socket or a request socket lost its timer. The records that follow, mostly
//! within microseconds, show whether it expired, was armed again, was reused or was killed.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use tcptrace_common::record as raw;

use crate::model::{Nanos, NetnsId, SocketId, Tuple, checkpoint::Closing};

/// How long to wait for the record that explains a cancelled timer or a CLOSE. Mostly microseconds pass between the two,
/// but the thread may be preempted, or a virtual CPU paused while the others run.
pub const GRACE: Nanos = Nanos(250_000_000);

/// One cancelled timer, or one full socket in CLOSE.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The socket, timewait socket or handshake.
    pub id: SocketId,
    /// When its timer was cancelled or ran out, or it went to CLOSE.
    pub ts: Nanos,
    /// Cause known so far.
    pub cause: CancelCause,
}

impl Pending {
    /// Tuple of a timewait socket.
    const fn ends(&self) -> Option<(NetnsId, Tuple)> {
        match &self.cause {
            CancelCause::Timewait(raw) | CancelCause::TakenOver(raw) => {
                Some((NetnsId(raw.netns), Tuple::of(raw).without_interface()))
            }
            CancelCause::Request | CancelCause::RequestExpired | CancelCause::Closing(_) => None,
        }
    }
}

/// Possible meaning of a pending end.
#[derive(Clone, Copy, Debug)]
pub enum CancelCause {
    /// A timewait socket's timer was cancelled by this record.
    Timewait(raw::RawRecord),
    /// A timewait socket's due timer was cancelled on a thread that was connecting to the same remote end: reused,
    /// unless an expiry record follows.
    TakenOver(raw::RawRecord),
    /// A handshake's timer was cancelled.
    Request,
    /// A handshake's timer expired; the kernel arms it again unless it gives up.
    RequestExpired,
    /// A full socket went to CLOSE: the kernel is about to report why.
    Closing(Closing),
}

/// Pending ends, oldest first, one per id, each of a socket that is tracked in the phase that it would end.
#[derive(Clone, Debug, Default)]
pub struct PendingEnds {
    queue: BTreeMap<u64, Pending>,
    by_id: HashMap<SocketId, u64>,
    /// Timewait sockets by tuple and position: two have one tuple when the end of the first is not explained before
    /// that of the second.
    by_ends: BTreeSet<(NetnsId, Tuple, u64)>,
    pushed: u64,
}

impl PendingEnds {
    /// Number of pending ends.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a pending end; it replaces an earlier one of the same id.
    pub fn push(&mut self, pending: Pending) {
        let position = self.pushed;
        self.pushed += 1;
        if let Some(before) = self.by_id.insert(pending.id, position) {
            self.remove(before);
        }
        if let Some((netns, tuple)) = pending.ends() {
            self.by_ends.insert((netns, tuple, position));
        }
        self.queue.insert(position, pending);
    }

    /// Removes and returns the pending end of `id`.
    pub fn take(&mut self, id: SocketId) -> Option<Pending> {
        let position = self.by_id.remove(&id)?;
        self.remove(position)
    }

    /// Whether the end of `id` is pending.
    pub fn contains(&self, id: SocketId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The newest pending timewait socket with this tuple.
    pub fn timewait_with(&self, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        let key = |position| (netns, tuple.without_interface(), position);
        let (_, _, position) = self.by_ends.range(key(0)..=key(u64::MAX)).next_back()?;
        self.queue.get(position).map(|pending| pending.id)
    }

    /// All pending ends, oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = Pending> {
        self.queue.values().copied()
    }

    /// Removes the oldest pending end if its grace period has passed at `now`, or if `most` are pending, so that one
    /// more fits.
    pub fn pop_expired(&mut self, now: Nanos, most: usize) -> Option<Pending> {
        let (_, oldest) = self.queue.first_key_value()?;
        let must_wait = now.since(oldest.ts) < GRACE && self.queue.len() < most;
        if must_wait { None } else { self.take(oldest.id) }
    }

    fn remove(&mut self, position: u64) -> Option<Pending> {
        let pending = self.queue.remove(&position)?;
        if let Some((netns, tuple)) = pending.ends() {
            self.by_ends.remove(&(netns, tuple, position));
        }
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancelled(id: u64, ms: u64, port: u16) -> Pending {
        let record: raw::RawRecord = bytemuck::Zeroable::zeroed();
        let cause = CancelCause::Timewait(raw::RawRecord { sport: port, ..record });
        Pending { id: SocketId(id), ts: Nanos::of_millis(ms), cause }
    }

    fn ends(port: u16) -> Tuple {
        let record: raw::RawRecord = bytemuck::Zeroable::zeroed();
        Tuple::of(&raw::RawRecord { sport: port, ifindex: 3, ..record })
    }

    #[test]
    fn newest_pending_timewait_with_a_tuple_is_found() {
        let mut pending = PendingEnds::default();
        for (id, port) in [(1, 80), (2, 80), (3, 443), (4, 80)] {
            pending.push(cancelled(id, 0, port));
        }
        assert_eq!(pending.timewait_with(NetnsId(0), &ends(80)), Some(SocketId(4)));
        pending.take(SocketId(1));
        assert_eq!(
            pending.timewait_with(NetnsId(0), &ends(80)),
            Some(SocketId(4)),
            "an older one is removed"
        );
        pending.take(SocketId(4));
        assert_eq!(pending.timewait_with(NetnsId(0), &ends(80)), Some(SocketId(2)), "the newest is removed");
        pending.take(SocketId(2));
        assert_eq!(pending.timewait_with(NetnsId(0), &ends(80)), None);
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn repeated_cancel_restarts_the_grace_period() {
        let mut pending = PendingEnds::default();
        pending.push(cancelled(1, 0, 80));
        pending.push(cancelled(1, 100, 80));
        assert_eq!(pending.len(), 1);
        assert!(pending.pop_expired(Nanos::of_millis(300), 9).is_none());
        assert!(pending.pop_expired(Nanos::of_millis(350), 9).is_some());
        assert_eq!((pending.len(), pending.timewait_with(NetnsId(0), &ends(80))), (0, None));
    }
}
