//! Passes records to the recording's writer thread through a bounded queue. Records that the disk cannot absorb
//! in time are counted, in the file as well.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
};

use tokio::sync::oneshot;

use super::{
    message::Compressor,
    output::RecordingOutput,
    portion::{HeadRecords, Portion, RecorderStatus},
    ticks::Ticks,
    writer::RecordingWriter,
    written::{Failure, Keep, WriteError, Written},
};
use crate::{
    model::{Nanos, Record, record::KernelLosses},
    output_file::Existing,
    privileges::{self, Work},
};

/// Records per portion.
const PORTION: usize = 8 << 10;
/// Portions in the queue to the writer.
const QUEUE: usize = 4;
/// Records waiting for room in the queue: about 70 MB. As much again is reserved for the few record kinds that
/// the rest depends on: a recording without the end of its seed shows nothing.
const MAX_WAITING_RECORDS: usize = 512 << 10;

/// Where to record, and how much to keep.
#[derive(Clone, Debug)]
pub struct RecordPlan {
    /// The file, or the base name of a series.
    pub path: PathBuf,
    /// What to keep.
    pub keep: Keep,
    /// Whether a file at `path` may be replaced. Numbered files and flight recorder dumps are never replaced.
    pub existing: Existing,
}

/// Handle to a running recording.
pub struct Recording {
    /// Progress.
    pub status: Arc<RecorderStatus>,
    /// Resolves to the file's path once the initial state (the seed) is written or held in memory: from then on
    /// the file is readable, whatever happens.
    pub begun: oneshot::Receiver<PathBuf>,
    /// Resolves when the file is closed or can no longer be written.
    pub done: oneshot::Receiver<Result<Written, Failure>>,
    /// Results of requested dumps.
    pub dumps: tokio::sync::mpsc::UnboundedReceiver<Result<Written, Failure>>,
}

/// Receives records from the pipeline.
pub struct Recorder {
    queue: SyncSender<Portion>,
    /// Full portions for which the queue had no room.
    waiting: VecDeque<Vec<Record>>,
    /// The portion being filled.
    portion: Vec<Record>,
    ticks: Ticks,
    status: Arc<RecorderStatus>,
    losses: KernelLosses,
    missed: u64,
    /// Records were missed since the last loss record.
    has_missed: bool,
    now: Nanos,
}

/// Opens the file and starts the writer thread.
pub fn start(plan: &RecordPlan) -> Result<(Recorder, Recording), WriteError> {
    let output = RecordingOutput::open(&plan.path, plan.keep, plan.existing)?;
    let unwritten = |why| WriteError { path: plan.path.clone(), why };
    let compressor = Compressor::new().map_err(unwritten)?;
    let status = Arc::<RecorderStatus>::default();
    let (queue, portions) = sync_channel(QUEUE);
    let (finish, done) = oneshot::channel();
    let (begun_sender, begun) = oneshot::channel();
    let (dump_results, dumps) = tokio::sync::mpsc::unbounded_channel();
    let writer = RecordingWriter::new(output, compressor, Arc::clone(&status), begun_sender, dump_results);
    privileges::spawn("recorder", Work::Files, move || finish.send(writer.run(&portions)))
        .map_err(unwritten)?;
    let recorder = Recorder::new(queue, Arc::clone(&status));
    Ok((recorder, Recording { status, begun, done, dumps }))
}

impl Recorder {
    fn new(queue: SyncSender<Portion>, status: Arc<RecorderStatus>) -> Self {
        Self {
            queue,
            waiting: VecDeque::new(),
            portion: Vec::new(),
            ticks: Ticks::default(),
            status,
            losses: KernelLosses::default(),
            missed: 0,
            has_missed: false,
            now: Nanos(0),
        }
    }

    /// Queues one record. Never blocks: records without room are missed, and counted.
    pub fn push(&mut self, record: Record) {
        let (tick, itself) = self.ticks.before(&record);
        if let Some(tick) = tick {
            self.keep(tick);
        }
        if itself {
            self.keep(record);
        }
    }

