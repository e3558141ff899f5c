//! A [`Snapshot`] as plain text: for pipes, `--once` and `--batch`. ASCII apart from names.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    columns::{ALL, GROUPS},
    sort::Sort,
    summary::{self, StateCells},
    table::Table,
};
use crate::{
    aggregate::Snapshot,
    model::{text, units},
    view::{
        clock,
        losses::{filter, losses},
    },
};

/// How plain text is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Terminal columns per line; `None`: as wide as it gets.
    pub width: Option<u16>,
    /// Groups shown at most; how many are left out is said.
    pub max_groups: usize,
    /// For the time in the header.
    pub zone: TimeZone,
}

/// Wide enough for every column and a long key.
const WIDEST: usize = 240;

/// Writes `snapshot`, ending in a newline.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, layout: &Layout) -> io::Result<()> {
    let width = layout.width.map_or(WIDEST, usize::from);
    header(out, snapshot, layout)?;
    states(out, &summary::states(snapshot, width))?;
    writeln!(out)?;
    groups(out, snapshot, layout.max_groups, width)
}

fn header(out: &mut impl Write, snapshot: &Snapshot, layout: &Layout) -> io::Result<()> {
    let time = clock::date(&snapshot.host, snapshot.ts, &layout.zone);
    writeln!(out, "{}  {time}", summary::facts(snapshot).join("  "))?;
    let rate = summary::records_per_s(snapshot).map(|rate| format!(", {rate}")).unwrap_or_default();
    let source = text::sanitise(&snapshot.source);
    writeln!(out, "{source}: {} records{rate}", units::count(snapshot.records))?;
    writeln!(out, "{}", losses(&snapshot.losses).as_deref().unwrap_or("lost 0"))?;
    if let Some(filter) = filter(snapshot) {
        writeln!(out, "{filter}")?;
    }
    for limit in &snapshot.host.limits {
        writeln!(out, "note: {}", text::sanitise(limit))?;
    }
    writeln!(out)
}

fn states(out: &mut impl Write, cells: &[StateCells]) -> io::Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let line = |label, cell: fn(&StateCells) -> &str| {
        format!("{label:width$}{}", cells.iter().map(cell).collect::<String>(), width = summary::LABEL_WIDTH)
    };
    writeln!(out, "{}", line("", |cells| &cells.head))?;
    writeln!(out, "{}", line("now", |cells| &cells.now))?;
    writeln!(out, "{}", line("+/s", |cells| &cells.entered_per_s))?;
    Ok(())
}

fn groups(out: &mut impl Write, snapshot: &Snapshot, max_groups: usize, width: usize) -> io::Result<()> {
    if snapshot.groups.is_empty() {
        return writeln!(out, "No TCP sockets.");
    }
    let sort = Sort::default();
    let order = sort.groups(snapshot);
    let shown: Vec<_> = order.iter().take(max_groups).map(|&row| &snapshot.groups[row]).collect();
    let table = Table { columns: &GROUPS, visible: &ALL, snapshot, rows: shown, sorted: sort.column };
    table.write(out, width)?;
    let hidden = order.len() - table.rows.len();
    if hidden > 0 {
        writeln!(out, "and {} more, sorted by {}", units::count(hidden as u64), GROUPS[sort.column].name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    fn plain(snapshot: &Snapshot, width: Option<u16>, max_groups: usize) -> String {
        let mut out = Vec::new();
        let layout = Layout { width, max_groups, zone: TimeZone::UTC };
        write(&mut out, snapshot, &layout).expect("a Vec takes everything");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn narrow() {
        insta::assert_snapshot!(plain(&fixture::busy(), Some(80), 5));
    }

    #[test]
    fn as_wide_as_it_gets() {
        insta::assert_snapshot!(plain(&fixture::lossy(), None, usize::MAX));
    }

    #[test]
    fn empty() {
        insta::assert_snapshot!(plain(&fixture::empty(), Some(80), 5));
    }

    #[test]
    fn no_width_is_too_small() {
        for width in 0..200 {
            plain(&fixture::lossy(), Some(width), 5);
        }
    }
}
