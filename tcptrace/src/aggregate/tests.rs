//! Group counts compared with known streams of connections.

use std::net::{IpAddr, Ipv6Addr};

use rustc_hash::FxHashMap;
use tcptrace_common::record::{self as raw, Kind, flag};

use super::*;
use crate::model::{Addr, HookRecord, SeedSocket, Tuple, record::SeedObject};

mod course;
mod empty;
mod pools;
mod stacks;
mod waiting;

const MS: u64 = 1_000_000;
const TIMEWAIT_TICKS: u64 = 60 * 250;

/// One outbound connection.
#[derive(Clone, Copy)]
struct TestConnection {
    cookie: u64,
    peer: Addr,
    pid: u32,
    begins_ns: u64,
    open_ns: u64,
}

impl TestConnection {
    fn step(self, at_ns: u64, kind: Kind, old: TcpState, new: TcpState, arg0: u64) -> Record {
        let raw = raw::RawRecord {
            ts_ns: at_ns,
            cookie: self.cookie,
            object: self.cookie,
            arg0,
            arg1: 0,
            saddr: [1; 16],
            daddr: self.peer.0,
            netns: 1,
            ifindex: 0,
            sport: 40_000,
            dport: 80,
            kind: kind as u8,
            old: old as u8,
            new: new as u8,
            flags: if new == TcpState::SynSent { flag::TASK } else { 0 },
        };
        let task =
            raw::Task { cgroup: 5, tgid: self.pid, tid: self.pid, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0" };
        Record::Kernel(HookRecord { raw, task: (raw.flags & flag::TASK != 0).then_some(task) })
    }

    fn transition(self, at_ns: u64, old: TcpState, new: TcpState) -> Record {
        self.step(at_ns, Kind::Transition, old, new, 0)
    }

    /// Records up to and including the entry into TIME_WAIT.
    fn to_time_wait(self) -> [Record; 6] {
        use TcpState::{Close, Established, FinWait1, FinWait2, SynSent, TimeWait};
        let (begin, end) = (self.begins_ns + 1_000, self.begins_ns + 1_000 + self.open_ns);
        [
            self.transition(self.begins_ns, Close, SynSent),
            self.transition(begin, SynSent, Established),
            self.transition(end, Established, FinWait1),
            self.transition(end + 2_000, FinWait1, FinWait2),
            self.step(end + 5_000, Kind::TimewaitArmed, FinWait2, TimeWait, TIMEWAIT_TICKS),
            self.transition(end + 5_000, FinWait2, Close),
        ]
    }

    fn expiry(self, at_ns: u64) -> Record {
        self.step(at_ns, Kind::TimewaitExpired, TcpState::TimeWait, TcpState::TimeWait, 0)
    }
}

struct AggregateRun {
    tracker: Tracker,
    aggregate: Aggregate,
    now: u64,
}

impl AggregateRun {
    fn new(grouping: &str, scope: Scope, limits: GroupLimits) -> Self {
        Self::with_seed(grouping, scope, limits, None)
    }

    fn with_seed(
        grouping: &str,
        scope: Scope,
        limits: GroupLimits,
        seed: impl IntoIterator<Item = Record>,
    ) -> Self {
        let grouping = grouping.parse().expect("a grouping");
        let mut run = Self {
            tracker: Tracker::new(crate::lifecycle::TrackerLimits::default()),
            aggregate: Aggregate::with_limits(grouping, scope, limits),
            now: 0,
        };
        let facts = HostFacts { segments: true, netns: 1, ..HostFacts::default() };
        run.take(&Record::Host(Box::new(facts)));
        run.take_all(seed);
        run.take(&Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
        run
    }

    fn take(&mut self, record: &Record) {
        self.now = record.ts().map_or(self.now, |ts| ts.0.max(self.now));
        self.tracker.take(record, &mut self.aggregate);
    }

    fn take_all(&mut self, records: impl IntoIterator<Item = Record>) {
        records.into_iter().for_each(|record| self.take(&record));
    }

    fn snapshot(&mut self) -> Snapshot {
        let context = Context {
            host: Arc::new(HostFacts { netns: 1, ..HostFacts::default() }),
            source: "test".into(),
            filter: Arc::default(),
            records: 0,
            kernel_losses: KernelLosses::default(),
            output_dropped: 0,
            observed: Arc::default(),
            refused: 0,
            answer: None,
        };
        self.aggregate.snapshot(Nanos(self.now), &self.tracker, &HostNames::default(), context)
    }
}

fn peer(n: u64) -> Addr {
    IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n))).into()
}

