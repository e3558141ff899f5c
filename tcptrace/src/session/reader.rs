//! Reads a recording as a source of records, and reports how it ended.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use polars_arrow_format::ipc::{MessageHeaderRef, MessageRef, SchemaRef};

use super::{
    compat::FileLayout,
    decode::Decoder,
    ending::{Damage, Ending, ReadError},
    frame::{Frames, NextFrame},
    input::{Input, WAIT},
};
use crate::{
    model::{
        Flow, Nanos, Record, Source,
        incident::Incident,
        record::{HostFacts, KernelLosses},
        units,
    },
    sandbox::Confined,
};

/// What the reader does at the end of a file that was not closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtEnd {
    /// End.
    #[default]
    Stop,
    /// Wait for more.
    Follow,
}

/// Reads a recording, and those appended to it in the same file.
pub struct Reader {
    pub(super) frames: Frames<Box<dyn Read + Send>>,
    /// `None` before the first header.
    decoder: Option<Decoder>,
    stage: ReadStage,
    joining: Option<Joining>,
    at_end: AtEnd,
    known: SeriesContext,
    ending: Arc<Mutex<Option<Ending>>>,
    /// Name of the file, if others follow.
    part: String,
    /// The later files of the series.
    parts: VecDeque<(String, Input)>,
    /// Bytes of the files before this one.
    bytes_before: u64,
    /// What is missing in the files before this one, in sentences.
    missing_before: Vec<String>,
}

/// What identifies a recording.
#[derive(Clone, Debug)]
pub struct RecordingHead {
    /// Name of the host. Untrusted; may be empty.
    pub host: String,
    /// Boot id of the host; empty if the file has none.
    pub boot_id: String,
    /// Wall-clock time of the first record that has one, nanoseconds since the epoch.
    pub began_ns: u64,
}

impl RecordingHead {
    /// Reads the beginning of a file; afterwards it is at its beginning again. The token restricts this to confined
    /// threads.
    pub fn read(input: &mut Input, _: &Confined) -> Result<Self, ReadError> {
        let mut reader = Reader::new(input.beginning()?, AtEnd::Stop)?;
        let mut began = None;
        while began.is_none()
            && reader
                .fill(&mut |record| began = began.or(record.ts()))
                .is_ok_and(|flow| flow == Flow::Running)
        {}
        let layout = reader.decoder.as_ref().ok_or(ReadError::Empty)?.layout();
        let head = Self {
            host: layout.host.clone(),
            boot_id: layout.boot_id.clone(),
            began_ns: layout.clock_offset_ns.saturating_add(began.unwrap_or_default().0),
        };
        input.rewind()?;
        Ok(head)
    }
}

/// Which part of the file comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadStage {
    /// The first header.
    Header,
    /// Batches.
    Batches,
    /// After a closed recording: another one, or the end.
    Between,
    /// Batches of an appended recording, until its first time is known.
    Joining,
    /// Data that is no recording, or a recording that cannot be appended.
    Rest { at: u64, why: &'static str },
}

/// The beginning of an appended recording.
struct Joining {
    /// Where it begins.
    at: u64,
    /// State at the end of the previous recording.
    before: SeriesContext,
    /// Its records so far, all without a time.
    held: Vec<Record>,
}

/// State of one recording that those appended to it need.
#[derive(Clone, Debug, Default)]
struct SeriesContext {
    host: HostFacts,
    /// The newest time.
    until: Nanos,
    /// Losses of the previous recordings.
    losses_before: KernelLosses,
    losses: KernelLosses,
    /// Rows of unknown kinds in the previous recordings.
    unknown_rows: u64,
    /// Findings that the recordings were written for.
    incidents: Vec<Incident>,
}

/// A position between two batches, with the state needed to resume reading there.
pub struct FilePosition {
    position: u64,
    decoder: Option<Decoder>,
    stage: ReadStage,
    known: SeriesContext,
}

impl FilePosition {
    /// Byte offset in the recording.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Approximate memory use, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.decoder.as_ref().map_or(0, Decoder::size_bytes)
    }
}

