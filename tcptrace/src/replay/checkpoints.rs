//! Bounded set of saved replay states, evenly spread over the records read so far, so that seeking back does not
//! restart at the beginning.

use crate::{
    pipeline::{Engine, SnapshotSchedule},
    session::{FilePosition, Reader},
};

/// Maximum number of checkpoints.
const MOST: usize = 32;
/// Approximate memory of all checkpoints. A state with 1 M sockets takes more than half of it.
const MOST_BYTES: usize = 256 << 20;
/// Initial number of records between checkpoints: read in a tenth of a second.
const SPACING: u64 = 200_000;

/// State of the replay after a batch.
pub struct Checkpoint {
    pub(super) engine: Engine,
    pub(super) place: FilePosition,
    pub(super) schedule: SnapshotSchedule,
    /// Snapshots passed.
    pub(super) passed: usize,
    bytes: usize,
}

/// The checkpoints, earliest first.
pub struct Checkpoints {
    kept: Vec<Checkpoint>,
    spacing: u64,
    bytes: usize,
    limits: CheckpointLimits,
}

/// Limits and initial spacing.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointLimits {
    pub(super) most: usize,
    pub(super) bytes: usize,
    pub(super) spacing: u64,
}

impl Default for CheckpointLimits {
    fn default() -> Self {
        Self { most: MOST, bytes: MOST_BYTES, spacing: SPACING }
    }
}

impl Checkpoints {
    /// No checkpoints yet.
    pub const fn new(limits: CheckpointLimits) -> Self {
        Self { kept: Vec::new(), spacing: limits.spacing, bytes: 0, limits }
    }

    /// Saves the state between two batches, if it is far enough from the last checkpoint.
    pub fn offer(
        &mut self,
        engine: &Engine,
        reader: &Reader,
        schedule: SnapshotSchedule,
        passed: usize,
    ) -> std::io::Result<()> {
        let last = self.kept.last().map_or(0, |last| last.engine.records());
        if engine.records() < last.saturating_add(self.spacing) {
            return Ok(());
        }
        let place = reader.place()?;
        let bytes = engine.size_bytes() + place.size_bytes();
        if bytes > self.limits.bytes {
            return Ok(());
        }
        self.kept.push(Checkpoint { engine: engine.clone(), place, schedule, passed, bytes });
        self.bytes += bytes;
        while self.kept.len() > self.limits.most || self.bytes > self.limits.bytes {
            self.drop_every_other();
        }
        Ok(())
    }

    /// Drops every other checkpoint, starting with the first: positions near the start are reached quickly anyway.
    fn drop_every_other(&mut self) {
        let mut nth = 0;
        self.kept.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
        self.spacing = self.spacing.saturating_mul(2);
        self.bytes = self.kept.iter().map(|kept| kept.bytes).sum();
    }

    /// The last checkpoint before snapshot `n`.
    pub fn before(&self, n: usize) -> Option<&Checkpoint> {
        let behind = self.kept.partition_point(|kept| kept.passed <= n);
        self.kept[..behind].last()
    }

    /// Drops all checkpoints, because the grouping or the filter changed.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    /// Number of checkpoints and their approximate memory.
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }
}
