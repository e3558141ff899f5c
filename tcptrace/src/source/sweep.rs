//! Sweeps: while tracing, the sockets of all reachable network namespaces are listed again from time to time, as
//! [`Listing`]s for the tracker to compare with what it has. What the hooks lost is made up for that way.
//!
//! How often follows from what a sweep costs: at most one part in a hundred of one CPU's time, and for a few sweeps
//! after a loss one in twenty. Where segments that reach minisockets are not seen, FIN_WAIT2 alone is listed in
//! between: an orphan that is no longer there has gone on to TIME_WAIT.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

use tcptrace_common::filter::KernelFilter;

use super::{
    host, netns,
    seed::may_be_in,
    sock_diag::{self, StateMask, Summary},
};
use crate::{
    model::{
        Record, SeedSocket, TcpState,
        record::{Listing, SeedObject, Sweep, SweepEnd},
    },
    privileges::{self, Work},
};

/// Sockets in a listing, and listings under way: bounds what waits for the reader.
const BATCH: usize = 1024;
const BATCHES: usize = 16;
/// Listings taken in one go.
const TAKEN: usize = 8;

/// How often to list everything at the most, and how much longer than a sweep to wait for the next.
const WHOLE: Pace = Pace { least: Duration::from_secs(5), share: 100 };
/// The same after a loss.
const HASTY: Pace = Pace { least: Duration::from_millis(250), share: 20 };
/// How often to list FIN_WAIT2.
const LOOK: Pace = Pace { least: Duration::from_secs(1), share: 50 };
/// Two sweeps that begin after the last loss find everything; one may be under way.
const HASTY_SWEEPS: u32 = 3;

/// When to do again what took a while.
#[derive(Clone, Copy, Debug)]
struct Pace {
    least: Duration,
    share: u32,
}

impl Pace {
    fn after(self, cost: Duration) -> Duration {
        self.least.max(cost.saturating_mul(self.share))
    }
}

/// What the reader tells the sweeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The seed is complete.
    Begin,
    /// Records were lost, or may have been.
    Lost,
}

/// The reader is gone: nobody wants the rest.
struct Unwanted;

/// Sweeps at work, on a thread of their own.
pub struct Sweeps {
    listings: Receiver<Record>,
    tell: Sender<Word>,
}

impl Sweeps {
    /// Makes the thread that is to sweep what `filter` lets pass, once it is told to begin, until the value is
    /// dropped.
    pub fn start(filter: &KernelFilter, sees_segments: bool) -> io::Result<Self> {
        let (sender, listings) = sync_channel(BATCHES);
        let (tell, told) = channel();
        let sweeper = Sweeper { sender, filter: *filter };
        std::thread::Builder::new().name("sweep".into()).spawn(move || {
            privileges::keep_for(Work::Looking);
            if told.iter().any(|word| word == Word::Begin) {
                sweeper.run(Schedule::new(Instant::now(), sees_segments), &told);
            }
        })?;
        Ok(Self { listings, tell })
    }

    /// The seed is complete.
    pub fn begin(&self) {
        self.say(Word::Begin);
    }

    /// Some of what was listed since the last call.
    pub fn found(&self) -> Vec<Record> {
        self.listings.try_iter().take(TAKEN).collect()
    }

    /// Something was lost.
    pub fn hurry(&self) {
        self.say(Word::Lost);
    }

    fn say(&self, word: Word) {
        // With the thread gone there are no sweeps.
        let _ = self.tell.send(word);
    }
}

/// When to sweep what.
#[derive(Debug)]
struct Schedule {
    /// When the last whole sweep ended, and what it cost.
    last: (Instant, Duration),
    /// When the next is due.
    whole: Instant,
    /// When to look at FIN_WAIT2, where that is needed.
    look: Option<Instant>,
    /// Whole sweeps that are still to come in haste.
    hasty: u32,
}

impl Schedule {
    fn new(now: Instant, sees_segments: bool) -> Self {
        let look = (!sees_segments).then_some(now);
        Self { last: (now, Duration::ZERO), whole: now + WHOLE.least, look, hasty: 0 }
    }

    fn next(&self) -> Instant {
        self.look.map_or(self.whole, |look| look.min(self.whole))
    }

    fn due(&self, now: Instant) -> Sweep {
        match self.look {
            Some(look) if self.whole > now || look < self.whole => Sweep::FinWait2,
            _ => Sweep::Whole,
        }
    }

