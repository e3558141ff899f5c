//! The columns of the tables, one row each in [`GROUPS`] and [`SOCKETS`]: what plain text and the screen show,
//! and what can be sorted by. A new column is one new row.

mod groups;
mod sockets;
mod value;
mod words;

pub use groups::{ALL, GROUPS, TIME_WAIT, ports_of, rate};
pub use sockets::{AGE, ALL_OF_SOCKETS, SOCKETS, looked_at};
pub use value::{Value, bounded, count};
pub use words::{closer, owner, role};

use crate::aggregate::Snapshot;

/// The value of one row in a column.
type ValueOf<R> = for<'a> fn(&'a Snapshot, &'a R) -> Value<'a>;

/// One column of a table with rows of the type `R`.
pub struct Column<R> {
    /// What it is called in the configuration and in the hints: `time_wait`.
    pub name: &'static str,
    /// Its head. Empty for the key, whose head depends on the grouping.
    pub head: &'static str,
    /// Its head where `head` does not fit.
    pub short: &'static str,
    /// Its least and its greatest width.
    pub width: (u16, u16),
    /// What it takes more than its least width for.
    pub grows: Grows,
    /// Which side of it is straight.
    pub align: Align,
    /// Which columns stay when there is no room for all: the lowest numbers.
    pub priority: u8,
    /// The value of one row.
    pub value: ValueOf<R>,
    /// What it shows, for the help.
    pub help: &'static str,
}

impl<R> Column<R> {
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

    /// The same with a shorter head, where the whole one does not fit.
    #[must_use]
    pub const fn short(self, short: &'static str) -> Self {
        Self { short, width: (short.len() as u16, self.width.1), ..self }
    }

    /// The same, so wide at least, and so wide at most for its whole head.
    #[must_use]
    pub const fn width(self, least: u16, most: u16) -> Self {
        Self { width: (least, most), ..self }
    }

    /// The same, so wide at least, and so wide at most for the longest of its cells.
    #[must_use]
    pub const fn for_cells(self, least: u16, most: u16) -> Self {
        Self { grows: Grows::ForCells, ..self.width(least, most) }
    }

    /// The same with words for the help.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

/// What a column takes room for that is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    /// Its whole head.
    ForHead,
    /// The longest of its cells.
    ForCells,
}

/// Which side of a column is straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// The left one, as of words.
    Left,
    /// The right one, as of numbers.
    Right,
}

/// The numbers of `N` columns, from left to right.
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

    fn check<R>(columns: &[Column<R>]) {
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
