//! Ends of made-up connections of hosts whose clocks differ.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    lifecycle::{Bound, Closer, Dwell, EndReason, OwnerKind},
    model::{Addr, Nanos, NetnsId, Tuple, nat},
};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Monotonic 0 of every host, by a clock that is right.
const EPOCH: u64 = 1_767_323_045 * S;

fn host(n: u16, ahead_ns: i64) -> HostFacts {
    HostFacts {
        host: format!("web-{n}"),
        boot_id: format!("boot {n}"),
        clock_offset_ns: EPOCH.saturating_add_signed(ahead_ns),
        ..HostFacts::default()
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// The address of host `n`.
fn of_host(n: u16) -> Addr {
    addr(&format!("10.0.0.{n}"))
}

/// A change of state: when, of which host, and the event.
type Change = (u64, u16, Event<'static>);

/// How a connection ends, from the view of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MadeEnding {
    First,
    Second,
    Both,
    Resets,
    IsReset,
    TimesOut,
    Never,
}

struct MadeEnd {
    host: u16,
    id: u64,
    tuple: Tuple,
    role: Role,
    /// When it becomes ESTABLISHED, and when it closes.
    at: (u64, u64),
    ending: MadeEnding,
}

impl MadeEnd {
    fn changes(&self) -> Vec<Change> {
        use TcpState as T;
        let (opened, closes) = self.at;
        let mut changes = Vec::new();
        let mut before = (T::Close, opened - MS);
        let mut first = Closer::None;
        let mut step = |ts: u64, to: T, end_reason: Option<EndReason>| {
            first = match (first, before.0, to) {
                (Closer::None, T::Established, T::FinWait1) => Closer::Local,
                (Closer::None, T::Established, T::CloseWait) => Closer::Remote,
                (_, T::FinWait1, T::Closing) => Closer::Both,
                (Closer::None, _, T::Close) => match self.ending {
                    MadeEnding::Resets => Closer::ResetSent,
                    MadeEnding::IsReset => Closer::ResetReceived,
                    MadeEnding::TimesOut => Closer::TimedOut,
                    _ => Closer::None,
                },
                (known, ..) => known,
            };
            let is_first = before.0 == T::Close;
            let event = Event {
                ts: Nanos(ts),
                id: SocketId(self.id),
                netns: NetnsId(1),
                // The kernel sets the port late.
                tuple: if to == T::SynSent { Tuple { sport: 0, ..self.tuple } } else { self.tuple },
                role: self.role,
                role_guessed: false,
                from: before.0,
                to,
                begins: is_first,
                dwell: (!is_first).then(|| Dwell { length: Nanos(ts - before.1), bound: Bound::Exact }),
                closer: first,
                end_reason,
                reason_inferred: false,
                orphan: None,
                orphan_for: None,
                search: None,
                extended: false,
                owner: OwnerKind::Unknown,
                process: None,
            };
            changes.push((ts, self.host, event));
            before = (to, ts);
        };
        step(opened - MS, if self.role == Role::Outbound { T::SynSent } else { T::SynRecv }, None);
        step(opened, T::Established, None);
        match self.ending {
            MadeEnding::First => {
                step(closes, T::FinWait1, None);
                step(closes + MS, T::FinWait2, None);
                step(closes + 2 * MS, T::TimeWait, None);
            }
            MadeEnding::Second => {
                step(closes + MS / 2, T::CloseWait, None);
                step(closes + 3 * MS / 2, T::LastAck, None);
                step(closes + 5 * MS / 2, T::Close, Some(EndReason::Closed));
            }
            MadeEnding::Both => {
                step(closes, T::FinWait1, None);
                step(closes + MS, T::Closing, None);
                step(closes + 2 * MS, T::TimeWait, None);
            }
            MadeEnding::Resets => step(closes, T::Close, Some(EndReason::ResetSentLinger)),
            MadeEnding::IsReset => step(closes + MS, T::Close, Some(EndReason::ResetReceived)),
            MadeEnding::TimesOut => step(closes, T::Close, Some(EndReason::Timeout)),
            MadeEnding::Never => {}
        }
        changes
    }
}

/// A connection from port `port` of one host to port 80 of another one.
#[derive(Clone, Copy, Debug)]
struct MadeConnection {
    client: u16,
    server: u16,
    port: u16,
    at: (u64, u64),
    endings: (MadeEnding, MadeEnding),
}

impl MadeConnection {
    /// Its ends, whose ids are even and odd.
    fn ends(&self, n: u64) -> [MadeEnd; 2] {
        let tuple = Tuple {
            saddr: of_host(self.client),
            daddr: of_host(self.server),
            sport: self.port,
            dport: 80,
            ifindex: 0,
        };
        let (at, server_at) = (self.at, (self.at.0 + MS, self.at.1));
        [
            MadeEnd { host: self.client, id: 2 * n, tuple, role: Role::Outbound, at, ending: self.endings.0 },
            MadeEnd {
                host: self.server,
                id: 2 * n + 1,
                tuple: Tuple {
                    saddr: tuple.daddr,
                    daddr: tuple.saddr,
                    sport: tuple.dport,
                    dport: tuple.sport,
                    ..tuple
                },
                role: Role::Inbound,
                at: server_at,
                ending: self.endings.1,
            },
        ]
    }
}

/// Feeds changes in the order of the hosts' clocks, then lets `until` pass on each.
fn join(
    pairs: &mut Joiner,
    mut changes: Vec<Change>,
    hosts: &[HostFacts],
    until: u64,
) -> Vec<JoinedConnection> {
    changes.sort_by_key(|(ts, host, event)| (hosts[usize::from(*host)].wall_ns(Nanos(*ts)), event.id.0));
    for facts in hosts {
        pairs.record(&Record::Tick { ts: Nanos(0) }, facts);
    }
    for (_, host, event) in &changes {
        pairs.event(event, &hosts[usize::from(*host)]);
    }
    for facts in hosts {
        pairs.record(&Record::Tick { ts: Nanos(until) }, facts);
    }
    pairs.finish();
    pairs.drain().collect()
}

fn of(connections: &[MadeConnection]) -> Vec<Change> {
    let ends = (0..).zip(connections).flat_map(|(n, connection)| connection.ends(n));
    ends.flat_map(|end| end.changes()).collect()
}

fn hosts() -> Vec<HostFacts> {
    vec![host(0, 0), host(1, 0), host(2, 0)]
}

const FIN: (MadeEnding, MadeEnding) = (MadeEnding::First, MadeEnding::Second);

fn connection(port: u16, at: u64, endings: (MadeEnding, MadeEnding)) -> MadeConnection {
    MadeConnection { client: 1, server: 2, port, at: (at * S, at * S + S / 2), endings }
}

#[test]
fn the_side_that_closes_first_is_named() {
    use MadeEnding as E;
    let cases = [
        (FIN, ClosedFirst::Client),
        ((E::Second, E::First), ClosedFirst::Server),
        ((E::Both, E::Both), ClosedFirst::Both),
        ((E::Resets, E::IsReset), ClosedFirst::Reset),
        ((E::IsReset, E::Resets), ClosedFirst::Reset),
        ((E::TimesOut, E::TimesOut), ClosedFirst::Timeout),
        ((E::Never, E::Never), ClosedFirst::Unknown),
    ];
    for (endings, expected) in cases {
        let mut pairs = Joiner::new(Filter::EVERYTHING);
        let joined = join(&mut pairs, of(&[connection(4_000, 10, endings)]), &hosts(), 100 * S);
        let [one] = &joined[..] else { panic!("{joined:?}") };
        assert_eq!(one.closed_first(), expected, "{endings:?}");
        let status = if endings.0 == E::Never { JoinStatus::Open } else { JoinStatus::Closed };
        assert_eq!(one.status, status);
        assert_eq!(
            (one.client.as_ref().map(|end| end.id.0), one.server.as_ref().map(|end| end.id.0)),
            (Some(0), Some(1))
        );
        let services = pairs.summary().services();
        assert_eq!((services.len(), services[0].1[expected as usize]), (1, 1));
    }
}

/// Some event.
pub fn any_event() -> Event<'static> {
    of(&[connection(4_000, 10, FIN)]).remove(0).2
}

/// Counts of connections that end in every way, and of ends without the other one.
pub fn made_summary() -> JoinSummary {
    made().1
}

/// The same connections, and their counts.
pub fn made() -> (Vec<JoinedConnection>, JoinSummary) {
    use MadeEnding as E;
    let endings = [
        FIN,
        FIN,
        (E::Second, E::First),
        (E::Both, E::Both),
        (E::Resets, E::IsReset),
        (E::TimesOut, E::Never),
    ];
    let made: Vec<MadeConnection> =
        (0..).zip(endings).map(|(n, endings)| connection(4_000 + n, 10, endings)).collect();
    let mut changes = of(&made);
    changes.extend(connection(5_000, 99, FIN).ends(77).into_iter().take(1).flat_map(|end| end.changes()));
    let mut pairs = Joiner::new(Filter::EVERYTHING);
    let joined = join(&mut pairs, changes, &hosts(), 100 * S);
    (joined, pairs.summary().clone())
}

#[test]
fn an_end_whose_peer_is_gone_is_half_open() {
    let made = [connection(4_000, 10, (MadeEnding::TimesOut, MadeEnding::Never))];
    let joined = join(&mut Joiner::new(Filter::EVERYTHING), of(&made), &hosts(), 100 * S);
    assert_eq!((joined.len(), joined[0].status), (1, JoinStatus::HalfOpen));
    // The end of the recording came in between.
    let joined = join(&mut Joiner::new(Filter::EVERYTHING), of(&made), &hosts(), 11 * S);
    assert_eq!(joined[0].status, JoinStatus::Open);
}

#[test]
fn an_end_without_the_other_has_a_likely_reason() {
    let reason = |changes: Vec<Change>, lost: u64| {
        let mut pairs = Joiner::new(Filter::EVERYTHING);
        let hosts = hosts();
        // Both hosts are known, each by a connection of its own address, from 20 to 60.
        let mut all = of(&[connection(9, 20, FIN), connection(9, 60, FIN)]);
        all.extend(changes);
        let losses = KernelLosses { ring_full: lost, ..KernelLosses::default() };
        pairs.record(&Record::Loss { ts: Nanos(0), losses }, &hosts[2]);
        let began = Nanos(15 * S);
        pairs.record(&Record::Tick { ts: began }, &hosts[2]);
        all.sort_by_key(|(ts, _, event)| (*ts, event.id.0));
        for (_, host, event) in &all {
            pairs.event(event, &hosts[usize::from(*host)]);
        }
        pairs.finish();
        let unmatched: Vec<UnmatchedReason> = pairs
            .drain()
            .filter_map(|joined| match joined.status {
                JoinStatus::Unmatched(reason) => Some(reason),
                _ => None,
            })
            .collect();
        unmatched
    };
    let client = |at: u64| connection(5_000, at, FIN).ends(7).into_iter().next().expect("a client");
    assert_eq!(reason(client(5).changes(), 0), [UnmatchedReason::BeforeRecording]);
    assert_eq!(reason(client(80).changes(), 0), [UnmatchedReason::AfterRecording]);
    assert_eq!(reason(client(40).changes(), 0), [UnmatchedReason::Unexplained]);
    assert_eq!(reason(client(40).changes(), 3), [UnmatchedReason::Lost]);
    let elsewhere = MadeEnd { tuple: Tuple { daddr: addr("192.0.2.7"), ..client(40).tuple }, ..client(40) };
    assert_eq!(reason(elsewhere.changes(), 0), [UnmatchedReason::PeerNotRecorded]);
    let mut refused = client(40).changes();
    refused.truncate(1);
    refused.push({
        let (ts, host, event) = refused[0];
        let end = Event {
            from: TcpState::SynSent,
            to: TcpState::Close,
            begins: false,
            closer: Closer::Refused,
            ..event
        };
        (ts + 1, host, end)
    });
    assert_eq!(reason(refused, 0), [UnmatchedReason::NotEstablished]);
}

#[test]
fn translated_addresses_are_followed() {
    let [client, server] = connection(4_000, 10, FIN).ends(0);
    // The client connects to a service address, and the gateway hides the client.
    let (vip, gateway) = (addr("10.96.0.1"), addr("10.0.1.1"));
    let client = MadeEnd { tuple: Tuple { daddr: vip, dport: 443, ..client.tuple }, ..client };
    let server = MadeEnd { tuple: Tuple { daddr: gateway, ..server.tuple }, ..server };
    let changes = [client.changes(), server.changes()].concat();
    let without = join(&mut Joiner::new(Filter::EVERYTHING), changes.clone(), &hosts(), 100 * S);
    assert_eq!(without.len(), 2);
    let mut pairs = Joiner::new(Filter::EVERYTHING);
    let conntrack = nat::Conntrack {
        translations: vec![nat::Translation {
            snat_addr: gateway,
            daddr: of_host(2),
            dport: 80,
            zone: 0,
            used: 1,
            time_wait: 0,
            close: 0,
            ports: (4_000, 4_000),
            sources: vec![nat::TranslatedSource { saddr: of_host(1), used: 1, time_wait: 0 }],
            other_sources: 0,
        }],
        backends: vec![nat::Backend {
            saddr: of_host(1),
            daddr: vip,
            dport: 443,
            addr: of_host(2),
            port: 80,
            used: 1,
        }],
        ..nat::Conntrack::default()
    };
    let record = Record::Conntrack { ts: Nanos(0), netns: NetnsId(1), conntrack: Box::new(conntrack) };
    pairs.record(&record, &hosts()[0]);
    let joined = join(&mut pairs, changes.clone(), &hosts(), 100 * S);
    let [one] = &joined[..] else { panic!("{joined:?}") };
    assert!(one.is_translated && one.closed_first() == ClosedFirst::Client);
    // Another port than the client's.
    let moved = MadeEnd { tuple: Tuple { dport: 4_001, ..server.tuple }, ..server };
    pairs.record(&record, &hosts()[0]);
    let joined = join(&mut pairs, [client.changes(), moved.changes()].concat(), &hosts(), 100 * S);
    let statuses: Vec<JoinStatus> = joined.iter().map(|joined| joined.status).collect();
    assert_eq!(statuses, [JoinStatus::Unmatched(UnmatchedReason::Nat); 2]);
}

#[test]
fn loopback_addresses_belong_to_their_namespace() {
    let loopback = |end: MadeEnd| MadeEnd {
        tuple: Tuple { saddr: addr("127.0.0.1"), daddr: addr("127.0.0.1"), ..end.tuple },
        ..end
    };
    let [client, server] = connection(4_000, 10, FIN).ends(0).map(loopback);
    let changes = [client.changes(), server.changes()].concat();
    let joined = join(&mut Joiner::new(Filter::EVERYTHING), changes.clone(), &hosts(), 100 * S);
    assert!(joined.len() == 2 && joined.iter().all(|one| matches!(one.status, JoinStatus::Unmatched(_))));
    let same = changes.into_iter().map(|(ts, _, event)| (ts, 1, event)).collect();
    let joined = join(&mut Joiner::new(Filter::EVERYTHING), same, &hosts(), 100 * S);
    assert_eq!((joined.len(), joined[0].status), (1, JoinStatus::Closed));
}

#[test]
fn ends_are_bounded_and_evictions_are_counted() {
    let mut pairs = Joiner::new(Filter::EVERYTHING).with_limit(100);
    let clients = |ending, ports: std::ops::Range<u16>| -> Vec<Change> {
        let client = |port: u16| {
            let one = connection(port, 10 + u64::from(port) / 100, (ending, MadeEnding::Second));
            one.ends(port.into()).into_iter().next().expect("a client").changes()
        };
        ports.flat_map(client).collect()
    };
    let joined = join(&mut pairs, clients(MadeEnding::First, 0..500), &hosts(), 200 * S);
    assert_eq!(joined.len(), 500);
    let evicted = |of: &Joiner| of.summary().unmatched.get(&UnmatchedReason::Evicted).copied();
    assert!(evicted(&pairs).is_some_and(|count| count >= 300), "{:?}", pairs.summary());
    // Ends that never end make no room.
    join(&mut pairs, clients(MadeEnding::Never, 1_000..1_500), &hosts(), 200 * S);
    assert_eq!(pairs.summary().refused, 400);
}

#[test]
fn a_filter_selects_connections_by_either_end() {
    let parse = |text: &str| {
        let expr = crate::filter::parse("--filter", text).expect("an expression");
        Filter::new(Some(expr), &std::collections::BTreeMap::new()).expect("a filter")
    };
    let made = of(&[connection(4_000, 10, FIN), connection(4_001, 11, FIN)]);
    for (text, expected) in
        [("lport 4000", 1), ("rport 4001", 1), ("role inbound", 2), ("state close-wait", 2), ("lport 7", 0)]
    {
        let mut pairs = Joiner::new(parse(text));
        let joined = join(&mut pairs, made.clone(), &hosts(), 100 * S);
        assert_eq!((joined.len(), pairs.summary().matched_count()), (expected, expected as u64), "{text}");
    }
}

fn any_ending() -> impl Strategy<Value = (MadeEnding, MadeEnding)> {
    use MadeEnding as E;
    prop::sample::select(vec![FIN, (E::Second, E::First), (E::Both, E::Both), (E::Resets, E::IsReset)])
}

proptest! {
    /// Clocks differ by up to a minute, a few ports are reused after some seconds, and some ends are missing: the ends that are
    /// joined belong together, and every connection with both ends is joined.
    #[test]
    fn ends_that_belong_together_are_joined(
        ahead_s in prop::collection::vec(-30_i64..30, 3),
        made in prop::collection::vec((0_u16..3, 1_u16..3, 0_u16..20, any_ending(), (0_u8..20, 4_000_u64..60_000)), 30..200),
    ) {
        let hosts: Vec<HostFacts> = (0..).zip(&ahead_s).map(|(n, ahead_s)| host(n, ahead_s * S as i64)).collect();
        let mut last = std::collections::HashMap::new();
        let mut connections = Vec::new();
        for (client, step, port, endings, (_, apart_ms)) in &made {
            let server = (client + step) % 3;
            let at = last.entry((*client, server, *port)).or_insert(100 * S + u64::from(*port) * 37 * MS);
            *at += apart_ms * MS;
            let at = (*at, *at + S);
            connections.push(MadeConnection { client: *client, server, port: 4_000 + port, at, endings: *endings });
        }
        let is_missing = |n: u64| made.get((n / 2) as usize).is_some_and(|made| u64::from(made.4.0) == n % 2);
        // Connections that show the offsets of the clocks.
        for (client, server, port) in (0..60).map(|n| (n % 3, (n % 3 + 1 + n / 3 % 2) % 3, 20_000 + n)) {
            let at = (50 * S + u64::from(port - 20_000) * 31 * MS, 2_000 * S);
            connections.push(MadeConnection { client, server, port, at, endings: FIN });
        }
        let mut changes = of(&connections);
        changes.retain(|(_, _, event)| !is_missing(event.id.0));
        let until = 100_000 * S;
        let joined = join(&mut Joiner::new(Filter::EVERYTHING), changes, &hosts, until);
        let mut whole = 0;
        for one in &joined {
            if let (Some(client), Some(server)) = (&one.client, &one.server) {
                prop_assert_eq!(client.id.0 + 1, server.id.0);
                let expected = match connections[(client.id.0 / 2) as usize].endings.0 {
                    MadeEnding::First => ClosedFirst::Client,
                    MadeEnding::Second => ClosedFirst::Server,
                    MadeEnding::Both => ClosedFirst::Both,
                    _ => ClosedFirst::Reset,
                };
                prop_assert_eq!(one.closed_first(), expected);
                whole += 1;
            }
        }
        let complete = (0..connections.len() as u64).filter(|n| !is_missing(2 * n) && !is_missing(2 * n + 1)).count();
        prop_assert_eq!(whole, complete);
    }
}
