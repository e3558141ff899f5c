//! Writes charts as text: one block per state, then a table of closers.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthStr as _;

use super::{closes, scale::ChartScale};
use crate::{
    aggregate::{Distribution, Group, HISTORY, Snapshot, StateDwells},
    model::{TcpState, text, units},
    view::{
        clock,
        glyphs::Glyphs,
        losses::{filter, losses},
        states::ORDER,
        top::{
            columns::role,
            summary,
            table::{Cut, fit},
        },
    },
};

/// Layout of the charts.
#[derive(Clone, Debug)]
pub struct HistLayout {
    /// Width in columns.
    pub width: u16,
    /// Characters of the bars.
    pub glyphs: Glyphs,
    /// Time zone of the header.
    pub zone: TimeZone,
    /// Maximum number of groups per state; the number of omitted groups is printed.
    pub max_groups: usize,
}

/// At smaller widths the terminal cuts the lines.
const NARROWEST: usize = 60;
/// Longer bars show nothing more.
const MAX_BAR: usize = 100;
/// From this width on, tables have a column for the 0.999 quantile.
const WIDE: usize = 96;

/// Quantiles marked beside the bars and listed in tables.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Writes `snapshot`, ending in a newline.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, layout: &HistLayout) -> io::Result<()> {
    header(out, snapshot, layout)?;
    let mut blocks = 0;
    for state in ORDER {
        let of_state: Vec<&StateDwells> = snapshot.dwells.iter().filter(|of| of.state == state).collect();
        if let Some((all, splits)) = of_state.split_first() {
            writeln!(out)?;
            block(out, all, splits, snapshot, layout)?;
            blocks += 1;
        }
    }
    if blocks == 0 {
        writeln!(out, "\nNo TCP sockets.")?;
    }
    closes_table(out, snapshot, layout)
}

fn header(out: &mut impl Write, snapshot: &Snapshot, layout: &HistLayout) -> io::Result<()> {
    let time = clock::date(&snapshot.host, snapshot.ts, &layout.zone);
    writeln!(out, "{}  {time}", summary::facts(snapshot).join("  "))?;
    let losses = losses(&snapshot.losses);
    let source = text::sanitise(&snapshot.source);
    let losses = losses.as_deref().unwrap_or("lost 0");
    writeln!(out, "{source}: {} records  {losses}", units::count(snapshot.records))?;
    if let Some(filter) = filter(snapshot) {
        writeln!(out, "{filter}")?;
    }
    for limit in &snapshot.host.limits {
        writeln!(out, "note: {}", text::sanitise(limit))?;
    }
    Ok(())
}

/// Writes one block: name, numbers, chart, splits and groups.
fn block(
    out: &mut impl Write,
    all: &StateDwells,
    splits: &[&StateDwells],
    snapshot: &Snapshot,
    layout: &HistLayout,
) -> io::Result<()> {
    let distribution = &all.distribution;
    title(out, all, snapshot, layout)?;
    beside(out, distribution)?;
    if distribution.count == 0 {
        return Ok(());
    }
    let scale = ChartScale::of(distribution);
    numbers(out, distribution, layout)?;
    chart(out, distribution, &scale, layout)?;
    let split_rows: Vec<QuantileRow<'_>> = splits
        .iter()
        .filter_map(|of| Some(QuantileRow { name: of.split?.name().into(), distribution: &of.distribution }))
        .collect();
    table(out, &QuantileTable { head: "SPLIT", rows: &split_rows, hidden: 0 }, &scale, layout)?;
    groups(out, all.state, snapshot, &scale, layout)
}

fn title(
    out: &mut impl Write,
    all: &StateDwells,
    snapshot: &Snapshot,
    layout: &HistLayout,
) -> io::Result<()> {
    let ended = match all.distribution.count {
        0 => "no dwell from beginning to end yet".into(),
        n => units::plural(n, "dwell", "dwells"),
    };
    let open = units::count(all.open_now.unwrap_or(0));
    let mut line = format!("{:<11}  {ended}, {open} open now", all.state.name());
    let room = usize::from(layout.width).saturating_sub(line.width() + 2).min(HISTORY);
    let line_of_counts = history(snapshot, all.state, room, layout.glyphs);
    if !line_of_counts.trim().is_empty() {
        line.push_str("  ");
        line.push_str(&line_of_counts);
    }
    writeln!(out, "{}", line.trim_end())
}

