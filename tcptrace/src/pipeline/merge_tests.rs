//! Records of one host, split over several: together they give the same dwells as all at once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    aggregate::{Distribution, Grouping, Scope, Snapshot},
    filter::Filter,
    model::Nanos,
    pipeline::Engine,
    synthetic::{Shape, Traffic},
};

/// Emits records in batches.
struct Batches(VecDeque<Record>, usize);

impl Source for Batches {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        self.0.drain(..self.1.min(self.0.len())).for_each(take);
        Ok(if self.0.is_empty() { Flow::Ended } else { Flow::Running })
    }
}

/// The same record on a host whose monotonic clock is ahead by `by`.
fn shifted(mut record: Record, by: u64, host: &str) -> Record {
    match &mut record {
        Record::Kernel(seen) => seen.raw.ts_ns += by,
        Record::Seed(socket) => socket.ts.0 += by,
        Record::SeedEnd { ts, began } => {
            ts.0 += by;
            began.0 += by;
        }
        Record::Host(facts) => {
            facts.clock_offset_ns -= by;
            facts.host = host.into();
        }
        Record::Tick { ts }
        | Record::Owner { ts, .. }
        | Record::OwnersEnd { ts }
        | Record::NetnsName { ts, .. }
        | Record::NetnsSettings { ts, .. }
        | Record::NetnsCounters { ts, .. }
        | Record::CgroupPath { ts, .. }
        | Record::Loss { ts, .. } => ts.0 += by,
        other => panic!("{other:?} is not in the traffic"),
    }
    record
}

/// The host that each hook record is of, by its connection; `None` for records of all hosts.
fn hosts_of(records: &[Record], hosts: u64) -> Vec<Option<u64>> {
    let of_tuple = |record: &Record| match record {
        // connect() has not chosen the port yet.
        Record::Kernel(seen) if seen.raw.sport != 0 => {
            let daddr = seen.raw.daddr[15];
            let tuple = u64::from(seen.raw.sport) * 31 + u64::from(seen.raw.dport) * 7 + u64::from(daddr);
            Some((seen.raw.cookie, tuple % hosts))
        }
        _ => None,
    };
    let by_cookie: BTreeMap<u64, u64> = records.iter().filter_map(of_tuple).collect();
    let host = |record: &Record| match record {
        Record::Kernel(seen) if seen.raw.sport == 0 => by_cookie.get(&seen.raw.cookie).copied().or(Some(0)),
        record => of_tuple(record).map(|(_, host)| host),
    };
    records.iter().map(host).collect()
}

fn split(records: &[Record], hosts: u64, skew_ns: u64) -> Vec<Box<dyn Source>> {
    let of = hosts_of(records, hosts);
    let one = |host: u64| {
        let wanted = records.iter().zip(&of).filter(|(_, of)| of.is_none_or(|of| of == host));
        let records =
            wanted.map(|(record, _)| shifted(record.clone(), host * skew_ns, &format!("web-{host}")));
        Box::new(Batches(records.collect(), 50 + 37 * host as usize)) as Box<dyn Source>
    };
    (0..hosts).map(one).collect()
}

fn read(mut source: Box<dyn Source>, grouping: &str) -> (Snapshot, Vec<u64>) {
    let grouping: Grouping = grouping.parse().expect("a key");
    let mut engine = Engine::new(Filter::EVERYTHING, grouping, Scope::Every, "".into());
    let mut wall = Vec::new();
    while source
        .fill(&mut |record| {
            engine.take(&record);
            if let Record::Kernel(_) = record {
                wall.push(engine.now().0);
            }
        })
        .expect("records")
        == Flow::Running
    {}
    (engine.snapshot(), wall)
}

