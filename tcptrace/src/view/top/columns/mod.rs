//! Table columns, one row each in [`GROUPS`] and [`SOCKETS`]: shown in plain text and on the screen, and sortable.
//! A new column is one new row.

mod groups;
mod sockets;
mod value;
mod words;

pub use groups::{ALL, GROUPS, TIME_WAIT, ports_of, rate};
pub use sockets::{AGE, ALL_OF_SOCKETS, SOCKETS, time_of};
pub use value::{CellValue, bounded, count};
pub use words::{closer, owner, role};

use crate::aggregate::Snapshot;

/// The value of one row in a column.
type ValueOf<R> = for<'a> fn(&'a Snapshot, &'a R) -> CellValue<'a>;

/// One column of a table with rows of the type `R`.
pub struct TableColumn<R> {
    /// Name in the configuration and in the hints: `time_wait`.
    pub name: &'static str,
    /// Its head. Empty for the key, whose head depends on the grouping.
    pub head: &'static str,
    /// Its head if `head` does not fit.
    pub short: &'static str,
    /// Minimum and maximum width.
    pub width: (u16, u16),
    /// Reason to grow beyond the minimum width.
    pub grows: Grows,
    /// Alignment.
    pub align: Align,
    /// Columns with the lowest numbers stay when not all fit.
    pub priority: u8,
    /// The value of one row.
    pub value: ValueOf<R>,
    /// Description in the help.
    pub help: &'static str,
}

impl<R> TableColumn<R> {
    /// A column of words, as wide as its head.
    pub const fn words(name: &'static str, head: &'static str, priority: u8, value: ValueOf<R>) -> Self {
        let width = head.len() as u16;
        Self {
            name,
            head,
            short: head,
            width: (width, width),
            grows: Grows::ForHead,
            align: Align::Left,
            priority,
            value,
            help: "",
        }
    }

    /// A column of numbers, as wide as its head.
    pub const fn number(name: &'static str, head: &'static str, priority: u8, value: ValueOf<R>) -> Self {
        Self { align: Align::Right, ..Self::words(name, head, priority, value) }
    }

    /// Sets a shorter head for when the full one does not fit.
    #[must_use]
    pub const fn short(self, short: &'static str) -> Self {
        Self { short, width: (short.len() as u16, self.width.1), ..self }
    }

    /// Sets the minimum width, and the maximum for its full head.
    #[must_use]
    pub const fn width(self, least: u16, most: u16) -> Self {
        Self { width: (least, most), ..self }
    }

    /// Sets the minimum width, and the maximum for its longest cell.
    #[must_use]
    pub const fn for_cells(self, least: u16, most: u16) -> Self {
        Self { grows: Grows::ForCells, ..self.width(least, most) }
    }

    /// Sets the description in the help.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

/// Use of spare width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    /// For the full head.
    ForHead,
    /// For the longest cell.
    ForCells,
}

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Left, for words.
    Left,
    /// Right, for numbers.
    Right,
}

/// The indices of `N` columns, from left to right.
pub const fn numbers<const N: usize>() -> [usize; N] {
    let mut numbers = [0; N];
    let mut n = 0;
    while n < N {
        numbers[n] = n;
        n += 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<R>(columns: &[TableColumn<R>]) {
        let mut priorities: Vec<_> = columns.iter().map(|column| column.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        assert_eq!(priorities.len(), columns.len());
        for column in columns {
            assert!(column.short.len() <= column.width.0 as usize, "{}", column.name);
            assert!(column.head.len() <= column.width.1 as usize, "{}", column.name);
            assert!(column.short.len() <= column.head.len(), "{}", column.name);
            assert!(column.help.len() <= 61, "{} is cut in the help at 80 columns", column.name);
            assert!(!column.name.contains(' '), "{} is no name", column.name);
        }
    }

    #[test]
    fn priorities_are_distinct_and_heads_fit() {
        check(&GROUPS);
        check(&SOCKETS);
        assert_eq!((GROUPS[TIME_WAIT].name, SOCKETS[AGE].name), ("time_wait", "age"));
    }
}