fn limits(groups: usize) -> GroupLimits {
    GroupLimits { groups, ..GroupLimits::default() }
}

fn group<'a>(snapshot: &'a Snapshot, key: &str) -> &'a Group {
    snapshot.groups.iter().find(|group| group.key == key).unwrap_or_else(|| panic!("no group {key}"))
}

fn dwells(dwells: &[StateDwells], state: TcpState, split: Option<Split>) -> &Distribution {
    let found = dwells.iter().find(|of| (of.state, of.split) == (state, split));
    &found.unwrap_or_else(|| panic!("no {state:?} {split:?}")).distribution
}

/// 200,000 peers have one connection each; ten have five hundred more and start late.
#[test]
fn ten_biggest_of_200_000_peers_are_exact() {
    const PEERS: u64 = 200_000;
    let mut run = AggregateRun::new("peer", Scope::Every, GroupLimits::default());
    let mut truth: FxHashMap<String, (u64, Vec<u64>)> = FxHashMap::default();
    let mut cookie = 0;
    for n in 0..PEERS {
        // The big ones start late, when the table is full of small ones.
        let big = (n > PEERS / 2 && n % 20 == 0).then_some(n / 20 % 10 + 1);
        for peer_number in [Some(1_000 + n), big].into_iter().flatten() {
            cookie += 1;
            let connection = TestConnection {
                cookie,
                peer: peer(peer_number),
                pid: 7,
                begins_ns: cookie * 1_000,
                open_ns: peer_number * MS,
            };
            run.take_all(connection.to_time_wait());
            if big == Some(peer_number) {
                let (count, lengths) = truth.entry(connection.peer.to_string()).or_default();
                *count += 1;
                lengths.push(connection.open_ns);
            }
        }
    }
    let snapshot = run.snapshot();
    assert!(snapshot.groups.len() < 3_000, "{} groups", snapshot.groups.len());
    let mut by_size: Vec<&Group> = snapshot.groups.iter().filter(|group| group.key != "other").collect();
    by_size.sort_by_key(|group| std::cmp::Reverse(group.time_wait.entered));
    for group in &by_size[..10] {
        let (count, lengths) = truth.remove(&group.key).expect("one of the big ones");
        assert_eq!((group.time_wait.now, group.time_wait.entered), (count, count), "{}", group.key);
        let exact: Distribution = lengths.into_iter().collect();
        assert_eq!(*dwells(&group.dwells, TcpState::Established, None), exact, "{}", group.key);
        assert_eq!(group.closers[Closer::Local as usize], count);
    }
    assert!(truth.is_empty(), "{truth:?}");
    let in_groups: u64 = snapshot.groups.iter().map(|group| group.time_wait.now).sum();
    assert_eq!(in_groups, cookie, "every socket is in one group");
    let in_histograms: u64 =
        snapshot.groups.iter().map(|group| dwells(&group.dwells, TcpState::Established, None).count).sum();
    assert_eq!(in_histograms, cookie);
    assert_eq!(snapshot.other_groups + snapshot.groups.len() as u64 - 1, PEERS + 10);
    assert!(snapshot.losses.evicted > 0, "folded groups are reported");
}

#[test]
fn sockets_of_folded_groups_are_counted_until_they_end() {
    let mut run = AggregateRun::new("peer", Scope::Every, limits(4));
    let connections: Vec<TestConnection> = (1..=40)
        .map(|n| TestConnection { cookie: n, peer: peer(n), pid: 7, begins_ns: n * MS, open_ns: MS / 2 })
        .collect();
    for connection in &connections {
        run.take_all(connection.to_time_wait());
    }
    let snapshot = run.snapshot();
    assert_eq!(snapshot.groups.iter().map(|group| group.time_wait.now).sum::<u64>(), 40);
    assert!(group(&snapshot, "other").time_wait.now >= 36);
    for connection in &connections {
        run.take(&connection.expiry(61_000 * MS + connection.cookie));
    }
    let snapshot = run.snapshot();
    let sum = |of: fn(&Group) -> u64| snapshot.groups.iter().map(of).sum::<u64>();
    assert_eq!(sum(|group| group.counts.iter().sum()), 0);
    assert_eq!(sum(|group| group.time_wait.ended.expired), 40);
    assert_eq!(run.aggregate.groups.slots_in_use(), 5, "no slot is kept for ended sockets");
}

