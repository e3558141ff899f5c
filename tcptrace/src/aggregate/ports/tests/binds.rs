//! Ports that `bind()` holds, with and without a connection.

use super::*;
use crate::model::bound_ports::{BoundAddr, BoundPorts, PortHolder};

fn idle(host: &mut Host, addrs: &[(&str, &[(u16, u16)])]) {
    let holder = PortHolder { pid: 7, comm: "leak".into(), cgroup: 0, sockets: 1 };
    let addrs = addrs.iter().map(|&(saddr, ports)| BoundAddr {
        saddr: addr(saddr),
        ports: ports.to_vec(),
        holders: vec![holder.clone()],
    });
    let bound = Box::new(BoundPorts { addrs: addrs.collect(), other_ports: 0 });
    host.take(&Record::BoundPorts { ts: Nanos(T0), netns: NETNS, bound });
}

fn rows(ports: &PortsSnapshot) -> Vec<(String, u64, u64, u64, Option<u64>, u64)> {
    let mut rows: Vec<_> = ports
        .binds
        .iter()
        .map(|row| {
            let saddr = row.saddr.to_string();
            (saddr, row.bound, row.open, row.idle, row.available, row.connected)
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn a_local_address_has_one_budget_for_all_destinations() {
    let mut host = Host::new(&[HUNDRED, ("ip_local_reserved_ports", "41090-41099")]);
    for (daddr, sport) in [("10.0.0.5", 41_000), ("10.0.0.6", 41_001), ("10.0.0.7", 6_000)] {
        let client = host.client(daddr, 80, sport);
        host.open_bound(T0, client);
    }
    // One port twice: SO_REUSEADDR.
    let again = host.client("10.0.0.8", 80, 41_001);
    host.open_bound(T0, again);
    for sport in [41_010, 41_011, 41_012] {
        let chosen = host.client("10.0.0.5", 81, sport);
        host.open(T0, chosen);
    }
    host.listen(T0, 41_050);
    assert_eq!(rows(&host.ports(T0 + S)), [("10.0.0.1".to_owned(), 2, 2, 0, Some(89), 3)]);

    host.close_passively(T0 + 2 * S, again);
    assert_eq!(host.ports(T0 + 3 * S).binds[0].bound, 2);
}

#[test]
fn ports_without_a_connection_count_at_every_address_if_bound_to_any() {
    let mut host = Host::new(&[HUNDRED]);
    let bound = host.client("10.0.0.5", 80, 41_000);
    host.open_bound(T0, bound);
    // 41000 has connected since it was listed; ranges of a recording may overlap, or make no sense.
    idle(
        &mut host,
        &[
            ("10.0.0.1", &[(41_000, 41_002), (41_002, 41_003), (9, 3), (5, 5)]),
            ("10.0.0.2", &[(41_003, 41_003)]),
            ("::", &[(41_020, 41_021)]),
        ],
    );
    let seen = host.ports(T0 + S);
    assert_eq!(
        rows(&seen),
        [
            ("10.0.0.1".to_owned(), 6, 1, 3, Some(100), 0),
            ("10.0.0.2".to_owned(), 3, 0, 1, Some(100), 0),
            ("::".to_owned(), 6, 0, 2, Some(100), 0),
        ]
    );
    assert_eq!((seen.netns[0].taken, seen.destinations[0].available), (6, Some(94)));
    let pids: Vec<u32> = seen.binds[0].processes.iter().map(|process| process.pid).collect();
    assert_eq!(pids, [7, 42]);

    idle(&mut host, &[]);
    assert_eq!(rows(&host.ports(T0 + 2 * S)), [("10.0.0.1".to_owned(), 1, 1, 0, Some(100), 0)]);
}

#[test]
fn ports_of_a_namespace_that_is_gone_are_removed() {
    let mut host = Host::new(&[HUNDRED]);
    idle(&mut host, &[("10.0.0.1", &[(41_000, 41_009)])]);
    assert_eq!(host.aggregate.port_holder_records(Nanos(T0)).count(), 1);
    host.set(&[]);
    assert_eq!(host.aggregate.port_holder_records(Nanos(T0)).count(), 0);
    assert!(host.ports(T0 + S).binds.is_empty());
}

#[test]
fn ports_of_all_namespaces_are_bounded() {
    let mut host = Host::new(&[HUNDRED]);
    for n in 0..20 {
        let addr = BoundAddr { saddr: Addr::ANY, ports: vec![(0, u16::MAX)], holders: Vec::new() };
        let bound = Box::new(BoundPorts { addrs: vec![addr], other_ports: 0 });
        host.take(&Record::BoundPorts { ts: Nanos(T0), netns: NetnsId(n), bound });
    }
    assert_eq!(host.aggregate.port_holder_records(Nanos(T0)).count(), 16);
    assert_eq!(host.aggregate.ports.refused(), 4);
}