/// Sparkline of the sockets in `state` in the last snapshots; empty if there are fewer than two.
fn history(snapshot: &Snapshot, state: TcpState, room: usize, glyphs: Glyphs) -> String {
    let first = snapshot.history.len().saturating_sub(room);
    let counts = snapshot.history[first..].iter().map(|sample| sample.counts[state.index()]);
    if counts.len() < 2 { String::new() } else { glyphs.sparkline(counts) }
}

/// Writes the quantiles, and as many other numbers as fit.
fn numbers(out: &mut impl Write, distribution: &Distribution, layout: &HistLayout) -> io::Result<()> {
    let mut line = String::new();
    for (name, q) in QUANTILES {
        let _ = write!(line, "  {name} {}", units::duration(distribution.quantile(q)));
    }
    let others = [("max", distribution.longest), ("min", distribution.shortest), ("mean", distribution.mean)];
    for (name, value) in others {
        let number = format!("  {name} {}", units::duration(value));
        if line.len() + number.len() <= usize::from(layout.width).max(NARROWEST) {
            line.push_str(&number);
        }
    }
    writeln!(out, "{line}")
}

/// Writes the dwells that are not in the histogram.
fn beside(out: &mut impl Write, distribution: &Distribution) -> io::Result<()> {
    let parts = [
        (distribution.at_least, "older than the trace (>=)"),
        (distribution.inferred, "inferred (~)"),
        (distribution.unknown, "of unknown beginning"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} {what}", units::count(n)))
        .collect();
    if parts.is_empty() { Ok(()) } else { writeln!(out, "  ended, not counted in: {}", parts.join(", ")) }
}

fn chart(
    out: &mut impl Write,
    distribution: &Distribution,
    scale: &ChartScale,
    layout: &HistLayout,
) -> io::Result<()> {
    const COUNT: usize = 9;
    const SHARE: usize = 6;
    const MARKS: usize = 10;
    let rows = scale.count(distribution);
    let labels = scale.labels();
    let most = rows.iter().copied().max().unwrap_or(0);
    let label_width = labels.first().map_or(0, String::len);
    let around = 2 + label_width + 2 + 1 + COUNT + 1 + SHARE + 2 + MARKS;
    let width = usize::from(layout.width).max(NARROWEST);
    let bar_width = width.saturating_sub(around).clamp(1, MAX_BAR);
    for (row, (label, &count)) in labels.iter().zip(&rows).enumerate() {
        let bar = layout.glyphs.bar(count, most, bar_width);
        let line = format!(
            "  {label} {}{} {:>COUNT$} {:>SHARE$}  {}",
            layout.glyphs.axis(),
            fit(&bar, bar_width, true, Cut::End),
            units::count(count),
            share(count, distribution.count),
            marks(distribution, scale, row),
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The quantiles in a row: one, or the first and the last.
fn marks(distribution: &Distribution, scale: &ChartScale, row: usize) -> String {
    let here: Vec<&str> = QUANTILES
        .into_iter()
        .filter(|(_, q)| scale.row_of(distribution.quantile(*q)) == row)
        .map(|(name, _)| name)
        .collect();
    match here[..] {
        [] => String::new(),
        [only] => only.into(),
        [first, .., last] => format!("{first}..{}", &last[1..]),
    }
}

fn share(count: u64, total: u64) -> String {
    let percent = count as f64 * 100.0 / total as f64;
    match count {
        0 => String::new(),
        _ if percent < 0.1 => "<0.1%".into(),
        _ => format!("{percent:.1}%"),
    }
}

/// One line of a table: the quantiles of a part, and a sparkline on the chart's scale.
struct QuantileRow<'a> {
    name: Cow<'a, str>,
    distribution: &'a Distribution,
}

struct QuantileTable<'a> {
    head: &'a str,
    rows: &'a [QuantileRow<'a>],
    hidden: usize,
}

fn table(
    out: &mut impl Write,
    table: &QuantileTable<'_>,
    scale: &ChartScale,
    layout: &HistLayout,
) -> io::Result<()> {
    const NUMBER: usize = 7;
    const COUNT: usize = 9;
    const LONGEST_NAME: usize = 64;
    if table.rows.is_empty() {
        return Ok(());
    }
    let width = usize::from(layout.width).max(NARROWEST);
    let quantiles = if width < WIDE { &QUANTILES[..3] } else { &QUANTILES[..] };
    let taken = 2 + 1 + COUNT + (quantiles.len() + 1) * NUMBER + 2 + scale.rows();
    let longest = table.rows.iter().map(|row| row.name.width()).max().unwrap_or(0).max(table.head.width());
    let name_width = width.saturating_sub(taken).clamp(8, LONGEST_NAME).min(longest.max(8));
    let head = fit(table.head, name_width, true, Cut::End);
    write!(out, "  {head} {:>COUNT$}", "COUNT")?;
    for (name, _) in quantiles {
        write!(out, "{:>NUMBER$}", name.to_uppercase())?;
    }
    writeln!(out, "{:>NUMBER$}", "MAX")?;
    for QuantileRow { name, distribution } in table.rows {
        let name = fit(name, name_width, true, Cut::Middle);
        let mut line = format!("  {name} {:>COUNT$}", units::count(distribution.count));
        for (_, q) in quantiles {
            let _ = write!(line, "{:>NUMBER$}", length(distribution, distribution.quantile(*q)));
        }
        let _ = write!(line, "{:>NUMBER$}", length(distribution, distribution.longest));
        if distribution.count > 0 {
            line.push_str("  ");
            line += &layout.glyphs.sparkline(scale.count(distribution));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if table.hidden > 0 {
        writeln!(out, "  and {} more", units::count(table.hidden as u64))?;
    }
    Ok(())
}

fn length(distribution: &Distribution, length: crate::model::Nanos) -> String {
    if distribution.count == 0 { "-".into() } else { units::duration(length) }
}

/// Writes the groups with the most dwells in `state`.
fn groups(
    out: &mut impl Write,
    state: TcpState,
    snapshot: &Snapshot,
    scale: &ChartScale,
    layout: &HistLayout,
) -> io::Result<()> {
    let of_group = |group| whole(group, state).filter(|distribution| distribution.count > 0);
    let mut rows: Vec<QuantileRow<'_>> = snapshot
        .groups
        .iter()
        .filter_map(|group| Some(QuantileRow { name: name(group, snapshot), distribution: of_group(group)? }))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.distribution.count));
    let hidden = rows.len().saturating_sub(layout.max_groups);
    rows.truncate(layout.max_groups);
    let head = snapshot.grouping.head();
    table(out, &QuantileTable { head: &head, rows: &rows, hidden }, scale, layout)
}

/// The key, with the role if groups have roles.
fn name<'a>(group: &'a Group, snapshot: &Snapshot) -> Cow<'a, str> {
    let key = text::sanitise(&group.key);
    if snapshot.grouping.has_roles() { format!("{key} {}", role(group.role)).into() } else { key }
}

