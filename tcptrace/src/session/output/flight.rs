//! Flight recorder: keeps the newest stretch of a recording in memory until a dump is requested.

use std::{
    collections::VecDeque,
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use super::series::Series;
use crate::{
    model::Nanos,
    output_file::{Existing, OutputFile},
    session::{
        message::END,
        written::{Failure, Keep, WriteError, Written, unwritten},
    },
};

/// Most bytes a flight recorder keeps in memory, compressed; it evicts the oldest pieces above that.
pub const MAX_FLIGHT_BYTES: u64 = 256 << 20;
/// Number of pieces per kept stretch; up to one more piece is held.
const FLIGHT_PIECES: u64 = 8;

/// Holds the newest pieces in memory.
pub struct Flight {
    path: PathBuf,
    length: Nanos,
    keep: Keep,
    header: Vec<u8>,
    pieces: VecDeque<Piece>,
    dumped: usize,
}

#[derive(Default)]
pub(super) struct Piece {
    pub(super) head: Vec<u8>,
    body: Vec<u8>,
    records: u64,
    began: Nanos,
    until: Nanos,
}

impl Flight {
    pub(super) fn open(path: &Path, length: Nanos, keep: Keep) -> Result<Self, WriteError> {
        // Fail now if the path is not writable, not at the first dump.
        drop(OutputFile::create(path, Existing::Replace, &[]).map_err(unwritten(path))?);
        Ok(Self {
            path: path.to_owned(),
            length,
            keep,
            header: Vec::new(),
            pieces: VecDeque::from([Piece::default()]),
            dumped: 0,
        })
    }

    pub(super) fn begin(&mut self, header: &[u8], ts: Nanos) {
        header.clone_into(&mut self.header);
        self.pieces.retain(|piece| !piece.body.is_empty());
        self.pieces.push_back(Piece { began: ts, until: ts, ..Piece::default() });
        // Evict the oldest piece once the later ones cover the stretch without it.
        while self.pieces.get(1).is_some_and(|second| ts.since(second.began) >= self.length)
            || (self.pieces.len() > 1 && self.bytes() > MAX_FLIGHT_BYTES)
        {
            self.pieces.pop_front();
        }
    }

    pub(super) fn newest(&mut self) -> &mut Piece {
        if self.pieces.is_empty() {
            self.pieces.push_back(Piece::default());
        }
        let last = self.pieces.len() - 1;
        &mut self.pieces[last]
    }

    pub(super) fn append(&mut self, batches: &[u8], records: u64, began: Nanos, ts: Nanos) {
        let piece = self.newest();
        piece.began = if piece.began == Nanos(0) { began } else { piece.began };
        piece.body.extend_from_slice(batches);
        piece.records += records;
        piece.until = ts;
    }

    pub(super) fn is_due(&self, now: Nanos) -> bool {
        let length = Nanos((self.length.0 / FLIGHT_PIECES).max(Nanos::SECOND.0));
        self.pieces.back().is_some_and(|piece| {
            (piece.began != Nanos(0) && now.since(piece.began) >= length)
                || piece.body.len() as u64 > MAX_FLIGHT_BYTES / FLIGHT_PIECES
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| (piece.head.len() + piece.body.len()) as u64).sum()
    }

    /// Hook records held.
    pub(super) fn records(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.records).sum()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether only incidents are written.
    pub(super) const fn is_for_incidents(&self) -> bool {
        matches!(self.keep, Keep::Incidents { .. })
    }

    /// Writes `header` and the held pieces to the next free number.
    pub(super) fn dump(&mut self, header: &[u8]) -> Result<Written, Failure> {
        header.clone_into(&mut self.header);
        let written = self.write(|base, file| Series::of(base).publish(file));
        if let Keep::Incidents { files, bytes, .. } = self.keep {
            let mut series = Series::of(&self.path);
            series.prune(files.unwrap_or(usize::MAX));
            series.prune_bytes(bytes.unwrap_or(u64::MAX));
        }
        written
    }

    /// Writes the held pieces without a number if that name is free; of incidents nothing.
    pub(super) fn finish(&mut self) -> Result<Written, Failure> {
        if self.is_for_incidents() {
            return Ok(Written::none(&self.path));
        }
        self.write(|base, file| match file.publish_new(base) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Series::of(base).publish(file),
            published => published.map(|()| base.to_owned()),
        })
    }

    /// Writes the held pieces to a file that `publish` names: if the disk is too small for all of them, the
    /// newest that fit. Keeps holding them.
    fn write(
        &mut self,
        publish: impl Fn(&Path, &mut OutputFile) -> io::Result<PathBuf>,
    ) -> Result<Written, Failure> {
        let nothing = || Written { left_out: self.records(), ..Written::none(&self.path) };
        let failed = |why| Failure { cause: unwritten(&self.path)(why), written: nothing() };
        let mut file = OutputFile::create(&self.path, Existing::Replace, &[]).map_err(failed)?;
        let mut full = None;
        let mut first = 0;
        let bytes = loop {
            match self.write_from(first, &file) {
                Err(why) if is_full(&why) && first + 1 < self.pieces.len() => {
                    full = Some(why);
                    first += 1;
                }
                written => break written.map_err(failed)?,
            }
        };
        let path = publish(&self.path, &mut file).map_err(failed)?;
        self.dumped += 1;
        let kept = self.pieces.range(first..);
        let span = match (kept.clone().next(), kept.clone().next_back()) {
            (Some(first), Some(last)) => last.until.since(first.began),
            _ => Nanos(0),
        };
        let records = kept.map(|piece| piece.records).sum();
        let left_out = self.records() - records;
        let written = Written { path: path.clone(), files: self.dumped, records, left_out, bytes, span };
        match full {
            None => Ok(written),
            Some(why) => Err(Failure { cause: WriteError { path, why }, written }),
        }
    }

    /// Writes the pieces from index `first` on; returns the number of bytes.
    fn write_from(&self, first: usize, file: &OutputFile) -> io::Result<u64> {
        let mut out = file.file();
        out.set_len(0)?;
        out.rewind()?;
        let mut bytes = 0;
        // Later heads repeat what the preceding pieces already contain.
        let head = self.pieces.get(first).map_or(&[][..], |piece| &piece.head);
        let bodies = self.pieces.range(first..).map(|piece| &piece.body[..]);
        for part in [&self.header[..], head].into_iter().chain(bodies).chain([&END[..]]) {
            bytes += part.len() as u64;
            out.write_all(part)?;
        }
        out.sync_data()?;
        Ok(bytes)
    }
}

/// Whether fewer bytes might fit.
fn is_full(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
