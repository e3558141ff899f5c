//! Writes translated source ports: a line per connection tracking table, and a table of translations.

use std::io::{self, Write};

use super::{measured, wording::wrapped};
use crate::{
    aggregate::{ConntrackTable, NatPorts, Snapshot},
    model::{
        Addr, Endpoint, NetnsId, text,
        units::{self, plural},
    },
    view::top::{
        columns::{CellValue, TableColumn, numbers},
        table::ScreenTable,
    },
};

/// A column of this table.
type Of = TableColumn<NatPorts>;

/// Every column, from left to right.
const NAT: [Of; 8] = [
    Of::words("destination", "DESTINATION", 0, |snapshot, row| CellValue::Key(remote(snapshot, row).into()))
        .for_cells(21, u16::MAX)
        .help("address and port that the packets are sent to"),
    Of::words("translated", "TRANSLATED TO", 5, |snapshot, row| {
        CellValue::Key(translated(snapshot, row).into())
    })
    .for_cells(13, 39)
    .help("source address after NAT; @ and the network namespace"),
    Of::number("held", "HELD", 1, |_, row| CellValue::Count(row.held()))
        .width(6, 6)
        .help("translated ports that a new connection can't get"),
    Of::number("available", "OF", 2, |_, row| CellValue::Count(row.available()))
        .width(6, 6)
        .help("translated ports that NAT chooses from"),
    Of::number("reclaimable", "RECLAIM", 6, |_, row| CellValue::Count(row.reclaimable))
        .width(7, 7)
        .help("in TIME_WAIT or CLOSE: a new connection evicts them"),
    Of::number("growth", "+/s", 4, |snapshot, row| CellValue::Rate(measured(snapshot).and(row.growth_per_s)))
        .width(5, 5)
        .help("growth of the held ports per second"),
    Of::number("runs_out", "RUNS OUT", 3, |snapshot, row| CellValue::Text(runs_out(snapshot, row).into()))
        .for_cells(8, 9)
        .help("when translated ports run out, at the current growth"),
    Of::words("clients", "CLIENTS", 7, |snapshot, row| CellValue::Text(clients(snapshot, row).into()))
        .for_cells(7, u16::MAX)
        .help("original source addresses, and the ports of each"),
];

const ALL: [usize; NAT.len()] = numbers();
const RUNS_OUT: usize = 6;
/// Clients named in a cell.
const MAX_CLIENTS: usize = 3;
/// Namespaces with a line of their own.
const MAX_TABLES: usize = 8;

/// Writes the translations, if there are any.
pub(super) fn write(
    out: &mut impl Write,
    snapshot: &Snapshot,
    max_rows: usize,
    width: usize,
) -> io::Result<()> {
    let nat = &snapshot.ports.nat;
    let translates = |table: &&ConntrackTable| nat.translations.iter().any(|row| row.netns == table.netns);
    let mut tables: Vec<_> = nat.tables.iter().filter(translates).collect();
    if tables.is_empty() {
        tables = nat.tables.iter().collect();
    }
    for table in tables.iter().take(MAX_TABLES) {
        wrapped(out, &level(snapshot, table), "  ", width)?;
        for reason in &table.unknown {
            wrapped(out, &format!("missing: {}", text::sanitise(reason)), "  ", width)?;
        }
    }
    let hidden = tables.len().saturating_sub(MAX_TABLES);
    if hidden > 0 {
        writeln!(out, "and {hidden} more network namespaces: --json has them")?;
    }
    if nat.translations.is_empty() {
        return writeln!(out, "No TCP connection with a translated source.");
    }
    writeln!(out)?;
    let rows = nat.translations.iter().take(max_rows).collect();
    ScreenTable { columns: &NAT, visible: &ALL, snapshot, rows, sorted: RUNS_OUT }.write(out, width)?;
    let hidden = nat.translations.len().saturating_sub(max_rows) as u64;
    if hidden > 0 {
        writeln!(out, "and {} more translations", units::count(hidden))?;
    }
    if nat.other_entries > 0 {
        writeln!(
            out,
            "and {} to other destinations",
            plural(nat.other_entries, "connection", "connections")
        )?;
    }
    Ok(())
}

/// `netns gw: 110 of 262,144 conntrack entries; insert_failed 10, drop 10, early_drop 0 in 5.00s`.
fn level(snapshot: &Snapshot, table: &ConntrackTable) -> String {
    let whose = place(snapshot, table.netns).map(|name| format!("netns {name}: ")).unwrap_or_default();
    let of = table.max.map(|max| format!(" of {}", units::count(max))).unwrap_or_default();
    let grown = measured(snapshot).map(|span| {
        let counters = ["insert_failed", "drop", "early_drop"];
        let counters = counters.map(|name| format!("{name} {}", units::count(table.grown(name))));
        format!("; {} in {}", counters.join(", "), units::duration(span))
    });
    let evicts = if table.evicts {
        "ports in TIME_WAIT are reclaimed"
    } else {
        "ports in TIME_WAIT are held (Linux 6.5 reclaims them)"
    };
    format!(
        "{whose}{}{of} conntrack entries{}; {evicts}",
        units::count(table.entries),
        grown.unwrap_or_default()
    )
}

/// The namespace's name or number; `None` for tcptrace's own.
fn place(snapshot: &Snapshot, netns: NetnsId) -> Option<String> {
    let name = snapshot.ports.nat.table(netns).and_then(|table| table.name.as_ref());
    let is_own = netns.0 == snapshot.host.netns;
    (!is_own).then(|| name.map_or_else(|| netns.to_string(), |name| text::sanitise(name).into_owned()))
}

/// `10.0.0.5:5432`, with the name of the address: `doctor` uses it too.
pub fn remote(snapshot: &Snapshot, row: &NatPorts) -> String {
    let addr = row.of.daddr;
    snapshot.peer_names.with_name(addr, Endpoint { addr, port: row.of.dport, ifindex: 0 })
}

fn translated(snapshot: &Snapshot, row: &NatPorts) -> String {
    let place = place(snapshot, row.netns).map(|name| format!(" @{name}")).unwrap_or_default();
    format!("{}{place}", row.of.snat_addr)
}

fn runs_out(snapshot: &Snapshot, row: &NatPorts) -> String {
    match row.exhausted_in {
        Some(left) => units::in_time(left),
        None if measured(snapshot).is_some() && row.growth_per_s.is_some() => "never".into(),
        None => "-".into(),
    }
}

/// `10.1.0.2 60, 10.1.0.3 40, others 7`: `doctor` uses it too.
pub fn clients(snapshot: &Snapshot, row: &NatPorts) -> String {
    let name = |addr: Addr| snapshot.peer_names.with_name(addr, addr);
    let listed = row.of.sources.iter().take(MAX_CLIENTS);
    let mut clients: Vec<String> =
        listed.map(|source| format!("{} {}", name(source.saddr), units::count(source.used))).collect();
    let rest: u64 = row.of.sources.iter().skip(MAX_CLIENTS).map(|source| source.used).sum();
    let others = rest.saturating_add(row.of.other_sources);
    if others > 0 {
        clients.push(format!("others {}", units::count(others)));
    }
    clients.join(", ")
}
