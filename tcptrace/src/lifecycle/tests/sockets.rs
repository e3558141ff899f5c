//! The socket, the socket table and the hash of ids.

use std::{collections::HashSet, hash::BuildHasher as _};

use super::*;
use crate::{
    lifecycle::{Since, listed::closer_of, port_ranges::PortRanges, table::BlockHasherBuilder},
    model::StateSet,
};

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

fn socket(state: TcpState) -> Socket {
    let tuple = Tuple { saddr: addr("10.0.0.1"), daddr: addr("10.0.0.2"), sport: 5, dport: 6, ifindex: 0 };
    Socket::new(tuple, NetnsId(1), state, Since::Unknown)
}

#[test]
fn sockets_show_in_requested_states_except_close() {
    for state in TcpState::ALL {
        let mut socket = socket(state);
        assert_eq!(socket.is_shown(), state != TcpState::Close, "{state:?}");
        socket.counted.shown = StateSet::EMPTY;
        assert!(!socket.is_shown(), "{state:?}");
        socket.counted.shown = StateSet::of(TcpState::CloseWait);
        assert_eq!(socket.is_shown(), state == TcpState::CloseWait, "{state:?}");
        assert!(!socket.is_counted());
        socket.counted.group = 0;
        assert!(socket.is_counted());
        assert!(!socket.is_orphan_fin_wait2());
        socket.orphan_since = Some(Nanos(1));
        assert_eq!(socket.is_orphan_fin_wait2(), state == TcpState::FinWait2, "{state:?}");
    }
}

#[test]
fn known_ends_must_match_and_unknown_ends_are_learned() {
    let any = Tuple { saddr: Addr::ANY, daddr: Addr::ANY, sport: 0, dport: 0, ifindex: 0 };
    let whole = socket(TcpState::Established).tuple;
    let known = [
        Tuple { sport: whole.sport, ..any },
        Tuple { dport: whole.dport, ..any },
        Tuple { saddr: whole.saddr, ..any },
        Tuple { daddr: whole.daddr, ..any },
    ];
    let other = [
        Tuple { sport: 9, ..whole },
        Tuple { dport: 9, ..whole },
        Tuple { saddr: addr("10.0.0.9"), ..whole },
        Tuple { daddr: addr("10.0.0.9"), ..whole },
    ];
    let full = socket(TcpState::Established);
    assert!(full.matches_tuple(&whole) && full.matches_tuple(&any));
    for (known, other) in known.iter().zip(&other) {
        assert!(full.matches_tuple(known), "{known:?}");
        assert!(!full.matches_tuple(other), "{other:?}");
        let mut part = socket(TcpState::Established);
        part.tuple = *known;
        assert!(part.matches_tuple(&whole) && !part.matches_tuple(other), "{known:?}");
        // Unknown ends stay as they are; more precise ends replace the known ones.
        let mut learns = socket(TcpState::Established);
        assert!(!learns.learn_tuple(known) && !learns.learn_tuple(&any));
        assert!(learns.learn_tuple(other));
        assert_eq!(learns.tuple, *other);
        part.tuple = any;
        assert!(part.learn_tuple(known));
        assert_eq!(part.tuple, *known);
    }
}

#[test]
fn service_is_the_connected_end() {
    let mut socket = socket(TcpState::Established);
    for (role, any, port, is_any) in [
        (Role::Inbound, false, 5, false),
        (Role::Inbound, true, 5, true),
        (Role::Listener, true, 5, false),
        (Role::Outbound, true, 6, false),
        (Role::Unknown, true, 6, false),
    ] {
        (socket.role, socket.listener_is_any) = (role, any);
        let service = socket.service();
        assert_eq!((service.port, service.addr.is_any()), (port, is_any), "{role:?} {any}");
    }
}

#[test]
fn older_orders_by_earliest_start() {
    let (exact, latest) = (|ns| Since::Exact(Nanos(ns)), |ns| Since::AtLatest(Nanos(ns)));
    for (a, b, older) in [
        (exact(1), exact(2), exact(1)),
        (exact(2), latest(1), latest(1)),
        (exact(1), latest(1), latest(1)),
        (Since::Inferred(Nanos(3)), exact(3), Since::Inferred(Nanos(3))),
        (exact(5), exact(5), exact(5)),
    ] {
        assert_eq!((a.older(b), b.older(a)), (older, older), "{a:?} {b:?}");
    }
    // Of two equal ones the first stays.
    assert_eq!(latest(1).older(Since::Inferred(Nanos(1))), latest(1));
    assert_eq!(Since::Inferred(Nanos(1)).older(latest(1)), Since::Inferred(Nanos(1)));
}

#[test]
fn closer_follows_from_a_later_state() {
    use super::super::Closer;
    for state in TcpState::ALL {
        let wanted = match state.name() {
            "FIN_WAIT1" | "FIN_WAIT2" | "TIME_WAIT" => Closer::Local,
            "CLOSING" => Closer::Both,
            "CLOSE_WAIT" | "LAST_ACK" => Closer::Remote,
            _ => Closer::None,
        };
        assert_eq!(closer_of(state), wanted, "{state:?}");
    }
}

