//! The order of the rows of a table.

use std::cmp::Ordering;

use super::columns::{Align, Column, GROUPS, TIME_WAIT, Value};
use crate::aggregate::{Group, Snapshot};

/// What the groups are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index in [`GROUPS`].
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
        let direction = match GROUPS[column].align {
            Align::Left => Direction::Ascending,
            Align::Right => Direction::Descending,
        };
        Self { column, direction }
    }

    /// By the next column to the right, after the last the first.
    #[must_use]
    pub fn next(self) -> Self {
        Self::by((self.column + 1) % GROUPS.len())
    }

    /// By the next column to the left, after the first the last.
    #[must_use]
    pub fn previous(self) -> Self {
        Self::by((self.column + GROUPS.len() - 1) % GROUPS.len())
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
        let column: &Column<Group> = &GROUPS[self.column];
        let groups = &snapshot.groups;
        let mut rows: Vec<(usize, Value<'_>)> =
            groups.iter().map(|group| (column.value)(snapshot, group)).enumerate().collect();
        rows.sort_by(|(a, left), (b, right)| {
            let ordering = match self.direction {
                Direction::Ascending => left.compare(right),
                Direction::Descending => right.compare(left),
            };
            ordering.then_with(|| by_identity(&groups[*a], &groups[*b]))
        });
        rows.into_iter().map(|(row, _)| row).collect()
    }
}

fn by_identity(a: &Group, b: &Group) -> Ordering {
    a.key.cmp(&b.key).then(a.role.cmp(&b.role))
}
