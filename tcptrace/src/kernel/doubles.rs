//! Counts events that two copies of a program reported, which bounds the events that all missed. The tracker drops
//! the duplicate report itself.

use std::hash::BuildHasher as _;

use rustc_hash::FxBuildHasher;
use tcptrace_common::record::{Kind, RawRecord, Reentrant, flag};

use crate::model::hooks::{HOOKS, Hook, Programs};

/// Sockets whose last event is kept: a thread may lose its CPU between the two reports, while others report theirs.
const SOCKETS: usize = 1024;
/// Largest distance of both reports, in nanoseconds: a thread may lose its CPU in between.
const WINDOW_NS: u64 = 1_000_000_000;
/// The same for a hook whose events may repeat, such as RSTs; they are further apart.
const REPEATABLE_WINDOW_NS: u64 = 100_000_000;

/// An event: its hook, its socket, the change, and the time.
#[derive(Clone, Copy, Debug, Default)]
struct SocketEvent {
    kind: u8,
    object: u64,
    cookie: u64,
    states: (u8, u8),
    arg0: u64,
    ts_ns: u64,
}

impl SocketEvent {
    const fn of(raw: &RawRecord) -> Self {
        let RawRecord { kind, object, cookie, ts_ns, .. } = *raw;
        // Of a system call it is a stack, which each report captures.
        let arg0 = if raw.flags & flag::TASK == 0 { raw.arg0 } else { 0 };
        Self { kind, object, cookie, states: (raw.old, raw.new), arg0, ts_ns }
    }

    /// Its place in the table: one for each kind of events of a socket.
    fn place(&self) -> usize {
        FxBuildHasher.hash_one((self.cookie, self.kind)) as usize % SOCKETS
    }

    fn is_reported_again(&self, again: &Self) -> bool {
        let may_repeat = !matches!(Kind::from_raw(self.kind), Some(Kind::Transition | Kind::Accepted));
        let window = if may_repeat { REPEATABLE_WINDOW_NS } else { WINDOW_NS };
        let is_near = again.ts_ns.saturating_sub(self.ts_ns) < window;
        let name = |event: &Self| (event.kind, event.object, event.cookie, event.states, event.arg0);
        is_near && name(self) == name(again)
    }
}

/// Counts duplicates while there can be some.
#[derive(Debug)]
pub(super) struct Doubles {
    counted: [u64; Reentrant::ALL.len()],
    /// The last event of each socket, by [`SocketEvent::place`]; the newer one where two meet.
    last: Box<[SocketEvent]>,
    /// Events that later copies found without a mark; without such an event there is no duplicate.
    covered: u64,
    is_watching: bool,
    /// A thread may lose its CPU between two reports, so a read of the rings may end between them.
    watches_always: bool,
}

impl Doubles {
    /// For a kernel that needs so many `copies` of the programs.
    pub fn new(copies: usize) -> Self {
        Self {
            counted: [0; Reentrant::ALL.len()],
            last: vec![SocketEvent::default(); SOCKETS].into_boxed_slice(),
            covered: 0,
            is_watching: false,
            watches_always: copies > 2,
        }
    }

    /// Number of duplicates.
    pub const fn of(&self, hook: Reentrant) -> u64 {
        self.counted[hook as usize]
    }

    /// Begins a read of the rings. `covered` must be read after the last of its records was submitted.
    pub const fn begin(&mut self, covered: u64) -> DuplicateWatch<'_> {
        self.is_watching |= self.watches_always || covered != self.covered;
        self.covered = covered;
        DuplicateWatch { doubles: self, seen: 0 }
    }

    fn check(&mut self, raw: &RawRecord) {
        let Some(hook) = hook_of(raw.kind) else { return };
        let event = SocketEvent::of(raw);
        let last = &mut self.last[event.place()];
        self.counted[hook as usize] += u64::from(last.is_reported_again(&event));
        *last = event;
    }
}

fn hook_of(kind: u8) -> Option<Reentrant> {
    let reports = |hook: &&Hook| hook.reports.iter().any(|reported| reported.kind as u8 == kind);
    match HOOKS.iter().find(reports)?.programs {
        Programs::Copies(hook, _) | Programs::FunctionEnd(hook, _) => Some(hook),
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
        RawRecord { ts_ns, object, cookie: object, kind, new, ..bytemuck::Zeroable::zeroed() }
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
        let mut doubles = Doubles::new(2);
        read(&mut doubles, 1, &[transition(1_000, 7, 1), transition(1_100, 8, 1), transition(1_200, 7, 1)]);
        assert_eq!(doubles.of(Reentrant::SetState), 1);
        // Other events, and the same one much later.
        read(&mut doubles, 2, &[transition(1_300, 7, 2), transition(1_900_000_000, 7, 2)]);
        assert_eq!((doubles.of(Reentrant::SetState), doubles.of(Reentrant::Segment)), (1, 0));
    }

    #[test]
    fn next_socket_at_the_same_address_is_another_one() {
        let next = RawRecord { cookie: 2, ..transition(1_100, 7, 1) };
        let mut doubles = Doubles::new(2);
        read(&mut doubles, 1, &[transition(1_000, 7, 1), next]);
        assert_eq!(doubles.of(Reentrant::SetState), 0);
    }

    #[test]
    fn repeated_event_of_a_socket_is_no_duplicate_after_another_one() {
        let mut doubles = Doubles::new(2);
        read(&mut doubles, 1, &[transition(1_000, 7, 1), transition(1_100, 7, 2), transition(1_200, 7, 1)]);
        assert_eq!(doubles.of(Reentrant::SetState), 0);
    }

    #[test]
    fn duplicate_may_come_after_many_other_events() {
        let mut doubles = Doubles::new(2);
        let others = (1..100).map(|n| transition(1_000 + n, 7 + n, 1));
        let events: Vec<_> = [transition(1_000, 7, 1)]
            .into_iter()
            .chain(others)
            .chain([transition(14_000_000, 7, 1)])
            .collect();
        read(&mut doubles, 1, &events);
        assert_eq!(doubles.of(Reentrant::SetState), 1);
    }

    #[test]
    fn each_report_has_a_stack_of_its_own() {
        let report = |arg0| RawRecord { flags: flag::TASK, arg0, ..transition(1_000, 7, 4) };
        let mut doubles = Doubles::new(2);
        read(&mut doubles, 1, &[report(1), report(0)]);
        assert_eq!(doubles.of(Reentrant::SetState), 1);
    }

    #[test]
    fn a_read_may_end_between_both_reports_where_threads_lose_their_cpu() {
        for (copies, expected) in [(2, 0), (3, 1)] {
            let mut doubles = Doubles::new(copies);
            read(&mut doubles, 0, &[transition(1_000, 7, 1)]);
            read(&mut doubles, 1, &[transition(1_200, 7, 1)]);
            assert_eq!(doubles.of(Reentrant::SetState), expected);
        }
    }

    #[test]
    fn events_are_not_compared_without_a_missing_mark() {
        let mut doubles = Doubles::new(2);
        read(&mut doubles, 0, &[transition(1_000, 7, 1), transition(1_200, 7, 1)]);
        assert_eq!(doubles.of(Reentrant::SetState), 0);
    }
}
