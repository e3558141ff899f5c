//! Columns of the table of destinations, one row each in [`PORTS`]. A new column is one new row.

use super::{local, measured, remote};
use crate::{
    aggregate::{DestinationPorts, Snapshot},
    model::{Nanos, TcpState, record::Process, units},
    view::top::columns::{CellValue, TableColumn, numbers},
};

/// A column of this table.
type Of = TableColumn<DestinationPorts>;

/// Every column, from left to right.
pub const PORTS: [Of; 13] = [
    Of::words("destination", "DESTINATION", 0, |snapshot, row| CellValue::Key(remote(snapshot, row).into()))
        .for_cells(21, u16::MAX)
        .help("remote address and port; ->: its backend (DNAT); @: network namespace"),
    Of::words("from", "FROM", 6, |_, row| CellValue::Key(local(row).into()))
        .for_cells(9, 39)
        .help("local address"),
    Of::number("used", "USED", 1, |_, row| CellValue::Count(row.used))
        .width(6, 6)
        .help("local ports that its connections hold"),
    Of::number("available", "OF", 2, |_, row| CellValue::count_if_known(row.available))
        .width(6, 6)
        .help("local ports that it may use: the range, less reserved ports and those that bind() holds"),
    Of::number("time_wait", "TIME_WAIT", 8, |_, row| CellValue::Count(row.count(TcpState::TimeWait)))
        .short("TW")
        .width(6, 9)
        .help("those of them in TIME_WAIT"),
    Of::number("entered", "+/s", 4, |snapshot, row| {
        CellValue::Rate(measured(snapshot).map(|_| row.entered_per_s))
    })
    .width(5, 5)
    .help("ports that connect() takes per second"),
    Of::number("left", "-/s", 9, |snapshot, row| CellValue::Rate(measured(snapshot).map(|_| row.left_per_s)))
        .width(5, 5)
        .help("ports released per second"),
    Of::number("predicted", "LEVEL", 7, |snapshot, row| counted(snapshot, row.predicted))
        .width(6, 6)
        .help("ports needed at the current rates (rate x dwell); may exceed OF"),
    Of::number("runs_out", "RUNS OUT", 3, |snapshot, row| CellValue::Text(runs_out(snapshot, row).into()))
        .for_cells(8, 9)
        .help("when local ports run out, at the current rates"),
    Of::number("failed", "FAILED", 5, |snapshot, row| counted(snapshot, row.connect_failures))
        .help("connect() calls that found no port (EADDRNOTAVAIL)"),
    Of::number("search", "SEARCH", 12, |_, row| {
        row.search
            .map_or(CellValue::Text("-".into()), |search| CellValue::Text(units::duration(search.p50).into()))
    })
    .for_cells(6, 8)
    .help("median time that connect() searches for a port"),
    Of::number("reused", "REUSED", 11, |snapshot, row| counted(snapshot, row.reused))
        .help("TIME_WAIT reused by connect() (tcp_tw_reuse)"),
    Of::words("process", "PROCESS", 10, |_, row| CellValue::Text(process(row).into()))
        .for_cells(7, 24)
        .help("process that opened most of them; +N: others"),
];

/// The indexes of all columns.
pub const ALL: [usize; PORTS.len()] = numbers();

/// Index of the column that sorts the rows.
pub const RUNS_OUT: usize = 8;

/// A count that only a trace has; `-` for a single snapshot.
fn counted(snapshot: &Snapshot, n: u64) -> CellValue<'_> {
    measured(snapshot).map_or(CellValue::Text("-".into()), |_| CellValue::Count(n))
}

/// Time until no port is left, in words.
pub fn runs_out(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    match row.exhausted_in {
        Some(left) if left == Nanos(0) || measured(snapshot).is_some() => units::in_time(left),
        None if measured(snapshot).is_some() && row.available.is_some() => "never".into(),
        _ => "-".into(),
    }
}

/// `curl (4711) +1`.
pub fn process(row: &DestinationPorts) -> String {
    processes(&row.processes, row.other_processes)
}

/// The first of `processes`, and the number of the others.
pub(super) fn processes(processes: &[Process], others: u64) -> String {
    let Some(process) = processes.first() else { return "-".into() };
    let others = processes.len() as u64 - 1 + others;
    let others = if others > 0 { format!(" +{others}") } else { String::new() };
    format!("{} ({}){others}", process.shown(), process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sort_index_and_priorities_are_consistent() {
        assert_eq!(PORTS[RUNS_OUT].name, "runs_out");
        for (n, column) in PORTS.iter().enumerate() {
            assert!(PORTS[n + 1..].iter().all(|other| other.priority != column.priority), "{}", column.name);
        }
    }
}
