//! Table layout: column widths and cell text, shared by plain text and the screen.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::columns::{Align, CellValue, Grows, TableColumn};
use crate::aggregate::Snapshot;

/// The first column, which names the row and is always shown.
const KEY: usize = 0;

/// A column and its width.
pub struct Placed<R: 'static> {
    /// Index in the list of columns.
    pub index: usize,
    /// Width, without the blank before it.
    pub width: usize,
    /// Part of the width that the sort arrow uses.
    arrow: usize,
    column: &'static TableColumn<R>,
}

impl<R> Placed<R> {
    /// The column.
    #[cfg(test)]
    pub const fn column(&self) -> &'static TableColumn<R> {
        self.column
    }

    /// Whether it is aligned left, as words are.
    pub fn is_left_aligned(&self) -> bool {
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
        fit(&head, self.width, self.is_left_aligned(), Cut::End)
    }

    /// The cell of `row`, padded to the width, and whether its value is missing or 0.
    pub fn cell(&self, snapshot: &Snapshot, row: &R) -> (String, bool) {
        let value = (self.column.value)(snapshot, row);
        let cut = if matches!(value, CellValue::Key(_)) { Cut::Middle } else { Cut::End };
        (fit(&value.text(self.width), self.width, self.is_left_aligned(), cut), value.is_nothing())
    }
}

/// Columns with this priority number or a higher one are added only after the cells of the others have grown.
const LATE: u8 = 12;

/// Width up to which the first column grows before those are added.
const LONG: usize = 48;

/// Columns placed so far, and the remaining width.
struct Room<R: 'static> {
    left: usize,
    placed: Vec<Placed<R>>,
}

/// A table: columns, rows and sort column.
pub struct ScreenTable<'a, R: 'static> {
    /// All columns.
    pub columns: &'static [TableColumn<R>],
    /// Visible columns, from left to right; the first names the row.
    pub visible: &'a [usize],
    /// The snapshot that has the rows.
    pub snapshot: &'a Snapshot,
    /// The shown rows.
    pub rows: Vec<&'a R>,
    /// The sort column.
    pub sorted: usize,
}

impl<R> ScreenTable<'_, R> {
    /// Selects the columns that fit in `width`, from left to right. The first one and the sort column have precedence,
    /// then the others by priority, those from [`LATE`] on only after the cells of the others have grown. Spare width
    /// goes to cells and heads that need it, to the first column last, since a path can have any length.
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
            return self.place_key_and_one(by_priority.get(1).copied(), width);
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

    /// Adds these columns at their minimum width until one does not fit; returns whether all fit.
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

    /// Grows columns for their heads or for their cells, the first column last and up to `longest`.
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

    /// A column at its minimum width, with room for the arrow if it is the sort column.
    fn narrow(&self, index: usize) -> Placed<R> {
        let column = &self.columns[index];
        let arrow = usize::from(index == self.sorted && index != KEY);
        let width = (column.width.0 as usize).max(column.short.len() + arrow);
        Placed { index, width, arrow, column }
    }

    /// Fits the first column and `second` into a width that is too small for both, or the first alone.
    fn place_key_and_one(&self, second: Option<usize>, width: usize) -> Vec<Placed<R>> {
        const MIN_KEY_WIDTH: usize = 8;
        let key = self.narrow(KEY);
        let second = second.map(|index| self.narrow(index));
        let key_width = second.as_ref().and_then(|second| width.checked_sub(second.width + 1));
        match (second, key_width) {
            (Some(second), Some(rest @ MIN_KEY_WIDTH..)) => vec![Placed { width: rest, ..key }, second],
            _ => vec![Placed { width, ..key }],
        }
    }

    /// The width that a column can use.
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

/// Where to cut text that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Cut the end.
    End,
    /// Cut the middle: the port at the end of an address is as significant as its beginning. A namespace or a name
    /// after the address is cut first.
    Middle,
}

/// Fits `text` into exactly `width` terminal columns: pads on the right (`words`) or on the left, or cuts and marks
/// the cut with `~`.
pub fn fit(text: &str, width: usize, words: bool, cut: Cut) -> String {
    let needed = text.width();
    let text = if needed <= width { Cow::Borrowed(text) } else { Cow::Owned(shorten(text, width, cut)) };
    let pad = width.saturating_sub(text.width());
    if words { format!("{text}{:pad$}", "") } else { format!("{:pad$}{text}", "") }
}

