//! The order of the groups.

use std::cmp::Ordering;

use super::columns::{Align, COLUMNS, TIME_WAIT};
use crate::aggregate::Snapshot;

/// What the groups are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index in [`COLUMNS`].
    pub column: usize,
    /// Which end comes first.
    pub direction: Direction,
}

/// Which end comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The smallest, or A.
    Ascending,
    /// The greatest, or Z.
    Descending,
}

impl Default for Sort {
    fn default() -> Self {
        Self { column: TIME_WAIT, direction: Direction::Descending }
    }
}

impl Sort {
    /// By `column`: the greatest number first, or words from A to Z.
    pub fn by(column: usize) -> Self {
        let direction = match COLUMNS[column].align {
            Align::Left => Direction::Ascending,
            Align::Right => Direction::Descending,
        };
        Self { column, direction }
    }

    /// By the next column to the right, after the last the first.
    #[must_use]
    pub fn next(self) -> Self {
        Self::by((self.column + 1) % COLUMNS.len())
    }

    /// By the next column to the left, after the first the last.
    #[must_use]
    pub fn previous(self) -> Self {
        Self::by((self.column + COLUMNS.len() - 1) % COLUMNS.len())
    }

    /// The other way round.
    #[must_use]
    pub fn reversed(self) -> Self {
        let direction = match self.direction {
            Direction::Ascending => Direction::Descending,
            Direction::Descending => Direction::Ascending,
        };
        Self { direction, ..self }
    }

    /// The groups of `snapshot` in this order, as indices. Equal ones stay in a fixed order, by key.
    pub fn order(self, snapshot: &Snapshot) -> Vec<usize> {
        let value = COLUMNS[self.column].value;
        let mut rows: Vec<_> =
            snapshot.groups.iter().map(|group| value(snapshot, group)).enumerate().collect();
        rows.sort_by(|(a, left), (b, right)| {
            let ordering = match self.direction {
                Direction::Ascending => left.compare(right),
                Direction::Descending => right.compare(left),
            };
            ordering.then_with(|| by_identity(snapshot, *a, *b))
        });
        rows.into_iter().map(|(row, _)| row).collect()
    }
}

fn by_identity(snapshot: &Snapshot, a: usize, b: usize) -> Ordering {
    let (a, b) = (&snapshot.groups[a], &snapshot.groups[b]);
    a.key.cmp(&b.key).then(a.role.cmp(&b.role))
}