/// Most records without a time at the beginning of an appended recording; with more of them it is rejected.
const MOST_HELD: usize = 1024;
/// By how much recordings may overlap and still follow each other: a file of a series begins with the last tick before it,
/// and sources send ten ticks a second.
pub const OVERLAP: Nanos = Nanos::SECOND;
const NO_RECORDING: &str = "it is no recording";

impl Reader {
    /// Reads the header of `input` if it has arrived. The token restricts this to confined threads.
    pub fn confined(input: Input, at_end: AtEnd, _: &Confined) -> Result<Self, ReadError> {
        Self::new(input.into_stream(), at_end)
    }

    /// The same for tests, without confinement.
    #[cfg(test)]
    pub(crate) fn open(path: &std::path::Path, at_end: AtEnd) -> Result<Self, ReadError> {
        Self::new(Input::open(path)?.into_stream(), at_end)
    }

    /// The clock offset of the header.
    #[cfg(test)]
    pub(crate) fn header_offset_ns(&self) -> Option<u64> {
        self.decoder.as_ref().map(|decoder| decoder.layout().clock_offset_ns)
    }

    /// Reads any stream of bytes. A stream that has nothing to read yet may return
    /// [`io::ErrorKind::WouldBlock`]: its header is read later.
    pub fn new(input: Box<dyn Read + Send>, at_end: AtEnd) -> Result<Self, ReadError> {
        let mut reader = Self {
            frames: Frames::new(input),
            decoder: None,
            stage: ReadStage::Header,
            joining: None,
            at_end,
            known: SeriesContext::default(),
            ending: Arc::default(),
            part: String::new(),
            parts: VecDeque::new(),
            bytes_before: 0,
            missing_before: Vec::new(),
        };
        reader.header()?;
        Ok(reader)
    }

    /// Reads the first header if it has arrived.
    fn header(&mut self) -> Result<(), ReadError> {
        let torn_bytes = match self.frames.next() {
            Ok(NextFrame::Message(message, _)) => {
                let layout = FileLayout::of(schema_of(message).ok_or(ReadError::Foreign)?)?;
                Incident::merge(&mut self.known.incidents, &layout.incidents);
                self.decoder = Some(Decoder::new(layout)?);
                self.stage = ReadStage::Batches;
                return Ok(());
            }
            Ok(NextFrame::Torn(torn_bytes)) => torn_bytes,
            Ok(NextFrame::End) | Err(ReadError::Damaged(_)) => return Err(ReadError::Foreign),
            Err(error) => return Err(error),
        };
        match (self.at_end, torn_bytes) {
            _ if !self.frames.may_be_message() => Err(ReadError::Foreign),
            _ if self.frames.has_paused() => Ok(()),
            (AtEnd::Follow, _) => Ok(()),
            (AtEnd::Stop, 0) => Err(ReadError::Empty),
            (AtEnd::Stop, _) => Err(ReadError::OnlyHeader),
        }
    }

    /// The current position, to resume from.
    pub fn place(&self) -> io::Result<FilePosition> {
        Ok(FilePosition {
            position: self.position(),
            decoder: self.decoder.as_ref().map(Decoder::fork).transpose()?,
            stage: self.stage,
            known: self.known.clone(),
        })
    }

    /// Resumes at `place`; the caller has already sought `input` to it. Stops where the recording ends.
    pub fn at(place: &FilePosition, input: Box<dyn Read + Send>) -> io::Result<Self> {
        Ok(Self {
            frames: Frames::at(input, place.position),
            decoder: place.decoder.as_ref().map(Decoder::fork).transpose()?,
            stage: place.stage,
            joining: None,
            at_end: AtEnd::Stop,
            known: place.known.clone(),
            ending: Arc::default(),
            part: String::new(),
            parts: VecDeque::new(),
            bytes_before: 0,
            missing_before: Vec::new(),
        })
    }

    /// Bytes read so far, up to the last complete batch.
    pub const fn position(&self) -> u64 {
        self.bytes_before + self.frames.position()
    }

    /// Continues with these files after the first, called `part`: the later files of its series, in order of time.
    #[must_use]
    pub fn followed_by(self, part: String, parts: VecDeque<(String, Input)>) -> Self {
        Self { part, parts, ..self }
    }