    /// Like [`Self::push`], for the tick of a snapshot: a replay takes its snapshot at the same tick.
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
            Record::Kernel(_) | Record::Seed(_) | Record::Owner { .. } | Record::Tick { .. } => {
                MAX_WAITING_RECORDS
            }
            _ => 2 * MAX_WAITING_RECORDS,
        };
        if self.waiting.len() * PORTION + self.portion.len() >= most {
            self.missed += u64::from(!matches!(record, Record::Tick { .. }));
            self.status.missed.store(self.missed, Relaxed);
            self.has_missed = true;
            return;
        }
        if std::mem::take(&mut self.has_missed) {
            self.push_missed_losses();
        }
        self.portion.push(record);
        if self.portion.len() >= PORTION {
            let portion = self.swap_portion();
            self.waiting.push_back(portion);
            self.flush();
        }
    }

    fn push_missed_losses(&mut self) {
        let losses = KernelLosses { not_recorded: self.missed, ..self.losses };
        self.portion.push(Record::Loss { ts: self.now, losses });
    }

    /// Sends waiting portions while the queue has room.
    pub fn flush(&mut self) {
        while let Some(portion) = self.waiting.pop_front() {
            if let Err(portion) = self.send_portion(portion) {
                self.waiting.push_front(portion);
                return;
            }
        }
        let portion = self.swap_portion();
        if !portion.is_empty()
            && let Err(portion) = self.send_portion(portion)
        {
            self.portion = portion;
        }
    }

    /// Takes the current portion. The next is allocated at the same size, so that it need not grow.
    fn swap_portion(&mut self) -> Vec<Record> {
        let next = Vec::with_capacity(self.portion.len());
        std::mem::replace(&mut self.portion, next)
    }

    fn send_portion(&self, portion: Vec<Record>) -> Result<(), Vec<Record>> {
        self.status.queued.fetch_add(1, Relaxed);
        match self.queue.try_send(Portion::Records(portion)) {
            Err(TrySendError::Full(Portion::Records(portion))) => {
                self.status.queued.fetch_sub(1, Relaxed);
                Err(portion)
            }
            // A writer that failed reports its own error.
            _ => Ok(()),
        }
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.portion.is_empty()
    }

    /// Records dropped so far because the writer was behind.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether the writer requested a new piece and the queue has room for its head: see [`Self::head`].
    pub fn wants_head(&self) -> bool {
        // This is the only sender, so the room is still there when the head is ready.
        self.status.wants_head.load(Relaxed)
            && self.waiting.is_empty()
            && self.portion.is_empty()
            && self.status.queued.load(Relaxed) < QUEUE
    }

    /// Begins a new piece of the recording with the state known now.
    pub fn head(&mut self, records: HeadRecords) {
        // The head has its own first tick, which replaces the held one.
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

/// When the source ends, the waiting records are written, however long that takes.
impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(tick) = self.ticks.take() {
            self.keep(tick);
        }
        if self.has_missed {
            self.push_missed_losses();
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
    fn missed_records_are_counted_and_reported() {
        let (queue, portions) = sync_channel(QUEUE);
        let mut recorder = Recorder::new(queue, Arc::default());
        let seen: Vec<Record> = Traffic::new(Shape::default(), 1)
            .filter(|record| matches!(record, Record::Kernel(_)))
            .take(100)
            .collect();
        // Nobody drains the queue.
        let room = QUEUE * PORTION + MAX_WAITING_RECORDS;
        for record in seen.iter().cycle().take(room + 150) {
            recorder.push(record.clone());
        }
        assert_eq!(recorder.missed(), 150);
        assert_eq!(recorder.status.missed.load(Relaxed), 150);
        // Records that the rest depends on still have room.
        recorder.push(Record::OwnersEnd { ts: Nanos(1) });
        assert_eq!(recorder.missed(), 150);
        // Now a thread drains the queue.
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

    #[test]
    fn new_piece_begins_with_earlier_losses() {
        let (queue, portions) = sync_channel(QUEUE);
        let mut recorder = Recorder::new(queue, Arc::default());
        assert!(recorder.is_empty() && !recorder.wants_head());
        recorder.status.wants_head.store(true, Relaxed);
        assert!(recorder.wants_head());
        let losses = KernelLosses { ring_full: 3, ..KernelLosses::default() };
        recorder.push(Record::Loss { ts: Nanos(7), losses });
        recorder.push(Record::Tick { ts: Nanos(8) });
        recorder.missed = 5;
        assert!(!recorder.is_empty() && !recorder.wants_head(), "what waits belongs to the piece before");
        recorder.flush();
        assert!(recorder.is_empty() && recorder.wants_head());
        assert_eq!(recorder.status.queued.load(Relaxed), 1);
        recorder.status.queued.store(QUEUE, Relaxed);
        assert!(!recorder.wants_head(), "the queue is full");
        recorder.status.queued.store(1, Relaxed);
        recorder.head(Box::new(|| Box::new([Record::OwnersEnd { ts: Nanos(9) }].into_iter())));
        assert!(!recorder.wants_head() && !recorder.status.is_idle());
        assert_eq!(recorder.status.queued.load(Relaxed), 2);
        drop(recorder);
        let mut taken = portions.iter();
        let (Some(Portion::Records(first)), Some(Portion::Head { losses_before, ts, records })) =
            (taken.next(), taken.next())
        else {
            panic!("other portions")
        };
        assert!(matches!(first[..], [Record::Loss { .. }]), "{first:?}");
        assert_eq!((losses_before.not_recorded, losses_before.ring_full), (5, 3));
        assert_eq!((ts, records().count()), (Nanos(7), 1));
    }

    #[test]
    fn losses_include_records_the_recorder_missed() {
        let (queue, portions) = sync_channel(QUEUE);
        let mut recorder = Recorder::new(queue, Arc::default());
        recorder.missed = 2;
        recorder.has_missed = true;
        let losses = KernelLosses { read_faults: 4, ..KernelLosses::default() };
        recorder.push(Record::Loss { ts: Nanos(7), losses });
        recorder.push_milestone(Nanos(9));
        drop(recorder);
        let taken: Vec<Record> = portions
            .iter()
            .flat_map(|portion| match portion {
                Portion::Records(records) => records,
                Portion::Head { records, .. } => records().collect(),
            })
            .collect();
        let counts: Vec<_> = taken
            .iter()
            .map(|record| match record {
                Record::Loss { ts, losses } => (ts.0, losses.not_recorded, losses.read_faults),
                other => (other.ts().unwrap_or_default().0, 0, 0),
            })
            .collect();
        // Of the gap, as it is; then the record itself, and the milestone.
        assert_eq!(counts, [(7, 2, 4), (7, 2, 4), (9, 0, 0)]);
    }
}
