//! Snapshots for tests.

use std::sync::Arc;

use crate::{
    aggregate::{
        DestinationPorts, DwellQuantiles, Group, GroupKey, Grouping, Losses, PortsSnapshot, Sample, Snapshot,
        StacksSnapshot, StateTotal, TimeWaitEnds, Timeline, TimewaitSockets, TwReuse,
        detail::{Before, Detail, DetailAnswer, Life, Members, Query, SocketRow, StateChange, row_of},
        stuck_sockets::{One, StuckSockets},
    },
    lifecycle::{Bound, Closer, Dwell, EndReason, OwnerKind, Processes, Role, Since, Socket},
    model::{
        Addr, Endpoint, Nanos, NetnsId, SocketId, TcpState, Tuple,
        process::ParentProcess,
        record::{HostFacts, Process, ProcessFacts},
        stack::{StackFrame, UserStack},
        workload::Workload,
    },
};

/// The first snapshot of an idle host.
pub fn empty() -> Snapshot {
    let host = HostFacts {
        host: "web-7".into(),
        kernel: "6.18.5".into(),
        // 2026-01-02 03:04:05 UTC at monotonic 0.
        clock_offset_ns: 1_767_323_045_000_000_000,
        ..HostFacts::default()
    };
    Snapshot {
        ts: Nanos(100_000_000_000),
        began: Nanos(100_000_000_000),
        interval: Nanos(0),
        host: Arc::new(host),
        source: "live".into(),
        filter: "".into(),
        records: 0,
        records_per_s: 0.0,
        losses: Losses::default(),
        states: [StateTotal::default(); TcpState::COUNT],
        history: Vec::new(),
        timeline: Timeline::default(),
        grouping: Grouping::SERVICE,
        groups: Vec::new(),
        other_groups: 0,
        dwells: Vec::new(),
        dwells_by_role: Vec::new(),
        observed: Arc::default(),
        stuck: Vec::new(),
        pools: Vec::new(),
        ports: PortsSnapshot::default(),
        stacks: StacksSnapshot::default(),
        peer_names: Arc::default(),
        tables: Vec::new(),
        answer: None,
    }
}

pub fn process(pid: u32, comm: &str) -> Process {
    Process::new(pid, comm, 0)
}

/// A group with these socket counts per state.
pub fn group(key: &str, role: Role, counts: &[(TcpState, u64)]) -> Group {
    let mut by_state = [0; TcpState::COUNT];
    for &(state, n) in counts {
        by_state[state.index()] = n;
    }
    let timewaits =
        |state: TcpState| TimewaitSockets { now: by_state[state.index()], ..TimewaitSockets::default() };
    Group {
        host: None,
        id: GroupKey::named(key, role),
        key: key.into(),
        role,
        has_place: true,
        counts: by_state,
        process: None,
        other_processes: 0,
        closers: [0; Closer::ALL.len() + 1],
        closed: [0; Closer::ALL.len() + 1],
        ended: [0; EndReason::COUNT],
        orphans_ended: [0; EndReason::COUNT],
        connects_ended: [0; EndReason::COUNT],
        service: None,
        time_wait: timewaits(TcpState::TimeWait),
        fin_wait2: timewaits(TcpState::FinWait2),
        fin_wait2_orphan: 0,
        oldest_close_wait: None,
        close_wait_owner: None,
        dwells: Vec::new(),
        dwells_elsewhere: 0,
    }
}

/// Names with terminal escapes, bidirectional overrides, wide characters or great length.
pub fn hostile() -> Snapshot {
    let named = |key: &str, comm: &str, time_wait| {
        let key = crate::model::text::sanitise(key);
        let mut group = group(&key, Role::Inbound, &[(TcpState::TimeWait, time_wait)]);
        group.process = Some(process(7, comm));
        group
    };
    let mut snapshot = busy();
    snapshot.groups = vec![
        named(&format!("/kubepods.slice/{}.scope", "0123456789".repeat(19)), "long", 9),
        named("/system.slice/\u{1b}[2J\u{1b}]0;owned\u{7}.service", "\u{1b}[31mred\r\n", 8),
        named("/数据库.slice/复制.service", "数据库写入进程", 7),
        named("/abc\u{202e}cba.service", "exe.\u{202e}fdp", 6),
        named("[fe80::1234:5678:9abc:def0%eth0]:50051", "zoned", 5),
    ];
    snapshot
}

