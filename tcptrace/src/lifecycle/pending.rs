//! Ends whose reason is not known yet.
//!
//! `timer_cancel` says that a minisocket or a request socket lost its timer. Whether it expired, was
//! armed anew, was taken over or killed shows in what follows, mostly microseconds later.

use std::collections::VecDeque;

use tcptrace_common::record as raw;

use crate::model::{Nanos, NetnsId, SocketId, Tuple};

/// How long to wait for the record that explains a cancelled timer.
pub const GRACE: Nanos = Nanos(50_000_000);

/// One cancelled timer.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The minisocket or handshake.
    pub id: SocketId,
    /// When its timer was cancelled or ran out.
    pub ts: Nanos,
    /// What is known so far.
    pub cause: Cause,
}

/// What a cancelled timer may mean.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// A minisocket's: the record that said so.
    Minisocket(raw::Record),
    /// A minisocket's whose time was up, on top of a thread that was connecting to the same end: taken over,
    /// unless it turns out to have expired.
    TakenOver(raw::Record),
    /// A handshake's: cancelled.
    Request,
    /// A handshake's: it ran out, and will be armed again unless the kernel gives up.
    RequestExpired,
}

/// The cancelled timers not yet explained, oldest first.
#[derive(Clone, Debug, Default)]
pub struct PendingEnds {
    queue: VecDeque<Pending>,
}

impl PendingEnds {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Remembers one.
    pub fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    /// Takes the one of `id` out.
    pub fn take(&mut self, id: SocketId) -> Option<Pending> {
        let at = self.queue.iter().rposition(|pending| pending.id == id)?;
        self.queue.remove(at)
    }

    /// The minisocket with the ends `tuple`, if one waits; the newest.
    pub fn minisocket_with(&self, netns: NetnsId, tuple: &Tuple) -> Option<SocketId> {
        let has_ends = |raw: &raw::Record| {
            raw.sport == tuple.sport
                && raw.dport == tuple.dport
                && raw.daddr == tuple.daddr.0
                && raw.saddr == tuple.saddr.0
                && raw.netns == netns.0
        };
        let found = self.queue.iter().rev().find(|pending| match &pending.cause {
            Cause::Minisocket(raw) | Cause::TakenOver(raw) => has_ends(raw),
            Cause::Request | Cause::RequestExpired => false,
        });
        found.map(|pending| pending.id)
    }

    /// Those waiting.
    pub fn oldest_first(&self) -> impl Iterator<Item = Pending> {
        self.queue.iter().copied()
    }

    /// Takes out the oldest, when it has waited [`GRACE`] at `now`, or when `most` wait: one more may come.
    pub fn take_ripe(&mut self, now: Nanos, most: usize) -> Option<Pending> {
        let oldest = self.queue.front()?;
        let must_wait = now.since(oldest.ts) < GRACE && self.queue.len() < most;
        if must_wait { None } else { self.queue.pop_front() }
    }
}
