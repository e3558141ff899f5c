//! Ports of known connections, compared with the snapshot.

use std::net::IpAddr;

use tcptrace_common::record::{self as raw, Kind, flag};

use super::*;
use crate::{
    aggregate::{Aggregate, Context, Grouping, HostNames, Scope},
    lifecycle::{Tracker, TrackerLimits},
    model::{
        Addr, HookRecord, Nanos, StateSet, Tuple,
        nat::{Backend, Conntrack},
    },
    synthetic::{Shape, Traffic},
};

mod binds;
mod course;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const T0: u64 = 1_000 * S;
const NETNS: NetnsId = NetnsId(7);

/// A namespace with a tracker.
struct Host {
    tracker: Tracker,
    aggregate: Aggregate,
    cookies: u64,
}

/// An outbound connection.
#[derive(Clone, Copy)]
struct Client {
    cookie: u64,
    saddr: Addr,
    daddr: Addr,
    sport: u16,
    dport: u16,
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

impl Host {
    fn new(settings: &[(&str, &str)]) -> Self {
        let mut host = Self {
            tracker: Tracker::new(TrackerLimits::default()),
            aggregate: Aggregate::new(Grouping::NONE, Scope::TimewaitSockets),
            cookies: 0,
        };
        host.take(&Record::SeedEnd { ts: Nanos(T0), began: Nanos(T0) });
        host.take(&Record::OwnersEnd { ts: Nanos(T0) });
        host.set(settings);
        host
    }

    fn set(&mut self, settings: &[(&str, &str)]) {
        let sysctls = settings.iter().map(|(name, value)| (format!("net.ipv4.{name}"), (*value).to_owned()));
        self.take(&Record::NetnsSettings { ts: Nanos(T0), netns: NETNS, sysctls: sysctls.collect() });
    }

    fn take(&mut self, record: &Record) {
        self.tracker.take(record, &mut self.aggregate);
        if let Some(netns) = self.aggregate.take(record) {
            self.tracker.revisit_namespace(netns, record.ts().unwrap_or_default(), &mut self.aggregate);
        }
    }

    fn client(&mut self, daddr: &str, dport: u16, sport: u16) -> Client {
        self.cookies += 1;
        Client { cookie: self.cookies, saddr: addr("10.0.0.1"), daddr: addr(daddr), sport, dport }
    }

