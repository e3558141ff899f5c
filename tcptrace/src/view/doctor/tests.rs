//! Tests that each fault triggers its finding, and that a healthy host triggers none.

use std::{collections::BTreeMap, sync::Arc};

use bytemuck::Zeroable as _;
use tcptrace_common::record::{Kind, RawRecord};

use super::{
    FINDINGS, Severity, diagnose,
    text::{self, Commands, DoctorLayout, FindingDetail, Paint},
};
use crate::{
    aggregate::{
        BindPorts, ConntrackTable, DestinationPorts, Group, NatPorts, SearchTimes, Snapshot, TwReuse,
        host_counters::{Queue, Surroundings},
        stuck_sockets::{One, StuckSockets},
    },
    lifecycle::{EndReason, Role},
    model::{
        Endpoint, HookRecord, Nanos, NetnsId, Record, SocketId, TcpState,
        nat::{TranslatedSource, Translation},
        peer_names::{NameOrigin, Prefix},
        record::{HostFacts, Process, SysctlLine},
        workload::Workload,
    },
    view::top::fixture,
};

#[path = "tests/pools.rs"]
mod pools_tests;
#[path = "tests/ports.rs"]
mod ports_tests;
#[path = "tests/stacks.rs"]
mod stacks_tests;

const OWN: NetnsId = NetnsId(1);
const BLUE: NetnsId = NetnsId(2);

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().expect("an address");
    Endpoint { addr: address.ip().into(), port: address.port(), ifindex: 0 }
}

fn process() -> Process {
    Process::new(4711, "billing", 0)
}

