//! The columns of the table of destinations, one row each in [`PORTS`]. A new column is one new row.

use super::{local, measured, remote};
use crate::{
    aggregate::{DestinationPorts, Snapshot},
    model::{Nanos, TcpState, text, units},
    view::top::columns::{Column, Value, numbers},
};

/// A column of this table.
type Of = Column<DestinationPorts>;

/// Every column, from left to right.
pub const PORTS: [Of; 12] = [
    Of::words("destination", "DESTINATION", 0, |snapshot, row| Value::Key(remote(snapshot, row).into()))
        .for_cells(21, u16::MAX)
        .help("remote address and port; @ and the network namespace"),
    Of::words("from", "FROM", 6, |_, row| Value::Key(local(row).into()))
        .for_cells(9, 39)
        .help("local address"),
    Of::number("used", "USED", 1, |_, row| Value::Count(row.used))
        .width(6, 6)
        .help("local ports that its connections hold"),
    Of::number("available", "OF", 2, |_, row| row.available.map_or(Value::Text("?".into()), Value::Count))
        .width(6, 6)
        .help("local ports that it may have: the range, less what is reserved or taken by bind()"),
    Of::number("time_wait", "TIME_WAIT", 8, |_, row| Value::Count(row.count(TcpState::TimeWait)))
        .short("TW")
        .width(6, 9)
        .help("those of them in TIME_WAIT"),
    Of::number("entered", "+/s", 4, |snapshot, row| {
        Value::Rate(measured(snapshot).map(|_| row.entered_per_s))
    })
    .width(5, 5)
    .help("ports taken by connect(), per second"),
    Of::number("left", "-/s", 9, |snapshot, row| Value::Rate(measured(snapshot).map(|_| row.left_per_s)))
        .width(5, 5)
        .help("ports given back, per second"),
    Of::number("predicted", "LEVEL", 7, |snapshot, row| counted(snapshot, row.predicted))
        .width(6, 6)
        .help("ports that the rates of now lead to (rate x dwell), were there enough"),
    Of::number("runs_out", "RUNS OUT", 3, |snapshot, row| Value::Text(runs_out(snapshot, row).into()))
        .for_cells(8, 9)
        .help("in how long no port is left, if the rates stay"),
    Of::number("failed", "FAILED", 5, |snapshot, row| counted(snapshot, row.connect_failures))
        .help("connect() calls that found no port (EADDRNOTAVAIL)"),
    Of::number("reused", "REUSED", 11, |snapshot, row| counted(snapshot, row.reused))
        .help("TIME_WAIT taken over by connect() (tcp_tw_reuse)"),
    Of::words("process", "PROCESS", 10, |_, row| Value::Text(process(row).into()))
        .for_cells(7, 24)
        .help("who opened most of them; +N: others"),
];

/// All of them, by number.
pub const ALL: [usize; PORTS.len()] = numbers();

/// The column that the rows are sorted by.
pub const RUNS_OUT: usize = 8;

/// What only a trace can count: nothing where there was one look.
fn counted(snapshot: &Snapshot, n: u64) -> Value<'_> {
    measured(snapshot).map_or(Value::Text("-".into()), |_| Value::Count(n))
}

/// In how long there is no port left, in words.
pub fn runs_out(snapshot: &Snapshot, row: &DestinationPorts) -> String {
    match row.exhausted_in {
        Some(Nanos(0)) => "now".into(),
        _ if measured(snapshot).is_none() || row.available.is_none() => "-".into(),
        Some(length) => format!("in {}", units::duration(length)),
        None => "never".into(),
    }
}

/// `curl (4711) +1`.
pub fn process(row: &DestinationPorts) -> String {
    let Some(process) = row.processes.first() else { return "-".into() };
    let others = row.processes.len() as u64 - 1 + row.other_processes;
    let others = if others > 0 { format!(" +{others}") } else { String::new() };
    format!("{} ({}){others}", text::sanitise(&process.comm), process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sorted_by_the_column_that_says_so() {
        assert_eq!(PORTS[RUNS_OUT].name, "runs_out");
        for (n, column) in PORTS.iter().enumerate() {
            assert!(PORTS[n + 1..].iter().all(|other| other.priority != column.priority), "{}", column.name);
        }
    }
}