    fn step(&mut self, at: u64, client: Client, old: TcpState, new: TcpState, flags: u8) {
        let kind = if old == TcpState::TimeWait {
            Kind::TimewaitExpired
        } else if new == TcpState::TimeWait {
            Kind::TimewaitArmed
        } else {
            Kind::Transition
        };
        let chosen_late = old == TcpState::Close && flags & flag::DONE == 0;
        let raw = raw::RawRecord {
            ts_ns: at,
            cookie: client.cookie,
            object: client.cookie,
            arg0: if new == TcpState::TimeWait { 60 * 250 } else { 0 },
            arg1: 0,
            saddr: client.saddr.0,
            daddr: client.daddr.0,
            netns: NETNS.0,
            ifindex: 0,
            sport: if chosen_late { 0 } else { client.sport },
            dport: client.dport,
            kind: kind as u8,
            old: old as u8,
            new: if kind == Kind::TimewaitExpired { old } else { new } as u8,
            flags: flags & !flag::DONE,
        };
        let task = raw::Task { cgroup: 5, tgid: 42, tid: 42, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0" };
        self.take(&Record::Kernel(HookRecord { raw, task: (old == TcpState::Close).then_some(task) }));
    }

    /// `connect()` and the SYN-ACK.
    fn open(&mut self, at: u64, client: Client) {
        self.step(at, client, TcpState::Close, TcpState::SynSent, flag::TASK);
        self.step(at + 10_000, client, TcpState::SynSent, TcpState::Established, 0);
    }

    /// `bind()`, `connect()` and the SYN-ACK.
    fn open_bound(&mut self, at: u64, client: Client) {
        self.step(at, client, TcpState::Close, TcpState::SynSent, flag::TASK | flag::DONE);
        self.step(at + 10_000, client, TcpState::SynSent, TcpState::Established, 0);
    }

    /// `connect()` that finds no port.
    fn fail(&mut self, at: u64, client: Client) {
        let client = Client { sport: 0, ..client };
        self.step(at, client, TcpState::Close, TcpState::SynSent, flag::TASK);
        self.step(at + 10_000, client, TcpState::SynSent, TcpState::Close, 0);
    }

    /// This side closes first: TIME_WAIT.
    fn close(&mut self, at: u64, client: Client) {
        use TcpState::{Established, FinWait1, FinWait2, TimeWait};
        self.step(at, client, Established, FinWait1, 0);
        self.step(at + 1_000, client, FinWait1, FinWait2, flag::ORPHAN);
        self.step(at + 2_000, client, FinWait2, TimeWait, 0);
    }

    /// The peer closed first: no TIME_WAIT here.
    fn close_passively(&mut self, at: u64, client: Client) {
        use TcpState::{Close, CloseWait, Established, LastAck};
        self.step(at, client, Established, CloseWait, 0);
        self.step(at + 1_000, client, CloseWait, LastAck, 0);
        self.step(at + 2_000, client, LastAck, Close, flag::ORPHAN | flag::SHUTDOWN_BOTH);
    }

    fn expire(&mut self, at: u64, client: Client) {
        self.step(at, client, TcpState::TimeWait, TcpState::Close, 0);
    }

    /// The connecting thread reuses the TIME_WAIT of `old`.
    fn reuse_timewait(&mut self, at: u64, old: Client) {
        let raw = raw::RawRecord {
            ts_ns: at,
            cookie: old.cookie,
            object: old.cookie,
            // Remaining ticks.
            arg0: 50 * 250,
            arg1: 42 << 32,
            saddr: old.saddr.0,
            daddr: old.daddr.0,
            netns: NETNS.0,
            ifindex: 0,
            sport: old.sport,
            dport: old.dport,
            kind: Kind::TimewaitCancelled as u8,
            old: TcpState::TimeWait as u8,
            new: TcpState::TimeWait as u8,
            flags: 0,
        };
        self.take(&Record::Kernel(HookRecord { raw, task: None }));
    }

    fn listen(&mut self, at: u64, port: u16) -> Client {
        let any = Addr::ANY;
        self.cookies += 1;
        let listener = Client { cookie: self.cookies, saddr: any, daddr: any, sport: port, dport: 0 };
        self.step(at, listener, TcpState::Close, TcpState::Listen, flag::TASK | flag::DONE);
        listener
    }

    fn ports(&mut self, at: u64) -> PortsSnapshot {
        self.take(&Record::Tick { ts: Nanos(at) });
        self.aggregate.snapshot(Nanos(at), &self.tracker, &HostNames::default(), Context::default()).ports
    }

    fn only(&mut self, at: u64) -> DestinationPorts {
        let mut destinations = self.ports(at).destinations;
        assert_eq!(destinations.len(), 1, "{destinations:?}");
        destinations.remove(0)
    }
}

const HUNDRED: (&str, &str) = ("ip_local_port_range", "41000 41099");

#[test]
fn exhaustion_is_predicted_until_it_happens() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
    let apart = 125 * MS;
    for n in 0..100 {
        let at = T0 + n * apart;
        let client = host.client("10.0.0.5", 80, 41_000 + n as u16);
        host.open(at, client);
        host.close(at + MS, client);
        let seen = host.only(at + 2 * MS);
        assert_eq!((seen.used, seen.count(TcpState::TimeWait), seen.available), (n + 1, n + 1, Some(100)));
        if (20..99).contains(&n) {
            let left = (99 - n) * apart;
            let predicted = seen.exhausted_in.expect("it runs out").0;
            let allowed = left / 10 + apart;
            assert!(
                (left.saturating_sub(allowed)..=left + allowed).contains(&predicted),
                "{n}: {predicted} for {left}"
            );
            assert!((seen.entered_per_s - 8.0).abs() < 0.5, "{n}: {}", seen.entered_per_s);
        }
    }
    let full = T0 + 100 * apart;
    assert_eq!(host.only(full).exhausted_in, Some(Nanos(0)));
    for n in 0..3 {
        let client = host.client("10.0.0.5", 80, 0);
        host.fail(full + n * apart, client);
    }
    let seen = host.only(full + 3 * apart);
    assert_eq!((seen.connect_failures, seen.used, seen.exhausted_in), (3, 100, Some(Nanos(0))));
    assert_eq!(
        seen.processes.iter().map(|process| (process.pid, &*process.comm)).collect::<Vec<_>>(),
        [(42, "curl")]
    );
    // A minute later all ports have returned.
    (1..=100).for_each(|cookie| {
        let client = Client { cookie, ..host.client("10.0.0.5", 80, 40_999 + cookie as u16) };
        host.expire(T0 + (cookie - 1) * apart + 60_500 * MS, client);
    });
    let seen = host.only(T0 + 100 * S);
    assert_eq!((seen.used, seen.exhausted_in, seen.connect_failures), (0, None, 3));
}

#[test]
fn client_with_reuse_never_runs_out() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "1"), ("tcp_timestamps", "1")]);
    for n in 0..90 {
        let at = T0 + n * 125 * MS;
        let client = host.client("10.0.0.5", 80, 41_000 + n as u16);
        host.open(at, client);
        host.close(at + MS, client);
    }
    let seen = host.only(T0 + 90 * 125 * MS);
    assert_eq!((seen.reuse, seen.exhausted_in, seen.predicted), (TwReuse::On, None, 8));
    assert!((70..=85).contains(&seen.reusable), "{}", seen.reusable);
    host.set(&[HUNDRED, ("tcp_tw_reuse", "2"), ("tcp_timestamps", "1")]);
    let seen = host.only(T0 + 90 * 125 * MS);
    assert_eq!((seen.reuse, seen.reusable, seen.predicted_with_reuse), (TwReuse::NotLoopback, 0, 8));
    assert!(seen.exhausted_in.is_some_and(|length| length < Nanos(2 * S)) && seen.predicted > 400);
}

