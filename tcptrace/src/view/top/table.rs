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
    /// Of that, what the arrow beside the head takes.
    arrow: usize,
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
            head if head.len() + self.arrow <= self.width => Cow::Borrowed(head),
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

/// Columns from this priority on have no room while the cells of others are cut.
const LATE: u8 = 12;

/// As much of the first column as comes before those.
const LONG: usize = 48;

/// What a table has placed so far, and the width that is left.
struct Room<R: 'static> {
    left: usize,
    placed: Vec<Placed<R>>,
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
    /// by always stay; the others go by their priority, and those from [`LATE`] on come when the cells of the
    /// others are whole. What is left over goes to heads and cells that need more, to the first column last: there
    /// is no end to how long a path can be.
    pub fn place(&self, width: usize) -> Vec<Placed<R>> {
        let mut by_priority = self.visible.to_vec();
        by_priority.sort_by_key(|&index| match index {
            KEY => (0, 0),
            _ if index == self.sorted => (1, 0),
            _ => (2, self.columns[index].priority),
        });
        let is_late = |&index: &usize| self.columns[index].priority >= LATE && index != self.sorted;
        let (late, first): (Vec<usize>, Vec<usize>) = by_priority.iter().partition(|index| is_late(index));
        let mut room = Room { left: width, placed: Vec::with_capacity(self.columns.len()) };
        let is_all = self.add(&mut room, &first);
        if room.placed.len() < 2 {
            return self.squeeze(by_priority.get(1).copied().unwrap_or(KEY), width);
        }
        if is_all {
            self.grow(&mut room, Grows::ForCells, LONG);
            self.add(&mut room, &late);
        }
        self.grow(&mut room, Grows::ForCells, LONG);
        self.grow(&mut room, Grows::ForHead, usize::MAX);
        self.grow(&mut room, Grows::ForCells, usize::MAX);
        room.placed.sort_by_key(|placed| self.visible.iter().position(|&index| index == placed.index));
        room.placed
    }

    /// Adds these columns, as narrow as they may be, up to the first that there is no room for; returns whether there
    /// was none such.
    fn add(&self, room: &mut Room<R>, columns: &[usize]) -> bool {
        columns.iter().all(|&index| {
            let placed = self.narrow(index);
            let needed = placed.width + usize::from(index != KEY);
            let fits = needed <= room.left;
            if fits {
                room.left -= needed;
                room.placed.push(placed);
            }
            fits
        })
    }

    /// Lets columns grow for their heads or for their cells, the first column last and to no more than `longest`.
    fn grow(&self, room: &mut Room<R>, what: Grows, longest: usize) {
        let (key, others): (Vec<_>, Vec<_>) = room.placed.iter_mut().partition(|placed| placed.index == KEY);
        for wide in others.into_iter().chain(key).filter(|wide| wide.column.grows == what) {
            let wanted = if wide.index == KEY { self.wanted(wide).min(longest) } else { self.wanted(wide) };
            let growth = wanted.saturating_sub(wide.width).min(room.left);
            wide.width += growth;
            room.left -= growth;
        }
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

    /// A column as narrow as it may be, with its arrow where it is sorted by.
    fn narrow(&self, index: usize) -> Placed<R> {
        let column = &self.columns[index];
        let arrow = usize::from(index == self.sorted && index != KEY);
        let width = (column.width.0 as usize).max(column.short.len() + arrow);
        Placed { index, width, arrow, column }
    }

    /// The first and one more column where there is not room enough even for these two.
    fn squeeze(&self, second: usize, width: usize) -> Vec<Placed<R>> {
        const LEAST_KEY: usize = 8;
        let key = self.narrow(KEY);
        let second = self.narrow(second);
        match width.checked_sub(second.width + 1) {
            Some(rest @ LEAST_KEY..) => vec![Placed { width: rest, ..key }, second],
            _ => vec![Placed { width, ..key }],
        }
    }

    /// The width that a column would fill.
    fn wanted(&self, placed: &Placed<R>) -> usize {
        let column = placed.column;
        let longest = match column.grows {
            Grows::ForHead => return (column.head.len() + placed.arrow).max(placed.width),
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
    /// The middle goes: the port at the end of an address tells as much as its beginning. Of a namespace behind it
    /// goes what there is no room for.
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
    const LEAST_OF_NETNS: usize = 3;
    if cut == Cut::Middle
        && let Some((address, netns)) = text.split_once(" @")
    {
        return match width.checked_sub(address.width()) {
            Some(left) if left >= " @".len() + LEAST_OF_NETNS => {
                format!("{address} @{}", shorten(netns, left - " @".len(), cut))
            }
            Some(1..) => format!("{address}~"),
            _ => shorten(address, width, cut),
        };
    }
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

    /// The heads of a table whose longest key has so many characters.
    fn heads(key: usize, width: usize, sorted: usize) -> String {
        let mut snapshot = fixture::busy();
        snapshot.groups[0].key = "k".repeat(key);
        let rows = snapshot.groups.iter().collect();
        let table = Table { columns: &GROUPS, visible: &ALL, snapshot: &snapshot, rows, sorted };
        let mut out = Vec::new();
        table.write(&mut out, width).expect("a Vec takes everything");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_head_has_a_place_for_its_arrow() {
        for width in 30..300 {
            for (sorted, column) in GROUPS.iter().enumerate().skip(1) {
                let heads = heads(21, width, sorted);
                let at = |head| heads.find(head).filter(|_| width > 40);
                if let Some(at) = at(column.head).or_else(|| at(column.short)) {
                    let before = heads[..at].chars().rev().take_while(|c| *c == ' ').count();
                    assert!(column.align == Align::Left || before > 1, "{} at {width}: {heads}", column.name);
                }
            }
        }
    }

    #[test]
    fn a_long_key_is_whole_where_there_is_room_and_late_columns_wait_for_it() {
        assert!(heads(40, 160, TIME_WAIT).contains(&"k".repeat(40)));
        assert!(!heads(40, 160, TIME_WAIT).contains("SYN_RECV"));
        assert!(heads(21, 180, TIME_WAIT).contains("SYN_RECV"));
        assert!(heads(200, 400, TIME_WAIT).contains(&"k".repeat(200)));
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
        let of_netns = |address: &str| fit(&format!("{address} @4026532248"), 21, true, Cut::Middle);
        assert_eq!(of_netns("127.2.0.1:8002"), "127.2.0.1:8002 @40~48");
        assert_eq!(of_netns("192.168.100.1:443"), "192.168.100.1:443~   ");
        assert_eq!(of_netns("[2001:db8::1234:5678]:443"), "[2001:db8:~:5678]:443");
        assert_eq!(fit("postgres", 5, true, Cut::End), "post~");
        assert_eq!(fit("数据库", 5, true, Cut::End), "数据~");
        assert_eq!(fit("数据库", 4, true, Cut::End), "数~ ");
        assert_eq!(fit("7", 3, false, Cut::End), "  7");
        assert_eq!(fit("anything", 0, true, Cut::Middle), "");
    }
}
