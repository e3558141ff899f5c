//! A recording as a source: records out, and at its end how it ended.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow_ipc::MessageHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    compat::Layout,
    decode::Decoder,
    frame::{Frames, Next},
    schema::{FORMAT, Version},
};
use crate::{
    model::{Record, record::HostFacts, units},
    source::{Flow, Source},
};

/// How long to wait for more of a file that is still being written.
const WAIT: Duration = Duration::from_millis(50);

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It has no bytes.
    #[error("the file is empty: nothing was recorded, or the recorder was stopped before it wrote anything")]
    Empty,
    /// It is something else.
    #[error("this is not a recording of tcptrace: they are Arrow IPC streams with the key `tcptrace.format`")]
    Foreign,
    /// It ends before the first batch.
    #[error("the file ends inside its header: nothing that was recorded is in it")]
    OnlyHeader,
    /// Its header makes no sense.
    #[error("the header of the recording is damaged: {0} can't be made out")]
    Header(&'static str),
    /// A column is not what it should be.
    #[error("the header of the recording is damaged: its column {name} {what}")]
    Column {
        /// Which.
        name: String,
        /// What about it.
        what: &'static str,
    },
    /// Another version wrote it.
    #[error(
        "the recording has format {version}, written by tcptrace {writer}; this tcptrace reads format {}: \
         use one that is {}",
        FORMAT.major,
        if version.major > FORMAT.major { "as new as the one that wrote it" } else { "older" }
    )]
    Version {
        /// The format.
        version: Version,
        /// The version of the program, as it says.
        writer: String,
    },
    /// Something in the middle of it is wrong.
    #[error("the recording is {0}")]
    Damaged(Damage),
}

/// Where something is wrong, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the message that is wrong begins: bytes from the beginning.
    pub at: u64,
    /// What was found.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged at byte {}: {}", units::count(self.at), self.what)
    }
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was closed: nothing is missing.
    Closed,
    /// It was not closed.
    Open {
        /// Bytes of a batch that was not finished.
        torn_bytes: usize,
    },
    /// What comes after a damaged place was not read.
    Damaged(Damage),
}

impl Ending {
    /// A sentence about what is missing; `None` when nothing is.
    pub fn sentence(self) -> Option<String> {
        match self {
            Self::Closed => None,
            Self::Open { torn_bytes: 0 } => Some(
                "The recording was not closed (its writer was killed, or is still at it): up to the last second \
                 before that is missing."
                    .into(),
            ),
            Self::Open { torn_bytes } => Some(format!(
                "The recording ends in the middle of a batch: its last {} bytes can't be read, and up to the last \
                 second before it was cut is missing.",
                units::count(torn_bytes as u64)
            )),
            Self::Damaged(damage) => {
                Some(format!("The recording is {damage}; nothing from there on was read."))
            }
        }
    }
}

/// What a reader is to do at the end of a file that was not closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtEnd {
    /// End.
    #[default]
    Stop,
    /// Wait for more.
    Follow,
}

/// Reads a recording.
pub struct Reader {
    pub(super) frames: Frames<Box<dyn Read + Send>>,
    decoder: Decoder,
    at_end: AtEnd,
    length: Option<u64>,
    host: HostFacts,
    ending: Arc<Mutex<Option<Ending>>>,
}

/// A place between two batches, and what has to be known to read on from there.
pub struct Place {
    position: u64,
    decoder: Decoder,
    host: HostFacts,
}

impl Place {
    /// Bytes of the recording before it.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Roughly what it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.decoder.size_bytes()
    }
}

