//! Shows any snapshot of a recording, in any order, exactly as a straight replay does.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use super::{
    checkpoints::{CheckpointLimits, Checkpoints},
    index::{Frame, Index, MAX_FRAMES},
};
use crate::{
    aggregate::{Scope, Snapshot, detail::Query},
    filter::Filter,
    model::{Flow, Nanos, Record, Source as _, peer_names::PeerNames, units},
    pipeline::{Bounds, Engine, SnapshotSchedule, Window},
    session::{AtEnd, Input, Reader},
};

/// Part and view of the recording to show.
#[derive(Clone, Debug)]
pub struct SeekTarget {
    /// Filter of the sockets.
    pub filter: Filter,
    /// Grouping and detail.
    pub query: Query,
    /// Dwells to keep.
    pub scope: Scope,
    /// Time between two snapshots.
    pub interval: Nanos,
    /// Name of the recording.
    pub source: Arc<str>,
    /// Names of remote addresses that the user gave.
    pub peer_names: Arc<PeerNames>,
    /// Time window of the recording.
    pub window: Window,
}

/// The file as it was when opened: later appends are ignored.
#[derive(Clone)]
struct OpenedFile {
    file: Arc<File>,
    length: u64,
}

impl OpenedFile {
    /// The bytes from `offset` on.
    fn from(&self, offset: u64) -> Box<dyn Read + Send> {
        Box::new(FileBytes { recording: self.clone(), offset })
    }
}

struct FileBytes {
    recording: OpenedFile,
    offset: u64,
}

impl Read for FileBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.recording.length.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self.recording.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A replay at some position.
pub struct ReplayHead {
    pub(super) engine: Engine,
    pub(super) reader: Reader,
    pub(super) schedule: SnapshotSchedule,
    /// Records of the last batch that are not processed yet.
    batch: std::vec::IntoIter<Record>,
    has_ended: bool,
    /// Snapshots passed.
    pub(super) passed: usize,
    /// Time of its first record.
    began: Option<Nanos>,
}

/// Result of [`ReplayHead::step`].
enum SeekStep {
    /// A snapshot is due now.
    Snapshot,
    /// A batch is processed.
    Batch,
    /// The recording ended: the final snapshot is due.
    End,
}

impl ReplayHead {
    /// `filter` combines the filters of `wanted` and of its query.
    fn start(recording: &OpenedFile, wanted: &SeekTarget, filter: Filter) -> Result<Self> {
        let SeekTarget { filter: base, query, scope, interval, source, peer_names, window: _ } =
            wanted.clone();
        Ok(Self {
            engine: Engine::new(filter, query.grouping, scope, source)
                .with_peer_names(peer_names)
                .with_query(query, base)
                .for_findings(),
            reader: Reader::new(recording.from(0), AtEnd::Stop)?,
            schedule: SnapshotSchedule::new(interval),
            batch: Vec::new().into_iter(),
            has_ended: false,
            passed: 0,
            began: None,
        })
    }

    fn step(&mut self) -> Result<SeekStep> {
        for record in self.batch.by_ref() {
            self.engine.take(&record);
            self.began = self.began.or(record.ts());
            if let Record::Tick { .. } = record
                && self.engine.is_seeded()
                && self.schedule.is_due(self.engine.now())
            {
                self.passed += 1;
                return Ok(SeekStep::Snapshot);
            }
        }
        if self.has_ended {
            self.passed += 1;
            return Ok(SeekStep::End);
        }
        let mut batch = Vec::new();
        self.has_ended = self.reader.fill(&mut |record| batch.push(record))? == Flow::Ended;
        self.batch = batch.into_iter();
        Ok(SeekStep::Batch)
    }

    /// Whether everything read was processed.
    fn is_between_batches(&self) -> bool {
        self.batch.len() == 0 && !self.has_ended
    }
}

/// Result of a seek.
#[derive(Clone, Debug)]
pub enum SeekResult {
    /// The snapshot.
    Snapshot(Arc<Snapshot>),
    /// The seek was interrupted.
    Interrupted,
}

/// A seekable recording.
pub struct Player {
    recording: OpenedFile,
    wanted: SeekTarget,
    /// Active filter, including the filter of the query.
    filter: Filter,
    /// Error of the query's filter, if it cannot be used.
    fault: Option<String>,
    index: Arc<Index>,
    /// Snapshots before the first one of the index.
    before: usize,
    checkpoints: Checkpoints,
    head: ReplayHead,
    shown: Option<(usize, Arc<Snapshot>)>,
}

impl Player {
    /// Reads all of `input`; calls `progress` with the bytes read and the total.
    pub fn open(input: Input, wanted: SeekTarget, progress: impl FnMut(u64, u64)) -> Result<Self> {
        let Some((file, length)) = input.into_file() else {
            bail!("replay seeks, so it needs a regular file: save this input to a file first");
        };
        let recording = OpenedFile { file: Arc::new(file), length };
        Self::read(recording, wanted, CheckpointLimits::default(), progress)
    }