    /// Continues with the next file of the series after one that ended with `ending`; returns whether there is one.
    fn next_part(&mut self, ending: Ending) -> bool {
        let Some((name, input)) = self.parts.pop_front() else { return false };
        let before = std::mem::replace(&mut self.part, name);
        self.missing_before.extend(ending.sentence().map(|sentence| format!("{before}: {sentence}")));
        self.bytes_before += self.frames.position();
        self.frames = Frames::new(input.into_stream());
        self.joining = None;
        self.stage = ReadStage::Between;
        true
    }

    /// Reports how the recording ended through `ending`.
    #[must_use]
    pub fn report_ending_to(self, ending: &Arc<Mutex<Option<Ending>>>) -> Self {
        Self { ending: Arc::clone(ending), ..self }
    }

    /// Shared cell that receives how the recording ended.
    pub fn ending(&self) -> Arc<Mutex<Option<Ending>>> {
        Arc::clone(&self.ending)
    }

    /// Emits the records of the next message; `None` if there is more to read.
    fn batch(&mut self, take: &mut dyn FnMut(Record)) -> Result<Option<Ending>, ReadError> {
        let at = self.frames.position();
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        let (message, body) = match self.frames.next() {
            Ok(NextFrame::Message(message, body)) => (message, body),
            Ok(NextFrame::End) => return Ok(Some(Ending::Closed)),
            Ok(NextFrame::Torn(torn_bytes)) => return Ok(Some(Ending::Open { torn_bytes })),
            Err(ReadError::Damaged(damage)) => return Ok(Some(Ending::Damaged(damage))),
            Err(error) => return Err(error),
        };
        let known = &mut self.known;
        let mut note = |record: Record| take(known.note(record));
        let done = match message.header() {
            Ok(Some(MessageHeaderRef::RecordBatch(batch))) => decoder.batch(batch, body, &mut note),
            Ok(Some(MessageHeaderRef::DictionaryBatch(dictionary))) => decoder.dictionary(dictionary, body),
            Ok(_) => Err("a message that has no place there"),
            Err(_) => Err("a message that can't be made out"),
        };
        Ok(done.err().map(|what| Ending::Damaged(Damage { at, what })))
    }

