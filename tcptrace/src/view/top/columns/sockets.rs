//! Columns of the socket table, one row each in [`SOCKETS`].

use super::{
    CellValue, TableColumn, numbers,
    words::{closer, owner, role},
};
use crate::{
    aggregate::{Snapshot, detail::SocketRow},
    lifecycle::Role,
    model::{Nanos, record::Process},
};

/// A column of this table.
type Of = TableColumn<SocketRow>;

/// The columns of the sockets of a group, from left to right.
pub const SOCKETS: [Of; 10] = [
    Of::words("local", "LOCAL", 0, |_, socket| CellValue::Key(socket.tuple.local().to_string().into()))
        .for_cells(18, 47)
        .help("address and port on this host"),
    Of::words("peer", "PEER", 1, |snapshot, socket| CellValue::Key(peer(snapshot, socket).into()))
        .for_cells(18, 47)
        .help("address and port of the other end"),
    Of::words("state", "STATE", 2, |_, socket| CellValue::Text(socket.state.name().into()))
        .width(11, 11)
        .help("current state"),
    Of::number("age", "AGE", 3, |snapshot, socket| CellValue::Bounded(socket.age(time_of(snapshot))))
        .width(7, 7)
        .help("time in this state; >: at least, ~: computed"),
    Of::number("left", "LEFT", 4, |snapshot, socket| CellValue::Bounded(socket.time_left(time_of(snapshot))))
        .width(6, 6)
        .help("TIME_WAIT: time until it ends"),
    Of::words("process", "PROCESS", 5, |_, socket| {
        CellValue::Text(socket.process.as_ref().map_or("-".into(), Process::shown))
    })
    .for_cells(10, 36)
    .help("its pod, container, service or process; of TIME_WAIT the last"),
    Of::number("pid", "PID", 6, |_, socket| {
        CellValue::Id(socket.process.as_ref().map(|process| process.pid))
    })
    .width(7, 7)
    .help("its process id"),
    Of::words("known", "KNOWN BY", 14, |_, socket| CellValue::Text(owner(socket.owner).into()))
        .help("call: its own system call; proc: /proc/PID/fd; listener"),
    Of::words("role", "ROLE", 12, |_, socket| CellValue::Text(role_of(socket).into()))
        .help("in: accepted here; out: connected from here; ?: guessed"),
    Of::words("closer", "CLOSER", 13, |_, socket| CellValue::Text(closer(socket.closer).into()))
        .width(7, 7)
        .help("who closed first"),
];

/// The indices of all columns.
pub const ALL_OF_SOCKETS: [usize; SOCKETS.len()] = numbers();

/// Default sort column: the age.
pub const AGE: usize = 3;

/// Time at which the sockets of a snapshot were read.
pub fn time_of(snapshot: &Snapshot) -> Nanos {
    snapshot.answer.as_ref().map_or(snapshot.ts, |answer| answer.ts)
}

fn peer(snapshot: &Snapshot, socket: &SocketRow) -> String {
    let remote = socket.tuple.remote();
    if remote.port == 0 { "-".into() } else { snapshot.peer_names.with_name(remote.addr, remote) }
}

/// The role; a guessed one has a question mark.
fn role_of(socket: &SocketRow) -> &'static str {
    match (socket.role, socket.role_guessed) {
        (Role::Inbound, true) => "in?",
        (Role::Outbound, true) => "out?",
        (known, _) => role(known),
    }
}