/// A host with a million sockets.
pub fn million() -> Snapshot {
    let mut snapshot = busy();
    let total = &mut snapshot.states[TcpState::TimeWait.index()];
    (total.now, total.entered, total.entered_per_s) = (1_048_576, 123_456_789, 312_456.7);
    let group = &mut snapshot.groups[0];
    group.time_wait.now = 1_048_576;
    group.counts[TcpState::TimeWait.index()] = 1_048_576;
    group.counts[TcpState::Established.index()] = 123_456;
    group.time_wait.entered_per_s = 312_456.7;
    (group.fin_wait2_orphan, group.counts[TcpState::FinWait2.index()]) = (120_000, 120_002);
    snapshot
}

/// The pipeline's answer to `query`.
pub fn answer(query: Query, detail: Detail) -> DetailAnswer {
    let ts = Nanos(942_000_000_000);
    DetailAnswer { query, ts, since: Nanos(0), filter_fault: None, detail, ended: false }
}

/// A socket of a group.
pub fn socket(id: u64, state: TcpState, since: Since) -> SocketRow {
    let v4 = |a, b, c, d| std::net::IpAddr::from([a, b, c, d]).into();
    let tuple = Tuple {
        saddr: v4(10, 0, 0, 1),
        daddr: v4(192, 168, 100, 200),
        sport: 40_000 + id as u16,
        dport: 50_051,
        ifindex: 0,
    };
    let mut socket = Socket::new(tuple, NetnsId(0), state, since);
    socket.role = Role::Outbound;
    socket.closer = Closer::Remote;
    socket.owner = OwnerKind::Exact;
    let row = row_of(SocketId(id), &socket, &Processes::default());
    SocketRow { process: Some(process(90_210, "batch-exporter")), ..row }
}

/// Sockets of a group that has more than are listed.
pub fn members() -> Members {
    use TcpState::{CloseWait, TimeWait};
    let s = |s: u64| Nanos(s * 1_000_000_000);
    let hostile = SocketRow {
        process: Some(process(7, "\u{1b}[2Jevil\n")),
        tuple: Tuple { ifindex: 3, saddr: zoned(1), daddr: zoned(2), sport: 1, dport: 65_535 },
        ..socket(5, TcpState::Established, Since::Unknown)
    };
    let sockets = vec![
        socket(1, CloseWait, Since::Exact(s(900))),
        socket(2, CloseWait, Since::AtLatest(s(20))),
        socket(3, TimeWait, Since::Exact(s(910))),
        socket(4, TimeWait, Since::Inferred(s(893))),
        hostile,
    ];
    Members { sockets, total: 1_208, dwells: Vec::new() }
}

/// A link-local address.
fn zoned(last: u8) -> Addr {
    let mut octets = [0; 16];
    (octets[0], octets[1], octets[15]) = (0xfe, 0x80, last);
    std::net::IpAddr::from(octets).into()
}

/// A process of which everything is known.
fn worker() -> Process {
    let workload = Workload {
        runtime: Some("containerd".into()),
        pod: Some("checkout-7d9f".into()),
        k8s_namespace: Some("shop".into()),
        container: Some("app".into()),
        image: Some("shop/checkout:1.4".into()),
        ..Workload::default()
    };
    let parents = [(4_000, "gunicorn"), (3_990, "containerd-shim"), (1, "systemd")];
    let facts = ProcessFacts {
        exe: Some("/usr/bin/python3.13".into()),
        uid: Some(33),
        user: Some("www-data".into()),
        name: Some("gunicorn".into()),
        command: Some("python3.13 /srv/app/worker.py".into()),
        parents: parents.map(|(pid, comm)| ParentProcess { pid, comm: comm.into() }).into(),
        ..ProcessFacts::default()
    };
    Process {
        workload: Some(workload.labelled().into()),
        facts: Some(facts.labelled().into()),
        ..process(4_127, "http-worker")
    }
}