fn shorten(text: &str, width: usize, cut: Cut) -> String {
    const MIN_NETNS_WIDTH: usize = 3;
    // The namespace, or the name of the peer.
    let rest = || [" @", " ["].into_iter().find_map(|mark| Some((text.split_once(mark)?, mark)));
    if cut == Cut::Middle
        && let Some(((address, rest), mark)) = rest()
    {
        return match width.checked_sub(address.width()) {
            Some(left) if left >= mark.len() + MIN_NETNS_WIDTH => {
                format!("{address}{mark}{}", shorten(rest, left - mark.len(), cut))
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
            ScreenTable { columns: &GROUPS, visible: &ALL, snapshot: &snapshot, rows, sorted }.place(width);
        let total: usize = placed.iter().map(|placed| placed.width + 1).sum();
        assert!(total <= width + 1, "{total} columns in {width}");
        placed.iter().map(|placed| placed.column().name).collect()
    }

    #[test]
    fn columns_are_dropped_by_priority() {
        assert_eq!(names(40, TIME_WAIT), ["key", "time_wait", "time_wait_per_s"]);
        assert_eq!(
            names(80, TIME_WAIT),
            ["key", "role", "closer", "process", "time_wait", "time_wait_per_s", "fin_wait2", "close_wait"]
        );
        assert_eq!(names(300, TIME_WAIT).len(), GROUPS.len());
    }

    #[test]
    fn sort_column_is_always_shown() {
        for (index, column) in GROUPS.iter().enumerate() {
            assert!(names(40, index).contains(&column.name));
        }
    }

    /// The text of a table with a key of `key` characters.
    fn heads(key: usize, width: usize, sorted: usize) -> String {
        let mut snapshot = fixture::busy();
        snapshot.groups[0].key = "k".repeat(key);
        let rows = snapshot.groups.iter().collect();
        let table = ScreenTable { columns: &GROUPS, visible: &ALL, snapshot: &snapshot, rows, sorted };
        let mut out = Vec::new();
        table.write(&mut out, width).expect("write to a Vec");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn heads_leave_room_for_the_sort_arrow() {
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
    fn long_keys_get_width_before_late_columns() {
        assert!(heads(40, 160, TIME_WAIT).contains(&"k".repeat(40)));
        assert!(!heads(40, 160, TIME_WAIT).contains("RESETS"));
        assert!(heads(21, 180, TIME_WAIT).contains("RESETS"));
        assert!(heads(200, 400, TIME_WAIT).contains(&"k".repeat(200)));
    }

    #[test]
    fn the_key_can_be_the_only_column() {
        let snapshot = fixture::busy();
        let rows = snapshot.groups.iter().collect();
        let table =
            ScreenTable { columns: &GROUPS, visible: &[KEY], snapshot: &snapshot, rows, sorted: TIME_WAIT };
        for width in 0..400 {
            let placed = table.place(width);
            assert_eq!(
                placed.iter().map(|placed| (placed.index, placed.width)).collect::<Vec<_>>(),
                [(KEY, width)]
            );
        }
    }

    #[test]
    fn every_width_can_be_placed() {
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
        let of_peer = |width| fit("10.0.0.5:5432 [db-subnet]", width, true, Cut::Middle);
        assert_eq!(of_peer(25), "10.0.0.5:5432 [db-subnet]");
        assert_eq!(of_peer(20), "10.0.0.5:5432 [db~t]");
        assert_eq!(of_peer(16).trim_end(), "10.0.0.5:5432~");
        assert_eq!(fit("postgres", 5, true, Cut::End), "post~");
        assert_eq!(fit("数据库", 5, true, Cut::End), "数据~");
        assert_eq!(fit("数据库", 4, true, Cut::End), "数~ ");
        assert_eq!(fit("7", 3, false, Cut::End), "  7");
        assert_eq!(fit("anything", 0, true, Cut::Middle), "");
    }
}
