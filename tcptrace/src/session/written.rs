//! Result of a recording: how much to keep, the file that was written, and the error.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::model::Nanos;

/// When to start a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// At this many bytes.
    Size(u64),
    /// After this much time.
    Time(Nanos),
}

/// How much of a recording to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything, in one file.
    All,
    /// A series of files, of which the newest are kept.
    Series {
        /// When to start a new file.
        rotate: Rotate,
        /// How many files to keep; `None` for all.
        files: Option<usize>,
    },
    /// The newest stretch of time, in memory until a dump is requested.
    Last(Nanos),
    /// The same, dumped only with incidents and not at the end; the newest files are kept.
    Incidents {
        /// The stretch.
        last: Nanos,
        /// How many files to keep; `None` for all.
        files: Option<usize>,
        /// How many bytes in all files to keep; `None` for all.
        bytes: Option<u64>,
    },
}

/// A file that could not be written, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: io::Error,
}

/// For `map_err`: adds `path` to an error.
pub fn unwritten(path: &Path) -> impl Fn(io::Error) -> WriteError {
    |why| WriteError { path: path.to_owned(), why }
}

/// Contents of a written file.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// How many files were written, including this one; 0 for none.
    pub files: usize,
    /// Hook records in it.
    pub records: u64,
    /// Hook records that were in memory but did not fit on the disk.
    pub left_out: u64,
    /// Its length.
    pub bytes: u64,
    /// The time it spans.
    pub span: Nanos,
}

impl Written {
    /// Nothing is written to `path` yet.
    pub fn none(path: &Path) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }
}

/// Why a recording is incomplete, and what was written of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// Why.
    pub cause: WriteError,
    /// The part that was written.
    pub written: Written,
}