/// A socket whose beginning was not seen.
pub fn life() -> Life {
    use TcpState::{CloseWait, Established, LastAck};
    let step = |s: u64, from, to, dwell| StateChange {
        ts: Nanos(s * 1_000_000_000),
        from,
        to,
        dwell,
        end_reason: None,
        begins: false,
        orphan: false,
    };
    let dwell = |s: u64, bound| Some(Dwell { length: Nanos(s * 1_000_000_000), bound });
    Life {
        socket: SocketRow {
            process: Some(worker()),
            ..socket(1, LastAck, Since::Exact(Nanos(940_000_000_000)))
        },
        steps: vec![
            step(900, Established, CloseWait, dwell(700, Bound::AtLeast)),
            step(940, CloseWait, LastAck, dwell(40, Bound::Exact)),
        ],
        before: Before::OlderThanTrace,
        opened_by: Some(stack(&["connect", "open_session", "serve", "main"])),
        closed_by: None,
    }
}

/// A stack of these functions, of which the first belongs to the C library.
pub fn stack(functions: &[&str]) -> Arc<UserStack> {
    let frame = |(n, function): (usize, &&str)| StackFrame {
        function: (*function).into(),
        module: if n == 0 { "libc.so.6" } else { "app" }.into(),
        file: if n == 0 { "" } else { "/src/app/pool.c" }.into(),
        line: 10 * n as u32,
        ..StackFrame::default()
    };
    Arc::new(UserStack { frames: functions.iter().enumerate().map(frame).collect(), is_cut: false })
}

/// Sets the first group of [`busy`] to 63 % of its local ports used, exhausted in `exhausted_in`.
pub fn use_ports(snapshot: &mut Snapshot, exhausted_in: Option<Nanos>) {
    let v4 = |a, b, c, d| std::net::IpAddr::from([a, b, c, d]).into();
    let remote = Endpoint { addr: v4(10, 0, 0, 5), port: 5432, ifindex: 0 };
    snapshot.groups[0].service = Some((NetnsId(0), remote));
    snapshot.ports.destinations = vec![DestinationPorts {
        netns: NetnsId(0),
        local: Endpoint { addr: v4(10, 0, 0, 1), port: 0, ifindex: 0 },
        remote,
        backends: Vec::new(),
        has_place: true,
        counts: snapshot.groups[0].counts,
        used: 17_852,
        available: Some(28_232),
        slow_above: Some(14_116),
        search: None,
        bound: 0,
        outside: 0,
        entered_per_s: 408.0,
        left_per_s: 0.0,
        predicted: 24_480,
        predicted_with_reuse: 460,
        exhausted_in,
        connect_failures: 0,
        free_at_failure: None,
        reuse: TwReuse::Off,
        reusable: 0,
        reused: 0,
        processes: vec![process(4127, "pgbench")],
        other_processes: 0,
    }];
}