#[test]
fn remote_port_in_the_range_means_inbound() {
    let settings = |netns: u32, range: &str| Record::NetnsSettings {
        ts: Nanos(1),
        netns: NetnsId(netns),
        sysctls: [("net.ipv4.ip_local_port_range".to_owned(), range.to_owned())].into(),
    };
    let gone = Record::NetnsSettings { ts: Nanos(1), netns: NetnsId(1), sysctls: [].into() };
    let host = Record::Host(Box::new(HostFacts {
        netns: 1,
        sysctls: [("net.ipv4.ip_local_port_range".to_owned(), "40000 50000".to_owned())].into(),
        ..HostFacts::default()
    }));
    let role = |ranges: &PortRanges, sport, dport| {
        let mut socket = socket(TcpState::Established);
        (socket.tuple.sport, socket.tuple.dport) = (sport, dport);
        ranges.role_of(&socket)
    };
    let mut ranges = PortRanges::default();
    assert_eq!(role(&ranges, 80, 40_000), Role::Outbound, "nothing is known of the namespace");
    ranges.take(&host);
    for (sport, dport, wanted) in [
        (80, 40_000, Role::Inbound),
        (80, 50_000, Role::Inbound),
        (39_999, 45_000, Role::Inbound),
        (80, 50_001, Role::Outbound),
        (80, 39_999, Role::Outbound),
        (40_000, 45_000, Role::Outbound),
        (45_000, 80, Role::Outbound),
        (80, 443, Role::Outbound),
    ] {
        assert_eq!(role(&ranges, sport, dport), wanted, "{sport} {dport}");
    }
    ranges.take(&settings(1, "1000 2000"));
    assert_eq!(role(&ranges, 80, 1_500), Role::Inbound);
    ranges.take(&host);
    assert_eq!(role(&ranges, 80, 1_500), Role::Inbound, "the namespace's own settings stay");
    ranges.take(&gone);
    assert_eq!(role(&ranges, 80, 1_500), Role::Outbound);
    ranges.take(&host);
    assert_eq!(role(&ranges, 80, 45_000), Role::Inbound);
    // A full table still updates known namespaces.
    (2..=PortRanges::MOST as u32 + 1).for_each(|netns| ranges.take(&settings(netns, "1 2")));
    ranges.take(&settings(1, "7000 8000"));
    assert_eq!(role(&ranges, 80, 7_500), Role::Inbound);
    ranges.take(&gone);
    ranges.take(&settings(PortRanges::MOST as u32 + 1, "1 2"));
    ranges.take(&settings(1, "7000 8000"));
    assert_eq!(role(&ranges, 80, 7_500), Role::Outbound, "there is no room");
}

#[test]
fn sixteen_consecutive_ids_share_a_block() {
    const TAG: u64 = 0x7f << 57;
    const BLOCKS: u64 = 1 << 12;
    let hashes = BlockHasherBuilder::default();
    let hash = |id: u64| hashes.hash_one(SocketId(id));
    let mut blocks = HashSet::new();
    let mut tags = HashSet::new();
    let mut low = HashSet::new();
    for block in 0..BLOCKS {
        let first = hash(block * 16) & !TAG;
        assert_eq!(first % 16, 0, "{block}");
        for n in 0..16 {
            let hash = hash(block * 16 + n);
            assert_eq!(hash & !TAG, first + n, "{block} {n}");
            tags.insert(hash & TAG);
        }
        assert!(blocks.insert(first), "{block}: two blocks in one place");
        low.insert(first / 16 % BLOCKS);
    }
    // 4,096 random choices hit about two thirds of 4,096 slots.
    assert!(low.len() as u64 > BLOCKS / 2, "{} of {BLOCKS}", low.len());
    assert_eq!(tags.len(), 128);
    // Ids that are far apart, such as those of many CPUs, are no worse, with any seed.
    for _ in 0..100 {
        let hashes = BlockHasherBuilder::default();
        let bucket = |n| (hashes.hash_one(SocketId(n << 44 | n << 20)) & !TAG) / 16 % BLOCKS;
        let far: HashSet<u64> = (0..BLOCKS).map(bucket).collect();
        assert!(far.len() as u64 > BLOCKS / 2, "{} of {BLOCKS}", far.len());
    }
    // Each table has its own seed.
    let other = BlockHasherBuilder::default();
    assert!((0..64).any(|n| hash(n * 16) != other.hash_one(SocketId(n * 16))));
}

#[test]
fn memory_is_counted_per_socket() {
    let mut run = TrackerRun::new();
    let mut sizes = vec![run.tracker.size_bytes()];
    for cookie in 1..=3 {
        run.client(cookie, cookie, TcpState::Close, TcpState::SynSent);
        assert_eq!(run.tracker.count() as u64, cookie);
        sizes.push(run.tracker.size_bytes());
    }
    let each = sizes[1];
    assert!((size_of::<Socket>()..=2 * size_of::<Socket>()).contains(&each), "{each}");
    assert_eq!(sizes, [0, each, 2 * each, 3 * each]);
}

#[test]
fn search_for_a_port_is_the_dwell_before_the_syn() {
    use TcpState as T;
    // (connected at, in ms; eight times the round trip, in us; the rest of the event)
    for (at_ms, srtt_us, expected) in [
        (10, 8 * 4_000, " search 6000us"),
        (10, 0, ""),
        (10, 8 * 10_500, " search 0us"),
        (1_010, 8 * 4_000, ""),
        (10, u64::MAX, " search 0us"),
    ] {
        let mut run = TrackerRun::new();
        run.client(0, 1, T::Close, T::SynSent).take(full(at_ms, 1, T::SynSent, T::Established, srtt_us, 0));
        let line = format!("1 SYN_SENT>ESTABLISHED {at_ms}ms{expected}");
        assert_eq!(run.lines().last(), Some(&line.as_str()), "{srtt_us}");
    }
}
