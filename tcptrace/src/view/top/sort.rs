//! Sort order of table rows.

use std::cmp::Ordering;

use super::columns::{Align, CellValue, GROUPS, TIME_WAIT, TableColumn};
use crate::{
    aggregate::{Group, Snapshot},
    model::TcpState,
};

/// Sort column and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index in the list of columns.
    pub column: usize,
    /// Sort direction.
    pub direction: SortDirection,
}

/// Sort direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortDirection {
    /// Smallest first, or A to Z.
    Ascending,
    /// Largest first, or Z to A.
    Descending,
}

impl Default for Sort {
    /// The default of the groups: by TIME_WAIT, largest first.
    fn default() -> Self {
        Self::by(&GROUPS, TIME_WAIT)
    }
}

impl Sort {
    /// Sorts by a column: numbers largest first, words from A to Z.
    pub const fn by<R>(columns: &[TableColumn<R>], column: usize) -> Self {
        let direction = match columns[column].align {
            Align::Left => SortDirection::Ascending,
            Align::Right => SortDirection::Descending,
        };
        Self { column, direction }
    }

    /// Sorts by the next `visible` column to the right; wraps around.
    #[must_use]
    pub fn next<R>(self, columns: &[TableColumn<R>], visible: &[usize]) -> Self {
        self.beside(columns, visible, 1)
    }

    /// Sorts by the next `visible` column to the left; wraps around.
    #[must_use]
    pub fn previous<R>(self, columns: &[TableColumn<R>], visible: &[usize]) -> Self {
        self.beside(columns, visible, visible.len() - 1)
    }

    fn beside<R>(self, columns: &[TableColumn<R>], visible: &[usize], steps: usize) -> Self {
        let place = visible.iter().position(|&column| column == self.column).unwrap_or(0);
        Self::by(columns, visible[(place + steps) % visible.len()])
    }

    /// The same column in reverse order.
    #[must_use]
    pub fn reversed(self) -> Self {
        let direction = match self.direction {
            SortDirection::Ascending => SortDirection::Descending,
            SortDirection::Descending => SortDirection::Ascending,
        };
        Self { direction, ..self }
    }

    /// Row indices in this order; `identity` breaks ties.
    pub fn order<R>(
        self,
        columns: &[TableColumn<R>],
        snapshot: &Snapshot,
        rows: &[R],
        identity: impl Fn(&R, &R) -> Ordering,
    ) -> Vec<usize> {
        let column = &columns[self.column];
        let mut order: Vec<(usize, CellValue<'_>)> =
            rows.iter().map(|row| (column.value)(snapshot, row)).enumerate().collect();
        order.sort_by(|(a, left), (b, right)| {
            let ordering = match self.direction {
                SortDirection::Ascending => left.compare(right),
                SortDirection::Descending => right.compare(left),
            };
            ordering.then_with(|| identity(&rows[*a], &rows[*b]))
        });
        order.into_iter().map(|(row, _)| row).collect()
    }

    /// Indices of the non-empty groups of `snapshot` in this order.
    pub fn groups(self, snapshot: &Snapshot) -> Vec<usize> {
        let mut order = self.order(&GROUPS, snapshot, &snapshot.groups, by_size);
        order.retain(|&row| !snapshot.groups[row].is_empty());
        order
    }
}

/// Most connections first, then most TIME_WAIT entered, then by key and role.
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
    fn empty_groups_are_hidden_and_larger_ones_win_ties() {
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