#[test]
fn sticky_top_n_keeps_few_groups_without_sockets() {
    const PEERS: u64 = 200;
    let mut run = AggregateRun::new("peer", Scope::Roles, GroupLimits { empty: 8, ..GroupLimits::default() });
    run.aggregate = run.aggregate.with_places(2);
    for n in 1..=PEERS {
        // Peer 1 returns repeatedly and stays in the sticky top N.
        for (cookie, peer_number) in [(2 * n, 1), (2 * n + 1, n + 1)] {
            let begins_ns = n * 100_000 * MS + cookie;
            let connection = TestConnection {
                cookie,
                peer: peer(peer_number),
                pid: 7,
                begins_ns,
                open_ns: peer_number * MS,
            };
            run.take_all(connection.to_time_wait());
            run.snapshot();
            run.take(&connection.expiry(begins_ns + 61_000 * MS));
        }
        assert!(run.aggregate.groups.keys().count() <= 20);
    }
    let snapshot = run.snapshot();
    assert_eq!(snapshot.losses.evicted, 0, "they are never shown");
    assert_eq!(snapshot.groups.iter().map(|group| group.time_wait.entered).sum::<u64>(), 2 * PEERS);
    assert_eq!(group(&snapshot, &peer(1).to_string()).time_wait.entered, PEERS);
}

#[test]
fn histograms_that_grow_too_large_are_folded_smallest_first() {
    let limits = GroupLimits { histogram_bytes: 64 << 10, ..GroupLimits::default() };
    let mut run = AggregateRun::new("peer", Scope::Every, limits);
    let mut cookie = 0;
    for round in 0..60 {
        for n in 1..=60 {
            // Peer 60 has three connections, all others one.
            for _ in 0..if n == 60 { 3 } else { 1 } {
                cookie += 1;
                let open_ns = MS + cookie * 7_919 % (50 * MS);
                let begins_ns = (round * 100 + n) * 100 * MS;
                run.take_all(
                    TestConnection { cookie, peer: peer(n), pid: 7, begins_ns, open_ns }.to_time_wait(),
                );
            }
        }
    }
    let snapshot = run.snapshot();
    let biggest = group(&snapshot, &peer(60).to_string());
    assert_eq!((biggest.time_wait.entered, biggest.dwells_elsewhere), (180, 0));
    assert_eq!(dwells(&biggest.dwells, TcpState::Established, None).count, 180);
    let counts = |group: &Group| (group.time_wait.entered, group.closers[Closer::Local as usize]);
    assert_eq!(counts(group(&snapshot, &peer(1).to_string())), (60, 60), "counts stay in their group");
    assert!(snapshot.groups.iter().any(|group| group.dwells_elsewhere > 0));
    let all: u64 = snapshot
        .groups
        .iter()
        .flat_map(|group| &group.dwells)
        .filter(|of| (of.state, of.split) == (TcpState::Established, None))
        .map(|of| of.distribution.count)
        .sum();
    assert_eq!(all, cookie);
}