    fn read(
        recording: OpenedFile,
        wanted: SeekTarget,
        limits: CheckpointLimits,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let filter = wanted.filter.clone();
        let mut player = Self {
            head: ReplayHead::start(&recording, &wanted, filter.clone())?,
            index: Arc::new(Index::new(wanted.interval)),
            before: 0,
            checkpoints: Checkpoints::new(limits),
            shown: None,
            fault: None,
            filter,
            recording,
            wanted,
        };
        let mut index = Index::new(player.wanted.interval);
        loop {
            let step = player.head.step()?;
            if !matches!(step, SeekStep::Batch) {
                let frame = player.frame();
                let bounds = player.bounds()?;
                if frame.ts > bounds.until && !index.is_empty() {
                    break;
                }
                if frame.ts < bounds.since {
                    player.before += 1;
                } else if !index.push(frame) {
                    bail!(
                        "the recording has more than {} snapshots: a longer --interval gives fewer",
                        units::count(MAX_FRAMES as u64)
                    );
                }
            }
            match step {
                SeekStep::Snapshot => player.head.engine.pass(),
                SeekStep::Batch => {
                    progress(player.head.reader.position(), player.recording.length);
                    player.keep()?;
                }
                SeekStep::End => break,
            }
        }
        if index.is_empty() {
            bail!("the recording ends before --since");
        }
        let ending = *player.head.reader.ending().lock().unwrap_or_else(PoisonError::into_inner);
        index.complete(Arc::clone(player.head.engine.host()), ending);
        player.index = Arc::new(index);
        Ok(player)
    }

    fn bounds(&self) -> Result<Bounds> {
        let began = self.head.began.unwrap_or_default();
        self.wanted.window.bounds(began, self.head.engine.host())
    }

    fn frame(&mut self) -> Frame {
        let engine = &mut self.head.engine;
        let counts = engine.counts().map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Frame { ts: engine.now(), counts, lost: engine.losses().total() }
    }

    fn keep(&mut self) -> Result<()> {
        if self.head.is_between_batches() {
            let ReplayHead { engine, reader, schedule, passed, .. } = &self.head;
            self.checkpoints
                .offer(engine, reader, *schedule, *passed)
                .context("no memory to decompress with")?;
        }
        Ok(())
    }

    /// Index of the snapshots.
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The current target.
    pub const fn wanted(&self) -> &SeekTarget {
        &self.wanted
    }

    /// Number of checkpoints and their approximate memory.
    pub fn kept(&self) -> (usize, usize) {
        self.checkpoints.size()
    }

    /// Applies `query` from here on. The index does not change: its counts use the initial filter.
    pub fn ask(&mut self, query: Query) -> Result<()> {
        let before = std::mem::replace(&mut self.wanted.query, query);
        let query = &self.wanted.query;
        let is_grouped_alike = query.grouping == before.grouping;
        if is_grouped_alike && query.filter == before.filter {
            self.answer_details(&before);
            return Ok(());
        }
        match self.head.engine.filter(query) {
            Ok(filter) => (self.filter, self.fault) = (filter, None),
            Err(fault) => self.fault = Some(fault),
        }
        self.checkpoints.clear();
        self.shown = None;
        self.head = ReplayHead::start(&self.recording, &self.wanted, self.filter.clone())?;
        Ok(())
    }

    /// Changes only the detail of the current snapshot.
    fn answer_details(&mut self, before: &Query) {
        let query = &self.wanted.query;
        if query == before {
            return;
        }
        self.shown = self.shown.take().filter(|(n, _)| *n + 1 == self.head.passed);
        if let Some((_, snapshot)) = &mut self.shown {
            self.head.engine.focus(query, self.fault.as_deref());
            *snapshot = Arc::new(self.head.engine.answer(snapshot));
        }
    }

    /// Shows snapshot `n`, or the last. Calls `goes_on` now and then during a long seek; `false` interrupts it.
    pub fn show(&mut self, n: usize, goes_on: &mut dyn FnMut() -> bool) -> Result<SeekResult> {
        let n = self.before + n.min(self.index.len().saturating_sub(1));
        if let Some((shown, snapshot)) = &self.shown
            && *shown == n
        {
            return Ok(SeekResult::Snapshot(Arc::clone(snapshot)));
        }
        self.restore_before(n)?;
        loop {
            match self.head.step()? {
                SeekStep::Snapshot if self.head.passed <= n => self.head.engine.pass(),
                SeekStep::Snapshot | SeekStep::End => {
                    let snapshot = Arc::new(self.head.engine.snapshot());
                    self.shown = Some((n, Arc::clone(&snapshot)));
                    return Ok(SeekResult::Snapshot(snapshot));
                }
                SeekStep::Batch => {
                    self.keep()?;
                    if !goes_on() {
                        return Ok(SeekResult::Interrupted);
                    }
                }
            }
        }
    }

    /// Restores the latest checkpoint before snapshot `n`, unless the current position is closer.
    fn restore_before(&mut self, n: usize) -> Result<()> {
        let kept = self.checkpoints.before(n);
        let is_ahead = self.head.passed <= n;
        match kept {
            Some(kept) if !is_ahead || kept.engine.records() > self.head.engine.records() => {
                self.head = ReplayHead {
                    engine: kept.engine.clone(),
                    reader: Reader::at(&kept.place, self.recording.from(kept.place.position()))?,
                    schedule: kept.schedule,
                    batch: Vec::new().into_iter(),
                    has_ended: false,
                    passed: kept.passed,
                    began: self.head.began,
                };
            }
            None if !is_ahead => {
                self.head = ReplayHead::start(&self.recording, &self.wanted, self.filter.clone())?;
            }
            _ => {}
        }
        self.head.engine.focus(&self.wanted.query, self.fault.as_deref());
        Ok(())
    }
}

#[cfg(test)]
impl Player {
    /// Opens `path` with the given checkpoint limits.
    pub(super) fn of(path: &std::path::Path, wanted: SeekTarget, limits: CheckpointLimits) -> Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::read(OpenedFile { file: Arc::new(file), length }, wanted, limits, |_, _| {})
    }
}
