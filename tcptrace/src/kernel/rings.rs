//! The rings that the programs write into, read as one: what happened earlier comes first.
//!
//! Every CPU writes into one ring, and several CPUs may share one. A program reads the clock, then reserves room, then
//! submits its record. Let *a* and *b* be records of one socket, *a* submitted before the program of *b* began: a socket's
//! lock sees to that. Whatever lies ahead of *a* in its ring was reserved earlier, and its clock read earlier still: it is
//! older than *b*, as *a* is. So whoever always takes the oldest of the rings' first records takes *a* before *b*, if *a* can be
//! seen by then. It can:
//! - no record that is younger than a time `until` is taken, and every ring is looked into after that time;
//! - a ring whose first record is still being written hides what lies behind it, and stops the others too.

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tcptrace_common::config::ring;

use super::decode::decode;
use crate::model::{Nanos, Observation};

/// The next of a ring.
pub(super) enum Next {
    Record(Observation),
    /// A record that is not one this version knows.
    Unknown,
    /// It has been read to its end.
    Nothing,
    /// What comes next is still being written.
    Unfinished,
}

/// Where records come from in the order in which room was reserved for them.
pub(super) trait Ring {
    fn next(&mut self) -> Next;
}

impl Ring for RingBuf<MapData> {
    fn next(&mut self) -> Next {
        // A second time: it may have been finished, or begun, since.
        for _ in 0..2 {
            if let Some(item) = Self::next(self) {
                return decode(&item).map_or(Next::Unknown, Next::Record);
            }
            if !has_more(self) {
                return Next::Nothing;
            }
        }
        Next::Unfinished
    }
}

/// Whether room is reserved in it that was not read.
fn has_more(ring: &RingBuf<MapData>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(descriptor(ring), PollFlags::IN)];
    // When it can't be told, nobody may go ahead.
    !poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
}

fn descriptor(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    // SAFETY: the ring owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// Wakes the reader when a ring fills faster than it is read.
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub fn of<'a>(rings: impl IntoIterator<Item = &'a RingBuf<MapData>>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for ring in rings {
            // Edge-triggered: that something waits to be read is no alarm, only the program's call is.
            let alarms = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, descriptor(ring), epoll::EventData::new_u64(0), alarms)?;
        }
        Ok(Self(epoll))
    }

    /// Waits for an alarm, or so long.
    pub fn wait(&self, longest: Duration) {
        let mut alarms = [const { MaybeUninit::uninit() }; ring::MAPS.len()];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
        // An interrupted wait is only a shorter one.
        let _ = epoll::wait(&self.0, &mut alarms, Some(&timeout));
    }
}

/// Records that are read from one ring at a time.
const TURN: usize = 64;

/// Rings, and the first records of each.
pub(super) struct Rings<R> {
    rings: Vec<(R, VecDeque<Observation>)>,
    /// Records that are not one this version knows.
    pub unknown: u64,
}

impl<R: Ring> Rings<R> {
    pub fn new(rings: impl IntoIterator<Item = R>) -> Self {
        let rings = rings.into_iter().map(|ring| (ring, VecDeque::with_capacity(TURN))).collect();
        Self { rings, unknown: 0 }
    }

    /// Hands out at most so many records that are not younger than `until`, a moment that has passed.
    pub fn drain(&mut self, most: usize, until: Nanos, mut take: impl FnMut(Observation)) {
        if !(0..self.rings.len()).all(|at| self.look(at)) {
            return;
        }
        for _ in 0..most {
            let Some(at) = self.oldest(until) else { return };
            let Some(seen) = self.rings[at].1.pop_front() else { return };
            take(seen);
            if !self.look(at) {
                return;
            }
        }
    }

    /// Makes the first record of a ring known, if there is one; whether that can be told.
    fn look(&mut self, at: usize) -> bool {
        let (ring, first) = &mut self.rings[at];
        if !first.is_empty() {
            return true;
        }
        while first.len() < TURN {
            match ring.next() {
                Next::Record(seen) => first.push_back(seen),
                Next::Unknown => self.unknown += 1,
                Next::Nothing => return true,
                Next::Unfinished => return !first.is_empty(),
            }
        }
        true
    }

    /// The ring whose first record is the oldest, if that is not younger than `until`.
    fn oldest(&self, until: Nanos) -> Option<usize> {
        let age =
            |(at, (_, first)): (usize, &(R, VecDeque<Observation>))| Some((first.front()?.raw.ts_ns, at));
        let (ts, at) = self.rings.iter().enumerate().filter_map(age).min()?;
        (ts <= until.0).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;
    use tcptrace_common::record::Record;

    use super::*;

    const RINGS: usize = 3;

    /// One run of a program: its ring, and when it reads the clock, reserves room and submits its record.
    #[derive(Clone, Copy, Debug)]
    struct Run {
        ring: usize,
        clock: u64,
        reserve: u64,
        submit: u64,
    }

    fn run() -> impl Strategy<Value = Run> {
        (0..RINGS, [0..200_u64, 0..200, 0..200]).prop_map(|(ring, mut times)| {
            times.sort_unstable();
            let [clock, reserve, submit] = times;
            Run { ring, clock, reserve, submit }
        })
    }

    /// Programs that go on while the rings are read.
    struct Kernel {
        runs: Vec<Run>,
        now: u64,
        /// How many runs were read of each ring.
        read: [usize; RINGS],
    }

    impl Kernel {
        /// The next of a ring, a moment later than the last question.
        fn next(&mut self, ring: usize) -> Next {
            self.now += 1;
            let runs = self.runs.iter().enumerate();
            let mut reserved: Vec<_> =
                runs.filter(|(_, run)| run.ring == ring && run.reserve < self.now).collect();
            reserved.sort_by_key(|(_, run)| run.reserve);
            let Some(&(number, run)) = reserved.get(self.read[ring]) else { return Next::Nothing };
            if run.submit >= self.now {
                return Next::Unfinished;
            }
            self.read[ring] += 1;
            let raw = Record { ts_ns: run.clock, cookie: number as u64, ..Record::zeroed() };
            Next::Record(Observation { raw, task: None })
        }
    }

    struct Of<'a>(&'a RefCell<Kernel>, usize);

    impl Ring for Of<'_> {
        fn next(&mut self) -> Next {
            self.0.borrow_mut().next(self.1)
        }
    }

    proptest! {
        #[test]
        fn what_was_submitted_before_a_program_began_is_told_before_it(
            runs in proptest::collection::vec(run(), 0..60),
            pauses in proptest::collection::vec(1..40_u64, 1..10),
        ) {
            let kernel = RefCell::new(Kernel { runs: runs.clone(), now: 0, read: [0; RINGS] });
            let mut rings = Rings::new((0..RINGS).map(|ring| Of(&kernel, ring)));
            let mut told = Vec::new();
            for pause in pauses.into_iter().chain([300, 300]) {
                kernel.borrow_mut().now += pause;
                let until = kernel.borrow().now;
                rings.drain(usize::MAX, Nanos(until), |seen| told.push(seen.raw.cookie as usize));
            }
            for (at, &later) in told.iter().enumerate() {
                for &earlier in &told[at + 1..] {
                    prop_assert!(runs[earlier].submit >= runs[later].clock, "{earlier} came after {later}");
                }
            }
            told.sort_unstable();
            prop_assert_eq!(told, (0..runs.len()).collect::<Vec<_>>());
        }
    }
}