#[test]
fn group_by_state_follows_every_change() {
    let mut run = AggregateRun::new("state,process", Scope::Every, GroupLimits::default());
    for n in 1..=30 {
        let connection =
            TestConnection { cookie: n, peer: peer(1), pid: 7, begins_ns: n * MS, open_ns: MS * n };
        let [connect, established, fin_wait1, rest @ ..] = connection.to_time_wait();
        run.take_all([connect, established]);
        if n <= 20 {
            run.take(&fin_wait1);
        }
        if n <= 10 {
            run.take_all(rest);
        }
    }
    let snapshot = run.snapshot();
    let now = |key: &str| group(&snapshot, key).counts.iter().sum::<u64>();
    assert_eq!(now("ESTABLISHED / curl (7)"), 10);
    assert_eq!(now("FIN_WAIT1 / curl (7)"), 10);
    let time_wait = group(&snapshot, "TIME_WAIT / curl (7)");
    assert_eq!((time_wait.time_wait.now, time_wait.time_wait.entered), (10, 10));
    assert_eq!(time_wait.closers[Closer::Local as usize], 10);
    let established = group(&snapshot, "ESTABLISHED / curl (7)");
    assert_eq!(dwells(&established.dwells, TcpState::Established, None).count, 20);
    assert_eq!(snapshot.grouping.head(), "STATE / PROCESS");
}

#[test]
fn sockets_closed_before_the_trace_are_not_closed_again() {
    let ends = |sport| Tuple { saddr: peer(9), sport, daddr: peer(1), dport: 80, ifindex: 0 };
    let seed = (1..=30).map(|n| {
        Record::Seed(SeedSocket {
            ts: Nanos(1),
            id: SocketId(1_000 + n),
            netns: NetnsId(1),
            tuple: ends(n as u16),
            state: TcpState::TimeWait,
            object: SeedObject::Timewait { left: Nanos(30_000 * MS) },
            inode: 0,
            uid: 0,
            rqueue: 0,
            wqueue: 0,
        })
    });
    let mut run = AggregateRun::with_seed("service", Scope::Whole, GroupLimits::default(), seed);
    for n in 1..=4 {
        let connection = TestConnection { cookie: n, peer: peer(1), pid: 7, begins_ns: n * MS, open_ns: MS };
        run.take_all(connection.to_time_wait());
    }
    let snapshot = run.snapshot();
    let local = |closes: fn(&Group) -> [u64; Closer::ALL.len() + 1]| -> u64 {
        snapshot.groups.iter().map(|group| closes(group)[Closer::Local as usize]).sum()
    };
    assert_eq!((local(|group| group.closers), local(|group| group.closed)), (34, 4));
    let (all, _) = run.aggregate.summary(
        &[StreamTables { tracker: &run.tracker, names: &HostNames::default(), host: &HostFacts::default() }],
        1,
    );
    assert_eq!(all.closed[Closer::Local as usize], 4);
}

#[test]
fn closed_count_never_falls() {
    use TcpState::{Close, Closing, Established, FinWait1, SynSent, TimeWait};
    let mut run = AggregateRun::new("service", Scope::Whole, GroupLimits::default());
    let connection = TestConnection { cookie: 1, peer: peer(1), pid: 7, begins_ns: MS, open_ns: MS };
    let (mut before, mut was_local) = ([0; Closer::COUNT], false);
    for record in [
        connection.transition(MS, Close, SynSent),
        connection.transition(2 * MS, SynSent, Established),
        connection.transition(3 * MS, Established, FinWait1),
        // The FINs of both sides cross: both closed first.
        connection.transition(4 * MS, FinWait1, Closing),
        connection.step(5 * MS, Kind::TimewaitArmed, Closing, TimeWait, TIMEWAIT_TICKS),
        connection.transition(5 * MS, Closing, Close),
        connection.expiry(60_000 * MS),
    ] {
        run.take(&record);
        let group = run.snapshot().groups.remove(0);
        assert!(before.iter().zip(group.closed).all(|(&before, now)| before <= now), "{:?}", group.closed);
        was_local |= group.closers[Closer::Local as usize] == 1;
        before = group.closed;
    }
    assert!(was_local, "the closer was local at first");
    assert_eq!((before[Closer::Local as usize], before[Closer::Both as usize]), (0, 1));
}