impl Reader {
    /// Opens the recording at `path`, `-` for standard input, and reads its header.
    pub fn open(path: &Path, at_end: AtEnd) -> Result<Self, ReadError> {
        let file = if path == Path::new("-") { standard_input() } else { File::open(path) }?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Self::new(Box::new(Pipe(file)), at_end);
        }
        let mut reader = Self::new(Box::new(file), at_end)?;
        reader.length = Some(meta.len());
        Ok(reader)
    }

    /// The same as [`Self::open`] for any stream of bytes. One that has nothing to read for a while may say so with
    /// [`io::ErrorKind::WouldBlock`].
    pub fn new(input: Box<dyn Read + Send>, at_end: AtEnd) -> Result<Self, ReadError> {
        let mut frames = Frames::new(input);
        let layout = loop {
            let torn_bytes = match frames.next() {
                Ok(Next::Message(message, _)) => {
                    break Layout::of(message.header_as_schema().ok_or(ReadError::Foreign)?)?;
                }
                Ok(Next::Torn(torn_bytes)) => torn_bytes,
                Ok(Next::End) | Err(ReadError::Damaged(_)) => return Err(ReadError::Foreign),
                Err(error) => return Err(error),
            };
            match (at_end, torn_bytes) {
                _ if !frames.looks_right() => return Err(ReadError::Foreign),
                _ if frames.has_paused() => {}
                (AtEnd::Follow, _) => std::thread::sleep(WAIT),
                (AtEnd::Stop, 0) => return Err(ReadError::Empty),
                (AtEnd::Stop, _) => return Err(ReadError::OnlyHeader),
            }
        };
        Ok(Self {
            frames,
            decoder: Decoder::new(layout)?,
            at_end,
            length: None,
            host: HostFacts::default(),
            ending: Arc::default(),
        })
    }

    /// Where it is, to come back to.
    pub fn place(&self) -> io::Result<Place> {
        Ok(Place { position: self.position(), decoder: self.decoder.fork()?, host: self.host.clone() })
    }

    /// Reads on from `place`, to which `input` has been wound. It gives up where the recording ends.
    pub fn at(place: &Place, input: Box<dyn Read + Send>) -> io::Result<Self> {
        Ok(Self {
            frames: Frames::at(input, place.position),
            decoder: place.decoder.fork()?,
            at_end: AtEnd::Stop,
            length: None,
            host: place.host.clone(),
            ending: Arc::default(),
        })
    }

    /// The version of the format the recording has.
    pub const fn version(&self) -> Version {
        self.decoder.layout().version
    }

    /// Bytes read so far, up to the last whole batch.
    pub const fn position(&self) -> u64 {
        self.frames.position()
    }

    /// Bytes of the file when it was opened; `None` where that is not known.
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// Where to learn how the recording ended, once it has.
    pub fn ending(&self) -> Arc<Mutex<Option<Ending>>> {
        Arc::clone(&self.ending)
    }

    /// Hands out the records of the next batch; `None` where there is no batch now.
    fn batch(&mut self, take: &mut dyn FnMut(Record)) -> Result<Option<Ending>, ReadError> {
        let at = self.frames.position();
        let (message, body) = match self.frames.next() {
            Ok(Next::Message(message, body)) => (message, body),
            Ok(Next::End) => return Ok(Some(Ending::Closed)),
            Ok(Next::Torn(torn_bytes)) => return Ok(Some(Ending::Open { torn_bytes })),
            Err(ReadError::Damaged(damage)) => return Ok(Some(Ending::Damaged(damage))),
            Err(error) => return Err(error),
        };
        let host = &mut self.host;
        let mut note = |record: Record| {
            if let Record::Host(facts) = &record {
                host.clone_from(facts);
            }
            take(record);
        };
        let done = match message.header_type() {
            MessageHeader::RecordBatch => match message.header_as_record_batch() {
                Some(batch) => self.decoder.batch(batch, body, &mut note),
                None => Err("a batch that can't be made out"),
            },
            MessageHeader::DictionaryBatch => match message.header_as_dictionary_batch() {
                Some(dictionary) => self.decoder.dictionary(dictionary, body),
                None => Err("a dictionary that can't be made out"),
            },
            _ => Err("a message that has no place there"),
        };
        Ok(done.err().map(|what| Ending::Damaged(Damage { at, what })))
    }

    /// The recording is over: what is missing is said where every view shows it.
    fn end(&mut self, ending: Ending, take: &mut dyn FnMut(Record)) -> Flow {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        let known = self.host.limits.len();
        self.host.limits.extend(ending.sentence());
        if self.decoder.unknown_rows > 0 {
            self.host.limits.push(format!(
                "The recording has format {}, newer than this tcptrace: {} rows of unknown kinds were passed over.",
                self.version(),
                units::count(self.decoder.unknown_rows)
            ));
        }
        if self.host.limits.len() > known {
            take(Record::Host(Box::new(self.host.clone())));
        }
        Flow::Ended
    }
}

fn standard_input() -> io::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let what = "it is a terminal; send it a recording";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    stdin.as_fd().try_clone_to_owned().map(File::from)
}

/// A pipe or the like, in which a reader does not get stuck while nobody writes.
struct Pipe(File);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(WAIT.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.0.read(buffer),
        }
    }
}

impl Source for Reader {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> anyhow::Result<Flow> {
        match self.batch(take)? {
            None => Ok(Flow::Running),
            // A command can be ended while nobody writes.
            Some(Ending::Open { .. }) if self.frames.has_paused() => Ok(Flow::Running),
            Some(Ending::Open { .. }) if self.at_end == AtEnd::Follow => {
                std::thread::sleep(WAIT);
                Ok(Flow::Running)
            }
            Some(ending) => Ok(self.end(ending, take)),
        }
    }
}
