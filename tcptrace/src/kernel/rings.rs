//! Merges the ring buffers by timestamp, so that the records of a socket come in order.
//!
//! Every CPU writes into one ring, and several CPUs may share one. A program reads the clock, then reserves space, then
//! submits its record. Let *a* and *b* be records of one socket; the socket lock ensures that *a* is submitted before
//! the program of *b* begins. Every record ahead of *a* in its ring was reserved earlier, and its clock read earlier
//! still, so it is older than *b*, as *a* is. The merge takes the oldest of the rings' head records, hence *a* before
//! *b*, if *a* is visible by then. It is:
//! - the merge takes no record younger than `until`, and reads every ring after that time;
//! - an uncommitted head record blocks the merge until it is committed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tcptrace_common::config::ring;

use super::decode::decode;
use crate::model::{HookRecord, Nanos};

/// Length of the field of a [`Slot`](tcptrace_common::record::Slot) before its record.
pub(super) const SEQUENCE_LEN: usize = size_of::<u64>();

/// Head of a ring.
pub(super) enum RingHead {
    Record(HookRecord),
    /// A record of a shape unknown to this version.
    Unknown,
    /// The ring is empty.
    Nothing,
    /// The next record is not committed yet.
    Unfinished,
}

/// Source of records, in the order in which their space was reserved.
pub(super) trait Ring {
    fn next(&mut self) -> RingHead;

    /// Gives the space of the records read so far back to the programs, unless [`next`](Self::next) does so.
    fn release(&mut self) {}
}

impl Ring for RingBuf<MapData> {
    fn next(&mut self) -> RingHead {
        let read = |item: &[u8]| {
            decode(item.get(SEQUENCE_LEN..).unwrap_or_default()).map_or(RingHead::Unknown, RingHead::Record)
        };
        match read_entry(self, read) {
            BufferHead::Entry(head) => head,
            BufferHead::Nothing => RingHead::Nothing,
            BufferHead::Unfinished => RingHead::Unfinished,
        }
    }
}

/// Head of a ring buffer.
pub(super) enum BufferHead<T> {
    Entry(T),
    /// The ring is empty.
    Nothing,
    /// The next entry is not committed yet.
    Unfinished,
}

/// Reads the next entry.
pub(super) fn read_entry<T>(ring: &mut RingBuf<MapData>, mut read: impl FnMut(&[u8]) -> T) -> BufferHead<T> {
    // Twice: an entry may have been reserved or committed in between.
    for _ in 0..2 {
        if let Some(item) = ring.next() {
            return BufferHead::Entry(read(&item));
        }
        if !has_more(ring) {
            return BufferHead::Nothing;
        }
    }
    BufferHead::Unfinished
}

/// Whether it has reserved space that was not read.
fn has_more(ring: &RingBuf<MapData>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(descriptor(ring), PollFlags::IN)];
    // If poll fails, assume so: no other ring may go ahead.
    !poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
}

fn descriptor(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    // SAFETY: the ring owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// Wakes the reader when a ring fills faster than it is read.
pub(super) struct Alarm {
    epoll: OwnedFd,
    /// Carries the alarms of memory-mapped rings, and nothing else.
    bell: Option<RingBuf<MapData>>,
}

impl Alarm {
    /// For ring buffers.
    pub fn of<'a>(rings: impl IntoIterator<Item = &'a RingBuf<MapData>>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for ring in rings {
            // Edge-triggered: only the program's wakeup is an alarm, not unread data.
            let alarms = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, descriptor(ring), epoll::EventData::new_u64(0), alarms)?;
        }
        Ok(Self { epoll, bell: None })
    }

    /// For memory-mapped rings.
    pub fn own(bell: RingBuf<MapData>) -> io::Result<Self> {
        let epoll = Self::of([&bell])?.epoll;
        Ok(Self { epoll, bell: Some(bell) })
    }

    /// Waits for an alarm, at most for `longest`.
    pub fn wait(&mut self, longest: Duration) {
        let mut alarms = [const { MaybeUninit::uninit() }; ring::BUFFERS.len()];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
        // An interrupted wait only ends early.
        let _ = epoll::wait(&self.epoll, &mut alarms, Some(&timeout));
        if let Some(bell) = &mut self.bell {
            // Alarms are discarded entries, which are skipped.
            while bell.next().is_some() {}
        }
    }
}

/// Most records read from a ring at a time.
const TURN: usize = 64;

