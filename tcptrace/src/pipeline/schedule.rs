//! Schedule of snapshots.

use crate::model::Nanos;

/// One snapshot per interval, the first immediately.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSchedule {
    interval: Nanos,
    next: Option<Nanos>,
}

impl SnapshotSchedule {
    /// A schedule without snapshots yet.
    pub const fn new(interval: Nanos) -> Self {
        Self { interval, next: None }
    }

    /// Notes an extra snapshot at `now`: the next is due one interval later.
    pub fn reschedule(&mut self, now: Nanos) {
        self.next = Some(now.plus(self.interval));
    }

    /// Whether a snapshot is due at `now`; if so, schedules the next.
    pub fn is_due(&mut self, now: Nanos) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        // Due times do not drift, and missed ones are skipped.
        let due = self.next.unwrap_or(now).plus(self.interval);
        self.next = Some(if due > now { due } else { now.plus(self.interval) });
        true
    }
}
