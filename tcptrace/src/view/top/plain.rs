//! Plain text output of a [`Snapshot`], for pipes, `--once` and `--batch`. ASCII except for names.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    columns::{ALL, GROUPS},
    screen::wrap::wrap,
    sort::Sort,
    summary::{self, StateCells},
    table::ScreenTable,
    verdict,
};
use crate::{
    aggregate::Snapshot,
    model::{text, units},
    view::{
        clock, doctor,
        losses::{filter, losses},
    },
};

/// Layout of plain text.
#[derive(Clone, Debug)]
pub struct PlainLayout {
    /// Terminal columns per line; `None`: 240.
    pub width: Option<u16>,
    /// Maximum number of groups; a last line counts the rest.
    pub max_groups: usize,
    /// Time zone of the header.
    pub zone: TimeZone,
}

/// Wide enough for every column and a long key.
const WIDEST: usize = 240;

/// Writes `snapshot`, ending in a newline.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, layout: &PlainLayout) -> io::Result<()> {
    let width = layout.width.map_or(WIDEST, usize::from);
    header(out, snapshot, layout)?;
    states(out, &summary::states(snapshot, width))?;
    writeln!(out)?;
    groups(out, snapshot, layout.max_groups, width)
}

/// Writes a snapshot of one listing, without a trace, and its verdict.
pub fn write_listing(out: &mut impl Write, snapshot: &Snapshot, layout: &PlainLayout) -> io::Result<()> {
    let width = layout.width.map_or(WIDEST, usize::from);
    let time = clock::date(&snapshot.host, snapshot.ts, &layout.zone);
    writeln!(out, "one listing of the sockets, {time}: no rates, no times")?;
    states(out, &summary::states(snapshot, width))?;
    writeln!(out)?;
    groups(out, snapshot, layout.max_groups, width)?;
    writeln!(out)?;
    let verdict = verdict::of_listing(snapshot, &doctor::diagnose(snapshot));
    wrap(&verdict.fitted(width, usize::MAX), width).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    writeln!(out)
}

fn header(out: &mut impl Write, snapshot: &Snapshot, layout: &PlainLayout) -> io::Result<()> {
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
    let table = ScreenTable { columns: &GROUPS, visible: &ALL, snapshot, rows: shown, sorted: sort.column };
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
    use crate::model::Nanos;

    fn plain(snapshot: &Snapshot, width: Option<u16>, max_groups: usize) -> String {
        let mut out = Vec::new();
        let layout = PlainLayout { width, max_groups, zone: TimeZone::UTC };
        write(&mut out, snapshot, &layout).expect("write to a Vec");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn narrow() {
        insta::assert_snapshot!(plain(&fixture::busy(), Some(80), 5));
    }

    #[test]
    fn widest() {
        insta::assert_snapshot!(plain(&fixture::lossy(), None, usize::MAX));
    }

    #[test]
    fn listing() {
        let mut snapshot = fixture::busy();
        snapshot.interval = Nanos(0);
        snapshot.stuck.clear();
        snapshot.history.clear();
        let layout = PlainLayout { width: Some(80), max_groups: 3, zone: TimeZone::UTC };
        let mut out = Vec::new();
        write_listing(&mut out, &snapshot, &layout).expect("write to a Vec");
        insta::assert_snapshot!(String::from_utf8(out).expect("UTF-8"));
    }

    #[test]
    fn empty() {
        insta::assert_snapshot!(plain(&fixture::empty(), Some(80), 5));
    }

    #[test]
    fn every_width_can_be_written() {
        for width in 0..200 {
            plain(&fixture::lossy(), Some(width), 5);
        }
    }
}
