//! Connections whose truth is known, and what becomes of their ports.

use std::net::IpAddr;

use tcptrace_common::record::{self as raw, Kind, flag};

use super::*;
use crate::{
    aggregate::{Aggregate, Context, Grouping, Names, Scope},
    filter::StateSet,
    lifecycle::{Limits, Tracker},
    model::{Addr, Nanos, Observation},
    synthetic::{Shape, Traffic},
};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const T0: u64 = 1_000 * S;
const NETNS: NetnsId = NetnsId(7);

/// A namespace with a tracker over it.
struct Host {
    tracker: Tracker,
    aggregate: Aggregate,
    cookies: u64,
}

/// A connection from here.
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
            tracker: Tracker::new(Limits::default()),
            aggregate: Aggregate::new(Grouping::NONE, Scope::Minisockets),
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
            self.tracker.look_again(netns, &mut self.aggregate);
        }
    }

    fn client(&mut self, daddr: &str, dport: u16, sport: u16) -> Client {
        self.cookies += 1;
        Client { cookie: self.cookies, saddr: addr("10.0.0.1"), daddr: addr(daddr), sport, dport }
    }

    fn step(&mut self, at: u64, client: Client, old: TcpState, new: TcpState, flags: u8) {
        let kind = if old == TcpState::TimeWait {
            Kind::MinisocketExpired
        } else if new == TcpState::TimeWait {
            Kind::MinisocketArmed
        } else {
            Kind::Transition
        };
        let chosen_late = old == TcpState::Close && flags & flag::DONE == 0;
        let raw = raw::Record {
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
            new: if kind == Kind::MinisocketExpired { old } else { new } as u8,
            flags: flags & !flag::DONE,
        };
        let task = raw::Task { cgroup: 5, tgid: 42, tid: 42, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0" };
        self.take(&Record::Kernel(Observation { raw, task: (old == TcpState::Close).then_some(task) }));
    }

    /// `connect()` and the answer.
    fn open(&mut self, at: u64, client: Client) {
        self.step(at, client, TcpState::Close, TcpState::SynSent, flag::TASK);
        self.step(at + 10_000, client, TcpState::SynSent, TcpState::Established, 0);
    }

    /// The same after `bind()`.
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

    /// We close first: TIME_WAIT.
    fn close(&mut self, at: u64, client: Client) {
        use TcpState::{Established, FinWait1, FinWait2, TimeWait};
        self.step(at, client, Established, FinWait1, 0);
        self.step(at + 1_000, client, FinWait1, FinWait2, flag::ORPHAN);
        self.step(at + 2_000, client, FinWait2, TimeWait, 0);
    }

    /// The peer closed first: no TIME_WAIT here.
    fn close_second(&mut self, at: u64, client: Client) {
        use TcpState::{Close, CloseWait, Established, LastAck};
        self.step(at, client, Established, CloseWait, 0);
        self.step(at + 1_000, client, CloseWait, LastAck, 0);
        self.step(at + 2_000, client, LastAck, Close, flag::ORPHAN | flag::SHUTDOWN_BOTH);
    }

    fn expire(&mut self, at: u64, client: Client) {
        self.step(at, client, TcpState::TimeWait, TcpState::Close, 0);
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
        self.aggregate.snapshot(Nanos(at), &self.tracker, &Names::default(), Context::default()).ports
    }

    fn only(&mut self, at: u64) -> DestinationPorts {
        let mut destinations = self.ports(at).destinations;
        assert_eq!(destinations.len(), 1, "{destinations:?}");
        destinations.remove(0)
    }
}

const HUNDRED: (&str, &str) = ("ip_local_port_range", "41000 41099");

#[test]
fn a_client_that_runs_out_of_ports_is_predicted_all_the_way() {
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
            let predicted = seen.exhausted_in.expect("it will run out").0;
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
    // A minute later all have come back.
    (1..=100).for_each(|cookie| {
        let client = Client { cookie, ..host.client("10.0.0.5", 80, 40_999 + cookie as u16) };
        host.expire(T0 + (cookie - 1) * apart + 60_500 * MS, client);
    });
    let seen = host.only(T0 + 100 * S);
    assert_eq!((seen.used, seen.exhausted_in, seen.connect_failures), (0, None, 3));
}

#[test]
fn with_reuse_the_same_client_never_runs_out() {
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
fn a_reuse_that_does_not_happen_is_none() {
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
fn each_pair_of_addresses_and_port_has_its_own_budget() {
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
fn ports_of_bind_and_listen_are_missing_everywhere_and_others_nowhere() {
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
    host.close_second(T0 + 2 * S, bound);
    let seen = host.ports(T0 + 3 * S);
    assert_eq!((seen.netns[0].taken, seen.netns[0].available()), (0, Some(100)));
}

#[test]
fn settings_that_change_count_anew() {
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
fn connections_that_the_peer_closes_first_level_off() {
    let mut host = Host::new(&[HUNDRED]);
    // 20/s, each open for 2 s: 40 ports.
    let mut open = std::collections::VecDeque::new();
    for n in 0..600 {
        let at = T0 + n * 50 * MS;
        let client = host.client("10.0.0.5", 80, 41_000 + (n % 100) as u16);
        host.open(at, client);
        open.push_back(client);
        if open.len() > 40 {
            let client = open.pop_front().expect("one that is open");
            host.close_second(at + MS, client);
        }
    }
    let seen = host.only(T0 + 30 * S);
    assert_eq!((seen.used, seen.exhausted_in, seen.predicted), (40, None, 40));
    assert!((seen.left_per_s - 20.0).abs() < 1.0);
}

#[test]
fn a_filter_chooses_destinations_and_cuts_nothing_from_them() {
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
        let tuple = crate::model::Tuple {
            saddr: client.saddr,
            daddr: client.daddr,
            sport: client.sport,
            dport: client.dport,
            ifindex: 0,
        };
        let since = crate::lifecycle::Since::Exact(Nanos(T0));
        let mut socket = Socket::new(tuple, NETNS, TcpState::Established, since);
        (socket.role, socket.shown) = (Role::Outbound, shown);
        host.aggregate.ports.appeared(&mut socket, host.tracker.processes());
    }
    let seen = host.ports(T0 + S);
    let rows: Vec<_> = seen.destinations.iter().map(|row| (row.remote.to_string(), row.used)).collect();
    assert_eq!(rows, [("10.0.0.5:80".to_owned(), 2), ("10.0.0.7:80".to_owned(), 1)]);
}

#[test]
fn the_biggest_destinations_are_exact_in_little_room() {
    let mut host = Host::new(&[HUNDRED]);
    host.aggregate.ports = Ports { settings: host.aggregate.ports.settings.clone(), ..Ports::with_room(8) };
    let mut all = Vec::new();
    for n in 0..200_u16 {
        // Every fourth goes to the same one; the others to one each.
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
        host.close_second(T0 + 2 * S, client);
    }
    assert_eq!(host.ports(T0 + 3 * S).destinations.len(), 0);
    assert!(host.aggregate.ports.destinations.slots_in_use() <= 1 + 8);
}

#[test]
fn levels_are_what_the_tracker_has() {
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
fn a_destination_that_runs_out_takes_a_place_and_keeps_it() {
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
