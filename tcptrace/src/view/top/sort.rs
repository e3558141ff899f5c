//! The order of the rows of a table.

use std::cmp::Ordering;

use super::columns::{Align, Column, GROUPS, TIME_WAIT, Value};
use crate::{
    aggregate::{Group, Snapshot},
    model::TcpState,
};

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

    /// The groups of `snapshot` in this order, those left out that have nothing to show.
    pub fn groups(self, snapshot: &Snapshot) -> Vec<usize> {
        let mut order = self.order(&GROUPS, snapshot, &snapshot.groups, by_size);
        order.retain(|&row| !snapshot.groups[row].is_empty());
        order
    }
}

/// Those with connections before those without, then a fixed order.
fn by_size(a: &Group, b: &Group) -> Ordering {
    let connections = |group: &Group| group.sockets() - group.counts[TcpState::Listen.index()];
    connections(b)
        .cmp(&connections(a))
        .then(b.time_wait.entered.cmp(&a.time_wait.entered))
        .then_with(|| a.key.cmp(&b.key))
        .then(a.role.cmp(&b.role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lifecycle::Role, view::top::fixture};

    #[test]
    fn rows_with_nothing_in_them_are_left_out_and_the_larger_of_equals_comes_first() {
        let mut snapshot = fixture::empty();
        let group = |key: &str, counts: &[(TcpState, u64)]| fixture::group(key, Role::Inbound, counts);
        snapshot.groups = vec![
            group("a", &[(TcpState::Listen, 1)]),
            group("b", &[]),
            group("c", &[(TcpState::Established, 5)]),
            group("d", &[]),
        ];
        snapshot.groups[3].closers[1] = 1;
        let keys: Vec<&str> =
            Sort::default().groups(&snapshot).into_iter().map(|row| &*snapshot.groups[row].key).collect();
        assert_eq!(keys, ["c", "a", "d"]);
    }
}