#[test]
fn missing_reuse_is_reported_as_failing() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "1"), ("tcp_timestamps", "1")]);
    for n in 0..100 {
        let client = host.client("10.0.0.5", 80, 41_000 + n as u16);
        host.open(T0 + n * MS, client);
        host.close(T0 + n * MS + 500, client);
    }
    let client = host.client("10.0.0.5", 80, 0);
    host.fail(T0 + 5 * S, client);
    let seen = host.only(T0 + 5 * S + MS);
    assert_eq!((seen.reuse, seen.reusable, seen.exhausted_in), (TwReuse::Failing, 0, Some(Nanos(0))));
}

#[test]
fn each_address_pair_and_port_has_its_own_budget() {
    let mut host = Host::new(&[HUNDRED]);
    for (n, (saddr, daddr, dport)) in [
        ("10.0.0.1", "10.0.0.5", 80),
        ("10.0.0.1", "10.0.0.5", 80),
        ("10.0.0.2", "10.0.0.5", 80),
        ("10.0.0.1", "10.0.0.6", 80),
        ("10.0.0.1", "10.0.0.5", 81),
        ("fd00::1", "fd00::5", 80),
        // IPv4 on an IPv6 socket.
        ("::ffff:10.0.0.1", "::ffff:10.0.0.5", 80),
    ]
    .into_iter()
    .enumerate()
    {
        let client = Client { saddr: addr(saddr), ..host.client(daddr, dport, 41_000 + n as u16) };
        host.open(T0, client);
    }
    let used: Vec<(String, String, u64)> = host
        .ports(T0 + S)
        .destinations
        .iter()
        .map(|row| (row.local.addr.to_string(), row.remote.to_string(), row.used))
        .collect();
    let row = |local: &str, remote: &str, used| (local.to_owned(), remote.to_owned(), used);
    assert_eq!(
        used,
        [
            row("10.0.0.1", "10.0.0.5:80", 3),
            row("10.0.0.2", "10.0.0.5:80", 1),
            row("10.0.0.1", "10.0.0.5:81", 1),
            row("10.0.0.1", "10.0.0.6:80", 1),
            row("fd00::1", "[fd00::5]:80", 1),
        ]
    );
}