    /// Examines what follows the end of a recording; `None` while that is unknown, or still to be read.
    fn between(&mut self) -> Result<Option<Ending>, ReadError> {
        let at = self.frames.position();
        let layout = match self.frames.next() {
            Ok(NextFrame::Torn(torn_bytes)) => {
                let is_end = torn_bytes == 0 && !self.frames.has_paused();
                if is_end || self.frames.has_paused() {
                    return Ok(is_end.then_some(Ending::Closed));
                }
                None
            }
            Ok(NextFrame::Message(message, _)) => {
                schema_of(message).and_then(|schema| FileLayout::of(schema).ok())
            }
            Ok(NextFrame::End) | Err(ReadError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let known = self.decoder.as_ref().map(|decoder| &decoder.layout().boot_id);
        self.stage = match layout {
            None => ReadStage::Rest { at, why: NO_RECORDING },
            Some(layout) if known != Some(&layout.boot_id) => {
                ReadStage::Rest { at, why: "it is a recording of another host, or of another boot of it" }
            }
            Some(layout) => {
                let incidents = layout.incidents.clone();
                let before = self.decoder.replace(Decoder::new(layout)?);
                self.known.unknown_rows += before.map_or(0, |before| before.unknown_rows);
                self.joining = Some(Joining { at, before: self.known.clone(), held: Vec::new() });
                Incident::merge(&mut self.known.incidents, &incidents);
                self.known.begin();
                ReadStage::Joining
            }
        };
        Ok(None)
    }

    /// Reads the beginning of an appended recording; accepts it if it is later than the previous one. Files of a series may
    /// overlap: the window that they are read through passes each time once.
    fn join(&mut self, take: &mut dyn FnMut(Record)) -> Result<Option<Ending>, ReadError> {
        let Some(mut joining) = self.joining.take() else { return Ok(None) };
        let ending = self.batch(&mut |record| joining.held.push(record))?;
        let Joining { at, before, held } = joining;
        if let Some(ts) = held.iter().find_map(Record::ts) {
            self.stage = ReadStage::Batches;
            if ts.plus(OVERLAP) < before.until && self.part.is_empty() {
                self.known = before;
                self.stage = ReadStage::Rest {
                    at,
                    why: "it is a recording that begins before the end of the one before",
                };
                return Ok(None);
            }
            take(Record::Restart { ts });
            held.into_iter().for_each(take);
        } else if ending == Some(Ending::Closed) {
            // It is empty.
            self.known = before;
        } else if held.len() > MOST_HELD {
            self.known = before;
            self.stage = ReadStage::Rest { at, why: "nothing in it has a time" };
            return Ok(None);
        } else {
            self.joining = Some(Joining { at, before, held });
        }
        Ok(ending)
    }

    /// Ends the recording: missing data is added to the host's limits, which every view shows.
    fn end(&mut self, ending: Ending, take: &mut dyn FnMut(Record)) -> Flow {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        let host = &mut self.known.host;
        let known = host.limits.len();
        host.limits.append(&mut self.missing_before);
        let is_series = !self.part.is_empty();
        host.limits.extend(
            ending
                .sentence()
                .map(|missing| if is_series { format!("{}: {missing}", self.part) } else { missing }),
        );
        let unknown_rows =
            self.known.unknown_rows + self.decoder.as_ref().map_or(0, |decoder| decoder.unknown_rows);
        if let Some(decoder) = self.decoder.as_ref().filter(|_| unknown_rows > 0) {
            host.limits.push(format!(
                "The recording has format {}, newer than this tcptrace: {} rows of unknown kinds were passed over.",
                decoder.layout().version,
                units::count(unknown_rows)
            ));
        }
        if host.limits.len() > known {
            take(Record::Host(Box::new(host.clone())));
        }
        Flow::Ended
    }

    /// Gives a growing file time when nothing is available.
    fn wait(&self) -> Flow {
        if !self.frames.has_paused() {
            std::thread::sleep(WAIT);
        }
        Flow::Running
    }
}

impl SeriesContext {
    /// Starts the loss count of another recording.
    fn begin(&mut self) {
        self.losses_before = self.losses;
    }

    /// Updates the context from `record`, and makes its losses cumulative over the recordings.
    fn note(&mut self, record: Record) -> Record {
        if let Some(ts) = record.ts() {
            self.until = self.until.max(ts);
        }
        match record {
            Record::Host(mut facts) => {
                facts.incidents.clone_from(&self.incidents);
                self.host = facts.after(&self.host);
                Record::Host(facts)
            }
            Record::ClockStep(step) => {
                self.host.step_clock(step);
                Record::ClockStep(step)
            }
            Record::Loss { ts, losses } => {
                self.losses = self.losses_before.plus(&losses);
                Record::Loss { ts, losses: self.losses }
            }
            record => record,
        }
    }
}

impl Source for Reader {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow> {
        let ending = match self.stage {
            ReadStage::Header => {
                self.header()?;
                return Ok(if self.stage == ReadStage::Header { self.wait() } else { Flow::Running });
            }
            ReadStage::Batches => self.batch(take)?,
            ReadStage::Between => self.between()?,
            ReadStage::Joining => self.join(take)?,
            ReadStage::Rest { at, why } => {
                let length = self.frames.discard()?;
                length.map(|length| Ending::Followed { at, bytes: length.saturating_sub(at), why })
            }
        };
        match ending {
            // A position to resume from is never inside the beginning of an appended recording.
            None if self.stage == ReadStage::Joining => self.fill(take),
            None => Ok(Flow::Running),
            Some(Ending::Closed) if self.stage != ReadStage::Between => {
                self.stage = ReadStage::Between;
                Ok(Flow::Running)
            }
            // The pipeline can stop the command while nobody writes.
            Some(Ending::Open { .. }) if self.frames.has_paused() || self.at_end == AtEnd::Follow => {
                Ok(self.wait())
            }
            Some(ending) if self.next_part(ending) => Ok(Flow::Running),
            Some(ending) => Ok(self.end(ending, take)),
        }
    }
}

/// The schema in a message, if it is one.
fn schema_of(message: MessageRef<'_>) -> Option<SchemaRef<'_>> {
    match message.header().ok()?? {
        MessageHeaderRef::Schema(schema) => Some(schema),
        _ => None,
    }
}
