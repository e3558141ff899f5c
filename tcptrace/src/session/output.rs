//! Where a recording goes: one file, a series of files, or memory until it is asked for.

mod flight;

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Seek as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use super::message::END;
use crate::model::Nanos;
use flight::Flight;
pub use flight::MOST_FLIGHT_BYTES;

/// The name that stands for standard output.
const STDOUT: &str = "-";
/// Only the owner may read what his host talks to.
const MODE: u32 = 0o600;

/// Whether a file that is there already may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays: an error.
    Keep,
    /// It is replaced.
    Replace,
}

/// When to go on with a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// When it has so many bytes.
    Size(u64),
    /// When it spans so much time.
    Time(Nanos),
}

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything, in one file.
    All,
    /// A series of files, of which the newest stay.
    Series {
        /// When to go on with a new one.
        rotate: Rotate,
        /// How many stay; `None` for all.
        files: Option<usize>,
    },
    /// The newest stretch of time, in memory until it is asked for.
    Last(Nanos),
}

/// `recording.tcptrace` and 3 make `recording-0003.tcptrace`.
pub fn numbered(path: &Path, n: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{n:04}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{n:04}"),
    };
    path.with_file_name(name)
}

/// What could not be written where.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Unwritten {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: io::Error,
}

/// Takes a recording in pieces: each begins with a head, and can be read without those before it.
pub enum Output {
    /// One file, or several.
    Files(Files),
    /// Memory.
    Flight(Flight),
}

impl Output {
    /// Opens the first file, where there is one to open now.
    pub fn open(path: &Path, keep: Keep, existing: Existing) -> Result<Self, Unwritten> {
        if let Keep::Last(length) = keep {
            return Flight::open(path, length, existing).map(Self::Flight);
        }
        Files::open(path, keep, existing).map(Self::Files)
    }

    /// Begins a piece at `ts`: `header` is what a file begins with.
    pub fn begin(&mut self, header: &[u8], ts: Nanos) -> Result<(), Unwritten> {
        match self {
            Self::Files(files) => files.begin(header, ts),
            Self::Flight(flight) => {
                flight.begin(header, ts);
                Ok(())
            }
        }
    }

    /// Appends the beginning of a piece: what was known when it began.
    pub fn head(&mut self, batches: &[u8]) -> Result<(), Unwritten> {
        match self {
            Self::Files(files) => files.write(batches),
            Self::Flight(flight) => {
                flight.newest().head.extend_from_slice(batches);
                Ok(())
            }
        }
    }

    /// Appends batches with so many records of hooks; what is in them is not older than `began`, unless the
    /// piece has begun before, and not newer than `ts`.
    pub fn append(&mut self, batches: &[u8], records: u64, began: Nanos, ts: Nanos) -> Result<(), Unwritten> {
        match self {
            Self::Files(files) => {
                files.write(batches)?;
                files.records += records;
                files.began = if files.began == Nanos(0) { began } else { files.began };
                files.until = ts;
            }
            Self::Flight(flight) => flight.append(batches, records, began, ts),
        }
        Ok(())
    }

    /// Whether it is time for a new piece.
    pub fn wants_piece(&self) -> bool {
        match self {
            Self::Files(files) => files.is_full(),
            Self::Flight(flight) => flight.is_due(),
        }
    }

    /// Bytes written, or held.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Files(files) => files.bytes_before + files.bytes,
            Self::Flight(flight) => flight.bytes(),
        }
    }

    /// Writes out what is held, now. A number is added to the name: there may be more to come.
    pub fn dump(&mut self) -> Option<Result<Written, Unwritten>> {
        match self {
            Self::Files(_) => None,
            Self::Flight(flight) => Some(flight.dump_numbered()),
        }
    }

    /// The end: what is held is written, what is open is closed.
    pub fn finish(&mut self) -> Result<Written, Unwritten> {
        match self {
            Self::Files(files) => files.finish(),
            Self::Flight(flight) => flight.dump(flight.path.clone(), flight.dumped + 1),
        }
    }

    /// What is in the file that was written last.
    pub fn written(&self) -> Written {
        match self {
            Self::Files(files) => files.written(),
            Self::Flight(flight) => Written { path: flight.path.clone(), ..Written::default() },
        }
    }
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// How many files there are, this one included.
    pub files: usize,
    /// Records of hooks in it.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// The time it spans.
    pub span: Nanos,
}

/// Writes files.
pub struct Files {
    path: PathBuf,
    keep: Keep,
    existing: Existing,
    /// Paths of the files that stay, the one being written last.
    series: VecDeque<PathBuf>,
    made: usize,
    file: File,
    /// Standard output: nothing in it can be taken back.
    is_stream: bool,
    bytes: u64,
    bytes_before: u64,
    records: u64,
    began: Nanos,
    until: Nanos,
    is_fresh: bool,
}

