//! Wires source -> tracker -> aggregate -> view, and owns the tick.
//!
//! The pipeline runs on a thread of its own and, live, never waits for a view: snapshots are left where the
//! view finds the newest, event lines and records go to bounded queues. A recording can wait: it is read no
//! faster than every snapshot is taken, where all are wanted. [`Engine`] is the same on the caller's thread.

mod asked;
mod engine;
mod schedule;
mod taken;

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

use asked::{Asked, Change};
use taken::Taken;

use crate::{
    aggregate::{Aggregate, Grouping, Scope, Snapshot, standing},
    filter::Filter,
    inspect::Query,
    lifecycle::{Event, Limits, Tracker},
    model::{Nanos, Record, record::HostFacts},
    session::Recorder,
    source::{Flow, Look, Source},
};

pub use engine::Engine;
pub use schedule::Schedule;

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
    /// Groups, and destinations, that keep their place, see [`Aggregate::with_places`].
    pub places: usize,
    /// Time between two snapshots.
    pub interval: Nanos,
    /// What to look at beside the hooks, live.
    pub look: Look,
    /// The source's name.
    pub source: Arc<str>,
    /// Where single events go.
    pub events: Option<Box<dyn EventSink>>,
    /// Where the records go as well.
    pub recorder: Option<Recorder>,
    /// Who gets every snapshot, none left out: the pipeline waits. For sources that can.
    pub pictures: Option<mpsc::Sender<Arc<Snapshot>>>,
    /// What a view wants to be shown, where it can ask: it is answered with the next snapshot, and after the
    /// source has ended as long as somebody asks. The grouping is the first question's.
    pub queries: Option<watch::Receiver<Query>>,
}

impl Plan {
    /// A plan for no more than snapshots.
    pub fn new(filter: Filter, grouping: Grouping, scope: Scope, interval: Nanos) -> Self {
        Self {
            filter,
            grouping,
            scope,
            places: 0,
            interval,
            look: Look::States,
            source: "".into(),
            events: None,
            recorder: None,
            pictures: None,
            queries: None,
        }
    }
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
        self.finish()
    }

    /// Waits until the source ends by itself and returns the last snapshot.
    pub fn finish(self) -> Result<Snapshot> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Starts to run `source` through a new tracker.
pub fn start(mut source: Box<dyn Source>, plan: Plan) -> Result<Running> {
    let (publish, snapshots) = watch::channel(None);
    let stop = Arc::new(AtomicBool::new(false));
    let first = plan.queries.as_ref().map(|queries| queries.borrow().clone());
    let pipeline = Pipeline {
        queries: plan.queries,
        tracker: Tracker::new(Limits::default()).scoped(plan.filter.kernel_part()),
        flow: Taken::new(
            Aggregate::new(plan.grouping, plan.scope).with_places(plan.places),
            plan.events,
            first.map(|query| Asked::new(query, plan.filter.clone())),
            plan.filter,
        ),
        recorder: plan.recorder,
        snapshots: Snapshots {
            source_name: plan.source,
            look: plan.look,
            schedule: Schedule::new(plan.interval),
            publish,
            pictures: plan.pictures,
        },
    };
    let stopped = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("pipeline".into()).spawn(move || {
        source.begin();
        pipeline.run(source, &stopped)
    })?;
    Ok(Running { snapshots, stop, thread })
}

struct Pipeline {
    tracker: Tracker,
    flow: Taken,
    recorder: Option<Recorder>,
    snapshots: Snapshots,
    queries: Option<watch::Receiver<Query>>,
}

/// When snapshots are made, and who gets them.
struct Snapshots {
    source_name: Arc<str>,
    look: Look,
    schedule: Schedule,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    pictures: Option<mpsc::Sender<Arc<Snapshot>>>,
}

impl Pipeline {
    fn run(mut self, mut source: Box<dyn Source>, stop: &AtomicBool) -> Result<Snapshot> {
        loop {
            let goes_on = source.fill(&mut |record| self.take_in(record))?;
            if let Some(events) = &mut self.flow.events {
                events.flush();
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.flush();
                self.flow.not_recorded = recorder.missed();
                if self.flow.seeded && recorder.wants_head() {
                    recorder.head(self.flow.head(&self.tracker));
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
        if let Some(asked) = &mut self.flow.asked {
            asked.ended = true;
        }
        let last = self.snapshots.snapshot(&mut self.flow, &self.tracker);
        self.snapshots.publish.send_replace(Some(Arc::new(last.clone())));
        while self.flow.asked.is_some() && !stop.load(Ordering::Relaxed) && self.listen() != Change::Over {
            thread::sleep(LISTEN_EVERY);
        }
        Ok(last)
    }

    /// Takes in what the source hands out: of a sweep, what it shows to be wrong.
    fn take_in(&mut self, record: Record) {
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

    /// Answers a new question at once.
    fn listen(&mut self) -> Change {
        let Some(queries) = &mut self.queries else { return Change::None };
        let change = match queries.has_changed() {
            Ok(false) => Change::None,
            Ok(true) => self.flow.ask(queries.borrow_and_update().clone(), &mut self.tracker),
            Err(_) => Change::Over,
        };
        if self.flow.seeded {
            match change {
                Change::None | Change::Over => {}
                Change::Focus => self.snapshots.publish_answer(&mut self.flow, &self.tracker),
                Change::Count | Change::Filter => self.snapshots.publish(&mut self.flow, &self.tracker),
            }
        }
        change
    }
}

/// How often to look for a question where nothing else happens.
const LISTEN_EVERY: Duration = Duration::from_millis(20);

impl Snapshots {
    /// Makes a snapshot when it is time for one; returns whether it was.
    fn publish_when_due(&mut self, flow: &mut Taken, tracker: &Tracker) -> bool {
        if !flow.seeded || !self.schedule.is_due(flow.now) {
            return false;
        }
        self.publish_now(flow, tracker);
        true
    }

    /// The same out of turn: the next is due one interval later.
    fn publish(&mut self, flow: &mut Taken, tracker: &Tracker) {
        self.schedule.begin_anew(flow.now);
        self.publish_now(flow, tracker);
    }

    /// The snapshot before with a new answer.
    fn publish_answer(&self, flow: &mut Taken, tracker: &Tracker) {
        let Some(before) = self.publish.borrow().clone() else { return };
        let answer = flow.answer(tracker);
        self.publish.send_replace(Some(Arc::new(Snapshot { answer, ..Snapshot::clone(&before) })));
    }

    fn publish_now(&mut self, flow: &mut Taken, tracker: &Tracker) {
        let snapshot = Arc::new(self.snapshot(flow, tracker));
        if let Some(pictures) = &self.pictures
            && pictures.blocking_send(Arc::clone(&snapshot)).is_err()
        {
            self.pictures = None;
        }
        self.publish.send_replace(Some(snapshot));
    }

    fn snapshot(&self, flow: &mut Taken, tracker: &Tracker) -> Snapshot {
        let mut snapshot = flow.snapshot(tracker, &self.source_name);
        if self.look == Look::Host {
            snapshot.standing = standing::of(tracker, &snapshot);
        }
        snapshot
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
