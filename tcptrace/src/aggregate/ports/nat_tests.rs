//! Tests the levels and predictions of translated ports.

use std::net::IpAddr;

use super::*;
use crate::model::nat::TranslatedSource;

const NETNS: NetnsId = NetnsId(7);
const S: u64 = 1_000_000_000;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

fn translation(used: u64, time_wait: u64) -> Translation {
    Translation {
        snat_addr: addr("10.2.0.1"),
        daddr: addr("10.2.0.2"),
        dport: 80,
        zone: 0,
        used,
        time_wait,
        close: 0,
        ports: (40_000, 40_099),
        sources: vec![TranslatedSource { saddr: addr("10.1.0.2"), used, time_wait }],
        other_sources: 0,
    }
}

fn conntrack(used: u64, time_wait: u64, evicts: bool) -> Conntrack {
    Conntrack {
        entries: used,
        max: Some(1_000),
        counters: BTreeMap::from([("insert_failed".into(), used)]),
        time_wait_s: Some(120),
        evicts,
        rules: vec![SnatRule { addrs: None, ports: Some((40_000, 40_099)) }],
        translations: vec![translation(used, time_wait)],
        ..Conntrack::default()
    }
}

/// The only translation after polls once a second, one per level: ports, and those of them in TIME_WAIT.
fn after(levels: &[(u64, u64)], evicts: bool) -> NatPorts {
    let mut nat = NatTables::default();
    let mut now = Nanos(0);
    for (n, &(used, time_wait)) in levels.iter().enumerate() {
        now = Nanos(n as u64 * S);
        let conntrack = Box::new(conntrack(used, time_wait, evicts));
        nat.take(&Record::Conntrack { ts: now, netns: NETNS, conntrack });
    }
    let mut snapshot = nat.snapshot(now, &HostNames::default());
    assert_eq!(
        snapshot.tables[0].grown("insert_failed"),
        levels[levels.len() - 1].0.saturating_sub(levels[0].0)
    );
    snapshot.translations.remove(0)
}

fn in_s(ports: &NatPorts) -> Option<f64> {
    ports.exhausted_in.map(Nanos::as_secs_f64)
}

#[test]
fn connections_that_stay_open_run_out_on_time() {
    let levels: Vec<_> = (0..=20).map(|n| (3 * n + 1, 0)).collect();
    let ports = after(&levels, true);
    assert_eq!((ports.held(), ports.available(), ports.has_rule), (61, 100, true));
    assert!((in_s(&ports).expect("it runs out") - 39.0 / 3.0).abs() < 0.1, "{ports:?}");
    assert!(ports.runs_out_soon().is_some());
    assert_eq!(in_s(&after(&[(100, 0)], true)), Some(0.0));
}

#[test]
fn closed_connections_are_reclaimed_where_the_kernel_evicts() {
    let levels: Vec<_> = (0..=99).map(|n| (n + 1, n)).collect();
    let ports = after(&levels, true);
    assert_eq!((ports.of.used, ports.reclaimable, ports.held(), in_s(&ports)), (100, 99, 1, None));
    let ports = after(&levels, false);
    assert_eq!((ports.reclaimable, ports.held(), in_s(&ports)), (0, 100, Some(0.0)));
}

#[test]
fn time_wait_that_settles_below_the_range_never_runs_out() {
    // 0.5 a second for 120 s are 60 ports; 2 a second are 240.
    let slow: Vec<_> = (0..=40).map(|n| (n / 2 + 1, n / 2)).collect();
    assert_eq!(in_s(&after(&slow, false)), None);
    let fast: Vec<_> = (0..=40).map(|n| (2 * n + 1, 2 * n)).collect();
    assert!((in_s(&after(&fast, false)).expect("it runs out") - 9.5).abs() < 0.1);
    assert_eq!(in_s(&after(&fast, true)), None);
}

#[test]
fn a_noisy_or_falling_level_does_not_run_out() {
    let noisy: Vec<_> = (0..20).map(|n| (50 + (n * 7) % 5, 0)).collect();
    assert_eq!(in_s(&after(&noisy, true)), None);
    let falling: Vec<_> = (0..20).map(|n| (90 - n, 0)).collect();
    assert_eq!(in_s(&after(&falling, true)), None);
    assert_eq!(after(&[(1, 0), (9, 0)], true).growth_per_s, None, "two levels are no trend");
}

#[test]
fn the_narrowest_rule_that_fits_gives_the_range() {
    let rule = |addrs: Option<(&str, &str)>, ports| SnatRule {
        addrs: addrs.map(|(first, last)| crate::model::nat::AddrRange(addr(first), addr(last))),
        ports,
    };
    let row = translation(1, 0);
    let cases = [
        (vec![], None),
        (vec![rule(None, None)], Some((1_024, 65_535))),
        (vec![rule(None, None), rule(None, Some((40_000, 40_099)))], Some((40_000, 40_099))),
        (vec![rule(None, None), rule(None, Some((40_000, 40_098)))], Some((1_024, 65_535))),
        (vec![rule(Some(("10.9.0.1", "10.9.0.4")), Some((40_000, 40_099)))], None),
        (vec![rule(Some(("10.2.0.0", "10.2.0.4")), Some((40_000, 40_999)))], Some((40_000, 40_999))),
    ];
    for (rules, expected) in cases {
        assert_eq!(range(&rules, &row), expected, "{rules:?}");
    }
}

#[test]
fn tables_are_bounded_and_those_of_gone_namespaces_removed() {
    let mut nat = NatTables::default();
    let many = |netns: u32, rows: usize| Record::Conntrack {
        ts: Nanos(1),
        netns: NetnsId(netns),
        conntrack: Box::new(Conntrack {
            translations: (0..rows).map(|n| Translation { dport: n as u16, ..translation(1, 0) }).collect(),
            ..conntrack(1, 0, true)
        }),
    };
    for netns in 0..2_000 {
        nat.take(&many(netns, 400));
    }
    assert_eq!((nat.netns.len(), nat.rows(), nat.refused), (MAX_NETNS, MAX_ROWS, 2_000 - MAX_NETNS as u64));
    let all: u64 = 400 * MAX_NETNS as u64;
    let snapshot = nat.snapshot(Nanos(1), &HostNames::default());
    assert_eq!(snapshot.translations.len() as u64 + snapshot.other_entries, all);
    for netns in 0..2_000 {
        nat.take(&Record::NetnsSettings { ts: Nanos(2), netns: NetnsId(netns), sysctls: BTreeMap::new() });
    }
    assert_eq!((nat.netns.len(), nat.rows()), (0, 0));
    nat.take(&many(1, 1));
    let empty = Box::new(Conntrack::default());
    nat.take(&Record::Conntrack { ts: Nanos(3), netns: NetnsId(1), conntrack: empty.clone() });
    nat.take(&Record::Conntrack { ts: Nanos(3), netns: NetnsId(2), conntrack: empty });
    // Its counters go on from here.
    assert_eq!((nat.netns.len(), nat.rows()), (1, 0));
}
