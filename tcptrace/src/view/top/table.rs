//! Where the columns stand in a given width, and the text of their cells: shared by plain text and the
//! screen.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::columns::{Align, Column, Grows, Value};
use crate::aggregate::Snapshot;

/// The first column, which names the row and is always shown.
const KEY: usize = 0;

/// A column and the width it got.
pub struct Placed<R: 'static> {
    /// Index in the list of columns.
    pub index: usize,
    /// Width without the blank that separates it from the one before.
    pub width: usize,
    column: &'static Column<R>,
}

impl<R> Placed<R> {
    /// The column.
    #[cfg(test)]
    pub const fn column(&self) -> &'static Column<R> {
        self.column
    }

    /// Whether it is written from the left, as words are.
    pub fn is_words(&self) -> bool {
        self.column.align == Align::Left
    }

    /// The head, padded to the width.
    pub fn head(&self, snapshot: &Snapshot) -> String {
        let column = self.column;
        let head = match column.head {
            "" => Cow::Owned(snapshot.grouping.head()),
            head if head.len() <= self.width => Cow::Borrowed(head),
            _ => Cow::Borrowed(column.short),
        };
        fit(&head, self.width, self.is_words(), Cut::End)
    }

    /// The cell of `row`, padded to the width, and whether there is nothing in it.
    pub fn cell(&self, snapshot: &Snapshot, row: &R) -> (String, bool) {
        let value = (self.column.value)(snapshot, row);
        let cut = if matches!(value, Value::Key(_)) { Cut::Middle } else { Cut::End };
        (fit(&value.text(self.width), self.width, self.is_words(), cut), value.is_nothing())
    }
}

/// The columns of a table and what is to be shown of it.
pub struct Table<'a, R: 'static> {
    /// Every column.
    pub columns: &'static [Column<R>],
    /// Those that are wanted, from left to right; the first names the row.
    pub visible: &'a [usize],
    /// The picture the rows are of.
    pub snapshot: &'a Snapshot,
    /// The rows that are shown.
    pub rows: Vec<&'a R>,
    /// The column that is sorted by.
    pub sorted: usize,
}

impl<R> Table<'_, R> {
    /// Which columns there is room for in `width`, from left to right. The first and the one that is sorted
    /// by always stay; the others go by their priority. What is left over goes to those that need more for
    /// the longest of the rows or for their head, to the first last.
    pub fn place(&self, width: usize) -> Vec<Placed<R>> {
        let mut by_priority = self.visible.to_vec();
        by_priority.sort_by_key(|&index| match index {
            KEY => (0, 0),
            _ if index == self.sorted => (1, 0),
            _ => (2, self.columns[index].priority),
        });
        let mut left = width;
        let mut placed = Vec::with_capacity(self.columns.len());
        for &index in &by_priority {
            let least = self.columns[index].width.0 as usize;
            let needed = least + usize::from(index != KEY);
            if needed > left {
                break;
            }
            left -= needed;
            placed.push(self.placed(index, least));
        }
        if placed.len() < 2 {
            return self.squeeze(by_priority.get(1).copied().unwrap_or(KEY), width);
        }
        placed.sort_by_key(|placed| self.visible.iter().position(|&index| index == placed.index));
        // The first last: there is no end to how long a path can be.
        let (key, others): (Vec<_>, Vec<_>) = placed.iter_mut().partition(|placed| placed.index == KEY);
        for wide in others.into_iter().chain(key) {
            let growth = self.wanted(wide.column).saturating_sub(wide.width).min(left);
            wide.width += growth;
            left -= growth;
        }
        placed
    }

    /// Writes the heads and the rows as text, in lines of at most `width`.
    pub fn write(&self, out: &mut impl Write, width: usize) -> io::Result<()> {
        let placed = self.place(width);
        let heads: Vec<String> = placed.iter().map(|placed| placed.head(self.snapshot)).collect();
        writeln!(out, "{}", heads.join(" ").trim_end())?;
        for row in &self.rows {
            let cells: Vec<String> = placed.iter().map(|placed| placed.cell(self.snapshot, row).0).collect();
            writeln!(out, "{}", cells.join(" ").trim_end())?;
        }
        Ok(())
    }

    const fn placed(&self, index: usize, width: usize) -> Placed<R> {
        Placed { index, width, column: &self.columns[index] }
    }

    /// The first and one more column where there is not room enough even for these two.
    fn squeeze(&self, second: usize, width: usize) -> Vec<Placed<R>> {
        const LEAST_KEY: usize = 8;
        let second = self.placed(second, self.columns[second].width.0 as usize);
        match width.checked_sub(second.width + 1) {
            Some(rest @ LEAST_KEY..) => vec![self.placed(KEY, rest), second],
            _ => vec![self.placed(KEY, width)],
        }
    }

    /// The width that the cells of a column would fill, its head included.
    fn wanted(&self, column: &Column<R>) -> usize {
        let longest = match column.grows {
            Grows::ForHead => column.head.len(),
            Grows::ForCells => self
                .rows
                .iter()
                .map(|row| (column.value)(self.snapshot, row).text(usize::MAX).width())
                .max()
                .unwrap_or(0),
        };
        longest.min(column.width.1 as usize)
    }
}