#[test]
fn time_wait_and_fin_wait2_are_split() {
    let mut run = AggregateRun::new("service", Scope::Every, GroupLimits::default());
    for n in 1..=20 {
        let connection = TestConnection { cookie: n, peer: peer(1), pid: 7, begins_ns: n * MS, open_ns: MS };
        run.take_all(connection.to_time_wait());
        if n > 5 {
            run.take(&connection.expiry(60_000 * MS + n * MS));
        }
    }
    let snapshot = run.snapshot();
    let group = group(&snapshot, "[fd00::1]:80");
    for all in [&snapshot.dwells, &group.dwells] {
        let expired = Some(Split::Ended(crate::lifecycle::EndReason::Expired));
        assert_eq!(dwells(all, TcpState::TimeWait, expired).count, 15);
        assert_eq!(dwells(all, TcpState::TimeWait, None).count, 15);
        assert_eq!(dwells(all, TcpState::FinWait2, Some(Split::Fin)).count, 20);
        let held = dwells(all, TcpState::FinWait2, Some(Split::Held));
        assert_eq!((held.count, held.longest), (20, Nanos(3_000)));
        let open = all.iter().find(|of| of.state == TcpState::TimeWait).and_then(|of| of.open_now);
        assert_eq!(open, Some(5));
    }
    assert_eq!(snapshot.history.len(), 1);
    assert_eq!(snapshot.history[0].counts[TcpState::TimeWait.index()], 5);
}

#[test]
fn timewait_ends_count_report_and_add_consistently() {
    use crate::lifecycle::EndReason;
    let total =
        |ends: &TimeWaitEnds| EndReason::ALL.into_iter().filter_map(|reason| ends.of(reason)).sum::<u64>();
    let mut all = TimeWaitEnds::default();
    for reason in EndReason::ALL {
        let mut ends = TimeWaitEnds::default();
        ends.count(reason, 3);
        // A received RST is reported as `reset`.
        assert!(ends.of(reason).is_none_or(|n| n == 3), "{reason:?}");
        let (before, counted) = (total(&all), if ends == TimeWaitEnds::default() { 0 } else { 3 });
        assert_eq!(total(&ends), counted, "{reason:?}");
        all.add(&ends);
        assert_eq!(total(&all), before + counted, "{reason:?}");
    }
}

/// 300 peers alternate, with 20 connections each time.
#[test]
fn sticky_top_n_is_in_every_snapshot_with_growing_counts() {
    const PEERS: u64 = 300;
    const PLACES: usize = 3;
    let mut run = AggregateRun::new(
        "peer",
        Scope::TimewaitSockets,
        GroupLimits { shown_by_ranking: PLACES, ..GroupLimits::default() },
    );
    run.aggregate = run.aggregate.with_places(PLACES);
    let mut entered = FxHashMap::<String, u64>::default();
    let connection = |n: u64| TestConnection {
        cookie: n + 1,
        peer: peer(n / 20 % PEERS),
        pid: 7,
        begins_ns: n * 10 * MS,
        open_ns: MS,
    };
    for n in 0..20_000 {
        run.take_all(connection(n).to_time_wait());
        if let Some(ended) = n.checked_sub(6_000) {
            run.take(&connection(ended).expiry(n * 10 * MS + 9 * MS));
        }
        if n % 100 == 99 {
            let snapshot = run.snapshot();
            let placed = snapshot.groups.iter().filter(|group| group.has_place);
            for group in placed.clone() {
                let before = entered.insert(group.key.clone(), group.time_wait.entered).unwrap_or_default();
                assert!(before <= group.time_wait.entered, "{}", group.key);
            }
            assert_eq!(placed.count(), PLACES);
            assert_eq!(snapshot.groups.iter().map(|group| group.time_wait.entered).sum::<u64>(), n + 1);
        }
    }
    assert!(entered.len() <= 2 * PLACES, "{} were in the top N within 200 seconds", entered.len());
}

