//! Any picture of a recording, in any order: exactly the one that a straight replay shows there.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use super::{
    checkpoints::{Checkpoints, Limits},
    index::{Frame, Index, MOST_FRAMES},
};
use crate::{
    aggregate::{Scope, Snapshot},
    filter::Filter,
    inspect::Query,
    model::{Nanos, Record, units},
    pipeline::{Engine, Schedule},
    session::{AtEnd, Reader},
    source::{Flow, Source as _},
};

/// What is to be shown of the recording.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which sockets.
    pub filter: Filter,
    /// What to group by, and what to look at.
    pub query: Query,
    /// Which dwells to keep.
    pub scope: Scope,
    /// Time between two pictures.
    pub interval: Nanos,
    /// The recording's name.
    pub source: Arc<str>,
}

/// The file as it was when it was opened: what is appended later is not there.
#[derive(Clone)]
struct Recording {
    file: Arc<File>,
    length: u64,
}

impl Recording {
    /// The bytes from `offset` on.
    fn from(&self, offset: u64) -> Box<dyn Read + Send> {
        Box::new(Bytes { recording: self.clone(), offset })
    }
}

struct Bytes {
    recording: Recording,
    offset: u64,
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.recording.length.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self.recording.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A replay that has come to some point.
pub struct Head {
    pub(super) engine: Engine,
    pub(super) reader: Reader,
    pub(super) schedule: Schedule,
    /// What of the last batch is still to be taken in.
    batch: std::vec::IntoIter<Record>,
    has_ended: bool,
    /// Pictures passed.
    pub(super) passed: usize,
}

/// How far [`Head::step`] has come.
enum Step {
    /// A picture is due now.
    Picture,
    /// A batch is done.
    Batch,
    /// The recording is over: a picture of its end is due.
    End,
}

impl Head {
    /// `filter` is what `wanted` asks for in all.
    fn start(recording: &Recording, wanted: &Wanted, filter: Filter) -> Result<Self> {
        let Wanted { filter: base, query, scope, interval, source } = wanted.clone();
        Ok(Self {
            engine: Engine::new(filter, query.grouping, scope, source).answering(query, base),
            reader: Reader::new(recording.from(0), AtEnd::Stop)?,
            schedule: Schedule::new(interval),
            batch: Vec::new().into_iter(),
            has_ended: false,
            passed: 0,
        })
    }

    fn step(&mut self) -> Result<Step> {
        for record in self.batch.by_ref() {
            self.engine.take(&record);
            if let Record::Tick { .. } = record
                && self.engine.is_seeded()
                && self.schedule.is_due(self.engine.now())
            {
                self.passed += 1;
                return Ok(Step::Picture);
            }
        }
        if self.has_ended {
            self.passed += 1;
            return Ok(Step::End);
        }
        let mut batch = Vec::new();
        self.has_ended = self.reader.fill(&mut |record| batch.push(record))? == Flow::Ended;
        self.batch = batch.into_iter();
        Ok(Step::Batch)
    }

