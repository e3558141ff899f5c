//! Ends whose reason is not known yet.
//!
//! `timer_cancel` says that a minisocket or a request socket lost its timer. Whether it expired, was
//! armed anew, was taken over or killed shows in what follows, mostly microseconds later.

use std::collections::VecDeque;

use tcptrace_common::record as raw;

use crate::model::{Nanos, SocketId};

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
    /// A handshake's: cancelled.
    Request,
    /// A handshake's: it ran out, and will be armed again unless the kernel gives up.
    RequestExpired,
}

/// The cancelled timers not yet explained, oldest first.
#[derive(Debug, Default)]
pub struct PendingEnds {
    queue: VecDeque<Pending>,
}

impl PendingEnds {
    /// Remembers one.
    pub fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    /// Takes the one of `id` out.
    pub fn take(&mut self, id: SocketId) -> Option<Pending> {
        let at = self.queue.iter().rposition(|pending| pending.id == id)?;
        self.queue.remove(at)
    }

    /// The ids waiting, newest first.
    pub fn ids(&self) -> impl Iterator<Item = SocketId> {
        self.queue.iter().rev().map(|pending| pending.id)
    }

    /// Takes out the oldest, when it has waited [`GRACE`] at `now`.
    pub fn take_ripe(&mut self, now: Nanos) -> Option<Pending> {
        let oldest = self.queue.front()?;
        if now.since(oldest.ts) < GRACE { None } else { self.queue.pop_front() }
    }
}
