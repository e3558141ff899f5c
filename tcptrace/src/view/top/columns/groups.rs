//! Columns of the group table, one row each in [`GROUPS`].

use std::borrow::Cow;

use super::{
    CellValue, TableColumn, numbers,
    words::{closer, role},
};
use crate::{
    aggregate::{DestinationPorts, DwellQuantiles, Group, Snapshot},
    lifecycle::{Closer, Role},
    model::{Nanos, TcpState},
};

/// Every column of the groups, from left to right.
pub const ALL: [usize; GROUPS.len()] = numbers();

/// Default sort column: `TIME_WAIT`.
pub const TIME_WAIT: usize = 5;

/// A column of this table.
type Of = TableColumn<Group>;

/// Every column of the groups, from left to right.
pub const GROUPS: [Of; 19] = [
    Of::words("key", "", 0, |snapshot, group| CellValue::Key(group.named_key(&snapshot.peer_names)))
        .for_cells(21, u16::MAX)
        .help("the key that the sockets share"),
    Of::words("role", "ROLE", 5, |_, group| CellValue::Text(role(group.role).into()))
        .help("in: accepted here; out: connected from here; lstn: listener"),
    Of::words("closer", "CLOSER", 6, |_, group| {
        CellValue::Share(group.main_closer().map(|(who, share)| (closer(who), share)))
    })
    .width(11, 11)
    .help("who closed first most often; that side gets TIME_WAIT"),
    Of::words("process", "PROCESS", 4, |_, group| CellValue::Text(process(group)))
        .for_cells(9, 36)
        .help("pod, container, service or process of most; +N: others"),
    Of::number("pid", "PID", 16, |_, group| CellValue::Id(group.process.as_ref().map(|process| process.pid)))
        .width(7, 7)
        .help("its process id"),
    Of::number("time_wait", "TIME_WAIT", 1, |_, group| CellValue::Count(group.time_wait.now))
        .help("sockets in TIME_WAIT now"),
    Of::number("time_wait_per_s", "+/s", 3, |snapshot, group| {
        CellValue::Rate(rate(snapshot, group.time_wait.entered_per_s))
    })
    .width(5, 5)
    .help("sockets that enter TIME_WAIT per second"),
    Of::number("time_wait_p50", "TW-P50", 13, |_, group| CellValue::Length(dwell(group, |dwell| dwell.p50)))
        .help("median time in TIME_WAIT, of those seen from entry to end"),
    Of::number("time_wait_p99", "TW-P99", 14, |_, group| CellValue::Length(dwell(group, |dwell| dwell.p99)))
        .help("the same, 0.99 quantile"),
    Of::number("reused", "REUSED", 17, |_, group| CellValue::Count(group.time_wait.ended.reused))
        .width(7, 9)
        .help("TIME_WAIT reused by connect() (tcp_tw_reuse)"),
    Of::number("fin_wait2", "FW2 o/h", 7, |_, group| {
        CellValue::Pair(group.fin_wait2_orphan, group.fin_wait2_held())
    })
    .width(7, 11)
    .help("FIN_WAIT2: orphans (nobody has them open) / held"),
    Of::number("close_wait", "CLOSE_WAIT", 8, |_, group| CellValue::Count(state(group, TcpState::CloseWait)))
        .short("CLWAIT")
        .help("the peer has closed, the process here has not"),
    Of::number("close_wait_age", "CW-AGE", 10, |snapshot, group| {
        CellValue::Bounded(group.oldest_close_wait.and_then(|since| since.age(snapshot.ts)))
    })
    .width(7, 7)
    .help("how long the oldest has waited for close(); >: at least"),
    Of::number("established", "ESTABLISHED", 15, |_, group| {
        CellValue::Count(state(group, TcpState::Established))
    })
    .short("ESTAB")
    .width(7, 11)
    .help("connected now"),
    Of::number("sockets", "SOCKETS", 12, |_, group| CellValue::Count(group.sockets()))
        .help("sockets in any state, listeners too"),
    Of::number("syn_recv", "SYN_RECV", 18, |_, group| CellValue::Count(state(group, TcpState::SynRecv)))
        .short("SYNRCV")
        .help("handshakes in progress"),
    Of::number("ports", "PORTS", 9, |snapshot, group| {
        CellValue::Part(ports_of(snapshot, group).and_then(DestinationPorts::share))
    })
    .help("used share of the local ports available for it"),
    Of::number("ports_gone", "RUNS OUT", 11, |snapshot, group| {
        CellValue::RunsOut(ports_of(snapshot, group).and_then(|ports| ports.exhausted_in))
    })
    .for_cells(8, 9)
    .help("when local ports run out, at the current rates"),
    Of::number("resets", "RESETS", 19, |_, group| {
        CellValue::Count(
            [Closer::ResetReceived, Closer::ResetSent].map(|by| group.closed[by as usize]).iter().sum(),
        )
    })
    .help("connections ended by a RST, received or sent, so far"),
];

/// Local ports towards the destination of an outbound group, for the local address that runs out first.
pub fn ports_of<'a>(snapshot: &'a Snapshot, group: &Group) -> Option<&'a DestinationPorts> {
    let (netns, remote) = group.service.filter(|_| group.role == Role::Outbound)?;
    snapshot.ports.destinations.iter().find(|ports| ports.netns == netns && ports.remote == remote)
}

fn process(group: &Group) -> Cow<'_, str> {
    let Some(process) = &group.process else { return "-".into() };
    let name = process.shown();
    match group.other_processes {
        0 => name,
        others => format!("{name} +{others}").into(),
    }
}

/// `per_s`; `None` while the snapshot has no rate interval.
pub fn rate(snapshot: &Snapshot, per_s: f64) -> Option<f64> {
    (snapshot.interval > Nanos(0)).then_some(per_s)
}

fn dwell(group: &Group, quantile: fn(&DwellQuantiles) -> u64) -> Option<Nanos> {
    let dwell = &group.time_wait.dwell;
    (dwell.count > 0).then(|| Nanos(quantile(dwell)))
}

fn state(group: &Group, state: TcpState) -> u64 {
    group.counts[state.index()]
}
