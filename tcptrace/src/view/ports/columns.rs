//! The columns of the table of destinations, one row each in [`PORTS`]. A new column is one new row.

use super::{local, measured, remote};
use crate::{
    aggregate::{DestinationPorts, Snapshot},
    model::{Nanos, TcpState, text, units},
    view::top::columns::{Align, Column, Grows, Value},
};

/// Every column, from left to right.
pub const PORTS: [Column<DestinationPorts>; 12] = [
    Column {
        name: "destination",
        head: "DESTINATION",
        short: "DESTINATION",
        width: (21, 64),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 0,
        value: |snapshot, row| Value::Key(remote(snapshot, row).into()),
        help: "remote address and port; @ and the network namespace",
    },
    Column {
        name: "from",
        head: "FROM",
        short: "FROM",
        width: (9, 39),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 6,
        value: |_, row| Value::Key(local(row).into()),
        help: "local address",
    },
    Column {
        name: "used",
        head: "USED",
        short: "USED",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 1,
        value: |_, row| Value::Count(row.used),
        help: "local ports that its connections hold",
    },
    Column {
        name: "available",
        head: "OF",
        short: "OF",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 2,
        value: |_, row| row.available.map_or(Value::Text("?".into()), Value::Count),
        help: "local ports that it may have: the range, less what is reserved or taken by bind()",
    },
    Column {
        name: "time_wait",
        head: "TIME_WAIT",
        short: "TW",
        width: (6, 9),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 8,
        value: |_, row| Value::Count(row.count(TcpState::TimeWait)),
        help: "those of them in TIME_WAIT",
    },
    Column {
        name: "entered",
        head: "+/s",
        short: "+/s",
        width: (5, 5),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 4,
        value: |snapshot, row| Value::Rate(measured(snapshot).map(|_| row.entered_per_s)),
        help: "ports taken by connect(), per second",
    },
    Column {
        name: "left",
        head: "-/s",
        short: "-/s",
        width: (5, 5),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 9,
        value: |snapshot, row| Value::Rate(measured(snapshot).map(|_| row.left_per_s)),
        help: "ports given back, per second",
    },
    Column {
        name: "predicted",
        head: "LEVEL",
        short: "LEVEL",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 7,
        value: |snapshot, row| {
            measured(snapshot).map_or(Value::Text("-".into()), |_| Value::Count(row.predicted))
        },
        help: "ports that the rates of now lead to (rate x dwell), were there enough",
    },
    Column {
        name: "runs_out",
        head: "RUNS OUT",
        short: "RUNS OUT",
        width: (8, 9),
        grows: Grows::ForCells,
        align: Align::Right,
        priority: 3,
        value: |snapshot, row| Value::Text(runs_out(snapshot, row).into()),
        help: "in how long no port is left, if the rates stay",
    },
    Column {
        name: "failed",
        head: "FAILED",
        short: "FAILED",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 5,
        value: |snapshot, row| {
            measured(snapshot).map_or(Value::Text("-".into()), |_| Value::Count(row.connect_failures))
        },
        help: "connect() calls that found no port (EADDRNOTAVAIL)",
    },
    Column {
        name: "reused",
        head: "REUSED",
        short: "REUSED",
        width: (6, 6),
        grows: Grows::ForHead,
        align: Align::Right,
        priority: 11,
        value: |snapshot, row| {
            measured(snapshot).map_or(Value::Text("-".into()), |_| Value::Count(row.reused))
        },
        help: "TIME_WAIT taken over by connect() (tcp_tw_reuse)",
    },
    Column {
        name: "process",
        head: "PROCESS",
        short: "PROCESS",
        width: (7, 24),
        grows: Grows::ForCells,
        align: Align::Left,
        priority: 10,
        value: |_, row| Value::Text(process(row).into()),
        help: "who opened most of them; +N: others",
    },
];

/// All of them, by number.
pub const ALL: [usize; PORTS.len()] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// The column that the rows are sorted by.
pub const RUNS_OUT: usize = 8;

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
