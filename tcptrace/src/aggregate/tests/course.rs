//! Compares complete snapshots of one minute of synthetic traffic under several groupings.

use std::fmt::Write as _;

use super::*;
use crate::{
    lifecycle::EndReason,
    synthetic::{Shape, Traffic},
};

struct Course {
    tracker: Tracker,
    aggregate: Aggregate,
    observed: Observed,
    names: HostNames,
    now: Nanos,
    records: u64,
}

const NETNS: u32 = 4_026_531_840;

impl Course {
    fn new(grouping: &str, scope: Scope, limits: GroupLimits) -> Self {
        Self {
            tracker: Tracker::new(crate::lifecycle::TrackerLimits::default()),
            aggregate: Aggregate::with_limits(grouping.parse().expect("a grouping"), scope, limits),
            observed: Observed::default(),
            names: HostNames::default(),
            now: Nanos(0),
            records: 0,
        }
    }

    fn take(&mut self, record: &Record) {
        self.records += 1;
        self.now = self.now.max(record.ts().unwrap_or_default());
        if let Record::SeedEnd { began, .. } = record {
            self.aggregate.begin(*began);
        }
        self.names.take(record);
        self.observed.take(record);
        self.tracker.take(record, &mut self.aggregate);
        if let Some(netns) = self.aggregate.take(record) {
            self.tracker.revisit_namespace(netns, self.now, &mut self.aggregate);
        }
    }

    fn run(self) -> (Self, Snapshot) {
        self.run_for(66)
    }

    /// Takes one snapshot per second.
    fn run_for(mut self, seconds: u64) -> (Self, Snapshot) {
        let shape = Shape { connections_per_s: 30, services: 3, peers: 5, seeded: 12 };
        let mut traffic = Traffic::new(shape, 11);
        let first = traffic.next().expect("endless");
        self.take(&first);
        for record in traffic {
            let second = self.now.0 / Nanos::SECOND.0;
            self.take(&record);
            if !matches!(record, Record::Tick { .. }) {
                continue;
            }
            self.aggregate.sample();
            if self.now.0 / Nanos::SECOND.0 > second {
                let snapshot = self.snapshot();
                if self.now.0 >= (1_000 + seconds) * 1_000 * MS {
                    return (self, snapshot);
                }
            }
        }
        unreachable!("the traffic is endless");
    }

    fn snapshot(&mut self) -> Snapshot {
        self.observed.complete(&self.names);
        let context = Context {
            host: Arc::new(HostFacts { netns: NETNS, ..HostFacts::default() }),
            source: "test".into(),
            filter: "port 1".into(),
            records: self.records,
            kernel_losses: KernelLosses {
                ring_full: 1,
                recursion_missed: 2,
                decode_errors: 3,
                read_faults: 4,
                not_recorded: 5,
                stacks: 8,
                uncounted: 6,
            },
            output_dropped: 7,
            observed: Arc::new(self.observed.clone()),
            refused: 8,
            answer: None,
        };
        self.aggregate.snapshot(self.now, &self.tracker, &self.names, context)
    }
}

fn lengths(of: &Distribution) -> String {
    let quantiles = [0.5, 0.99].map(|q| of.quantile(q).0);
    format!(
        "{} of {}..{}, mean {}, {quantiles:?}, {} buckets, beside {} {} {}",
        of.count,
        of.shortest.0,
        of.longest.0,
        of.mean.0,
        of.buckets().count(),
        of.at_least,
        of.inferred,
        of.unknown
    )
}

fn by_state(counts: &[u64; TcpState::COUNT]) -> String {
    let there = TcpState::ALL.into_iter().filter(|state| counts[state.index()] > 0);
    there.map(|state| format!("{} {}", counts[state.index()], state.name())).collect::<Vec<_>>().join(", ")
}