/// The rings, and the buffered head records of each.
pub(super) struct Rings<R> {
    queues: Vec<(R, VecDeque<HookRecord>)>,
    /// The rings with a buffered record, by its time: a heap, as there may be as many as CPUs.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// Number of records of a shape unknown to this version.
    pub unknown: u64,
    /// All records up to this time were passed on.
    passed: Nanos,
}

impl<R: Ring> Rings<R> {
    pub fn new(rings: impl IntoIterator<Item = R>) -> Self {
        let queues: Vec<_> = rings.into_iter().map(|ring| (ring, VecDeque::with_capacity(TURN))).collect();
        Self { heads: BinaryHeap::with_capacity(queues.len()), queues, unknown: 0, passed: Nanos(0) }
    }

    /// Passes on at most `most` records that are not younger than `until`, a time in the past. Returns the time up to which all
    /// that had space in the rings were passed on: `until`, or less if there are more or an unfinished record blocks them.
    pub fn drain(&mut self, most: usize, until: Nanos, mut take: impl FnMut(HookRecord)) -> Nanos {
        let mut last = self.passed;
        let is_complete = self.pass(most, until, |seen| {
            last = last.max(Nanos(seen.raw.ts_ns));
            take(seen);
        });
        self.passed = if is_complete { last.max(until) } else { last };
        self.passed
    }

    /// The same as of the last call.
    pub const fn passed(&self) -> Nanos {
        self.passed
    }

    /// Returns whether all records up to `until` were passed on.
    fn pass(&mut self, most: usize, until: Nanos, mut take: impl FnMut(HookRecord)) -> bool {
        if !(0..self.queues.len()).all(|at| self.buffer_head(at)) {
            return false;
        }
        let mut left = most;
        while left > 0 {
            let next = self.heads.peek().filter(|Reverse((ts, _))| *ts <= until.0);
            let Some(&Reverse((_, at))) = next else { return true };
            self.heads.pop();
            // All that is older than the heads of the other rings comes from this one.
            let limit = self.heads.peek().map_or(until.0, |Reverse((other, _))| until.0.min(*other));
            let buffered = &mut self.queues[at].1;
            while let Some(seen) = buffered.pop_front() {
                take(seen);
                left -= 1;
                if left == 0 || buffered.front().is_none_or(|next| next.raw.ts_ns > limit) {
                    break;
                }
            }
            if let Some(next) = buffered.front() {
                self.heads.push(Reverse((next.raw.ts_ns, at)));
            } else if !self.buffer_head(at) {
                return false;
            }
        }
        false
    }

    /// Buffers the head of a ring, if it has one; returns false if an uncommitted record blocks it.
    fn buffer_head(&mut self, at: usize) -> bool {
        let (ring, buffered) = &mut self.queues[at];
        if !buffered.is_empty() {
            return true;
        }
        let mut is_unfinished = false;
        while buffered.len() < TURN {
            match ring.next() {
                RingHead::Record(seen) => buffered.push_back(seen),
                RingHead::Unknown => self.unknown += 1,
                RingHead::Nothing => break,
                RingHead::Unfinished => {
                    is_unfinished = true;
                    break;
                }
            }
        }
        ring.release();
        if let Some(head) = buffered.front() {
            self.heads.push(Reverse((head.raw.ts_ns, at)));
        }
        !is_unfinished || !buffered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;
    use tcptrace_common::record::RawRecord;

    use super::*;

    const RINGS: usize = 3;

    /// One run of a program: its ring, and when it reads the clock, reserves space and submits its record.
    #[derive(Clone, Copy, Debug)]
    struct ProgramRun {
        ring: usize,
        clock: u64,
        reserve: u64,
        submit: u64,
    }

    fn run() -> impl Strategy<Value = ProgramRun> {
        (0..RINGS, [0..200_u64, 0..200, 0..200]).prop_map(|(ring, mut times)| {
            times.sort_unstable();
            let [clock, reserve, submit] = times;
            ProgramRun { ring, clock, reserve, submit }
        })
    }

    /// Programs that run while the rings are read.
    struct Kernel {
        runs: Vec<ProgramRun>,
        now: u64,
        /// Runs read from each ring.
        read: [usize; RINGS],
    }

    impl Kernel {
        /// The head of a ring, a tick after the last call.
        fn next(&mut self, ring: usize) -> RingHead {
            self.now += 1;
            let runs = self.runs.iter().enumerate();
            let mut reserved: Vec<_> =
                runs.filter(|(_, run)| run.ring == ring && run.reserve < self.now).collect();
            reserved.sort_by_key(|(_, run)| run.reserve);
            let Some(&(number, run)) = reserved.get(self.read[ring]) else { return RingHead::Nothing };
            if run.submit >= self.now {
                return RingHead::Unfinished;
            }
            self.read[ring] += 1;
            let raw = RawRecord { ts_ns: run.clock, cookie: number as u64, ..RawRecord::zeroed() };
            RingHead::Record(HookRecord { raw, task: None })
        }
    }

    struct Of<'a>(&'a RefCell<Kernel>, usize);

