//! Sweeps list the sockets of all reachable network namespaces again at intervals while tracing, as
//! [`Listing`]s that the tracker compares with its state. They repair whatever the hooks lost.
//!
//! The interval depends on the cost of a sweep: at most one part in a hundred of one CPU's time, one in twenty
//! for a few sweeps after a loss. If segments that reach timewait sockets are not traced, FIN_WAIT2 alone is
//! listed in between: an orphan that has disappeared has moved on to TIME_WAIT.

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

/// Sockets in a listing, and listings in the channel; together they bound what waits for the reader.
const BATCH: usize = 1024;
const BATCHES: usize = 16;
/// Most listings received in one call.
const MAX_LISTINGS_PER_CALL: usize = 8;

/// Shortest pause before a sweep of all states, and the pause as a multiple of the sweep's duration.
const WHOLE: PollBackoff = PollBackoff { least: Duration::from_secs(5), share: 100 };
/// The same after a loss.
const BACKOFF_AFTER_LOSS: PollBackoff = PollBackoff { least: Duration::from_millis(250), share: 20 };
/// The same for FIN_WAIT2 alone.
const LOOK: PollBackoff = PollBackoff { least: Duration::from_secs(1), share: 50 };
/// Two sweeps that begin after the last loss find everything; one more may be under way.
const SWEEPS_AFTER_LOSS: u32 = 3;

/// Delay until an operation is repeated, depending on its cost.
#[derive(Clone, Copy, Debug)]
struct PollBackoff {
    least: Duration,
    share: u32,
}

impl PollBackoff {
    fn after(self, cost: Duration) -> Duration {
        self.least.max(cost.saturating_mul(self.share))
    }
}

/// A message from the reader to the sweep thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SweepCommand {
    /// The seed is complete.
    Begin,
    /// Records were lost, or may have been.
    Lost,
}

/// The receiver was dropped.
struct SweepReceiverGone;

/// Handle to the thread that sweeps.
pub struct SweepThread {
    listings: Receiver<Record>,
    tell: Sender<SweepCommand>,
}

impl SweepThread {
    /// Starts the thread. After [`SweepThread::begin`] it sweeps the sockets that `filter` passes, until the
    /// handle is dropped.
    pub fn start(filter: &KernelFilter, sees_segments: bool) -> io::Result<Self> {
        let (sender, listings) = sync_channel(BATCHES);
        let (tell, told) = channel();
        let sweeper = Sweeper { sender, filter: *filter };
        privileges::spawn("sweep", Work::Looking, move || {
            if told.iter().any(|word| word == SweepCommand::Begin) {
                sweeper.run(SweepSchedule::new(Instant::now(), sees_segments), &told);
            }
        })?;
        Ok(Self { listings, tell })
    }

    /// Starts the sweeps; called when the seed is complete.
    pub fn begin(&self) {
        self.say(SweepCommand::Begin);
    }

    /// Returns some of the listings received since the last call.
    pub fn found(&self) -> Vec<Record> {
        self.listings.try_iter().take(MAX_LISTINGS_PER_CALL).collect()
    }

    /// Schedules sweeps sooner, after a loss.
    pub fn sweep_soon(&self) {
        self.say(SweepCommand::Lost);
    }

    fn say(&self, word: SweepCommand) {
        // Without the thread there are no sweeps.
        let _ = self.tell.send(word);
    }
}

/// Decides when to sweep which states.
#[derive(Debug)]
struct SweepSchedule {
    /// When the last sweep of all states ended, and its cost.
    last: (Instant, Duration),
    /// When the next one is due.
    whole: Instant,
    /// When FIN_WAIT2 is due, if it is polled at all.
    look: Option<Instant>,
    /// Remaining sweeps with the shorter pause.
    sweeps_after_loss: u32,
}