fn by_reason(counts: &[u64; EndReason::COUNT]) -> String {
    let there = EndReason::ALL.into_iter().filter(|&reason| counts[reason as usize] > 0);
    there
        .map(|reason| format!("{} {}", counts[reason as usize], reason.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn group_lines(out: &mut String, group: &Group) {
    let process = group.process.as_ref().map(|process| (process.pid, process.cgroup));
    writeln!(
        out,
        "{} ({:?}, place {}, netns {:?}): {} = {}; by {process:?} and {}; closers {:?}, closed {:?}, main {:?}",
        group.key,
        group.role,
        group.has_place,
        group.netns().map(|netns| netns.0),
        group.sockets(),
        by_state(&group.counts),
        group.other_processes,
        group.closers,
        group.closed,
        group.main_closer(),
    )
    .expect("a String");
    writeln!(
        out,
        "  ended {}; orphans {}; connects {}; elsewhere {}; FIN_WAIT2 orphan {} held {}; CLOSE_WAIT {:?} {:?}; empty {}",
        by_reason(&group.ended),
        by_reason(&group.orphans_ended),
        by_reason(&group.connects_ended),
        group.dwells_elsewhere,
        group.fin_wait2_orphan,
        group.fin_wait2_held(),
        group.oldest_close_wait,
        group.close_wait_owner.as_ref().map(|owner| owner.pid),
        group.is_empty(),
    )
    .expect("a String");
    for (name, of) in [("TIME_WAIT", &group.time_wait), ("FIN_WAIT2", &group.fin_wait2)] {
        writeln!(
            out,
            "  {name} now {}, entered {} ({:.3}/s), {:?}, {:?}, bounds {}",
            of.now,
            of.entered,
            of.entered_per_s,
            of.dwell,
            EndReason::ALL.map(|reason| of.ended.of(reason).unwrap_or(0)).iter().sum::<u64>(),
            of.dwell_bounds
        )
        .expect("a String");
    }
    dwell_lines(out, "  ", &group.dwells);
}

fn dwell_lines(out: &mut String, indent: &str, dwells: &[StateDwells]) {
    for of in dwells {
        let split = of.split.map_or("all", Split::name);
        writeln!(
            out,
            "{indent}{} {split} open {:?}: {}",
            of.state.name(),
            of.open_now,
            lengths(&of.distribution)
        )
        .expect("a String");
    }
}

fn all(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    writeln!(
        out,
        "{} since {}, interval {}, {} records, {:.3}/s, {} history, {} points every {}",
        snapshot.ts.0,
        snapshot.began.0,
        snapshot.interval.0,
        snapshot.records,
        snapshot.records_per_s,
        snapshot.history.len(),
        snapshot.timeline.points.len(),
        snapshot.timeline.interval.0,
    )
    .expect("a String");
    for state in TcpState::ALL {
        let of = snapshot.states[state.index()];
        let peak = snapshot.timeline.peak(state);
        let entered: u64 = snapshot.timeline.points.iter().map(|point| point.entered[state.index()]).sum();
        writeln!(
            out,
            "{} now {}, entered {} = {entered}, {:.3}/s, peak {peak:?}",
            state.name(),
            of.now,
            of.entered,
            of.entered_per_s
        )
        .expect("a String");
    }
    writeln!(out, "{:?}, {} in all", snapshot.losses, snapshot.losses.total()).expect("a String");
    writeln!(out, "tables {:?}", snapshot.tables).expect("a String");
    writeln!(out, "first {:?}", snapshot.history.first().map(|sample| by_state(&sample.counts)))
        .expect("a String");
    dwell_lines(&mut out, "", &snapshot.dwells);
    for of in &snapshot.dwells_by_role {
        writeln!(out, "{} {}: {}", of.role.name(), of.state.name(), lengths(&of.distribution))
            .expect("a String");
    }
    writeln!(out, "{} groups, {} others", snapshot.groups.len(), snapshot.other_groups).expect("a String");
    snapshot.groups.iter().for_each(|group| group_lines(&mut out, group));
    for row in &snapshot.ports.destinations {
        writeln!(out, "{row:?}").expect("a String");
    }
    out
}

#[test]
fn services_with_all_dwells() {
    let (course, snapshot) = Course::new("service", Scope::Whole, GroupLimits::default()).run();
    let mut out = all(&snapshot);
    let (whole, groups) = course.aggregate.summary(
        &[StreamTables { tracker: &course.tracker, names: &course.names, host: &HostFacts::default() }],
        NETNS,
    );
    for group in std::iter::once(&whole).chain(&groups) {
        let pid = group.process.as_ref().map(|process| process.pid);
        writeln!(
            out,
            "{} ({}, {pid:?}, elsewhere {}): closed {:?}, ended {}",
            group.key,
            group.role.name(),
            group.dwells_elsewhere,
            group.closed,
            by_reason(&group.ended)
        )
        .expect("a String");
        for state in &group.states {
            writeln!(
                out,
                "  {} entered {}, mean {:.3}, most {}: {}",
                state.state.name(),
                state.entered,
                state.mean,
                state.most,
                lengths(&state.dwells)
            )
            .expect("a String");
        }
    }
    insta::assert_snapshot!(out);
}

#[test]
fn peers_with_room_for_two() {
    let limits = GroupLimits { groups: 3, histogram_bytes: 3_000, shown_by_ranking: 1, empty: 2 };
    let mut course = Course::new("peer", Scope::Every, limits);
    course.aggregate = course.aggregate.with_places(1);
    insta::assert_snapshot!(all(&course.run().1));
}

#[test]
fn roles_and_processes() {
    insta::assert_snapshot!(all(&Course::new("process", Scope::Roles, GroupLimits::default()).run().1));
}

#[test]
fn every_grouping_counts_every_socket_once() {
    for name in Grouping::names().into_iter().filter(|name| *name != "state") {
        let (course, snapshot) = Course::new(name, Scope::TimewaitSockets, GroupLimits::default()).run_for(5);
        let mut counted = [0; TcpState::COUNT];
        for group in &snapshot.groups {
            counted.iter_mut().zip(group.counts).for_each(|(sum, count)| *sum += count);
        }
        let mut there = [0; TcpState::COUNT];
        course.tracker.sockets().for_each(|(_, socket)| there[socket.state.index()] += 1);
        assert_eq!(counted, there, "{name}");
        assert_eq!(snapshot.states.map(|state| state.now), there, "{name}");
        assert!(!snapshot.groups.iter().any(Group::is_empty), "{name}");
        for group in &snapshot.groups {
            let (sockets, _) = course.aggregate.members(&group.id, &course.tracker).expect("it is there");
            assert_eq!(sockets.count() as u64, group.sockets(), "{name} {}", group.key);
        }
    }
}

#[test]
fn reset_counts_keep_the_sockets() {
    let (mut course, before) = Course::new("service", Scope::Every, GroupLimits::default()).run_for(5);
    let counts = |snapshot: &Snapshot| snapshot.states.map(|state| state.now);
    for (history, length) in [(History::Goes, before.history.len().min(HISTORY - 1) + 1), (History::Ends, 1)]
    {
        let Course { aggregate, tracker, .. } = &mut course;
        aggregate.restart("lport".parse().expect("a key"), history, tracker, |_, _| ());
        let after = course.snapshot();
        assert_eq!(counts(&after), counts(&before), "{history:?}");
        assert_eq!(after.history.len(), length, "{history:?}");
        assert_eq!(after.groups.iter().map(Group::sockets).sum::<u64>(), counts(&before).iter().sum::<u64>());
        assert_eq!((after.interval, after.records_per_s), (Nanos(0), 0.0));
        assert_eq!(after.states.map(|state| state.entered), [0; TcpState::COUNT]);
        assert!(after.groups.iter().all(|group| group.ended == [0; EndReason::COUNT]));
    }
}

#[test]
fn names_in_use_are_kept() {
    let (course, _) = Course::new("cgroup", Scope::TimewaitSockets, GroupLimits::default()).run_for(5);
    let used = course.aggregate.used(&course.tracker);
    assert_eq!(used.netns.iter().map(|netns| netns.0).collect::<Vec<_>>(), [NETNS]);
    let mut cgroups: Vec<u64> = used.cgroups.into_iter().collect();
    cgroups.sort_unstable();
    // The sockets whose owner was not known at first have moved there.
    assert_eq!(cgroups, [7]);
    let empty = Course::new("service", Scope::TimewaitSockets, GroupLimits::default());
    let used = empty.aggregate.used(&empty.tracker);
    assert!(used.netns.is_empty() && used.cgroups.is_empty());
}

#[test]
fn groups_and_histograms_count_their_memory() {
    let sizes = |sockets_each: u64| {
        let mut run = AggregateRun::new("peer", Scope::Every, GroupLimits::default());
        let mut sizes = vec![run.aggregate.size_bytes()];
        for n in 1..=4 {
            for k in 0..sockets_each {
                let begins_ns = (n * 100 + k) * MS;
                let connection = TestConnection {
                    cookie: n * 100 + k,
                    peer: peer(n),
                    pid: 7,
                    begins_ns,
                    open_ns: (k + 1) * MS,
                };
                run.take_all(connection.to_time_wait());
            }
            sizes.push(run.aggregate.size_bytes());
            let (kept, counted) = run.aggregate.groups.histograms_in_bytes();
            assert_eq!(kept, counted, "{n} groups");
        }
        let growth: Vec<usize> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(growth.iter().all(|&more| more == growth[0]), "{growth:?}");
        (sizes[0], growth[0])
    };
    let (empty, few) = sizes(1);
    assert_eq!(empty, few, "the group of the others takes as much as any");
    assert!((size_of::<group_entry::Entry>()..1_024).contains(&few), "{few}");
    // Each of the 40 durations needs a bucket, besides the other states.
    let (_, many) = sizes(40);
    assert!((few + 40 * 24..few + 8_192).contains(&many), "{many}");
}