#[test]
fn bind_and_listen_ports_reduce_every_budget() {
    let mut host = Host::new(&[HUNDRED]);
    let open = |host: &mut Host, sport| {
        let client = host.client("10.0.0.5", 80, sport);
        host.open(T0, client);
        client
    };
    open(&mut host, 41_000);
    open(&mut host, 5_000);
    let listener = host.listen(T0, 41_050);
    host.listen(T0, 443);
    let bound = host.client("10.0.0.6", 80, 41_060);
    host.open_bound(T0, bound);
    let elsewhere = host.client("10.0.0.6", 80, 6_000);
    host.open_bound(T0, elsewhere);

    let seen = host.ports(T0 + S);
    let of = |remote: &str| {
        let row = seen.destinations.iter().find(|row| row.remote.to_string() == remote).expect("a row");
        (row.used, row.bound, row.outside, row.available)
    };
    assert_eq!(of("10.0.0.5:80"), (1, 0, 1, Some(98)));
    assert_eq!(of("10.0.0.6:80"), (0, 1, 1, Some(98)));
    assert_eq!(seen.netns[0].taken, 2);

    host.step(T0 + 2 * S, listener, TcpState::Listen, TcpState::Close, 0);
    host.close_passively(T0 + 2 * S, bound);
    let seen = host.ports(T0 + 3 * S);
    assert_eq!((seen.netns[0].taken, seen.netns[0].available()), (0, Some(100)));
}

#[test]
fn backends_of_another_namespace_are_joined() {
    let mut host = Host::new(&[HUNDRED]);
    for (daddr, sport) in [("10.96.0.1", 41_000), ("10.0.0.5", 41_001)] {
        let client = host.client(daddr, 80, sport);
        host.open(T0, client);
    }
    let backend = |saddr: &str, port, used| Backend {
        saddr: addr(saddr),
        daddr: addr("10.96.0.1"),
        dport: 80,
        addr: addr("10.244.1.5"),
        port,
        used,
    };
    let backends =
        vec![backend("10.0.0.1", 8_080, 1), backend("10.0.0.9", 8_080, 7), backend("10.0.0.1", 8_081, 2)];
    let conntrack = Box::new(Conntrack { entries: 10, backends, ..Conntrack::default() });
    host.take(&Record::Conntrack { ts: Nanos(T0), netns: NetnsId(1), conntrack });
    let seen = host.ports(T0 + S);
    let of = |daddr: &str| {
        let row = seen.destinations.iter().find(|row| row.remote.addr == addr(daddr)).expect("a row");
        row.backends.iter().map(|backend| (backend.port, backend.used)).collect::<Vec<_>>()
    };
    assert_eq!((of("10.96.0.1"), of("10.0.0.5")), (vec![(8_081, 2), (8_080, 1)], Vec::new()));
}

#[test]
fn changed_settings_recount_sockets() {
    let mut host = Host::new(&[]);
    for sport in [41_000, 41_010, 52_000] {
        let client = host.client("10.0.0.5", 80, sport);
        host.open(T0, client);
    }
    host.listen(T0, 52_001);
    let seen = |host: &mut Host, settings: &[(&str, &str)]| {
        host.set(settings);
        let row = host.only(T0 + S);
        (row.used, row.outside, row.available)
    };
    assert_eq!(seen(&mut host, &[]), (3, 0, None));
    assert_eq!(seen(&mut host, &[HUNDRED]), (2, 1, Some(100)));
    assert_eq!(seen(&mut host, &[HUNDRED, ("ip_local_reserved_ports", "41010")]), (1, 2, Some(99)));
    assert_eq!(seen(&mut host, &[("ip_local_port_range", "50000 59999")]), (1, 2, Some(9_999)));
}

#[test]
fn passive_closes_reach_a_steady_level() {
    let mut host = Host::new(&[HUNDRED]);
    // 20/s, each open for 2 s: 40 ports.
    let mut open = std::collections::VecDeque::new();
    for n in 0..600 {
        let at = T0 + n * 50 * MS;
        let client = host.client("10.0.0.5", 80, 41_000 + (n % 100) as u16);
        host.open(at, client);
        open.push_back(client);
        if open.len() > 40 {
            let client = open.pop_front().expect("an open connection");
            host.close_passively(at + MS, client);
        }
    }
    let seen = host.only(T0 + 30 * S);
    assert_eq!((seen.used, seen.exhausted_in, seen.predicted), (40, None, 40));
    assert!((seen.left_per_s - 20.0).abs() < 1.0);
}

