//! Tests of single rows and tables: weight of a group, when a state is shown, limits of the host tables.

use bytemuck::Zeroable as _;
use tcptrace_common::record::{self as raw, Kind};

use super::{group_entry::Entry, over_time::OverTime, table::Row as _, *};
use crate::model::{
    Addr, HookRecord, SeedSocket, SocketId, Tuple,
    peer_names::{NameOrigin, Prefix},
    record::SeedObject,
};

#[test]
fn weight_orders_by_joined_sockets_then_age() {
    let of = |joined, born| {
        let mut entry = Entry::new(GroupKey::named("a", Role::Inbound), born);
        entry.joined = joined;
        entry.weight()
    };
    assert!(of(1, 9) < of(2, 1));
    assert!(of(2, 1) < of(2, 9));
}

#[test]
fn state_is_shown_if_it_has_or_had_sockets() {
    let mut over_time = OverTime::default();
    let shown = |over_time: &OverTime, now: &[u64; TcpState::COUNT]| {
        let states = over_time.states(now, 1, |_| dwells::Dwells::default());
        states.iter().map(|summary| summary.state).collect::<Vec<_>>()
    };
    let mut now = [0; TcpState::COUNT];
    assert_eq!(shown(&over_time, &now), []);
    now[TcpState::Listen.index()] = 1;
    assert_eq!(shown(&over_time, &now), [TcpState::Listen], "has sockets now");
    over_time.enter(TcpState::SynSent);
    assert_eq!(
        shown(&over_time, &[0; TcpState::COUNT]),
        [TcpState::SynSent],
        "entered and left between two samples"
    );
    over_time.sample(&now);
    assert_eq!(shown(&over_time, &[0; TcpState::COUNT]), [TcpState::SynSent, TcpState::Listen]);
}

#[test]
fn only_synack_retransmits_are_counted() {
    let mut observed = Observed::default();
    let armed = |retransmitted, sport| {
        let raw = raw::RawRecord {
            kind: Kind::RequestArmed as u8,
            arg1: retransmitted,
            sport,
            ..raw::RawRecord::zeroed()
        };
        Record::Kernel(HookRecord { raw, task: None })
    };
    observed.take(&armed(0, 80));
    assert!(observed.synacks_again.is_empty());
    for retransmitted in [1, 2] {
        observed.take(&armed(retransmitted, 80));
    }
    observed.take(&armed(1, 443));
    assert_eq!(observed.synacks_again.values().copied().collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn waiting_sockets_are_bounded_and_excess_is_refused() {
    const MOST: u64 = 64 << 10;
    let mut observed = Observed::default();
    let waits = |id| {
        Record::Seed(SeedSocket {
            ts: Nanos(id),
            id: SocketId(id),
            netns: NetnsId(1),
            tuple: Tuple { saddr: Addr([0; 16]), daddr: Addr([0; 16]), sport: 80, dport: 1, ifindex: 0 },
            state: TcpState::CloseWait,
            object: SeedObject::Full,
            inode: 9,
            uid: 0,
            rqueue: 0,
            wqueue: 0,
        })
    };
    assert!((0..MOST).all(|id| observed.take(&waits(id))));
    assert!(!observed.take(&waits(MOST)), "the table is full");
    assert!(observed.take(&waits(7)), "a known socket is updated");
    assert_eq!(observed.waiting.len() as u64, MOST);
}

#[test]
fn latest_name_of_an_address_is_kept_and_copied() {
    let mut names = HostNames::default();
    let prefix = Prefix::of_address(std::net::IpAddr::from([10, 0, 0, 5]).into(), 32);
    let name = |name: &str| Record::AddressName {
        ts: Nanos(0),
        origin: NameOrigin::Hosts,
        prefix,
        name: name.into(),
    };
    assert!(names.take(&name("a")));
    let of_snapshot = Arc::clone(names.peers());
    assert!(names.take(&name("b")));
    let mut copy = HostNames::default();
    assert!(names.peer_records(Nanos(1)).all(|record| copy.take(&record)));
    let found =
        [&of_snapshot, names.peers(), copy.peers()].map(|names| names.network(prefix).map(|name| &**name));
    assert_eq!(found, [Some("a"), Some("b"), Some("b")]);
    names.take(&name(""));
    assert!(names.peers().is_empty());
}

#[test]
fn latest_settings_of_a_namespace_are_kept() {
    let mut names = HostNames::default();
    for value in ["0", "1"] {
        let sysctls = [("net.ipv4.tcp_tw_reuse".to_owned(), value.to_owned())];
        names.take(&Record::NetnsSettings { ts: Nanos(0), netns: NetnsId(7), sysctls: sysctls.into() });
    }
    assert_eq!(names.settings(NetnsId(7)).expect("known")["net.ipv4.tcp_tw_reuse"], "1");
}
