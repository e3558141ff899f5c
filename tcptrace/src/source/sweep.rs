//! Sweeps list the sockets of all reachable network namespaces again at intervals while tracing, as
//! [`Listing`]s that the tracker compares with its state. They repair whatever the hooks lost.
//!
//! The interval depends on the cost of a sweep: at most one part in a hundred of one CPU's time, one in twenty
//! for a few sweeps after a loss. If segments that reach timewait sockets are not traced, FIN_WAIT2 alone is
//! listed in between: an orphan that has disappeared has moved on to TIME_WAIT.

use std::{
    io,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use tcptrace_common::filter::KernelFilter;

use super::{
    host, netns,
    poller::{PollBackoff, Poller, PollerEnded, PollerThread},
    seed::may_be_in,
    sock_diag::{self, StateMask, Summary},
};
use crate::model::{
    Record, SeedSocket, TcpState,
    record::{Listing, Sweep, SweepEnd},
};

/// Sockets in a listing.
const BATCH: usize = 1024;

/// Pause before a sweep of all states.
const SWEEP_INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(5), share: 100 };
/// The same after a loss.
const SWEEP_INTERVAL_AFTER_LOSS: PollBackoff = PollBackoff { least: Duration::from_millis(250), share: 20 };
/// The same for FIN_WAIT2 alone.
const FIN_WAIT2_INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(1), share: 50 };
/// Two sweeps that begin after the last loss find everything; one more may be under way.
const SWEEPS_AFTER_LOSS: u32 = 3;

/// A message from the reader to the sweep thread.
#[derive(Clone, Copy, Debug)]
pub enum SweepCommand {
    /// Starts the sweeps: the seed is complete.
    Begin,
    /// Schedules sweeps sooner: records were lost, or may have been.
    Lost,
}

/// Starts the thread. After [`SweepCommand::Begin`] it sweeps the sockets that `filter` passes.
pub fn start(filter: &KernelFilter, sees_segments: bool) -> io::Result<PollerThread<Sweeper>> {
    PollerThread::start(|findings| Sweeper { findings, filter: *filter, sees_segments, schedule: None })
}

/// Decides when to sweep which states.
#[derive(Debug)]
struct SweepSchedule {
    /// When the last sweep of all states ended, and its cost.
    last: (Instant, Duration),
    /// When the next one is due.
    whole: Instant,
    /// When FIN_WAIT2 is due, if it is polled at all.
    fin_wait2: Option<Instant>,
    /// Remaining sweeps with the shorter pause.
    sweeps_after_loss: u32,
}

impl SweepSchedule {
    fn new(now: Instant, sees_segments: bool) -> Self {
        let fin_wait2 = (!sees_segments).then_some(now);
        Self {
            last: (now, Duration::ZERO),
            whole: now + SWEEP_INTERVAL.least,
            fin_wait2,
            sweeps_after_loss: 0,
        }
    }

    fn next(&self) -> Instant {
        self.fin_wait2.map_or(self.whole, |due| due.min(self.whole))
    }

    fn due(&self, now: Instant) -> Sweep {
        match self.fin_wait2 {
            Some(due) if self.whole > now || due < self.whole => Sweep::FinWait2,
            _ => Sweep::Whole,
        }
    }

    /// Schedules the next sweep sooner, after a loss.
    fn sweep_soon(&mut self) {
        let (ended, cost) = self.last;
        self.sweeps_after_loss = SWEEPS_AFTER_LOSS;
        self.whole = self.whole.min(ended + SWEEP_INTERVAL_AFTER_LOSS.after(cost));
    }

    fn done(&mut self, sweep: Sweep, began: Instant, ended: Instant) {
        let cost = ended - began;
        match sweep {
            Sweep::FinWait2 => self.fin_wait2 = Some(ended + FIN_WAIT2_INTERVAL.after(cost)),
            Sweep::Whole => {
                self.sweeps_after_loss = self.sweeps_after_loss.saturating_sub(1);
                self.last = (ended, cost);
                let is_soon = self.sweeps_after_loss > 0;
                let interval = if is_soon { SWEEP_INTERVAL_AFTER_LOSS } else { SWEEP_INTERVAL };
                self.whole = ended + interval.after(cost);
            }
        }
    }
}

pub struct Sweeper {
    findings: SyncSender<Record>,
    filter: KernelFilter,
    sees_segments: bool,
    /// `None` before [`SweepCommand::Begin`].
    schedule: Option<SweepSchedule>,
}

impl Poller for Sweeper {
    const NAME: &'static str = "sweep";
    const REQUESTS: usize = 64;
    const FINDINGS: usize = 16;
    type Request = SweepCommand;
    type Finding = Record;

    fn due(&self) -> Option<Instant> {
        self.schedule.as_ref().map(SweepSchedule::next)
    }

    fn request(&mut self, command: SweepCommand) {
        match (command, &mut self.schedule) {
            (SweepCommand::Begin, schedule) => {
                *schedule = Some(SweepSchedule::new(Instant::now(), self.sees_segments));
            }
            (SweepCommand::Lost, Some(schedule)) => schedule.sweep_soon(),
            (SweepCommand::Lost, None) => {}
        }
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let began = Instant::now();
        if let Some(sweep) = self.schedule.as_ref().map(|schedule| schedule.due(began)) {
            self.sweep(sweep)?;
            if let Some(schedule) = &mut self.schedule {
                schedule.done(sweep, began, Instant::now());
            }
        }
        Ok(())
    }
}

impl Sweeper {
    fn sweep(&self, sweep: Sweep) -> Result<(), PollerEnded> {
        let began = host::monotonic_now();
        let mut listed_in_all = 0_usize;
        let mut sockets = Vec::with_capacity(BATCH);
        let mut wanted = Ok(());
        let round = netns::visit_each(
            |netns| may_be_in(&self.filter, netns.id),
            |netns| {
                let listed = sock_diag::for_each(mask(sweep), netns.id, |socket| {
                    if wanted.is_err() || !self.filter.passes(&socket.tuple.ends(socket.netns)) {
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

    fn send(&self, sweep: Sweep, sockets: Vec<SeedSocket>, end: Option<SweepEnd>) -> Result<(), PollerEnded> {
        let listing = Record::Listing(Box::new(Listing { sweep, sockets, end }));
        Ok(self.findings.send(listing)?)
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
        assert_eq!(schedule.next(), start + FIN_WAIT2_INTERVAL.least);
        schedule.done(Sweep::FinWait2, start + SWEEP_INTERVAL.least, start + SWEEP_INTERVAL.least);
        assert_eq!(schedule.due(schedule.next()), Sweep::Whole, "the sweep of all states is due");
    }
}
