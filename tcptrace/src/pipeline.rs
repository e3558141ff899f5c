//! Connects source, tracker, aggregate and views, and owns the tick.
//!
//! The pipeline runs on its own thread and, live, never waits for a view: a watch channel holds the newest snapshot,
//! and event lines and records go to bounded queues. A recording can wait: if every snapshot is wanted, it is read only
//! as fast as the snapshots are received. [`Engine`] does the same work on the caller's thread.

mod engine;
mod event_sink;
mod merge;
mod query;
mod schedule;
mod state;
mod streams;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use tokio::sync::{mpsc, watch};

use query::{ActiveQuery, QueryChange};
use state::{PipelineState, tracker_head};

use crate::{
    aggregate::{Aggregate, Grouping, Scope, Snapshot, detail::Query},
    filter::Filter,
    lifecycle::{Tracker, TrackerLimits},
    model::{Flow, Nanos, Record, Source, peer_names::PeerNames},
    privileges,
    session::Recorder,
    source::PollKind,
};

pub use engine::{Engine, NetnsCounts};
pub use event_sink::EventSink;
pub use merge::{HostByHost, MergedSource};
pub use schedule::SnapshotSchedule;
pub use window::{Bounds, Moment, Window, Windowed};

/// Capture of user stacks.
#[derive(Clone, Copy, Debug)]
pub struct StackPlan {
    /// Stacks captured per process, kind of call and second before they are sampled.
    pub per_second: u32,
    /// From which age a socket that waits for its process is listed with its stack.
    pub older: Nanos,
    /// Whether to fail where the stacks of `accept()` can't be captured.
    pub needs_accept: bool,
}

impl StackPlan {
    /// Lists sockets as soon as findings do.
    pub fn for_findings() -> Self {
        Self { older: Nanos::SECOND, ..Self::default() }
    }
}

impl Default for StackPlan {
    fn default() -> Self {
        Self { per_second: 100, older: Nanos(10 * Nanos::SECOND.0), needs_accept: false }
    }
}

/// Settings of a run.
pub struct PipelinePlan {
    /// Sockets to show.
    pub filter: Filter,
    /// Grouping of the sockets.
    pub grouping: Grouping,
    /// Dwells to keep.
    pub scope: Scope,
    /// Size of the sticky top N of groups and of destinations, see [`Aggregate::with_places`].
    pub places: usize,
    /// Time between two snapshots.
    pub interval: Nanos,
    /// Host data to poll besides the hooks, live only; with [`PollKind::Host`] snapshots have what only findings need.
    pub polls: PollKind,
    /// Whether user stacks are captured, live only, and listed in snapshots; `None` for neither.
    pub stacks: Option<StackPlan>,
    /// Whether polling is of use where tracing is impossible.
    pub may_only_poll: bool,
    /// Name of the source.
    pub source: Arc<str>,
    /// Names of remote addresses that the user gave.
    pub peer_names: Arc<PeerNames>,
    /// Receiver of single events.
    pub events: Option<Box<dyn EventSink>>,
    /// Additional receiver of the records.
    pub recorder: Option<Recorder>,
    /// Receiver of every snapshot; the pipeline waits for it. Only for sources that can wait.
    pub every_snapshot: Option<mpsc::Sender<Arc<Snapshot>>>,
    /// Queries of a view: answered in the next snapshot and, after the end of the source, as long as the sender exists.
    /// The grouping is that of the first query.
    pub queries: Option<watch::Receiver<Query>>,
}

impl PipelinePlan {
    /// A plan that produces only snapshots.
    pub fn new(filter: Filter, grouping: Grouping, scope: Scope, interval: Nanos) -> Self {
        Self {
            filter,
            grouping,
            scope,
            places: 0,
            interval,
            polls: PollKind::States,
            stacks: None,
            may_only_poll: false,
            source: "".into(),
            peer_names: Arc::default(),
            events: None,
            recorder: None,
            every_snapshot: None,
            queries: None,
        }
    }
}

/// A running pipeline.
pub struct Running {
    /// The newest snapshot; `None` until the initial sockets are complete.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Snapshot>>,
}

