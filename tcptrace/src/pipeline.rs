//! Wires source -> tracker -> aggregate -> view, and owns the tick.
//!
//! The pipeline runs on a thread of its own and never waits for a view: snapshots are left where the
//! view finds the newest, event lines go to a bounded queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Result;
use tokio::sync::watch;

use crate::{
    aggregate::{Aggregate, Context, Grouping, Names, Scope, Snapshot},
    filter::{Filter, Subject},
    lifecycle::{Event, Limits, Observer, Processes, Socket, Tracker},
    model::{
        Nanos, Record, SocketId, TcpState,
        record::{HostFacts, KernelLosses},
    },
    source::{Flow, Source},
};

/// Takes every event as it happens; must not block.
pub trait EventSink: Send {
    /// One change of state.
    fn event(&mut self, event: &Event<'_>, host: &HostFacts);
    /// Everything that was there has been handed over.
    fn flush(&mut self);
    /// Lines that a slow reader of the output did not take in time.
    fn dropped(&self) -> u64;
}

/// What a run is to do.
pub struct Plan {
    /// What to show.
    pub filter: Filter,
    /// What to group by.
    pub grouping: Grouping,
    /// Which dwells to keep.
    pub scope: Scope,
    /// Time between two snapshots.
    pub interval: Nanos,
    /// The source's name.
    pub source: Arc<str>,
    /// Where single events go.
    pub events: Option<Box<dyn EventSink>>,
}

/// A pipeline at work.
pub struct Running {
    /// The newest snapshot; `None` until the seed is complete.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Snapshot>>,
}

impl Running {
    /// Stops the source and returns the last snapshot.
    pub fn stop(self) -> Result<Snapshot> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Starts to run `source` through a new tracker.
pub fn start(source: Box<dyn Source>, plan: Plan) -> Result<Running> {
    let (publish, snapshots) = watch::channel(None);
    let stop = Arc::new(AtomicBool::new(false));
    let pipeline = Pipeline {
        tracker: Tracker::new(Limits::default()).scoped(plan.filter.kernel_part()),
        flow: Taken::new(Aggregate::new(plan.grouping, plan.scope), plan.events, plan.filter),
        source_name: plan.source,
        interval: plan.interval,
        next: None,
        publish,
    };
    let stopped = Arc::clone(&stop);
    let thread =
        std::thread::Builder::new().name("pipeline".into()).spawn(move || pipeline.run(source, &stopped))?;
    Ok(Running { snapshots, stop, thread })
}

struct Pipeline {
    tracker: Tracker,
    flow: Taken,
    source_name: Arc<str>,
    interval: Nanos,
    /// When the next snapshot is due; `None` until the seed is complete.
    next: Option<Nanos>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
}

/// What records have told so far, beside the tracker.
struct Taken {
    filter: Filter,
    aggregate: Aggregate,
    events: Option<Box<dyn EventSink>>,
    host: Arc<HostFacts>,
    losses: KernelLosses,
    names: Names,
    records: u64,
    now: Nanos,
    seeded: bool,
}

impl Pipeline {
    fn run(mut self, mut source: Box<dyn Source>, stop: &AtomicBool) -> Result<Snapshot> {
        loop {
            let flow = source.fill(&mut |record| self.flow.take(&record, &mut self.tracker))?;
            if let Some(events) = &mut self.flow.events {
                events.flush();
            }
            self.publish_when_due();
            if flow == Flow::Ended || stop.load(Ordering::Relaxed) {
                return Ok(self.snapshot());
            }
        }
    }

    fn publish_when_due(&mut self) {
        let now = self.flow.now;
        if !self.flow.seeded || self.next.is_some_and(|next| now < next) {
            return;
        }
        // Due times do not drift; those missed are not made up for.
        let due = self.next.map_or(now, |next| next).plus(self.interval);
        self.next = Some(if due > now { due } else { now.plus(self.interval) });
        let snapshot = self.snapshot();
        self.publish.send_replace(Some(Arc::new(snapshot)));
    }

    fn snapshot(&mut self) -> Snapshot {
        let context = Context {
            host: Arc::clone(&self.flow.host),
            source: Arc::clone(&self.source_name),
            records: self.flow.records,
            kernel_losses: self.flow.losses,
            output_dropped: self.flow.events.as_ref().map_or(0, |events| events.dropped()),
        };
        self.flow.aggregate.snapshot(self.flow.now, &self.tracker, &self.flow.names, context)
    }
}

impl Taken {
    fn new(aggregate: Aggregate, events: Option<Box<dyn EventSink>>, filter: Filter) -> Self {
        Self {
            filter,
            aggregate,
            events,
            host: Arc::default(),
            losses: KernelLosses::default(),
            names: Names::default(),
            records: 0,
            now: Nanos(0),
            seeded: false,
        }
    }

    fn take(&mut self, record: &Record, tracker: &mut Tracker) {
        match record {
            Record::Kernel(_) => self.records += 1,
            Record::Host(facts) => self.host = Arc::new(HostFacts::clone(facts)),
            Record::Loss { losses, .. } => self.losses = *losses,
            Record::NetnsName { .. } | Record::CgroupPath { .. } => self.names.take(record),
            Record::OwnersEnd { .. } => self.seeded = true,
            Record::Tick { ts } => {
                self.now = self.now.max(*ts);
                self.aggregate.begin(*ts);
            }
            Record::Seed(_) | Record::SeedEnd { .. } | Record::FinWait2End { .. } | Record::Owner { .. } => {}
        }
        tracker.take(record, self);
    }

    /// Notes in which states `socket` matches the filter, as far as it is known now.
    fn judge(&self, socket: &mut Socket, processes: &Processes) {
        if !self.filter.is_everything() {
            socket.shown = self.filter.states(&Subject::of(socket, processes));
        }
    }
}

/// Everybody who listens to the tracker, behind the filter: a change is told when the state before or the one
/// after is shown, and a socket counts while it is in one that is.
impl Observer for Taken {
    fn appeared(&mut self, id: SocketId, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.appeared(id, socket, processes);
    }

    fn changed(&mut self, event: &Event<'_>, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        // A connection that comes in is told to come from LISTEN, where it never was itself.
        let from = if event.begins { TcpState::Close } else { event.from };
        if let Some(events) = &mut self.events
            && (socket.shown.contains(from) || socket.shown.contains(event.to))
        {
            events.event(event, &self.host);
        }
        self.aggregate.changed(event, socket, processes);
    }

    fn corrected(&mut self, from: TcpState, socket: &mut Socket, processes: &Processes) {
        self.aggregate.corrected(from, socket, processes);
    }

    fn identified(&mut self, socket: &mut Socket, processes: &Processes) {
        self.judge(socket, processes);
        self.aggregate.identified(socket, processes);
    }

    fn orphaned(&mut self, socket: &mut Socket) {
        self.aggregate.orphaned(socket);
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