fn whole(group: &Group, state: TcpState) -> Option<&Distribution> {
    let all = group.dwells.iter().find(|of| of.state == state && of.split.is_none());
    all.map(|of| &of.distribution)
}

/// Writes the closers by group, and which closes skipped TIME_WAIT.
fn closes_table(out: &mut impl Write, snapshot: &Snapshot, layout: &HistLayout) -> io::Result<()> {
    const NUMBER: usize = 8;
    const HEADS: [&str; 7] = ["LOCAL", "REMOTE", "BOTH", "RST-IN", "RST-OUT", "TIMEOUT", "REFUSED"];
    let closes = |group: &Group| closes::closers(group).map(|(_, n)| n).sum::<u64>();
    let skipped = |group: &Group| closes::skipped(group).map(|(_, n)| n).sum::<u64>();
    let mut shown: Vec<&Group> =
        snapshot.groups.iter().filter(|group| closes(group) + skipped(group) > 0).collect();
    if shown.is_empty() {
        return Ok(());
    }
    shown.sort_by_key(|group| std::cmp::Reverse(closes(group)));
    let width = usize::from(layout.width).max(NARROWEST);
    let longest =
        shown.iter().take(layout.max_groups).map(|group| name(group, snapshot).width()).max().unwrap_or(0);
    let key_width = width.saturating_sub(HEADS.len() * NUMBER).clamp(12, 64).min(longest.max(12));
    write!(out, "\n{}", fit("CLOSED BY", key_width, true, Cut::End))?;
    for head in HEADS {
        write!(out, "{head:>NUMBER$}")?;
    }
    writeln!(out)?;
    for group in shown.iter().take(layout.max_groups) {
        write!(out, "{}", fit(&name(group, snapshot), key_width, true, Cut::Middle))?;
        for (_, n) in closes::closers(group) {
            write!(out, "{:>NUMBER$}", units::compact(n))?;
        }
        writeln!(out)?;
        let causes: Vec<String> = closes::skipped(group)
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {}", units::count(n)))
            .collect();
        if !causes.is_empty() {
            writeln!(out, "  no TIME_WAIT: {}", causes.join(", "))?;
        }
    }
    let hidden = shown.len().saturating_sub(layout.max_groups);
    if hidden > 0 {
        writeln!(out, "and {} more", units::count(hidden as u64))?;
    }
    Ok(())
}