/// Where text that is too long is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The end goes.
    End,
    /// The middle goes: the port at the end of an address tells as much as its beginning.
    Middle,
}

/// `text` in exactly `width` terminal columns: padded on the right (`words`) or on the left, or cut, with a
/// `~` where something is missing.
pub fn fit(text: &str, width: usize, words: bool, cut: Cut) -> String {
    let needed = text.width();
    let text = if needed <= width { Cow::Borrowed(text) } else { Cow::Owned(shorten(text, width, cut)) };
    let pad = width.saturating_sub(text.width());
    if words { format!("{text}{:pad$}", "") } else { format!("{:pad$}{text}", "") }
}

fn shorten(text: &str, width: usize, cut: Cut) -> String {
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let tail = if cut == Cut::Middle { room / 2 } else { 0 };
    let mut short = take(text.chars(), room - tail);
    short.push('~');
    let end = take(text.chars().rev(), tail);
    short.extend(end.chars().rev());
    short
}

/// The first characters that fit in `width` columns.
fn take(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut left = width;
    chars
        .take_while(|c| {
            let needed = c.width().unwrap_or(0);
            let fits = needed <= left;
            left = left.saturating_sub(needed);
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            columns::{ALL, GROUPS, TIME_WAIT},
            fixture,
        },
        *,
    };

    fn names(width: usize, sorted: usize) -> Vec<&'static str> {
        let snapshot = fixture::busy();
        let rows = snapshot.groups.iter().collect();
        let placed =
            Table { columns: &GROUPS, visible: &ALL, snapshot: &snapshot, rows, sorted }.place(width);
        let total: usize = placed.iter().map(|placed| placed.width + 1).sum();
        assert!(total <= width + 1, "{total} columns in {width}");
        placed.iter().map(|placed| placed.column().name).collect()
    }

    #[test]
    fn columns_go_by_priority() {
        assert_eq!(names(40, TIME_WAIT), ["key", "time_wait", "time_wait_per_s"]);
        assert_eq!(
            names(80, TIME_WAIT),
            ["key", "role", "closer", "process", "time_wait", "time_wait_per_s", "fin_wait2", "close_wait"]
        );
        assert_eq!(names(300, TIME_WAIT).len(), GROUPS.len());
    }

    #[test]
    fn the_sorted_column_is_always_shown() {
        for (index, column) in GROUPS.iter().enumerate() {
            assert!(names(40, index).contains(&column.name));
        }
    }

    #[test]
    fn no_width_is_too_small() {
        for width in 0..400 {
            names(width, TIME_WAIT);
        }
    }

    #[test]
    fn text_is_cut_by_terminal_columns() {
        assert_eq!(fit("10.0.0.5:5432", 9, true, Cut::Middle), "10.0~5432");
        assert_eq!(fit("postgres", 5, true, Cut::End), "post~");
        assert_eq!(fit("数据库", 5, true, Cut::End), "数据~");
        assert_eq!(fit("数据库", 4, true, Cut::End), "数~ ");
        assert_eq!(fit("7", 3, false, Cut::End), "  7");
        assert_eq!(fit("anything", 0, true, Cut::Middle), "");
    }
}