    /// Something was lost.
    fn hurry(&mut self) {
        let (ended, cost) = self.last;
        self.hasty = HASTY_SWEEPS;
        self.whole = self.whole.min(ended + HASTY.after(cost));
    }

    fn done(&mut self, sweep: Sweep, began: Instant, ended: Instant) {
        let cost = ended - began;
        match sweep {
            Sweep::FinWait2 => self.look = Some(ended + LOOK.after(cost)),
            Sweep::Whole => {
                self.hasty = self.hasty.saturating_sub(1);
                self.last = (ended, cost);
                self.whole = ended + if self.hasty > 0 { HASTY } else { WHOLE }.after(cost);
            }
        }
    }
}

struct Sweeper {
    sender: SyncSender<Record>,
    filter: KernelFilter,
}

impl Sweeper {
    fn run(&self, mut schedule: Schedule, told: &Receiver<Word>) {
        loop {
            let wait = schedule.next().saturating_duration_since(Instant::now());
            match told.recv_timeout(wait) {
                Ok(Word::Begin) => {}
                Ok(Word::Lost) => schedule.hurry(),
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    let sweep = schedule.due(began);
                    if self.sweep(sweep).is_err() {
                        return;
                    }
                    schedule.done(sweep, began, Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn sweep(&self, sweep: Sweep) -> Result<(), Unwanted> {
        let began = host::monotonic_now();
        let mut listed_in_all = 0_usize;
        let mut sockets = Vec::with_capacity(BATCH);
        let mut wanted = Ok(());
        let round = netns::in_each(
            |netns| may_be_in(&self.filter, netns.id),
            |netns| {
                let listed = sock_diag::for_each(mask(sweep), netns.id, |socket| {
                    if wanted.is_err() || !self.is_wanted(sweep, &socket) {
                        return;
                    }
                    listed_in_all += 1;
                    sockets.push(socket);
                    if sockets.len() == BATCH {
                        let full = std::mem::replace(&mut sockets, Vec::with_capacity(BATCH));
                        wanted = self.send(sweep, full, None);
                    }
                });
                matches!(listed, Ok(summary) if summary == Summary::default()).then_some(netns.id)
            },
        );
        wanted?;
        // What can't be visited now could not be seeded either, and was told then.
        let netns = round.map(|round| round.visited.into_iter().filter_map(|(_, whole)| whole).collect());
        let ts = host::monotonic_now();
        log::debug!("{sweep:?} sweep: {listed_in_all} sockets in {} us", ts.since(began).0 / 1_000);
        let end = SweepEnd { ts, began, netns: netns.unwrap_or_default() };
        self.send(sweep, sockets, Some(end))
    }

    fn send(&self, sweep: Sweep, sockets: Vec<SeedSocket>, end: Option<SweepEnd>) -> Result<(), Unwanted> {
        let listing = Record::Listing(Box::new(Listing { sweep, sockets, end }));
        self.sender.send(listing).map_err(|_| Unwanted)
    }

    fn is_wanted(&self, sweep: Sweep, socket: &SeedSocket) -> bool {
        (sweep == Sweep::Whole || matches!(socket.object, SeedObject::Minisocket { .. }))
            && self.filter.passes(&socket.tuple.ends(socket.netns))
    }
}

const fn mask(sweep: Sweep) -> StateMask {
    match sweep {
        Sweep::Whole => StateMask::ALL,
        Sweep::FinWait2 => StateMask::of(&[TcpState::FinWait2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_much_is_done_seldom_and_a_loss_hastens_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start, true);
        assert_eq!(schedule.next(), at(5_000), "not oftener than every five seconds");
        schedule.done(Sweep::Whole, at(5_000), at(5_100));
        assert_eq!(schedule.next(), at(15_100), "a hundredth");
        schedule.hurry();
        assert_eq!(schedule.next(), at(7_100), "a twentieth");
        for n in 1..=3 {
            schedule.done(Sweep::Whole, at(n * 10_000), at(n * 10_000 + 100));
        }
        assert_eq!(schedule.next(), at(40_100), "back to a hundredth after three");
    }

    #[test]
    fn looks_at_fin_wait2_come_between() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, false);
        assert_eq!(schedule.due(start), Sweep::FinWait2);
        schedule.done(Sweep::FinWait2, start, start);
        assert_eq!(schedule.next(), start + LOOK.least);
        schedule.done(Sweep::FinWait2, start + WHOLE.least, start + WHOLE.least);
        assert_eq!(schedule.due(schedule.next()), Sweep::Whole, "it is its turn");
    }
}