impl Running {
    /// Stops the source and returns the last snapshot.
    pub fn stop(self) -> Result<Snapshot> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits for the end of the source and returns the last snapshot.
    pub fn finish(self) -> Result<Snapshot> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Starts a pipeline that runs `source` through a new tracker.
pub fn start(source: Box<dyn Source>, plan: PipelinePlan) -> Result<Running> {
    let (publish, snapshots) = watch::channel(None);
    let stop = Arc::new(AtomicBool::new(false));
    let first = plan.queries.as_ref().map(|queries| queries.borrow().clone());
    let aggregate = Aggregate::new(plan.grouping, plan.scope).with_places(plan.places);
    let flow = PipelineState::new(
        match plan.stacks {
            Some(stacks) => aggregate.with_stacks(stacks.older),
            None => aggregate,
        },
        plan.events,
        first.map(|query| ActiveQuery::new(query, plan.filter.clone())),
        plan.filter.clone(),
    )
    .with_peer_names(plan.peer_names);
    let pipeline = Pipeline {
        queries: plan.queries,
        tracker: Box::new(Tracker::new(TrackerLimits::default()).scoped(plan.filter.kernel_part())),
        flow: if plan.polls == PollKind::Host { flow.for_findings() } else { flow },
        recorder: plan.recorder,
        snapshots: SnapshotSender {
            source_name: plan.source,
            schedule: SnapshotSchedule::new(plan.interval),
            publish,
            every_snapshot: plan.every_snapshot,
        },
    };
    let stopped = Arc::clone(&stop);
    let thread = privileges::spawn("pipeline", source.work(), move || pipeline.run(source, &stopped))?;
    Ok(Running { snapshots, stop, thread })
}

struct Pipeline {
    tracker: Box<Tracker>,
    flow: PipelineState,
    recorder: Option<Recorder>,
    snapshots: SnapshotSender,
    queries: Option<watch::Receiver<Query>>,
}

/// Schedule and receivers of snapshots.
struct SnapshotSender {
    source_name: Arc<str>,
    schedule: SnapshotSchedule,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    every_snapshot: Option<mpsc::Sender<Arc<Snapshot>>>,
}

impl Pipeline {
    fn run(mut self, mut source: Box<dyn Source>, stop: &AtomicBool) -> Result<Snapshot> {
        let mut begins = true;
        loop {
            let goes_on = source.fill(&mut |record| self.process_source_record(record))?;
            if std::mem::take(&mut begins)
                && let Some(recorder) = &mut self.recorder
            {
                // After the facts about the host, which begin a recording.
                self.flow.stream.names.peer_records(self.flow.now).for_each(|name| recorder.push(name));
            }
            if let Some(events) = &mut self.flow.events {
                events.flush();
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.flush();
                self.flow.not_recorded = recorder.missed();
                if self.flow.stream.seeded && recorder.wants_head() {
                    // A copy is made in a tenth of the time that its records take: the rings don't wait for them.
                    let (records, tracker, ts) = (self.flow.head(), self.tracker.clone(), self.flow.now);
                    recorder.head(Box::new(move || {
                        Box::new(records.into_iter().chain(tracker_head(&tracker, ts)))
                    }));
                }
            }
            if goes_on == Flow::Ended {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                source.finish(&mut |record| self.take(record));
                break;
            }
            self.listen();
        }
        if let Some(active) = &mut self.flow.active {
            active.ended = true;
        }
        let last = self.snapshots.snapshot(&mut self.flow, &self.tracker);
        self.snapshots.publish.send_replace(Some(Arc::new(last.clone())));
        while self.flow.active.is_some()
            && !stop.load(Ordering::Relaxed)
            && self.listen() != QueryChange::Over
        {
            thread::sleep(QUERY_POLL_INTERVAL);
        }
        Ok(last)
    }

    /// Processes a record from the source; of a sweep only the differences to the tracker.
    fn process_source_record(&mut self, record: Record) {
        if let Record::Listing(listing) = record {
            for record in self.tracker.compare(&listing) {
                self.take(record);
            }
        } else {
            self.take(record);
        }
    }

    fn take(&mut self, record: Record) {
        let Self { tracker, flow, recorder, snapshots, .. } = self;
        if let Record::Stream { number } = record {
            flow.enter_stream(number, tracker);
            return;
        }
        flow.take(&record, tracker);
        let is_milestone = match record {
            Record::Tick { .. } => snapshots.publish_when_due(flow, tracker),
            _ => false,
        };
        match (recorder.as_mut(), record) {
            (Some(recorder), Record::Tick { ts }) if is_milestone => recorder.push_milestone(ts),
            (Some(recorder), record) if tracker.follows(&record) => recorder.push(record),
            _ => {}
        }
    }

    /// Answers a new query at once.
    fn listen(&mut self) -> QueryChange {
        let Some(queries) = &mut self.queries else { return QueryChange::None };
        let change = match queries.has_changed() {
            Ok(false) => QueryChange::None,
            Ok(true) => self.flow.ask(queries.borrow_and_update().clone(), &mut self.tracker),
            Err(_) => QueryChange::Over,
        };
        if self.flow.stream.seeded {
            match change {
                QueryChange::None | QueryChange::Over => {}
                QueryChange::Focus => self.snapshots.publish_answer(&mut self.flow, &self.tracker),
                QueryChange::Count | QueryChange::Filter => {
                    self.snapshots.publish(&mut self.flow, &self.tracker);
                }
            }
        }
        change
    }
}

/// Poll interval for queries after the source has ended.
const QUERY_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl SnapshotSender {
    /// Publishes a snapshot if one is due; returns whether it was.
    fn publish_when_due(&mut self, flow: &mut PipelineState, tracker: &Tracker) -> bool {
        if !flow.stream.seeded || !self.schedule.is_due(flow.now) {
            return false;
        }
        self.publish_now(flow, tracker);
        true
    }

    /// Publishes a snapshot ahead of schedule: the next is due one interval later.
    fn publish(&mut self, flow: &mut PipelineState, tracker: &Tracker) {
        self.schedule.reschedule(flow.now);
        self.publish_now(flow, tracker);
    }

    /// Publishes the previous snapshot with a new answer.
    fn publish_answer(&self, flow: &mut PipelineState, tracker: &Tracker) {
        let Some(before) = self.publish.borrow().clone() else { return };
        let answer = flow.answer(tracker);
        self.publish.send_replace(Some(Arc::new(Snapshot { answer, ..Snapshot::clone(&before) })));
    }

    fn publish_now(&mut self, flow: &mut PipelineState, tracker: &Tracker) {
        let snapshot = Arc::new(self.snapshot(flow, tracker));
        if let Some(every_snapshot) = &self.every_snapshot
            && every_snapshot.blocking_send(Arc::clone(&snapshot)).is_err()
        {
            self.every_snapshot = None;
        }
        self.publish.send_replace(Some(snapshot));
    }

    fn snapshot(&self, flow: &mut PipelineState, tracker: &Tracker) -> Snapshot {
        flow.snapshot(tracker, &self.source_name)
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
