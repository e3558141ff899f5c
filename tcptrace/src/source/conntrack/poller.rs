//! Polls the connection tracking tables of all reachable network namespaces while tracing.

use std::{
    io,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;
use tcptrace_common::filter::KernelFilter;

use crate::{
    model::{NetnsId, Record},
    privileges::{CpuTimer, Work},
    source::{
        host, may_be_in, netns,
        poller::{LastPoll, PollBackoff, PollSchedule, Poller, PollerEnded, PollerThread},
    },
};

/// Listing a million entries takes about a second.
const INTERVAL: PollBackoff = PollBackoff { least: Duration::from_secs(1), share: 50 };

/// Reports the tables of the namespaces that track connections.
pub struct ConntrackPoller {
    findings: SyncSender<Record>,
    filter: KernelFilter,
    /// Namespaces that tracked connections in the last poll.
    tracking: FxHashSet<NetnsId>,
    schedule: PollSchedule,
}

impl ConntrackPoller {
    /// Starts the thread, which reports the namespaces that `filter` passes.
    pub fn start(filter: &KernelFilter) -> io::Result<PollerThread<Self>> {
        PollerThread::start(|findings| Self {
            findings,
            filter: *filter,
            tracking: FxHashSet::default(),
            schedule: PollSchedule::new(INTERVAL),
        })
    }
}

impl Poller for ConntrackPoller {
    const NAME: &'static str = "conntrack";
    const WORK: Work = Work::ListConntrack;
    type Request = LastPoll;
    type Finding = Record;

    fn due(&self) -> Option<Instant> {
        Some(self.schedule.due())
    }

    fn request(&mut self, LastPoll: LastPoll) {
        self.schedule.request_last();
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let began = CpuTimer::start();
        for record in read_all(&self.filter, &mut self.tracking) {
            self.findings.send(record)?;
        }
        self.schedule.polled(began.elapsed())
    }
}

/// Reads the tables of all namespaces that `filter` passes, once.
pub fn records(filter: &KernelFilter) -> Vec<Record> {
    read_all(filter, &mut FxHashSet::default())
}

/// Polls once. A namespace in `tracking` is reported once more, with an empty table, when it tracks nothing any longer.
fn read_all(filter: &KernelFilter, tracking: &mut FxHashSet<NetnsId>) -> Vec<Record> {
    let round = netns::visit_each_for(
        Work::ListConntrack,
        |netns| may_be_in(filter, netns.id),
        |_| (super::read(), host::monotonic_now()),
    );
    // Namespaces that can't be visited could not be seeded either; the seed reports them.
    let Ok(round) = round else { return Vec::new() };
    let mut records = Vec::new();
    for (netns, (conntrack, ts)) in round.visited {
        let was_tracking = match conntrack {
            Some(_) => !tracking.insert(netns.id),
            None => tracking.remove(&netns.id),
        };
        if conntrack.is_some() || was_tracking {
            let conntrack = Box::new(conntrack.unwrap_or_default());
            records.push(Record::Conntrack { ts, netns: netns.id, conntrack });
        }
    }
    records
}
