//! Reports how reading a recording ends: errors before its first batch, and data missing after its last.

use std::{fmt, io};

use super::schema::{FORMAT, Version};
use crate::model::units;

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has no bytes.
    #[error("the file is empty: nothing was recorded, or the recorder was stopped before it wrote anything")]
    Empty,
    /// It is another kind of file.
    #[error("this is not a recording of tcptrace: they are Arrow IPC streams with the key `tcptrace.format`")]
    Foreign,
    /// It ends before the first batch.
    #[error("the file ends inside its header: nothing that was recorded is in it")]
    OnlyHeader,
    /// Its header is invalid.
    #[error("the header of the recording is damaged: {0} can't be made out")]
    Header(&'static str),
    /// A column is invalid.
    #[error("the header of the recording is damaged: its column {name} {what}")]
    Column {
        /// Name of the column.
        name: String,
        /// The problem.
        what: &'static str,
    },
    /// Another major version wrote it.
    #[error(
        "the recording has format {version}, written by tcptrace {writer}; this tcptrace reads format {}: \
         use one that is {}",
        FORMAT.major,
        if version.major > FORMAT.major { "as new as the one that wrote it" } else { "older" }
    )]
    Version {
        /// The format.
        version: Version,
        /// The program version that the file names.
        writer: String,
    },
    /// A message in the middle of it is invalid.
    #[error("the recording is {0}")]
    Damaged(Damage),
}

/// Position and kind of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Start of the invalid message: bytes from the beginning.
    pub at: u64,
    /// The problem found.
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
    /// It is damaged: nothing after that position was read.
    Damaged(Damage),
    /// It was closed, and other data follows it.
    Followed {
        /// Start of that data: bytes from the beginning.
        at: u64,
        /// Its length.
        bytes: u64,
        /// Why it was not read.
        why: &'static str,
    },
}

impl Ending {
    /// A short label; `None` when nothing is missing.
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Closed => None,
            Self::Open { torn_bytes: 0 } => Some("not closed"),
            Self::Open { .. } => Some("cut off"),
            Self::Damaged(_) => Some("damaged"),
            Self::Followed { .. } => Some("not read to the end"),
        }
    }

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
            Self::Followed { at, bytes, why } => Some(format!(
                "The recording ends at byte {}, and what follows was not read, {}: {why}.",
                units::count(at),
                units::plural(bytes, "byte", "bytes")
            )),
        }
    }
}