impl Files {
    fn open(path: &Path, keep: Keep, existing: Existing) -> Result<Self, Unwritten> {
        let first = if keep == Keep::All { path.to_owned() } else { numbered(path, 1) };
        let is_stream = first == Path::new(STDOUT);
        let file = if is_stream { standard_output() } else { create(&first, existing) };
        let file = file.map_err(|why| Unwritten { path: first.clone(), why })?;
        Ok(Self {
            path: path.to_owned(),
            keep,
            existing,
            series: VecDeque::from([first]),
            made: 1,
            file,
            is_stream,
            bytes: 0,
            bytes_before: 0,
            records: 0,
            began: Nanos(0),
            until: Nanos(0),
            is_fresh: true,
        })
    }

    fn begin(&mut self, header: &[u8], ts: Nanos) -> Result<(), Unwritten> {
        if !std::mem::take(&mut self.is_fresh) {
            let next = numbered(&self.path, self.made + 1);
            let file = create(&next, self.existing).map_err(|why| Unwritten { path: next.clone(), why })?;
            self.close()?;
            self.made += 1;
            self.series.push_back(next);
            self.bytes_before += self.bytes;
            (self.file, self.bytes, self.records) = (file, 0, 0);
            if let Keep::Series { files: Some(most), .. } = self.keep {
                while self.series.len() > most.max(1) {
                    if let Some(oldest) = self.series.pop_front() {
                        // One that is gone already need not go.
                        let _ = std::fs::remove_file(oldest);
                    }
                }
            }
        }
        (self.began, self.until) = (ts, ts);
        self.write(header)
    }

    /// Writes all of `batches`, or nothing: what a full disk cut off is taken back.
    fn write(&mut self, batches: &[u8]) -> Result<(), Unwritten> {
        let written = self.file.write_all(batches).and_then(|()| self.is_still_there());
        if let Err(why) = written {
            if self.is_stream {
                return Err(self.unwritten(why));
            }
            let taken_back =
                self.file.set_len(self.bytes).and_then(|()| self.file.seek(io::SeekFrom::End(0)));
            if taken_back.is_ok() {
                // The end mark fits where the torn batch was, mostly; a reader does without it.
                let _ = self.file.write_all(&END);
            }
            return Err(self.unwritten(why));
        }
        self.bytes += batches.len() as u64;
        Ok(())
    }

    /// A file that was removed takes everything, and keeps nothing.
    fn is_still_there(&self) -> io::Result<()> {
        if !self.is_stream && self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed while it was written"));
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        match self.keep {
            Keep::Series { rotate: Rotate::Size(size), .. } => self.bytes >= size,
            Keep::Series { rotate: Rotate::Time(length), .. } => self.until.since(self.began) >= length,
            Keep::All | Keep::Last(_) => false,
        }
    }

    fn close(&mut self) -> Result<(), Unwritten> {
        self.write(&END)?;
        if self.is_stream {
            return Ok(());
        }
        self.file.sync_data().map_err(|why| self.unwritten(why))
    }

    fn finish(&mut self) -> Result<Written, Unwritten> {
        self.close()?;
        Ok(self.written())
    }

    fn written(&self) -> Written {
        Written {
            path: self.current(),
            files: self.made,
            records: self.records,
            bytes: self.bytes,
            span: self.until.since(self.began),
        }
    }

    fn current(&self) -> PathBuf {
        self.series.back().unwrap_or(&self.path).clone()
    }

    fn unwritten(&self, why: io::Error) -> Unwritten {
        Unwritten { path: self.current(), why }
    }
}

/// A new file that only its owner may read.
pub fn create(path: &Path, existing: Existing) -> io::Result<File> {
    may_create(path, existing)?;
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Whether a file may be made at `path`. Only files are ever replaced: not a device, whatever links to it.
fn may_create(path: &Path, existing: Existing) -> io::Result<()> {
    let refused = |kind, what: &str| Err(io::Error::new(kind, what));
    match path.metadata() {
        Ok(there) if there.is_dir() => {
            refused(io::ErrorKind::IsADirectory, "this is a directory; name a file in it")
        }
        Ok(there) if !there.is_file() => {
            refused(io::ErrorKind::InvalidInput, "this is no regular file; -o - writes to standard output")
        }
        _ if existing == Existing::Keep && path.symlink_metadata().is_ok() => {
            refused(io::ErrorKind::AlreadyExists, "there is such a file already; --force replaces it")
        }
        _ => Ok(()),
    }
}

/// Standard output, for bytes that are not for people.
pub fn standard_output() -> io::Result<File> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "standard output is a terminal; send it to a file or another program",
        ));
    }
    stdout.as_fd().try_clone_to_owned().map(File::from)
}
