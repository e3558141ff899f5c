//! Records on their way to a file: the pipeline leaves them in a bounded queue, a thread of its own writes
//! them (`writer`), and what the disk does not take in time is counted, in the file too.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
};

use tokio::sync::oneshot;

use super::{
    message::Compressor,
    output::{Existing, Keep, Output, Unwritten, Written},
    ticks::Ticks,
    writer::Writer,
};
use crate::{
    model::{Nanos, Record, record::KernelLosses},
    privileges::{self, Work},
};

/// Records handed over in one go.
const PORTION: usize = 8 << 10;
/// Portions handed over and not yet taken.
const QUEUE: usize = 4;
/// Records that wait for the writer beyond those handed over: some 70 MB. There is as much room again for the few
/// that everything else is read by: a recording without the end of its seed shows nothing.
const MOST_WAITING: usize = 512 << 10;

/// What to write where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file, or what the names of a series are made from.
    pub path: PathBuf,
    /// What to keep.
    pub keep: Keep,
    /// Whether files that are there already may go.
    pub existing: Existing,
}

/// How it goes, for everybody to look at.
#[derive(Debug, Default)]
pub struct Status {
    /// Records of hooks written.
    pub records: AtomicU64,
    /// Bytes written, or held.
    pub bytes: AtomicU64,
    /// Records that were not taken in time.
    pub missed: AtomicU64,
    pub(super) wants_head: AtomicBool,
    pub(super) wants_dump: AtomicUsize,
    /// Portions in the queue.
    pub(super) queued: AtomicUsize,
}

/// A recording, seen from outside.
pub struct Recording {
    /// How it goes.
    pub status: Arc<Status>,
    /// Resolves when everything that was there at the beginning is written, or held: from then on the file opens,
    /// whatever happens.
    pub begun: oneshot::Receiver<()>,
    /// Resolves when the file is closed, or can't be written any more.
    pub done: oneshot::Receiver<Result<Written, Failure>>,
    /// What was written out on request.
    pub dumps: tokio::sync::mpsc::UnboundedReceiver<Result<Written, Unwritten>>,
}

/// A recording that ended early, and what there is of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// Why.
    pub cause: Unwritten,
    /// What is in the file.
    pub written: Written,
}

/// Takes records from the pipeline.
pub struct Recorder {
    queue: SyncSender<Portion>,
    /// Full portions that the queue had no room for.
    waiting: VecDeque<Vec<Record>>,
    /// The portion being filled.
    portion: Vec<Record>,
    ticks: Ticks,
    status: Arc<Status>,
    losses: KernelLosses,
    missed: u64,
    /// Records were missed since it was last said.
    has_gap: bool,
    now: Nanos,
}

/// What is handed over.
pub enum Portion {
    /// As they came.
    Records(Vec<Record>),
    /// What is known when a new piece begins.
    Head { losses_before: KernelLosses, ts: Nanos, records: Vec<Record> },
}

impl Status {
    /// Whether the writer has seen to everything it was given.
    pub fn is_idle(&self) -> bool {
        self.queued.load(Relaxed) == 0
    }

    /// Asks for what is held to be written out.
    pub fn dump(&self) {
        self.wants_dump.fetch_add(1, Relaxed);
    }
}

/// Opens the file and begins to wait for records.
pub fn start(plan: &Plan) -> Result<(Recorder, Recording), Unwritten> {
    let output = Output::open(&plan.path, plan.keep, plan.existing)?;
    let unwritten = |why| Unwritten { path: plan.path.clone(), why };
    let compressor = Compressor::new().map_err(unwritten)?;
    let status = Arc::<Status>::default();
    let (queue, portions) = sync_channel(QUEUE);
    let (finish, done) = oneshot::channel();
    let (tell_begun, begun) = oneshot::channel();
    let (tell, dumps) = tokio::sync::mpsc::unbounded_channel();
    let writer = Writer::new(output, compressor, Arc::clone(&status), tell_begun, tell);
    std::thread::Builder::new()
        .name("recorder".into())
        .spawn(move || {
            privileges::keep_for(Work::Files);
            finish.send(writer.run(&portions))
        })
        .map_err(unwritten)?;
    let recorder = Recorder::new(queue, Arc::clone(&status));
    Ok((recorder, Recording { status, begun, done, dumps }))
}

impl Recorder {
    fn new(queue: SyncSender<Portion>, status: Arc<Status>) -> Self {
        Self {
            queue,
            waiting: VecDeque::new(),
            portion: Vec::new(),
            ticks: Ticks::default(),
            status,
            losses: KernelLosses::default(),
            missed: 0,
            has_gap: false,
            now: Nanos(0),
        }
    }

    /// Takes one record. Never waits: what there is no room for is missed, and counted.
    pub fn push(&mut self, record: Record) {
        let (tick, itself) = self.ticks.before(&record);
        if let Some(tick) = tick {
            self.keep(tick);
        }
        if itself {
            self.keep(record);
        }
    }

    /// The same for the tick at which a snapshot was made: a replay makes it there, too.
    pub fn push_milestone(&mut self, ts: Nanos) {
        let tick = self.ticks.milestone(ts);
        self.keep(tick);
    }

