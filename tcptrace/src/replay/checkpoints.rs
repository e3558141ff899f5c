//! States of the replay kept on the way, so that going back does not begin at the beginning: as many as fit in a
//! bounded memory, evenly spread over the records read so far.

use super::player::Head;
use crate::{pipeline::Schedule, session::Place};

/// As many at once.
const MOST: usize = 32;
/// What all of them may take, roughly. A state with 1 M sockets takes more than half of it.
const MOST_BYTES: usize = 256 << 20;
/// Records between two, to begin with: read in a tenth of a second.
const SPACING: u64 = 200_000;

/// The replay as it was after some batch.
pub struct Checkpoint {
    pub(super) engine: crate::pipeline::Engine,
    pub(super) place: Place,
    pub(super) schedule: Schedule,
    /// Pictures passed.
    pub(super) passed: usize,
    bytes: usize,
}

/// Those that are kept, the earliest first.
pub struct Checkpoints {
    kept: Vec<Checkpoint>,
    spacing: u64,
    bytes: usize,
    limits: Limits,
}

/// Bounds, and how close together they are to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub(super) most: usize,
    pub(super) bytes: usize,
    pub(super) spacing: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most: MOST, bytes: MOST_BYTES, spacing: SPACING }
    }
}

impl Checkpoints {
    /// None yet.
    pub const fn new(limits: Limits) -> Self {
        Self { kept: Vec::new(), spacing: limits.spacing, bytes: 0, limits }
    }

    /// Keeps `head` where the last one is far enough behind. It must be between two batches.
    pub fn offer(&mut self, head: &Head) -> std::io::Result<()> {
        let last = self.kept.last().map_or(0, |last| last.engine.records());
        if head.engine.records() < last.saturating_add(self.spacing) {
            return Ok(());
        }
        let place = head.reader.place()?;
        let bytes = head.engine.size_bytes() + place.size_bytes();
        if bytes > self.limits.bytes {
            return Ok(());
        }
        self.kept.push(Checkpoint {
            engine: head.engine.clone(),
            place,
            schedule: head.schedule,
            passed: head.passed,
            bytes,
        });
        self.bytes += bytes;
        while self.kept.len() > self.limits.most || self.bytes > self.limits.bytes {
            self.thin();
        }
        Ok(())
    }

    /// Drops every second, the first among them: what is close to the start is read quickly anyway.
    fn thin(&mut self) {
        let mut nth = 0;
        self.kept.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
        self.spacing = self.spacing.saturating_mul(2);
        self.bytes = self.kept.iter().map(|kept| kept.bytes).sum();
    }

    /// The last one from which the picture `n` is still to come.
    pub fn before(&self, n: usize) -> Option<&Checkpoint> {
        let behind = self.kept.partition_point(|kept| kept.passed <= n);
        self.kept[..behind].last()
    }

    /// Drops all: they are of another grouping.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    /// How many are kept, and roughly how many bytes they take.
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }
}