/// Dwells by state and split, of all sockets and by group.
fn dwells(snapshot: &Snapshot) -> BTreeMap<String, Distribution> {
    let mut all = BTreeMap::new();
    let groups = snapshot.groups.iter().map(|group| (&*group.key, &group.dwells));
    for (key, dwells) in groups.chain([("", &snapshot.dwells)]) {
        for dwells in dwells.iter().filter(|dwells| !dwells.distribution.is_empty()) {
            let name = format!("{key} {} {:?}", dwells.state.name(), dwells.split);
            assert!(all.insert(name, dwells.distribution.clone()).is_none());
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn hosts_together_have_the_dwells_of_all_records(
        seed in any::<u64>(), hosts in 1..6_u64, skew_ns in 0..3_000_000_000_u64,
    ) {
        let shape = Shape { connections_per_s: 500, seeded: 0, services: 5, peers: 50 };
        let records: Vec<Record> = Traffic::new(shape, seed).take(12_000).collect();
        let (whole, _) = read(Box::new(Batches(records.clone().into(), 100)), "service");
        let (merged, wall) = read(Box::new(MergedSource::new(split(&records, hosts, skew_ns))), "service");
        let one_by_one = HostByHost::new(split(&records, hosts, skew_ns));
        let (one_by_one, _) = read(Box::new(one_by_one), "service");
        let (merged_dwells, whole_dwells) = (dwells(&merged), dwells(&whole));
        prop_assert!(dwells(&one_by_one) == merged_dwells);
        prop_assert_eq!((one_by_one.ts, one_by_one.began), (merged.ts, merged.began));
        prop_assert_eq!(one_by_one.states.map(|state| (state.now, state.entered)),
            merged.states.map(|state| (state.now, state.entered)));
        for (name, expected) in &whole_dwells {
            let found = merged_dwells.get(name);
            let counts = found.map(|found| (found.count, found.at_least, found.inferred, found.unknown));
            let wanted = (expected.count, expected.at_least, expected.inferred, expected.unknown);
            prop_assert!(found == Some(expected), "{name}: {counts:?}, not {wanted:?}");
        }
        prop_assert_eq!(merged_dwells.len(), whole_dwells.len());
        prop_assert!(!whole.dwells.is_empty());
        prop_assert_eq!(merged.records, whole.records);
        prop_assert!(wall.is_sorted(), "the hosts take turns by time");
        let entered = |snapshot: &Snapshot| snapshot.states.map(|state| state.entered);
        prop_assert_eq!(entered(&merged), entered(&whole));
        let host = records.iter().find_map(|record| match record {
            Record::Host(facts) => Some(facts.clone()),
            _ => None,
        }).expect("facts about the host");
        if hosts > 1 {
            prop_assert_eq!(merged.ts, Nanos(host.wall_ns(whole.ts)));
            prop_assert_eq!(merged.host.wall_ns(merged.ts), host.wall_ns(whole.ts));
        }
        // By host.
        let (by_host, _) = read(Box::new(MergedSource::new(split(&records, hosts, skew_ns))), "host");
        let mut keys: Vec<&str> = by_host.groups.iter().map(|group| &*group.key).collect();
        keys.sort_unstable();
        let expected: Vec<String> = (0..hosts).map(|host| format!("web-{host}")).collect();
        prop_assert_eq!(keys, expected);
        prop_assert!(by_host.groups.iter().all(|group| group.host.as_ref() == Some(&group.key)));
        let sum: u64 = by_host.groups.iter().map(|group| group.time_wait.entered).sum();
        prop_assert_eq!(sum, entered(&whole)[crate::model::TcpState::TimeWait.index()]);
    }
}

#[test]
fn ids_of_two_hosts_never_mix() {
    let shape = Shape { connections_per_s: 500, services: 3, ..Shape::default() };
    let records: Vec<Record> = Traffic::new(shape, 7).take(4_000).collect();
    // Both hosts have the same cookies, processes and network namespaces.
    let same = |host: &str| {
        let records = records.iter().map(|record| shifted(record.clone(), 0, host)).collect();
        Box::new(Batches(records, 70)) as Box<dyn Source>
    };
    let both = || Box::new(MergedSource::new(vec![same("web-0"), same("web-1")]));
    let (one, _) = read(same("web-0"), "process");
    let (two, _) = read(both(), "process");
    assert_eq!(two.losses.total(), 0);
    for group in &one.groups {
        let of = |host: &str| {
            let key =
                if group.key == "unknown" { group.key.clone() } else { format!("{} on {host}", group.key) };
            two.groups.iter().find(|other| other.key == key).expect("the group on that host")
        };
        let times = if group.key == "unknown" { 2 } else { 1 };
        for host in ["web-0", "web-1"] {
            assert_eq!(of(host).counts, group.counts.map(|count| times * count), "{}", group.key);
        }
    }
    let (by_netns, _) = read(both(), "netns");
    let mut keys: Vec<&str> = by_netns.groups.iter().map(|group| &*group.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["blue on web-0", "blue on web-1"]);
    // The same service, one group.
    let (single, _) = read(same("web-0"), "service");
    let (merged, _) = read(both(), "service");
    assert_eq!(merged.groups.len(), single.groups.len());
}