    fn keep(&mut self, record: Record) {
        if let Some(ts) = record.ts() {
            self.now = self.now.max(ts);
        }
        let record = match record {
            Record::Loss { ts, losses } => {
                self.losses = losses;
                Record::Loss { ts, losses: KernelLosses { not_recorded: self.missed, ..losses } }
            }
            record => record,
        };
        let most = match record {
            Record::Kernel(_) | Record::Seed(_) | Record::Owner { .. } | Record::Tick { .. } => MOST_WAITING,
            _ => 2 * MOST_WAITING,
        };
        if self.waiting.len() * PORTION + self.portion.len() >= most {
            self.missed += u64::from(!matches!(record, Record::Tick { .. }));
            self.status.missed.store(self.missed, Relaxed);
            self.has_gap = true;
            return;
        }
        if std::mem::take(&mut self.has_gap) {
            self.tell_missed();
        }
        self.portion.push(record);
        if self.portion.len() >= PORTION {
            let portion = self.take_portion();
            self.waiting.push_back(portion);
            self.flush();
        }
    }

    fn tell_missed(&mut self) {
        let losses = KernelLosses { not_recorded: self.missed, ..self.losses };
        self.portion.push(Record::Loss { ts: self.now, losses });
    }

    /// Hands over what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some(portion) = self.waiting.pop_front() {
            if let Err(portion) = self.hand_over(portion) {
                self.waiting.push_front(portion);
                return;
            }
        }
        let portion = self.take_portion();
        if !portion.is_empty()
            && let Err(portion) = self.hand_over(portion)
        {
            self.portion = portion;
        }
    }

    /// The portion so far. The next will be about as large: it need not grow.
    fn take_portion(&mut self) -> Vec<Record> {
        let next = Vec::with_capacity(self.portion.len());
        std::mem::replace(&mut self.portion, next)
    }

    fn hand_over(&self, portion: Vec<Record>) -> Result<(), Vec<Record>> {
        self.status.queued.fetch_add(1, Relaxed);
        match self.queue.try_send(Portion::Records(portion)) {
            Err(TrySendError::Full(Portion::Records(portion))) => {
                self.status.queued.fetch_sub(1, Relaxed);
                Err(portion)
            }
            // A writer that gave up says so itself.
            _ => Ok(()),
        }
    }

    /// Whether everything was handed over.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.portion.is_empty()
    }

    /// Records that were not taken in time so far.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether a new piece is to begin, and can: see [`Self::head`].
    pub fn wants_head(&self) -> bool {
        // The only sender: where the queue has room now it has when the head is there.
        self.status.wants_head.load(Relaxed)
            && self.waiting.is_empty()
            && self.portion.is_empty()
            && self.status.queued.load(Relaxed) < QUEUE
    }

    /// Begins a new piece of the recording, with everything that is known now.
    pub fn head(&mut self, records: Vec<Record>) {
        // Its own first tick stands for it.
        self.ticks.take();
        self.status.wants_head.store(false, Relaxed);
        let losses_before = KernelLosses { not_recorded: self.missed, ..self.losses };
        let head = Portion::Head { losses_before, ts: self.now, records };
        self.status.queued.fetch_add(1, Relaxed);
        if self.queue.try_send(head).is_err() {
            self.status.queued.fetch_sub(1, Relaxed);
        }
    }
}

/// The source has ended: what waits is written, however long it takes.
impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(tick) = self.ticks.take() {
            self.keep(tick);
        }
        if self.has_gap {
            self.tell_missed();
        }
        let last = std::mem::take(&mut self.portion);
        for portion in std::mem::take(&mut self.waiting).into_iter().chain([last]) {
            self.status.queued.fetch_add(1, Relaxed);
            if self.queue.send(Portion::Records(portion)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Shape, Traffic};

    #[test]
    fn what_is_not_taken_in_time_is_counted_and_told() {
        let (queue, portions) = sync_channel(QUEUE);
        let mut recorder = Recorder::new(queue, Arc::default());
        let seen: Vec<Record> = Traffic::new(Shape::default(), 1)
            .filter(|record| matches!(record, Record::Kernel(_)))
            .take(100)
            .collect();
        // Nobody takes anything.
        let room = QUEUE * PORTION + MOST_WAITING;
        for record in seen.iter().cycle().take(room + 150) {
            recorder.push(record.clone());
        }
        assert_eq!(recorder.missed(), 150);
        assert_eq!(recorder.status.missed.load(Relaxed), 150);
        // There is still room for what the rest is read by.
        recorder.push(Record::OwnersEnd { ts: Nanos(1) });
        assert_eq!(recorder.missed(), 150);
        // Now somebody does.
        let reader = std::thread::spawn(move || {
            let mut taken = Vec::new();
            while let Ok(Portion::Records(records)) = portions.recv() {
                taken.extend(records);
            }
            taken
        });
        drop(recorder);
        let taken = reader.join().expect("no panic");
        assert_eq!(taken.len(), room + 2);
        let [.., Record::Loss { losses, .. }, Record::OwnersEnd { .. }] = &taken[..] else {
            panic!("{:?}", taken.last())
        };
        assert_eq!(losses.not_recorded, 150);
    }
}