#[test]
fn process_move_regroups_its_sockets_by_cgroup() {
    let connection =
        |cookie, begins_ns| TestConnection { cookie, peer: peer(1), pid: 7, begins_ns, open_ns: 2_000 * MS };
    let in_cgroup = |cgroup: u64, record: Record| match record {
        Record::Kernel(HookRecord { raw, task }) => {
            let task = task.map(|task| raw::Task { cgroup, ..task });
            Record::Kernel(HookRecord { raw, task })
        }
        other => other,
    };
    let moves = |grouping: &str| {
        let mut run = AggregateRun::new(grouping, Scope::TimewaitSockets, limits(9));
        // It moves back and forth: a pass over all sockets runs at most once a second.
        for (cookie, cgroup) in [(1, 5), (2, 6), (3, 5), (4, 8)] {
            let opened = connection(cookie, cookie * MS);
            let steps = opened.to_time_wait().into_iter().take(2);
            run.take_all(steps.map(|step| in_cgroup(cgroup, step)));
        }
        run.take(&Record::Tick { ts: Nanos(1_500 * MS) });
        run
    };
    let established = |group: &Group| group.counts[TcpState::Established.index()];
    let snapshot = moves("cgroup").snapshot();
    let counts: Vec<_> =
        snapshot.groups.iter().map(|group| (group.key.as_str(), established(group))).collect();
    assert_eq!(counts, [("cgroup 8", 4)]);
    for grouping in ["service", "process"] {
        let snapshot = moves(grouping).snapshot();
        let [group] = &snapshot.groups[..] else { panic!("{:?}", snapshot.groups) };
        let cgroup = group.process.as_ref().map(|process| process.cgroup);
        assert_eq!((established(group), group.other_processes, cgroup), (4, 0, Some(8)), "{grouping}");
    }
}

/// Sockets older than the trace, to one peer, enter TIME_WAIT before the seed says their role; the first `expired` also end.
fn before_the_seed_ends(sockets: u64, expired: u64, scope: Scope) -> Snapshot {
    let early = (1..=sockets).flat_map(|cookie| {
        let connection = TestConnection { cookie, peer: peer(1), pid: 7, begins_ns: MS, open_ns: MS };
        let end = (cookie <= expired).then(|| connection.expiry(60_000 * MS));
        connection.to_time_wait().into_iter().skip(2).chain(end)
    });
    let mut run = AggregateRun::with_seed("service", scope, GroupLimits::default(), early);
    run.snapshot()
}

#[test]
fn counts_move_with_the_sockets_when_their_role_is_known() {
    for sockets in [1, 3] {
        let snapshot = before_the_seed_ends(sockets, 0, Scope::Every);
        let [group] = &snapshot.groups[..] else { panic!("{:#?}", snapshot.groups) };
        assert_eq!((group.role, group.sockets()), (Role::Outbound, sockets));
        assert_eq!((group.time_wait.entered, group.fin_wait2.entered), (sockets, sockets));
        assert_eq!(dwells(&group.dwells, TcpState::FinWait2, Some(Split::Held)).count, sockets);
        assert_eq!((snapshot.other_groups, snapshot.losses.evicted), (0, 0));
    }
}

#[test]
fn group_without_role_and_sockets_is_no_row() {
    let snapshot = before_the_seed_ends(2, 1, Scope::TimewaitSockets);
    let rows: Vec<_> = snapshot
        .groups
        .iter()
        .map(|group| (group.role, group.sockets(), group.time_wait.entered, group.id == GroupKey::OTHER))
        .collect();
    assert_eq!(rows, [(Role::Outbound, 1, 0, false), (Role::Unknown, 0, 2, true)]);
    assert_eq!((snapshot.other_groups, snapshot.losses.evicted), (1, 0));
}

#[test]
fn moved_owner_is_counted_once_per_socket() {
    let connection = |cookie, pid| TestConnection {
        cookie,
        peer: peer(1),
        pid,
        begins_ns: cookie * MS,
        open_ns: 2_000 * MS,
    };
    let mut run = AggregateRun::new("service", Scope::TimewaitSockets, limits(9));
    for (cookie, pid) in [(1, 7), (2, 7), (3, 7), (4, 9), (5, 9)] {
        run.take_all(connection(cookie, pid).to_time_wait().into_iter().take(2));
    }
    let [Record::Kernel(moved), ..] = connection(6, 9).to_time_wait() else { panic!("it is a transition") };
    let task = moved.task.map(|task| raw::Task { cgroup: 6, ..task });
    run.take(&Record::Kernel(HookRecord { task, ..moved }));
    run.take(&Record::Tick { ts: Nanos(1_500 * MS) });
    run.take_all(connection(7, 7).to_time_wait().into_iter().take(1));
    let snapshot = run.snapshot();
    assert_eq!(snapshot.groups[0].process.as_ref().map(|process| process.pid), Some(7));
}