impl SweepSchedule {
    fn new(now: Instant, sees_segments: bool) -> Self {
        let look = (!sees_segments).then_some(now);
        Self { last: (now, Duration::ZERO), whole: now + WHOLE.least, look, sweeps_after_loss: 0 }
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

    /// Schedules the next sweep sooner, after a loss.
    fn sweep_soon(&mut self) {
        let (ended, cost) = self.last;
        self.sweeps_after_loss = SWEEPS_AFTER_LOSS;
        self.whole = self.whole.min(ended + BACKOFF_AFTER_LOSS.after(cost));
    }

    fn done(&mut self, sweep: Sweep, began: Instant, ended: Instant) {
        let cost = ended - began;
        match sweep {
            Sweep::FinWait2 => self.look = Some(ended + LOOK.after(cost)),
            Sweep::Whole => {
                self.sweeps_after_loss = self.sweeps_after_loss.saturating_sub(1);
                self.last = (ended, cost);
                self.whole =
                    ended + if self.sweeps_after_loss > 0 { BACKOFF_AFTER_LOSS } else { WHOLE }.after(cost);
            }
        }
    }
}

struct Sweeper {
    sender: SyncSender<Record>,
    filter: KernelFilter,
}

impl Sweeper {
    fn run(&self, mut schedule: SweepSchedule, told: &Receiver<SweepCommand>) {
        loop {
            let wait = schedule.next().saturating_duration_since(Instant::now());
            match told.recv_timeout(wait) {
                Ok(SweepCommand::Begin) => {}
                Ok(SweepCommand::Lost) => schedule.sweep_soon(),
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

    fn sweep(&self, sweep: Sweep) -> Result<(), SweepReceiverGone> {
        let began = host::monotonic_now();
        let mut listed_in_all = 0_usize;
        let mut sockets = Vec::with_capacity(BATCH);
        let mut wanted = Ok(());
        let round = netns::visit_each(
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
        // Namespaces that can't be visited could not be seeded either; the seed reported them.
        let netns = round.map(|round| round.visited.into_iter().filter_map(|(_, whole)| whole).collect());
        let ts = host::monotonic_now();
        log::debug!("{sweep:?} sweep: {listed_in_all} sockets in {} us", ts.since(began).0 / 1_000);
        let end = SweepEnd { ts, began, netns: netns.unwrap_or_default() };
        self.send(sweep, sockets, Some(end))
    }

    fn send(
        &self,
        sweep: Sweep,
        sockets: Vec<SeedSocket>,
        end: Option<SweepEnd>,
    ) -> Result<(), SweepReceiverGone> {
        let listing = Record::Listing(Box::new(Listing { sweep, sockets, end }));
        self.sender.send(listing).map_err(|_| SweepReceiverGone)
    }

    fn is_wanted(&self, sweep: Sweep, socket: &SeedSocket) -> bool {
        (sweep == Sweep::Whole || matches!(socket.object, SeedObject::Timewait { .. }))
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
    fn expensive_sweeps_are_rarer_and_a_loss_hastens_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = SweepSchedule::new(start, true);
        assert_eq!(schedule.next(), at(5_000), "at most every five seconds");
        schedule.done(Sweep::Whole, at(5_000), at(5_100));
        assert_eq!(schedule.next(), at(15_100), "a hundredth");
        schedule.sweep_soon();
        assert_eq!(schedule.next(), at(7_100), "a twentieth");
        for n in 1..=3 {
            schedule.done(Sweep::Whole, at(n * 10_000), at(n * 10_000 + 100));
        }
        assert_eq!(schedule.next(), at(40_100), "back to a hundredth after three");
    }

    #[test]
    fn fin_wait2_is_polled_between_sweeps() {
        let start = Instant::now();
        let mut schedule = SweepSchedule::new(start, false);
        assert_eq!(schedule.due(start), Sweep::FinWait2);
        schedule.done(Sweep::FinWait2, start, start);
        assert_eq!(schedule.next(), start + LOOK.least);
        schedule.done(Sweep::FinWait2, start + WHOLE.least, start + WHOLE.least);
        assert_eq!(schedule.due(schedule.next()), Sweep::Whole, "the sweep of all states is due");
    }
}
