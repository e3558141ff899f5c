//! Tests of the finding about connection pools.

use super::*;
use crate::aggregate::PoolDemand;

/// 100 connections a second for the ten seconds of the trace.
pub(super) fn demand(pid: u32, comm: &str) -> PoolDemand {
    PoolDemand {
        netns: OWN,
        remote: end("10.0.0.5:5432"),
        process: Process::new(pid, comm, 0),
        opened: 1_000,
        closed_here: 900,
        closed_there: 100,
        short: 1_000,
        most_open: 6,
        idle: 8,
        saved: 950,
    }
}

fn findings(pools: Vec<PoolDemand>) -> Vec<crate::view::doctor::Finding> {
    let mut snapshot = healthy();
    snapshot.pools = pools;
    diagnose(&snapshot)
}

#[test]
fn the_finding_says_how_many_idle_connections_save_how_many_connects() {
    let [found] = findings(vec![demand(1, "billing")]).try_into().expect("one finding");
    assert_eq!((found.id, found.severity), ("pool_too_small", Severity::Warning));
    assert_eq!(found.title, "billing makes new connections to 10.0.0.5:5432 where a pool would reuse them");
    assert_eq!(found.evidence[0], "8 idle connections would have saved 95 of 100 connects/s");
    assert!(found.fix[0].contains("MaxIdleConnsPerHost=8"), "{:?}", found.fix);
}

#[test]
fn workers_of_one_program_are_one_finding() {
    let [found] = findings(vec![demand(1, "nginx"), demand(2, "nginx"), demand(3, "cron")])
        .try_into()
        .expect("one finding");
    assert_eq!(
        found.evidence[0],
        "8 idle connections in each of 2 processes would have saved 190 of 200 connects/s"
    );
    assert_eq!(found.who.len(), 3);
    assert!(found.fix[0].starts_with("nginx: keepalive 8;"), "{:?}", found.fix);
}

#[test]
fn few_or_long_connections_are_no_finding() {
    let few = PoolDemand { opened: 19, saved: 18, short: 19, ..demand(1, "cron") };
    let long = PoolDemand { short: 100, ..demand(1, "batch") };
    let useless = PoolDemand { saved: 300, ..demand(1, "crawler") };
    assert!(findings(vec![few]).is_empty());
    assert!(findings(vec![long]).is_empty());
    assert!(findings(vec![useless]).is_empty());
}

#[test]
fn it_follows_from_exhausted_ports() {
    let mut snapshot = healthy();
    ports(&mut snapshot, 28_232, 12);
    snapshot.ports.destinations[0].netns = OWN;
    snapshot.pools = vec![demand(1, "billing")];
    let ids: Vec<_> = diagnose(&snapshot).into_iter().map(|found| (found.id, found.follows_from)).collect();
    assert!(ids.contains(&("pool_too_small", Some("client_ports_exhausted"))), "{ids:?}");
}