    impl Ring for Of<'_> {
        fn next(&mut self) -> RingHead {
            self.0.borrow_mut().next(self.1)
        }
    }

    /// Remaining content of a ring, last first.
    struct ListedRing(Vec<RingHead>);

    impl Ring for ListedRing {
        fn next(&mut self) -> RingHead {
            self.0.pop().unwrap_or(RingHead::Nothing)
        }
    }

    #[test]
    fn unknown_record_is_counted_and_skipped() {
        let record = || RingHead::Record(HookRecord { raw: RawRecord::zeroed(), task: None });
        let listed = vec![record(), RingHead::Unknown, record(), RingHead::Unknown, RingHead::Unknown];
        let mut rings = Rings::new([ListedRing(listed)]);
        let mut seen = 0;
        rings.drain(usize::MAX, Nanos(1), |_| seen += 1);
        assert_eq!((seen, rings.unknown), (2, 3));
    }

    /// `cargo test --release -p tcptrace --lib merge_of_many -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement for docs/benchmarks.md; merge_keeps_the_order_of_submission tests the order in CI"]
    fn merge_of_many_rings() {
        const RECORDS: u64 = 4_000_000;
        for count in [1, 2, 8, 64, 192] {
            // The CPUs write in turns, in an order without a pattern.
            let mut listed: Vec<_> = (0..count).map(|_| Vec::new()).collect();
            for ts_ns in (0..RECORDS).rev() {
                let ring = (ts_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % count;
                let raw = RawRecord { ts_ns, ..RawRecord::zeroed() };
                listed[ring as usize].push(RingHead::Record(HookRecord { raw, task: None }));
            }
            let mut rings = Rings::new(listed.into_iter().map(ListedRing));
            let (start, mut next) = (std::time::Instant::now(), 0);
            rings.drain(usize::MAX, Nanos(RECORDS), |seen| {
                assert_eq!(seen.raw.ts_ns, next);
                next += 1;
            });
            let ns = start.elapsed().as_nanos() as f64 / RECORDS as f64;
            println!("{count} rings: {ns:.0} ns a record");
            assert_eq!(next, RECORDS);
        }
    }

    proptest! {
        #[test]
        fn merge_keeps_the_order_of_submission(
            runs in proptest::collection::vec(run(), 0..60),
            pauses in proptest::collection::vec(1..40_u64, 1..10),
        ) {
            let kernel = RefCell::new(Kernel { runs: runs.clone(), now: 0, read: [0; RINGS] });
            let mut rings = Rings::new((0..RINGS).map(|ring| Of(&kernel, ring)));
            let (mut drained, mut passed, mut passed_at) = (Vec::new(), Nanos(0), 0);
            for pause in pauses.into_iter().chain([300, 300]) {
                kernel.borrow_mut().now += pause;
                let until = kernel.borrow().now;
                let mut is_late = false;
                let now_passed = rings.drain(usize::MAX, Nanos(until), |seen| {
                    let number = seen.raw.cookie as usize;
                    is_late |= seen.raw.ts_ns < passed.0 && runs[number].reserve < passed_at;
                    drained.push(number);
                });
                prop_assert!(!is_late, "a record was there and is older than {passed:?}");
                prop_assert!(now_passed <= Nanos(until));
                // Else a record that is blocked may have read its clock before those that were passed on.
                if now_passed == Nanos(until) {
                    (passed, passed_at) = (now_passed, until);
                }
            }
            prop_assert_eq!(passed, Nanos(passed_at), "nothing is left");
            for (at, &later) in drained.iter().enumerate() {
                for &earlier in &drained[at + 1..] {
                    prop_assert!(runs[earlier].submit >= runs[later].clock, "{earlier} came after {later}");
                }
            }
            drained.sort_unstable();
            prop_assert_eq!(drained, (0..runs.len()).collect::<Vec<_>>());
        }
    }
}