/// A host with services of every kind.
pub fn busy() -> Snapshot {
    use TcpState::{CloseWait, Established, FinWait2, Listen, SynRecv, TimeWait};
    let mut database = group("10.0.0.5:5432", Role::Outbound, &[(TimeWait, 18_122), (Established, 40)]);
    database.process = Some(process(4242, "api-server"));
    database.other_processes = 3;
    database.closers[Closer::Local as usize] = 99;
    database.closers[Closer::Remote as usize] = 1;
    database.ended[EndReason::Closed as usize] = 1;
    database.time_wait.entered = 31_000;
    database.time_wait.entered_per_s = 412.5;
    database.time_wait.ended = TimeWaitEnds { expired: 12_000, reused: 877, ..TimeWaitEnds::default() };
    database.time_wait.dwell = DwellQuantiles {
        count: 12_877,
        p50: 60_844_000_000,
        p90: 60_900_000_000,
        p99: 61_100_000_000,
        max: 61_200_000_000,
    };
    database.time_wait.dwell_bounds = 512;

    let mut web = group(
        "*:443",
        Role::Inbound,
        &[(TimeWait, 210), (Established, 5_012), (FinWait2, 15), (SynRecv, 9), (Listen, 1)],
    );
    web.process = Some(process(811, "nginx"));
    web.closers[Closer::Remote as usize] = 4_000;
    web.time_wait.entered_per_s = 3.1;
    web.fin_wait2_orphan = 12;

    let mut leak = group("192.168.100.200:50051", Role::Outbound, &[(CloseWait, 1_204), (TimeWait, 4)]);
    leak.process = Some(process(90_210, "batch-exporter"));
    leak.closers[Closer::ResetReceived as usize] = 3;
    leak.closers[Closer::Remote as usize] = 2;
    leak.oldest_close_wait = Some(Since::Exact(Nanos(20_000_000_000)));
    leak.close_wait_owner.clone_from(&leak.process);

    let end = |addr: [u8; 4], port| Endpoint { addr: std::net::IpAddr::from(addr).into(), port, ifindex: 0 };
    let service = end([192, 168, 100, 200], 50_051);
    let age = Nanos(922_000_000_000);
    let oldest =
        One { id: SocketId(2), local: end([10, 0, 0, 1], 40_002), remote: service, age, at_least: false };
    let stuck = StuckSockets {
        state: CloseWait,
        netns: NetnsId(0),
        role: Role::Outbound,
        service,
        process: leak.process.clone(),
        count: 1_204,
        old: 1_204,
        oldest: vec![oldest],
    };

    let v6 = group("[2001:db8:1:2:3:4:5:6]:8443", Role::Unknown, &[(Established, 3)]);

    let mut snapshot = empty();
    snapshot.ts = Nanos(942_000_000_000);
    snapshot.interval = Nanos::SECOND;
    snapshot.records = 1_204_113;
    snapshot.records_per_s = 31_240.0;
    snapshot.groups = vec![database, web, leak, v6];
    snapshot.stuck = vec![stuck];
    snapshot.history = (0..60)
        .map(|second| {
            let mut counts = [0; TcpState::COUNT];
            counts[TcpState::TimeWait.index()] = 300 * second;
            counts[TcpState::Established.index()] = 4_800 + second % 5 * 60;
            counts[TcpState::SynRecv.index()] = (9 * second) % 13;
            Sample { ts: Nanos((882 + second) * 1_000_000_000), counts }
        })
        .collect();
    for state in TcpState::ALL {
        let now = snapshot.groups.iter().map(|group| group.counts[state.index()]).sum();
        snapshot.states[state.index()] = StateTotal { now, entered: now, entered_per_s: now as f64 / 40.0 };
    }
    snapshot
}

/// [`busy`] with losses, limits, hostile names and very long keys.
pub fn lossy() -> Snapshot {
    let mut snapshot = busy();
    snapshot.losses = Losses { ring_full: 1_200, healed: 4, ..Losses::default() };
    let host = HostFacts {
        limits: vec!["Sockets of other network namespaces are not seen, since this trace runs in a user namespace of its own.".into()],
        ..(*snapshot.host).clone()
    };
    snapshot.host = Arc::new(host);
    let path = format!("/{}nginx.scope", "kubepods-burstable/".repeat(10));
    let mut cgroup = group(&path, Role::Inbound, &[(TcpState::TimeWait, 1_234_567_890)]);
    cgroup.process = Some(process(u32::MAX, "\u{1b}[2Jevil\n"));
    cgroup.time_wait.entered_per_s = 1_250_000.0;
    cgroup.fin_wait2_orphan = 123_456;
    cgroup.counts[TcpState::FinWait2.index()] = 1_123_456;
    let mut wide = group("数据库.example:3306", Role::Outbound, &[(TcpState::TimeWait, 7)]);
    wide.process = Some(process(7, "数据库服务"));
    snapshot.groups.extend([cgroup, wide]);
    snapshot
}