#[test]
fn filter_selects_destinations_but_not_their_sockets() {
    let mut host = Host::new(&[HUNDRED]);
    for (n, (daddr, shown)) in [
        ("10.0.0.5", StateSet::ALL),
        ("10.0.0.5", StateSet::EMPTY),
        ("10.0.0.6", StateSet::EMPTY),
        ("10.0.0.7", StateSet::of(TcpState::TimeWait)),
    ]
    .into_iter()
    .enumerate()
    {
        let client = host.client(daddr, 80, 41_000 + n as u16);
        let tuple = Tuple {
            saddr: client.saddr,
            daddr: client.daddr,
            sport: client.sport,
            dport: client.dport,
            ifindex: 0,
        };
        let since = crate::lifecycle::Since::Exact(Nanos(T0));
        let mut socket = Socket::new(tuple, NETNS, TcpState::Established, since);
        (socket.role, socket.counted.shown) = (Role::Outbound, shown);
        host.aggregate.ports.appeared(&mut socket, host.tracker.processes());
    }
    let seen = host.ports(T0 + S);
    let rows: Vec<_> = seen.destinations.iter().map(|row| (row.remote.to_string(), row.used)).collect();
    assert_eq!(rows, [("10.0.0.5:80".to_owned(), 2), ("10.0.0.7:80".to_owned(), 1)]);
}

#[test]
fn biggest_destinations_are_exact_in_a_small_table() {
    let mut host = Host::new(&[HUNDRED]);
    host.aggregate.ports = Ports { settings: host.aggregate.ports.settings.clone(), ..Ports::with_room(8) };
    let mut all = Vec::new();
    for n in 0..200_u16 {
        // Every fourth connection goes to one destination; the others to one each.
        let daddr = if n % 4 == 0 { "10.0.0.5".into() } else { format!("10.1.0.{n}") };
        let client = host.client(&daddr, 80, 41_000 + n % 100);
        host.open(T0 + u64::from(n) * MS, client);
        all.push(client);
    }
    let seen = host.ports(T0 + S);
    assert_eq!(
        (seen.destinations[0].remote.to_string(), seen.destinations[0].used),
        ("10.0.0.5:80".into(), 50)
    );
    assert!(seen.destinations.len() <= 8);
    assert_eq!(seen.others + seen.destinations.len() as u64, 151);
    for client in all {
        host.close_passively(T0 + 2 * S, client);
    }
    assert_eq!(host.ports(T0 + 3 * S).destinations.len(), 0);
    assert!(host.aggregate.ports.destinations.slots_in_use() <= 1 + 8);
}

#[test]
fn levels_match_the_tracker() {
    let mut host = Host::new(&[]);
    let shape = Shape { connections_per_s: 3_000, ..Shape::default() };
    let mut now = 0;
    for record in Traffic::new(shape, 3).take(60_000) {
        now = now.max(record.ts().unwrap_or_default().0);
        host.take(&record);
    }
    let seen = host.ports(now);
    let mut expected: std::collections::BTreeMap<String, (u64, u64)> = std::collections::BTreeMap::new();
    for (_, socket) in host.tracker.sockets().filter(|(_, socket)| socket.role == Role::Outbound) {
        let offered = (32_768..=60_999).contains(&socket.tuple.sport) || socket.tuple.sport == 0;
        let key = format!("{} {}", socket.tuple.saddr, socket.tuple.remote());
        let row = expected.entry(key).or_default();
        *(if offered { &mut row.0 } else { &mut row.1 }) += 1;
    }
    assert!(expected.len() > 10 && seen.destinations.len() >= expected.len());
    for row in seen.destinations.iter().filter(|row| row.used + row.outside > 0) {
        let key = format!("{} {}", row.local.addr, row.remote);
        assert_eq!(expected.remove(&key), Some((row.used, row.outside)), "{key}");
        assert_eq!(row.counts.iter().sum::<u64>(), row.used);
    }
    assert!(expected.is_empty(), "{expected:?}");
}

#[test]
fn exhausted_destination_enters_the_top_n_and_stays() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
    host.aggregate = host.aggregate.with_places(2);
    for n in 0..8 {
        let client = host.client(&format!("10.0.0.{}", 10 + n), 80, 41_000 + n);
        host.open(T0, client);
    }
    let placed = |ports: PortsSnapshot| -> Vec<Endpoint> {
        ports.destinations.iter().filter(|row| row.has_place).map(|row| row.remote).collect()
    };
    let before = placed(host.ports(T0 + S));
    assert_eq!(before.len(), 2);
    for n in 0..100 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0 + S, client);
    }
    let with_full = placed(host.ports(T0 + 2 * S));
    assert_eq!((with_full.len(), with_full[0].addr), (2, addr("10.0.0.5")));
    assert!(before.contains(&with_full[1]));
    for n in 0..90 {
        let client = host.client("10.0.0.6", 80, 41_000 + n);
        host.open(T0 + 2 * S, client);
    }
    let with_both = placed(host.ports(T0 + 3 * S));
    assert_eq!(
        with_both.iter().map(|end| end.addr).collect::<Vec<_>>(),
        [addr("10.0.0.5"), addr("10.0.0.6")]
    );
}

