//! When pictures are due.

use crate::model::Nanos;

/// One picture each interval, the first at once.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval: Nanos,
    next: Option<Nanos>,
}

impl Schedule {
    /// None was made yet.
    pub const fn new(interval: Nanos) -> Self {
        Self { interval, next: None }
    }

    /// One was made at `now`, out of turn.
    pub fn begin_anew(&mut self, now: Nanos) {
        self.next = Some(now.plus(self.interval));
    }

    /// Whether one is due at `now`; when it is, the next one is due an interval later.
    pub fn is_due(&mut self, now: Nanos) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        // Due times do not drift; those missed are not made up for.
        let due = self.next.unwrap_or(now).plus(self.interval);
        self.next = Some(if due > now { due } else { now.plus(self.interval) });
        true
    }
}
