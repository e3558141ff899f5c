//! The flight recorder: the newest stretch of a recording, in memory until it is asked for.

use std::{
    collections::VecDeque,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{Existing, Unwritten, Written, create, may_create, numbered};
use crate::{model::Nanos, session::message::END};

/// What a flight recorder keeps in memory at most, compressed; what is older than that goes.
pub const MOST_FLIGHT_BYTES: u64 = 256 << 20;
/// Into how many pieces the stretch that a flight recorder keeps is cut: it keeps up to one more.
const FLIGHT_PIECES: u64 = 8;

/// Keeps the newest pieces in memory.
pub struct Flight {
    pub(super) path: PathBuf,
    existing: Existing,
    length: Nanos,
    header: Vec<u8>,
    pieces: VecDeque<Piece>,
    pub(super) dumped: usize,
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
    pub(super) fn open(path: &Path, length: Nanos, existing: Existing) -> Result<Self, Unwritten> {
        // Found out now, not in ten minutes.
        may_create(path, existing).map_err(|why| Unwritten { path: path.to_owned(), why })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        folder.metadata().map_err(|why| Unwritten { path: folder.to_owned(), why })?;
        Ok(Self {
            path: path.to_owned(),
            existing,
            length,
            header: Vec::new(),
            pieces: VecDeque::from([Piece::default()]),
            dumped: 0,
        })
    }

    pub(super) fn begin(&mut self, header: &[u8], ts: Nanos) {
        header.clone_into(&mut self.header);
        self.pieces.retain(|piece| !piece.body.is_empty());
        self.pieces.push_back(Piece { began: ts, until: ts, ..Piece::default() });
        // The oldest goes when the next ones cover the stretch without it.
        while self.pieces.get(1).is_some_and(|second| ts.since(second.began) >= self.length)
            || (self.pieces.len() > 1 && self.bytes() > MOST_FLIGHT_BYTES)
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

    pub(super) fn is_due(&self) -> bool {
        let length = Nanos((self.length.0 / FLIGHT_PIECES).max(Nanos::SECOND.0));
        self.pieces.back().is_some_and(|piece| {
            piece.until.since(piece.began) >= length
                || piece.body.len() as u64 > MOST_FLIGHT_BYTES / FLIGHT_PIECES
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| (piece.head.len() + piece.body.len()) as u64).sum()
    }

    pub(super) fn dump_numbered(&mut self) -> Result<Written, Unwritten> {
        self.dumped += 1;
        self.dump(numbered(&self.path, self.dumped), self.dumped)
    }

    pub(super) fn dump(&self, path: PathBuf, files: usize) -> Result<Written, Unwritten> {
        let mut file = create(&path, self.existing).map_err(|why| Unwritten { path: path.clone(), why })?;
        let mut bytes = 0;
        let write = |part: &[u8]| {
            bytes += part.len() as u64;
            file.write_all(part)
        };
        // The heads of all but the first would say again what the pieces before them tell.
        let first = self.pieces.front();
        let parts = [&self.header[..], first.map_or(&[], |piece| &piece.head)];
        let bodies = self.pieces.iter().map(|piece| &piece.body[..]);
        let written = parts.into_iter().chain(bodies).chain([&END[..]]).try_for_each(write);
        if let Err(why) = written.and_then(|()| file.sync_data()) {
            return Err(Unwritten { path, why });
        }
        let span = match (first, self.pieces.back()) {
            (Some(first), Some(last)) => last.until.since(first.began),
            _ => Nanos(0),
        };
        let records = self.pieces.iter().map(|piece| piece.records).sum();
        Ok(Written { path, files, records, bytes, span })
    }
}