#[test]
fn every_port_of_an_odd_range_can_be_in_use() {
    let mut host = Host::new(&[("ip_local_port_range", "41000 41100"), ("tcp_tw_reuse", "0")]);
    for n in 0..=100 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0, client);
    }
    let seen = host.only(T0 + S);
    assert_eq!((seen.used, seen.available, seen.exhausted_in), (101, Some(101), Some(Nanos(0))));
}

#[test]
fn searching_connect_counts_only_while_ports_are_left() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
    for n in 0..99 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0, client);
    }
    // Two connects that have sent their SYN, or search for a port.
    let waiting = [1, 2].map(|n| host.client("10.0.0.5", 80, 41_098 + n));
    let mut seen = Vec::new();
    for (n, client) in waiting.into_iter().enumerate() {
        host.step(T0 + S + n as u64, client, TcpState::Close, TcpState::SynSent, flag::TASK);
        let row = host.only(T0 + 2 * S);
        assert_eq!(row.counts.iter().sum::<u64>(), row.used);
        seen.push((row.used, row.available, row.count(TcpState::SynSent)));
    }
    // One found the last port, the other none.
    host.step(T0 + 3 * S, waiting[0], TcpState::SynSent, TcpState::Established, 0);
    let row = host.only(T0 + 3 * S);
    seen.push((row.used, row.available, row.count(TcpState::SynSent)));
    let last = Client { sport: 0, ..waiting[1] };
    host.step(T0 + 3 * S, last, TcpState::SynSent, TcpState::Close, 0);
    let row = host.only(T0 + 3 * S);
    seen.push((row.used, row.available, row.connect_failures));
    assert_eq!(seen, [(100, Some(100), 1), (100, Some(100), 1), (100, Some(100), 0), (100, Some(100), 1)]);
    for client in waiting {
        host.close_passively(T0 + 4 * S, client);
    }
    assert_eq!(host.only(T0 + 5 * S).used, 99);
}

#[test]
fn port_taken_again_by_bind_is_counted_once() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
    for n in 0..100 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0, client);
    }
    // Another local address: bind() can take a port that a connection of 10.0.0.1 uses.
    let other = Client { saddr: addr("10.0.0.2"), ..host.client("10.0.0.5", 80, 41_050) };
    host.open_bound(T0, other);
    let seen = host.ports(T0 + S);
    let full = seen.destinations.iter().find(|row| row.used > 0).expect("a row");
    assert_eq!((full.used, full.available, full.exhausted_in), (100, Some(100), Some(Nanos(0))));
}

#[test]
fn unknown_budget_has_no_prediction_and_sorts_last() {
    let mut host = Host::new(&[]);
    host.aggregate = host.aggregate.with_places(1);
    for n in 0..90 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0 + u64::from(n) * 50 * MS, client);
    }
    let seen = host.only(T0 + 5 * S);
    assert_eq!(
        (seen.used, seen.available, seen.exhausted_in, seen.reuse),
        (90, None, None, TwReuse::Unknown)
    );

    // A destination in another namespace with a known budget, half used: it comes first and is in the top N.
    let mut known = host.client("10.0.0.6", 80, 0);
    let sysctls = [("net.ipv4.ip_local_port_range".to_owned(), "41000 41099".to_owned())];
    host.take(&Record::NetnsSettings { ts: Nanos(T0), netns: NetnsId(8), sysctls: sysctls.into() });
    for n in 0..50 {
        known.sport = 41_000 + n;
        let tuple =
            Tuple { saddr: known.saddr, daddr: known.daddr, sport: known.sport, dport: 80, ifindex: 0 };
        let since = crate::lifecycle::Since::Exact(Nanos(T0));
        let mut socket = Socket::new(tuple, NetnsId(8), TcpState::Established, since);
        (socket.role, socket.counted.shown) = (Role::Outbound, StateSet::ALL);
        host.aggregate.ports.appeared(&mut socket, host.tracker.processes());
    }
    let rows = host.ports(T0 + 200 * S).destinations;
    let rows: Vec<_> = rows.iter().map(|row| (row.netns.0, row.used, row.has_place)).collect();
    assert_eq!(rows, [(8, 50, true), (7, 90, false)]);
}

