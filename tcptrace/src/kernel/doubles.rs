//! Counts events that two copies of a program reported, which bounds the events that all missed. The tracker drops
//! the duplicate report itself.

use tcptrace_common::record::{RawRecord, Reentrant};

use crate::model::hooks::{HOOKS, Hook, Programs};

/// One CPU emits both reports of an event, back to back, except for one or two nested events.
const RECENT: usize = 16;
/// Largest distance of both reports, in nanoseconds: a thread may be preempted between them.
const WINDOW_NS: u64 = 1_000_000;

/// Identity of an event: its hook, its object, and the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct EventName {
    kind: u8,
    object: u64,
    states: (u8, u8),
    arg0: u64,
}

/// Counts duplicates while there can be some.
#[derive(Debug, Default)]
pub(super) struct Doubles {
    counted: [u64; Reentrant::ALL.len()],
    recent: [(EventName, u64); RECENT],
    next: usize,
    /// Events that later copies found without a mark; without such an event there is no duplicate.
    covered: u64,
    is_watching: bool,
}

impl Doubles {
    /// Number of duplicates.
    pub const fn of(&self, hook: Reentrant) -> u64 {
        self.counted[hook as usize]
    }

    /// Begins a read of the rings. `covered` must be read after the last of its records was submitted.
    pub const fn begin(&mut self, covered: u64) -> DuplicateWatch<'_> {
        self.is_watching |= covered != self.covered;
        self.covered = covered;
        DuplicateWatch { doubles: self, seen: 0 }
    }

    fn check(&mut self, raw: &RawRecord) {
        let Some(hook) = hook_of(raw.kind) else { return };
        let name =
            EventName { kind: raw.kind, object: raw.object, states: (raw.old, raw.new), arg0: raw.arg0 };
        let is_same = |&(before, ts_ns): &(EventName, u64)| {
            before == name && raw.ts_ns.saturating_sub(ts_ns) < WINDOW_NS
        };
        if self.recent.iter().any(is_same) {
            self.counted[hook as usize] += 1;
        }
        self.recent[self.next] = (name, raw.ts_ns);
        self.next = (self.next + 1) % RECENT;
    }
}

fn hook_of(kind: u8) -> Option<Reentrant> {
    let reports = |hook: &&Hook| hook.reports.iter().any(|reported| reported.kind as u8 == kind);
    match HOOKS.iter().find(reports)?.programs {
        Programs::Copies(hook, _) => Some(hook),
        Programs::One(_) => None,
    }
}

/// One read of the rings.
pub(super) struct DuplicateWatch<'a> {
    doubles: &'a mut Doubles,
    seen: usize,
}

impl DuplicateWatch<'_> {
    /// Examines the next record.
    pub fn check(&mut self, raw: &RawRecord) {
        self.seen += 1;
        if self.doubles.is_watching {
            self.doubles.check(raw);
        }
    }

    /// Ends the read of at most `most` records: if there were fewer, every record submitted by then has been seen.
    pub const fn end(self, most: usize) {
        if self.seen < most {
            self.doubles.is_watching = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tcptrace_common::record::Kind;

    use super::*;

    fn transition(ts_ns: u64, object: u64, new: u8) -> RawRecord {
        let kind = Kind::Transition as u8;
        RawRecord { ts_ns, object, kind, new, ..bytemuck::Zeroable::zeroed() }
    }

    fn read(doubles: &mut Doubles, covered: u64, records: &[RawRecord]) {
        let mut watch = doubles.begin(covered);
        for raw in records {
            watch.check(raw);
        }
        watch.end(usize::MAX);
    }

    #[test]
    fn two_reports_of_one_event_are_a_duplicate() {
        let mut doubles = Doubles::default();
        read(&mut doubles, 1, &[transition(1_000, 7, 1), transition(1_100, 8, 1), transition(1_200, 7, 1)]);
        assert_eq!(doubles.of(Reentrant::SetState), 1);
        // Other events, and the same one much later.
        read(&mut doubles, 2, &[transition(1_300, 7, 2), transition(9_000_000, 7, 1)]);
        assert_eq!((doubles.of(Reentrant::SetState), doubles.of(Reentrant::Segment)), (1, 0));
    }

    #[test]
    fn events_are_not_compared_without_a_missing_mark() {
        let mut doubles = Doubles::default();
        read(&mut doubles, 0, &[transition(1_000, 7, 1), transition(1_200, 7, 1)]);
        assert_eq!(doubles.of(Reentrant::SetState), 0);
    }
}
