//! Writes the local ports that `bind()` holds, a line per local address.

use std::io::{self, Write};

use super::{columns, with_netns};
use crate::{
    aggregate::{BindPorts, Snapshot},
    model::units::plural,
    view::top::{
        columns::{CellValue, TableColumn, numbers},
        table::ScreenTable,
    },
};

/// A column of this table.
type Of = TableColumn<BindPorts>;

/// Every column, from left to right.
const BINDS: [Of; 7] = [
    Of::words("address", "LOCAL ADDRESS", 0, |snapshot, row| CellValue::Key(local(snapshot, row).into()))
        .for_cells(13, u16::MAX)
        .help("local address; @ and the network namespace"),
    Of::number("bound", "BOUND", 1, |_, row| CellValue::Count(row.bound))
        .width(6, 6)
        .help("local ports that bind() holds there, each for all destinations"),
    Of::number("available", "OF", 2, |_, row| CellValue::count_if_known(row.available))
        .width(6, 6)
        .help("local ports that bind() may choose: the range, less reserved ports and those of listeners"),
    Of::number("open", "OPEN", 4, |_, row| CellValue::Count(row.open))
        .width(6, 6)
        .help("those with a connection"),
    Of::number("idle", "IDLE", 5, |snapshot, row| CellValue::count_if_known(idle(snapshot, row)))
        .width(6, 6)
        .help("those without one"),
    Of::number("connected", "CONNECT", 6, |_, row| CellValue::Count(row.connected))
        .width(7, 7)
        .help("further ports there that connect() chose, to one destination"),
    Of::words("process", "PROCESS", 3, |_, row| {
        CellValue::Text(columns::processes(&row.processes, 0).into())
    })
    .for_cells(7, u16::MAX)
    .help("process that holds most of them; +N: others"),
];

const ALL: [usize; BINDS.len()] = numbers();
const BOUND: usize = 1;

/// Writes the table, if there is a row.
pub(super) fn write(
    out: &mut impl Write,
    snapshot: &Snapshot,
    max_rows: usize,
    width: usize,
) -> io::Result<()> {
    let ports = &snapshot.ports;
    if ports.binds.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let rows = ports.binds.iter().take(max_rows).collect();
    ScreenTable { columns: &BINDS, visible: &ALL, snapshot, rows, sorted: BOUND }.write(out, width)?;
    let hidden = ports.binds.len().saturating_sub(max_rows) as u64;
    if hidden > 0 {
        writeln!(out, "and {}", plural(hidden, "more local address", "more local addresses"))?;
    }
    Ok(())
}

/// Ports without a connection; `None` if the kernel does not list them.
pub(super) fn idle(snapshot: &Snapshot, row: &BindPorts) -> Option<u64> {
    snapshot.host.bound.then_some(row.idle)
}

/// The local address; `*` for every address.
fn local(snapshot: &Snapshot, row: &BindPorts) -> String {
    with_netns(snapshot, row.netns, address(row))
}

/// `127.0.0.2`, or `*` for every address: `doctor` uses it too.
pub fn address(row: &BindPorts) -> String {
    if row.saddr.is_any() { "*".into() } else { row.saddr.to_string() }
}