#[test]
fn failure_right_after_reuses_is_not_a_failing_peer() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "1"), ("tcp_timestamps", "1")]);
    let mut clients = Vec::new();
    for n in 0..100 {
        let client = host.client("10.0.0.5", 80, 41_000 + n);
        host.open(T0, client);
        host.close(T0 + MS, client);
        clients.push(client);
    }
    // Two seconds later all are reused at once, and then none is old enough.
    let later = T0 + 2 * S;
    for (n, old) in clients.into_iter().enumerate() {
        let at = later + n as u64 * MS;
        let new = host.client("10.0.0.5", 80, old.sport);
        host.step(at, new, TcpState::Close, TcpState::SynSent, flag::TASK);
        host.reuse_timewait(at + 1_000, old);
        host.step(at + 2_000, new, TcpState::SynSent, TcpState::Established, 0);
        host.close(at + 3_000, new);
    }
    let client = host.client("10.0.0.5", 80, 0);
    host.fail(later + 200 * MS, client);
    // They are old enough again now, but were not when connect() failed.
    let seen = host.only(later + 1_900 * MS);
    assert_eq!((seen.reused, seen.connect_failures), (100, 1));
    assert_eq!((seen.reuse, seen.exhausted_in), (TwReuse::On, Some(Nanos(0))));
}

#[test]
fn port_outside_the_range_does_not_count_as_opened() {
    let rate_with = |others: u64| {
        let mut host = Host::new(&[HUNDRED]);
        for n in 0..10 {
            let at = T0 + n * 100 * MS;
            let client = host.client("10.0.0.5", 80, 41_000 + n as u16);
            host.open(at, client);
            // The SYN-ACK reveals that the port is not one that connect() chooses from.
            for _ in 0..others {
                let elsewhere = host.client("10.0.0.5", 80, 5_000 + n as u16);
                host.open(at + MS, elsewhere);
            }
        }
        let seen = host.only(T0 + S);
        assert_eq!((seen.used, seen.outside), (10, 10 * others));
        // An established connection took its port earlier, whatever the range is now.
        host.set(&[("ip_local_port_range", "50000 50099")]);
        let later = host.only(T0 + S);
        assert_eq!((later.used, later.outside), (0, 10 + 10 * others));
        assert!((later.entered_per_s - seen.entered_per_s).abs() < 0.01, "{}", later.entered_per_s);
        seen.entered_per_s
    };
    let alone = rate_with(0);
    assert!(alone > 5.0 && (rate_with(3) - alone).abs() < 0.01, "{alone}");
}

#[test]
fn reserved_ranges_are_bounded_and_refusals_counted() {
    let every_other: Vec<String> = (1..=u16::MAX).step_by(2).map(|port| port.to_string()).collect();
    let settings = |netns: u32| {
        let reserved = ("net.ipv4.ip_local_reserved_ports".to_owned(), every_other.join(","));
        let range = ("net.ipv4.ip_local_port_range".to_owned(), "1 65535".to_owned());
        Record::NetnsSettings { ts: Nanos(T0), netns: NetnsId(netns), sysctls: [reserved, range].into() }
    };
    let gone = |netns: u32| Record::NetnsSettings {
        ts: Nanos(T0),
        netns: NetnsId(netns),
        sysctls: std::collections::BTreeMap::default(),
    };
    let mut ports = Ports::default();
    let fit = (RESERVED_RANGES / every_other.len()) as u32;
    for netns in 0..fit {
        assert_eq!(ports.take(&settings(netns)), Some(NetnsId(netns)));
    }
    assert_eq!((ports.take(&settings(fit)), ports.refused()), (None, 1));
    assert_eq!((ports.take(&settings(0)), ports.refused()), (None, 1), "a known namespace is updated");
    ports.take(&gone(3));
    assert_eq!(ports.take(&settings(fit)), Some(NetnsId(fit)));
    for netns in 0..=fit {
        ports.take(&gone(netns));
    }
    assert_eq!((ports.settings.len(), ports.reserved_ranges), (0, 0));
}
