//! The order of the rows of a table.

use std::cmp::Ordering;

use super::columns::{Align, Column, GROUPS, TIME_WAIT, Value};
use crate::aggregate::{Group, Snapshot};

/// What the rows of a table are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index in the list of columns.
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
    /// That of the groups: by TIME_WAIT, the most first.
    fn default() -> Self {
        Self::by(&GROUPS, TIME_WAIT)
    }
}

impl Sort {
    /// By a column: the greatest number first, or words from A to Z.
    pub const fn by<R>(columns: &[Column<R>], column: usize) -> Self {
        let direction = match columns[column].align {
            Align::Left => Direction::Ascending,
            Align::Right => Direction::Descending,
        };
        Self { column, direction }
    }

    /// By the next of the `visible` columns to the right, after the last the first.
    #[must_use]
    pub fn next<R>(self, columns: &[Column<R>], visible: &[usize]) -> Self {
        self.beside(columns, visible, 1)
    }

    /// By the next of the `visible` columns to the left, after the first the last.
    #[must_use]
    pub fn previous<R>(self, columns: &[Column<R>], visible: &[usize]) -> Self {
        self.beside(columns, visible, visible.len() - 1)
    }

    fn beside<R>(self, columns: &[Column<R>], visible: &[usize], steps: usize) -> Self {
        let place = visible.iter().position(|&column| column == self.column).unwrap_or(0);
        Self::by(columns, visible[(place + steps) % visible.len()])
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

    /// The rows of a table in this order, as indices. Equal ones stay in a fixed order, that of `identity`.
    pub fn order<R>(
        self,
        columns: &[Column<R>],
        snapshot: &Snapshot,
        rows: &[R],
        identity: impl Fn(&R, &R) -> Ordering,
    ) -> Vec<usize> {
        let column = &columns[self.column];
        let mut order: Vec<(usize, Value<'_>)> =
            rows.iter().map(|row| (column.value)(snapshot, row)).enumerate().collect();
        order.sort_by(|(a, left), (b, right)| {
            let ordering = match self.direction {
                Direction::Ascending => left.compare(right),
                Direction::Descending => right.compare(left),
            };
            ordering.then_with(|| identity(&rows[*a], &rows[*b]))
        });
        order.into_iter().map(|(row, _)| row).collect()
    }

    /// The groups of `snapshot` in this order.
    pub fn groups(self, snapshot: &Snapshot) -> Vec<usize> {
        self.order(&GROUPS, snapshot, &snapshot.groups, by_identity)
    }
}

fn by_identity(a: &Group, b: &Group) -> Ordering {
    a.key.cmp(&b.key).then(a.role.cmp(&b.role))
}