fn surroundings() -> Surroundings {
    let settings = [
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        ("net.ipv4.ip_local_reserved_ports", ""),
        ("net.ipv4.tcp_ehash_entries", "262144"),
        ("net.ipv4.tcp_fin_timeout", "60"),
        ("net.ipv4.tcp_max_tw_buckets", "131072"),
        ("net.ipv4.tcp_rfc1337", "0"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_timestamps", "1"),
        ("net.ipv4.tcp_tw_reuse", "2"),
    ];
    let counters = [
        "ListenOverflows",
        "SyncookiesFailed",
        "SyncookiesRecv",
        "SyncookiesSent",
        "TCPReqQFullDrop",
        "TCPTimeWaitOverflow",
        "TWRecycled",
        "sockstat.alloc",
        "sockstat.tw",
    ]
    .map(|name| (name.to_owned(), 7));
    let counters = Arc::new(BTreeMap::from(counters));
    Surroundings {
        name: None,
        sysctls: Arc::new(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        first: Some((Nanos(90_000_000_000), counters.clone())),
        last: Some((Nanos(100_000_000_000), counters)),
        gone: None,
    }
}

fn healthy() -> Snapshot {
    let mut snapshot = fixture::empty();
    snapshot.began = Nanos(90_000_000_000);
    let host = HostFacts::clone(&snapshot.host);
    snapshot.host = Arc::new(HostFacts { netns: OWN.0, ..host });
    let observed = Arc::make_mut(&mut snapshot.observed);
    observed.netns.insert(OWN, surroundings());
    observed.netns.insert(BLUE, Surroundings { name: Some("blue".into()), ..surroundings() });
    snapshot
}

fn host(snapshot: &mut Snapshot) -> &mut HostFacts {
    Arc::make_mut(&mut snapshot.host)
}

fn set(snapshot: &mut Snapshot, netns: NetnsId, name: &str, value: &str) {
    let observed = Arc::make_mut(&mut snapshot.observed);
    let surroundings = observed.netns.get_mut(&netns).expect("known");
    Arc::make_mut(&mut surroundings.sysctls).insert(format!("net.ipv4.{name}"), value.into());
}

fn count(snapshot: &mut Snapshot, netns: NetnsId, counter: &str, grown: u64) {
    let observed = Arc::make_mut(&mut snapshot.observed);
    let (_, counters) = observed.netns.get_mut(&netns).and_then(|of| of.last.as_mut()).expect("known");
    *Arc::make_mut(counters).entry(counter.into()).or_default() += grown;
}

fn group(snapshot: &mut Snapshot, role: Role, change: impl FnOnce(&mut Group)) {
    let mut group = fixture::group("10.0.0.5:5432 / billing", role, &[]);
    group.service = Some((OWN, end("10.0.0.5:5432")));
    group.process = Some(process());
    change(&mut group);
    snapshot.groups.push(group);
}

fn stuck(snapshot: &mut Snapshot, state: TcpState, age_s: u64) {
    let id = SocketId(100 + state as u64);
    let age = Nanos(age_s * Nanos::SECOND.0);
    let one = One { id, local: end("10.0.0.1:40000"), remote: end("10.0.0.5:5432"), age, at_least: true };
    snapshot.stuck.push(StuckSockets {
        state,
        netns: OWN,
        role: Role::Outbound,
        service: end("10.0.0.5:5432"),
        process: Some(process()),
        count: 3,
        old: if age_s >= 5 { 3 } else { 0 },
        oldest: vec![one],
    });
    Arc::make_mut(&mut Arc::make_mut(&mut snapshot.observed).descriptors).insert(id, 17);
}

fn ports(snapshot: &mut Snapshot, used: u64, failures: u64) {
    let mut counts = [0; TcpState::COUNT];
    counts[TcpState::TimeWait.index()] = used;
    snapshot.ports.destinations.push(DestinationPorts {
        netns: BLUE,
        local: end("10.0.0.1:0"),
        remote: end("10.0.0.5:5432"),
        backends: Vec::new(),
        has_place: false,
        counts,
        used,
        available: Some(28_232),
        slow_above: Some(14_116),
        search: None,
        bound: 0,
        outside: 0,
        entered_per_s: 410.0,
        left_per_s: 0.0,
        predicted: 24_600,
        predicted_with_reuse: 410,
        exhausted_in: None,
        connect_failures: failures,
        free_at_failure: None,
        reuse: TwReuse::NotLoopback,
        reusable: 0,
        reused: 0,
        processes: vec![process()],
        other_processes: 0,
    });
}

/// A local address in `BLUE` of whose 100 ports `bind()` holds `open` with a connection and `idle` without one.
fn binds(snapshot: &mut Snapshot, open: u64, idle: u64, comm: &str) {
    host(snapshot).bound = true;
    snapshot.ports.binds.push(BindPorts {
        netns: BLUE,
        saddr: end("127.0.0.2:0").addr,
        bound: open + idle,
        open,
        idle,
        available: Some(100),
        connected: 2,
        processes: vec![Process::new(4711, comm, 0)],
    });
}

/// A gateway in `BLUE` with 100 translated ports, of which `held` are held and `time_wait` reclaimable.
fn nat(
    snapshot: &mut Snapshot,
    held: u64,
    time_wait: u64,
    change: impl FnOnce(&mut ConntrackTable, &mut NatPorts),
) {
    let mut table = ConntrackTable {
        netns: BLUE,
        name: Some("blue".into()),
        entries: held + time_wait,
        max: Some(262_144),
        grown: BTreeMap::from([("insert_failed".into(), 12), ("drop".into(), 12), ("early_drop".into(), 0)]),
        time_wait_s: Some(120),
        evicts: true,
        unknown: Vec::new(),
    };
    let mut row = NatPorts {
        netns: BLUE,
        of: Translation {
            snat_addr: end("10.2.0.1:0").addr,
            daddr: end("10.0.0.5:0").addr,
            dport: 5_432,
            zone: 0,
            used: held + time_wait,
            time_wait,
            close: 0,
            ports: (40_000, 40_099),
            sources: vec![TranslatedSource {
                saddr: end("10.1.0.2:0").addr,
                used: held + time_wait,
                time_wait,
            }],
            other_sources: 0,
        },
        range: (40_000, 40_099),
        has_rule: true,
        reclaimable: time_wait,
        growth_per_s: Some(0.0),
        exhausted_in: (held == 100).then_some(Nanos(0)),
    };
    change(&mut table, &mut row);
    snapshot.ports.nat.tables.push(table);
    snapshot.ports.nat.translations.push(row);
}

fn line(snapshot: &mut Snapshot, name: &str, value: &str) {
    let name = format!("net.ipv4.{name}");
    host(snapshot).sysctls.insert(name.clone(), value.into());
    let line = SysctlLine { file: "/etc/sysctl.conf".into(), line: 7, name, value: value.into() };
    host(snapshot).sysctl_lines.push(line);
}

/// Turns a healthy snapshot into a faulty one.
type Trigger = fn(&mut Snapshot);

/// Each row: the fault that triggers it, its severity then, and words that its text must contain.
const PROVOKED: &[(&str, Trigger, Severity, &str)] = &[
    (
        "client_ports_exhausted",
        |s| ports(s, 28_232, 37),
        Severity::Critical,
        "37 connects failed with EADDRNOTAVAIL",
    ),
    ("client_ports_near", |s| ports(s, 24_310, 0), Severity::Warning, "24,310 of 28,232 ports used"),
    (
        "bind_ports_exhausted",
        |s| binds(s, 90, 8, "haproxy"),
        Severity::Critical,
        "127.0.0.2 in netns blue: 98 of 100 ports held by bind(), 90 with a connection, 8 without; connect() chose 2 more",
    ),
    (
        "bind_ports_near",
        |s| binds(s, 80, 0, "app"),
        Severity::Warning,
        "82% of the local ports of 127.0.0.2 are held by bind()",
    ),
    (
        "nat_ports_exhausted",
        |s| nat(s, 100, 0, |_, _| {}),
        Severity::Critical,
        "100 of 100 ports held (40000-40099), +0.0/s, 0 more reclaimable; clients: 10.1.0.2 100",
    ),
    (
        "nat_ports_near",
        |s| nat(s, 50, 10, |_, row| row.exhausted_in = Some(Nanos(25 * Nanos::SECOND.0))),
        Severity::Warning,
        "NAT ports from 10.2.0.1 to 10.0.0.5:5432 run out in 25",
    ),
    ("nat_ports_near", |s| nat(s, 85, 0, |_, _| {}), Severity::Warning, "85% of the NAT ports"),
    (
        "nat_ports_exhausted",
        |s| nat(s, 99, 0, |_, row| row.exhausted_in = Some(Nanos(1))),
        Severity::Critical,
        "NAT finds no port from 10.2.0.1 to 10.0.0.5:5432: 99 of 100 are held",
    ),
    (
        "nat_ports_near",
        |s| {
            nat(s, 99, 0, |table, row| {
                table.grown.clear();
                row.exhausted_in = Some(Nanos(1));
            });
        },
        Severity::Warning,
        "NAT ports from 10.2.0.1 to 10.0.0.5:5432 run out in <1s",
    ),
    (
        "conntrack_full",
        |s| nat(s, 1, 0, |table, _| (table.entries, table.max) = (1_000, Some(1_000))),
        Severity::Critical,
        "1,000 of 1,000 entries in netns blue; in 10.0s: drop +12, early_drop +0",
    ),
    (
        "conntrack_full",
        |s| nat(s, 1, 0, |table, _| (table.entries, table.max) = (800, Some(1_000))),
        Severity::Warning,
        "nearly full (80%)",
    ),
    (
        "conntrack_time_wait",
        |s| {
            nat(s, 10, 60, |table, row| {
                table.evicts = false;
                row.reclaimable = 0;
            });
        },
        Severity::Note,
        "60 translated entries in TIME_WAIT in netns blue, of 70 entries",
    ),
    (
        "time_wait_overflow",
        |s| count(s, BLUE, "TCPTimeWaitOverflow", 50),
        Severity::Critical,
        "TCPTimeWaitOverflow +50 in netns blue",
    ),
    (
        "time_wait_harmless",
        |s| group(s, Role::Inbound, |g| g.time_wait.now = 18_122),
        Severity::Note,
        "none of them takes a local port",
    ),
    (
        "tw_reuse",
        |s| {
            count(s, OWN, "TWRecycled", 90);
            group(s, Role::Outbound, |g| g.time_wait.ended.reused = 90);
        },
        Severity::Note,
        "TWRecycled +90 in 10.0s; traced: 90 reused",
    ),
    (
        "tw_reuse",
        |s| group(s, Role::Outbound, |g| g.time_wait.now = 1_000),
        Severity::Note,
        "helps on loopback only",
    ),
    (
        "tw_reuse",
        |s| {
            set(s, OWN, "tcp_tw_reuse", "0");
            group(s, Role::Outbound, |g| g.time_wait.now = 1_000);
        },
        Severity::Note,
        "keeps its port",
    ),
    (
        "accept_queue_overflow",
        |s| {
            count(s, OWN, "ListenOverflows", 12);
            stuck(s, TcpState::Listen, 9);
            let queue = Queue { length: 5, limit: 4, most: 5 };
            Arc::make_mut(&mut Arc::make_mut(&mut s.observed).queues)
                .insert(SocketId(100 + TcpState::Listen as u64), queue);
        },
        Severity::Critical,
        "5 waiting for accept(), its backlog is 4",
    ),
    ("syn_queue_overflow", |s| count(s, OWN, "SyncookiesSent", 40), Severity::Warning, "SyncookiesSent +40"),
    (
        "syn_acks_again",
        |s| {
            Arc::make_mut(&mut Arc::make_mut(&mut s.observed).synacks_again)
                .insert((OWN, end("10.0.0.1:443")), 9);
        },
        Severity::Warning,
        "9 SYN-ACKs sent again",
    ),
    (
        "syns_refused_by_time_wait",
        |s| (1..=3).for_each(|at| meet(s, at, Kind::Segment, SYN)),
        Severity::Warning,
        "1 connect met one in 10.0s; none of these was accepted so far",
    ),
    (
        "syns_refused_by_time_wait",
        |s| {
            (1..=3).for_each(|at| meet(s, at, Kind::Segment, SYN));
            meet(s, 4, Kind::RequestArmed, 0);
        },
        Severity::Warning,
        "1 accepted later, after 3.00s at most",
    ),
    ("pool_too_small", |s| s.pools.push(pools_tests::demand(1, "nginx")), Severity::Warning, "95 of 100"),
    (
        "close_wait_leak",
        |s| stuck(s, TcpState::CloseWait, 9),
        Severity::Warning,
        "for >= 9.00s, descriptor 17",
    ),
    ("fin_wait2_held", |s| stuck(s, TcpState::FinWait2, 9), Severity::Warning, "descriptor 17"),
    (
        "fin_wait2_orphans",
        |s| group(s, Role::Inbound, |g| g.fin_wait2_orphan = 300),
        Severity::Warning,
        "300 FIN_WAIT2 without a process",
    ),
    ("connects_unanswered", |s| stuck(s, TcpState::SynSent, 3), Severity::Warning, "3 connects wait"),
    (
        "connects_unanswered",
        |s| group(s, Role::Outbound, |g| g.connects_ended[EndReason::Timeout as usize] = 2),
        Severity::Warning,
        "2 timed out",
    ),
    (
        "connects_refused",
        |s| group(s, Role::Outbound, |g| g.ended[EndReason::Refused as usize] = 8),
        Severity::Warning,
        "traced in 10.0s: 8",
    ),
    (
        "closes_unread_data",
        |s| group(s, Role::Inbound, |g| g.ended[EndReason::ResetSentUnread as usize] = 6),
        Severity::Warning,
        "traced: 6",
    ),
    (
        "closes_linger_zero",
        |s| group(s, Role::Inbound, |g| g.ended[EndReason::ResetSentLinger as usize] = 6),
        Severity::Note,
        "traced: 6",
    ),
    (
        "peer_resets",
        |s| group(s, Role::Inbound, |g| g.ended[EndReason::ResetReceived as usize] = 9),
        Severity::Note,
        "9 connections were reset by the peer",
    ),
    (
        "tw_recycle_line",
        |s| line(s, "tcp_tw_recycle", "1"),
        Severity::Note,
        "/etc/sysctl.conf:7: net.ipv4.tcp_tw_recycle = 1",
    ),
    (
        "timestamps_off",
        |s| set(s, BLUE, "tcp_timestamps", "0"),
        Severity::Warning,
        "net.ipv4.tcp_timestamps is 0 in netns blue",
    ),
    (
        "tw_buckets_lowered",
        |s| set(s, OWN, "tcp_max_tw_buckets", "5000"),
        Severity::Note,
        "this kernel would set 131,072",
    ),
    (
        "fin_timeout_shortened",
        |s| set(s, OWN, "tcp_fin_timeout", "30"),
        Severity::Note,
        "does not shorten TIME_WAIT",
    ),
    ("rfc1337", |s| set(s, OWN, "tcp_rfc1337", "1"), Severity::Note, "net.ipv4.tcp_rfc1337 is 1"),
    ("port_range", |s| set(s, OWN, "ip_local_port_range", "1024 65000"), Severity::Note, "is 1024 65000"),
    (
        "netns_settings_differ",
        |s| line(s, "tcp_tw_reuse", "1"),
        Severity::Note,
        "net.ipv4.tcp_tw_reuse: 1 on the host (/etc/sysctl.conf:7), 2 in netns blue",
    ),
    ("tracer_losses", |s| s.losses.ring_full = 12, Severity::Warning, "lost 12: ring full 12, of 0 records"),
    (
        "tracer_losses",
        |s| (s.losses.ring_full, s.losses.healed, s.records) = (12, 7_000, 12_000),
        Severity::Note,
        "lost 7,000: ring full 12, healed 7,000, of 12,000 records",
    ),
];

/// The flags byte of a SYN.
const SYN: u64 = 2;

/// A segment of one client at this second.
fn meet(snapshot: &mut Snapshot, at_s: u64, kind: Kind, flags: u64) {
    let raw = RawRecord {
        ts_ns: at_s * Nanos::SECOND.0,
        netns: OWN.0,
        sport: 443,
        dport: 40_000,
        kind: kind as u8,
        new: TcpState::TimeWait as u8,
        arg0: flags,
        ..RawRecord::zeroed()
    };
    let record = Record::Kernel(HookRecord { raw, task: None });
    assert!(Arc::make_mut(&mut snapshot.observed).take(&record));
}

fn overlap(snapshot: &mut Snapshot) {
    stuck(snapshot, TcpState::Listen, 9);
    snapshot.stuck[0].service.port = 40_000;
}

#[test]
fn healthy_host_has_no_findings() {
    let findings = diagnose(&healthy());
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn each_fault_triggers_only_its_finding() {
    let mut untested: Vec<&str> = FINDINGS.iter().map(|row| row.id).collect();
    let overlap: (&str, Trigger, Severity, &str) =
        ("port_range_listeners", overlap, Severity::Note, "listening there: 40000");
    for &(id, trigger, severity, said) in PROVOKED.iter().chain([&overlap]) {
        let mut snapshot = healthy();
        trigger(&mut snapshot);
        let findings = diagnose(&snapshot);
        let [found] = findings.as_slice() else { panic!("{id}: {findings:#?}") };
        assert_eq!((found.id, found.severity), (id, severity));
        let all = format!("{}\n{}", found.title, found.evidence.join("\n"));
        assert!(all.contains(said), "{id} does not say '{said}': {all}");
        assert!(!found.fix.is_empty() && !found.dont.is_empty() && !found.verify.is_empty(), "{id}");
        // The fixes have commands with a comment, after blanks.
        let texts = [found.why, found.dont].into_iter().chain(found.fix.iter().map(String::as_str));
        texts.for_each(|text| assert!(!text.replace("   #", "#").contains("  "), "{id}: {text}"));
        let is_named = |who: &super::Who| {
            (who.comm.is_some(), who.pid.is_some()) == (who.name.is_some(), who.name.is_some())
        };
        assert!(found.who.iter().all(is_named), "{id}: {:?}", found.who);
        untested.retain(|row| *row != id);
        assert!(include_str!("../../../../docs/json.md").contains(&format!("`{id}`")), "docs/json.md: {id}");
    }
    assert!(untested.is_empty(), "not triggered: {untested:?}");
}

#[test]
fn bind_before_connect_has_a_fix_for_each_proxy() {
    let first_line = |comm: &str| {
        let mut snapshot = healthy();
        binds(&mut snapshot, 98, 0, comm);
        diagnose(&snapshot)[0].fix[0].clone()
    };
    let words = [
        ("haproxy", "without a range"),
        ("nginx", "without a port"),
        ("envoy", "port_value 0"),
        ("app", "setsockopt"),
    ];
    for (comm, word) in words {
        assert!(first_line(comm).contains(word), "{comm}: {}", first_line(comm));
    }
}

#[test]
fn commands_run_in_the_namespace_of_the_setting() {
    let mut snapshot = healthy();
    set(&mut snapshot, BLUE, "tcp_timestamps", "0");
    assert_eq!(diagnose(&snapshot)[0].fix, ["ip netns exec blue sysctl -w net.ipv4.tcp_timestamps=1"]);
    set(&mut snapshot, OWN, "tcp_timestamps", "0");
    assert_eq!(diagnose(&snapshot)[0].fix, ["sysctl -w net.ipv4.tcp_timestamps=1"]);
    // Without a name, use a process inside the namespace.
    let mut snapshot = healthy();
    set(&mut snapshot, BLUE, "tcp_timestamps", "0");
    stuck(&mut snapshot, TcpState::Listen, 1);
    snapshot.stuck[0].netns = BLUE;
    Arc::make_mut(&mut snapshot.observed).netns.get_mut(&BLUE).expect("known").name = None;
    assert_eq!(diagnose(&snapshot)[0].fix, ["nsenter -t 4711 -n sysctl -w net.ipv4.tcp_timestamps=1"]);
}

#[test]
fn untrusted_names_are_sanitised_and_quoted() {
    let mut snapshot = healthy();
    let evil = "a'; reboot\x1b[2J".into();
    Arc::make_mut(&mut snapshot.observed).netns.get_mut(&BLUE).expect("known").name = Some(evil);
    set(&mut snapshot, BLUE, "tcp_timestamps", "0");
    stuck(&mut snapshot, TcpState::CloseWait, 9);
    snapshot.stuck[0].process = Some(Process { comm: "\x1b[31mred\n".into(), ..process() });
    let shown = shown(&snapshot, FindingDetail::Full, Paint::Plain, 80);
    assert!(!shown.contains('\x1b'), "{shown}");
    assert!(shown.contains(r"ip netns exec 'a'\''; reboot?[2J' sysctl"), "{shown}");
}

#[test]
fn owners_and_peers_have_their_names() {
    let mut snapshot = healthy();
    ports(&mut snapshot, 28_232, 37);
    stuck(&mut snapshot, TcpState::CloseWait, 9);
    let workload = Workload { container: Some("billing-1".into()), ..Workload::default() }.labelled();
    let named = Process { workload: Some(workload.into()), ..process() };
    snapshot.ports.destinations[0].processes = vec![named.clone()];
    snapshot.stuck[0].process = Some(named);
    let database = Prefix::of_address(end("10.0.0.0:0").addr, 24);
    let peers = Arc::make_mut(&mut snapshot.peer_names);
    peers.insert(NameOrigin::Given, database, &"db-subnet".into());
    let shown = shown(&snapshot, FindingDetail::Short, Paint::Plain, 120);
    assert!(shown.contains("no local port to 10.0.0.5:5432 [db-subnet]"), "{shown}");
    assert_eq!(shown.matches("billing-1 (pid 4711)").count(), 2, "{shown}");
    assert_eq!(shown.matches(", 10.0.0.5:5432 [db-subnet]: ").count(), 2, "{shown}");
    let json = serde_json::to_string(&diagnose(&snapshot)).expect("a document");
    let who =
        r#""comm":"billing","name":"billing-1","pid":4711,"service":"10.0.0.5:5432","peer_name":"db-subnet""#;
    assert!(json.contains(who), "{json}");
}

#[test]
fn client_of_a_gateway_is_no_unknown_owner() {
    let mut snapshot = healthy();
    nat(&mut snapshot, 100, 0, |_, _| {});
    let shown = shown(&snapshot, FindingDetail::Full, Paint::Plain, 100);
    assert!(shown.contains("client in netns blue, 10.1.0.2 to 10.0.0.5:5432: 100"), "{shown}");
}

fn shown(snapshot: &Snapshot, detail: FindingDetail, paint: Paint, width: usize) -> String {
    let mut out = Vec::new();
    let layout = DoctorLayout { width, paint, detail, commands: Commands::Copyable };
    text::write(&mut out, snapshot, &diagnose(snapshot), layout).expect("memory");
    String::from_utf8(out).expect("UTF-8")
}

fn ill() -> Snapshot {
    let mut snapshot = healthy();
    ports(&mut snapshot, 28_232, 37);
    stuck(&mut snapshot, TcpState::CloseWait, 9);
    group(&mut snapshot, Role::Inbound, |group| group.time_wait.now = 18_122);
    set(&mut snapshot, OWN, "tcp_fin_timeout", "30");
    snapshot
}

#[test]
fn worst_finding_comes_first_at_80_columns() {
    insta::assert_snapshot!(shown(&ill(), FindingDetail::Short, Paint::Plain, 80));
}

#[test]
fn full_detail_includes_reasons() {
    insta::assert_snapshot!(shown(&ill(), FindingDetail::Full, Paint::Plain, 100));
}

#[test]
fn healthy_host_lists_reasons() {
    insta::assert_snapshot!(shown(&healthy(), FindingDetail::Short, Paint::Plain, 80));
}

#[test]
fn lines_fit_and_colours_are_optional() {
    for width in [40, 80, 200] {
        for line in shown(&ill(), FindingDetail::Full, Paint::Plain, width).lines() {
            let is_word = !line.trim().contains(' ');
            assert!(line.chars().count() <= width || is_word || line.contains("sysctl"), "{width}: {line}");
        }
    }
    let plain = shown(&ill(), FindingDetail::Short, Paint::Plain, 80);
    let mut colours = shown(&ill(), FindingDetail::Short, Paint::Colour, 80);
    for code in ["\x1b[1;31m", "\x1b[1;33m", "\x1b[36m", "\x1b[32m", "\x1b[2m", "\x1b[0m"] {
        colours = colours.replace(code, "");
    }
    assert_eq!(colours, plain);
}

#[test]
fn causes_follow_from_nothing() {
    for row in FINDINGS {
        for cause in row.causes {
            let cause = FINDINGS.iter().find(|other| other.id == *cause).expect("a finding");
            assert!(cause.causes.is_empty(), "{} follows from {}, which follows itself", row.id, cause.id);
        }
    }
}
