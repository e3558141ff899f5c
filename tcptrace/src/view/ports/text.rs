//! Writes local ports as text: a budget line per namespace, a table of destinations, and sentences about those with
//! problems. ASCII except for names.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    binds,
    columns::{ALL, PORTS, RUNS_OUT},
    measured, nat,
    wording::{self, wrapped},
};
use crate::{
    aggregate::Snapshot,
    model::{text, units},
    view::{
        clock,
        losses::{filter, losses},
        top::{summary, table::ScreenTable},
    },
};

/// Layout of the text.
#[derive(Clone, Debug)]
pub struct PortsLayout {
    /// Width in columns.
    pub width: u16,
    /// Which tables to write.
    pub tables: PortsTables,
    /// Maximum number of destinations; the number of omitted ones is printed.
    pub max_rows: usize,
    /// Time zone of the header.
    pub zone: TimeZone,
}

/// Selects tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortsTables {
    /// Local ports, and translated ports if there are any.
    All,
    /// Translated ports only.
    Nat,
}

/// Maximum number of destinations with sentences.
const MAX_EXPLAINED: usize = 5;
/// Maximum number of namespaces with a budget line.
const MOST_NETNS: usize = 8;

/// Writes the ports of `snapshot`, ending in a newline; `missing` lists missing information, in sentences.
pub fn write(
    out: &mut impl Write,
    snapshot: &Snapshot,
    missing: &[String],
    layout: &PortsLayout,
) -> io::Result<()> {
    let width = usize::from(layout.width);
    header(out, snapshot, layout)?;
    if let Some(filter) = filter(snapshot) {
        wrapped(out, &filter, "  ", width)?;
    }
    for limit in &snapshot.host.limits {
        wrapped(out, &format!("note: {}", text::sanitise(limit)), "      ", width)?;
    }
    for sentence in missing {
        wrapped(out, &format!("missing: {}", text::sanitise(sentence)), "  ", width)?;
    }
    writeln!(out)?;
    if layout.tables == PortsTables::All {
        local_ports(out, snapshot, layout.max_rows, width)?;
        if snapshot.ports.nat.translations.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
    }
    nat::write(out, snapshot, layout.max_rows, width)
}

fn local_ports(out: &mut impl Write, snapshot: &Snapshot, max_rows: usize, width: usize) -> io::Result<()> {
    let ports = &snapshot.ports;
    if ports.netns.is_empty() {
        return writeln!(out, "No connections from here.");
    }
    for netns in ports.netns.iter().take(MOST_NETNS) {
        let is_own = netns.netns.0 == snapshot.host.netns;
        wrapped(out, &wording::budget(netns, is_own), "  ", width)?;
    }
    let hidden = ports.netns.len().saturating_sub(MOST_NETNS);
    if hidden > 0 {
        writeln!(out, "and {hidden} more network namespaces: --json has them")?;
    }
    if !ports.destinations.is_empty() {
        writeln!(out)?;
        table(out, snapshot, max_rows, width)?;
    }
    let explained =
        ports.destinations.iter().filter(|row| wording::needs_explanation(row)).take(MAX_EXPLAINED);
    for row in explained {
        writeln!(out)?;
        for (n, sentence) in wording::about(snapshot, row).iter().enumerate() {
            let indent = if n == 0 { "" } else { "  " };
            wrapped(out, &format!("{indent}{sentence}"), "  ", width)?;
        }
    }
    binds::write(out, snapshot, max_rows, width)
}

fn header(out: &mut impl Write, snapshot: &Snapshot, layout: &PortsLayout) -> io::Result<()> {
    let time = clock::date(&snapshot.host, snapshot.ts, &layout.zone);
    writeln!(out, "{}  {time}", summary::facts(snapshot).join("  "))?;
    let source = text::sanitise(&snapshot.source);
    match measured(snapshot) {
        Some(span) => writeln!(
            out,
            "{source}: {} records in {}  {}",
            units::count(snapshot.records),
            units::duration(span),
            losses(&snapshot.losses).as_deref().unwrap_or("lost 0")
        ),
        None => writeln!(out, "{source}: one snapshot; levels, no rates"),
    }
}

fn table(out: &mut impl Write, snapshot: &Snapshot, max_rows: usize, width: usize) -> io::Result<()> {
    let ports = &snapshot.ports;
    let rows = ports.destinations.iter().take(max_rows).collect();
    ScreenTable { columns: &PORTS, visible: &ALL, snapshot, rows, sorted: RUNS_OUT }.write(out, width)?;
    let hidden = ports.destinations.len().saturating_sub(max_rows) as u64 + ports.others;
    if hidden > 0 {
        writeln!(out, "and {} more destinations", units::count(hidden))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