    /// Whether everything read was taken in: nothing of a batch is left.
    fn is_between_batches(&self) -> bool {
        self.batch.len() == 0 && !self.has_ended
    }
}

/// What came of a wish for a picture.
#[derive(Clone, Debug)]
pub enum Shown {
    /// It.
    Picture(Arc<Snapshot>),
    /// The way there was broken off.
    Interrupted,
}

/// A recording to go through.
pub struct Player {
    recording: Recording,
    wanted: Wanted,
    /// What of it is shown: the filter of the question as well.
    filter: Filter,
    /// Why the filter of the question is not in use.
    fault: Option<String>,
    index: Arc<Index>,
    checkpoints: Checkpoints,
    head: Head,
    shown: Option<(usize, Arc<Snapshot>)>,
}

impl Player {
    /// Opens `path` and reads all of it; `progress` is told how many bytes of how many were read.
    pub fn open(path: &Path, wanted: Wanted, progress: impl FnMut(u64, u64)) -> Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            bail!(
                "replay goes back and forth, which takes a regular file: save what comes here to one first"
            );
        }
        let recording = Recording { file: Arc::new(file), length: meta.len() };
        Self::read(recording, wanted, Limits::default(), progress)
    }

    fn read(
        recording: Recording,
        wanted: Wanted,
        limits: Limits,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let filter = wanted.filter.clone();
        let mut player = Self {
            head: Head::start(&recording, &wanted, filter.clone())?,
            index: Arc::new(Index::new(wanted.interval)),
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
            if !matches!(step, Step::Batch) && !index.push(player.frame()) {
                bail!(
                    "the recording has more than {} pictures: ask for fewer with a longer --interval",
                    units::count(MOST_FRAMES as u64)
                );
            }
            match step {
                Step::Picture => player.head.engine.pass(),
                Step::Batch => {
                    progress(player.head.reader.position(), player.recording.length);
                    player.keep()?;
                }
                Step::End => break,
            }
        }
        let ending = *player.head.reader.ending().lock().unwrap_or_else(PoisonError::into_inner);
        index.complete(player.head.engine.clock_offset_ns(), ending);
        player.index = Arc::new(index);
        Ok(player)
    }

    fn frame(&mut self) -> Frame {
        let engine = &mut self.head.engine;
        let counts = engine.counts().map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Frame { ts: engine.now(), counts, lost: engine.losses().total() }
    }

    fn keep(&mut self) -> Result<()> {
        if self.head.is_between_batches() {
            self.checkpoints.offer(&self.head).context("no memory to decompress with")?;
        }
        Ok(())
    }

    /// What was when.
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// What is shown of the recording.
    pub const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// How many states are kept to go back to, and roughly how many bytes they take.
    pub fn kept(&self) -> (usize, usize) {
        self.checkpoints.size()
    }

    /// Groups, filters and looks at what `query` asks for from here on. The index stays as it was: it counts
    /// what the filter of the beginning lets pass.
    pub fn ask(&mut self, query: Query) -> Result<()> {
        let before = std::mem::replace(&mut self.wanted.query, query);
        let query = &self.wanted.query;
        let is_grouped_alike = query.grouping == before.grouping;
        if is_grouped_alike && query.filter == before.filter {
            self.look(&before);
            return Ok(());
        }
        match self.head.engine.filter(query) {
            Ok(filter) => (self.filter, self.fault) = (filter, None),
            Err(fault) => self.fault = Some(fault),
        }
        self.checkpoints.clear();
        self.shown = None;
        self.head = Head::start(&self.recording, &self.wanted, self.filter.clone())?;
        Ok(())
    }

    /// Looks at something else in the same picture.
    fn look(&mut self, before: &Query) {
        let query = &self.wanted.query;
        if query == before {
            return;
        }
        self.shown = self.shown.take().filter(|(n, _)| *n + 1 == self.head.passed);
        if let Some((_, picture)) = &mut self.shown {
            self.head.engine.focus(query, self.fault.as_deref());
            *picture = Arc::new(self.head.engine.answer(picture));
        }
    }

    /// The picture `n`, or the last. `goes_on` is asked now and then on a long way.
    pub fn show(&mut self, n: usize, goes_on: &mut dyn FnMut() -> bool) -> Result<Shown> {
        let n = n.min(self.index.len().saturating_sub(1));
        if let Some((shown, picture)) = &self.shown
            && *shown == n
        {
            return Ok(Shown::Picture(Arc::clone(picture)));
        }
        self.approach(n)?;
        loop {
            match self.head.step()? {
                Step::Picture if self.head.passed <= n => self.head.engine.pass(),
                Step::Picture | Step::End => {
                    let picture = Arc::new(self.head.engine.snapshot());
                    self.shown = Some((n, Arc::clone(&picture)));
                    return Ok(Shown::Picture(picture));
                }
                Step::Batch => {
                    self.keep()?;
                    if !goes_on() {
                        return Ok(Shown::Interrupted);
                    }
                }
            }
        }
    }

    /// Takes up the latest known state from which picture `n` is still to come.
    fn approach(&mut self, n: usize) -> Result<()> {
        let kept = self.checkpoints.before(n);
        let is_ahead = self.head.passed <= n;
        match kept {
            Some(kept) if !is_ahead || kept.engine.records() > self.head.engine.records() => {
                self.head = Head {
                    engine: kept.engine.clone(),
                    reader: Reader::at(&kept.place, self.recording.from(kept.place.position()))?,
                    schedule: kept.schedule,
                    batch: Vec::new().into_iter(),
                    has_ended: false,
                    passed: kept.passed,
                };
            }
            None if !is_ahead => {
                self.head = Head::start(&self.recording, &self.wanted, self.filter.clone())?;
            }
            _ => {}
        }
        self.head.engine.focus(&self.wanted.query, self.fault.as_deref());
        Ok(())
    }
}

#[cfg(test)]
impl Player {
    /// Of bytes, with checkpoints close together.
    pub(super) fn of(path: &Path, wanted: Wanted, limits: Limits) -> Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::read(Recording { file: Arc::new(file), length }, wanted, limits, |_, _| {})
    }
}
