use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use tcptrace_common::record::{Kind, Task, flag};

use super::*;
use crate::{
    aggregate::{Context, HostNames},
    filter::parse,
    lifecycle::tests::{any_stream::any_record, full, kernel, timewait},
    lifecycle::{Closer, EndReason, Event, Socket},
    model::{
        SocketId, TcpState,
        record::{HookRecord, HostFacts, KernelLosses, Process},
    },
};

/// Each tests a property that a socket can gain or lose during its life.
const FILTERS: [&str; 12] = [
    "state time-wait",
    "state established,time-wait",
    "not state listen",
    "lport 1",
    "not lport 1",
    "role inbound",
    "role outbound and state fin-wait1,fin-wait2",
    "closer local",
    "not closer none and not state fin-wait2",
    "pid 70",
    "not comm curl and not state close-wait",
    "owner exact,proc or state last-ack",
];

fn filter(text: &str) -> Filter {
    let expr = parse("--filter", text).expect("an expression");
    Filter::new(Some(expr), &BTreeMap::new()).expect("no names")
}

/// Any record, some with their task, plus owner records.
fn any_owned_record() -> impl Strategy<Value = Record> {
    let process = (70_u32..73).prop_map(|pid| Process::new(pid, "curl", 0));
    prop_oneof![
        3 => any_record(),
        3 => (any_record(), 70_u32..73).prop_map(|(record, tgid)| match record {
            Record::Kernel(mut seen) => {
                seen.raw.flags |= flag::TASK;
                let comm = *b"curl\0\0\0\0\0\0\0\0\0\0\0\0";
                Record::Kernel(HookRecord { task: Some(Task { cgroup: 0, tgid, tid: 1, comm }), ..seen })
            }
            other => other,
        }),
        1 => (0_u64..6, process).prop_map(|(id, process)| Record::Owner { ts: Nanos(0), id: SocketId(id), process, fd: None }),
    ]
}

/// Collects the reported changes.
#[derive(Clone, Default)]
struct EventCollector(Arc<std::sync::Mutex<Vec<(TcpState, TcpState)>>>);

impl EventSink for EventCollector {
    fn event(&mut self, event: &Event<'_>, _: &HostFacts) {
        self.0.lock().expect("no panic before").push((event.from, event.to));
    }

    fn flush(&mut self) {}

    fn dropped(&self) -> u64 {
        0
    }
}

fn context() -> Context {
    Context {
        host: Arc::default(),
        source: Arc::from("test"),
        filter: Arc::default(),
        records: 0,
        kernel_losses: KernelLosses::default(),
        output_dropped: 0,
        observed: Arc::default(),
        refused: 0,
        answer: None,
    }
}

/// One active close up to the end of TIME_WAIT, seen through `filter`.
fn active_close(filter: &str) -> (Vec<(TcpState, TcpState)>, Snapshot) {
    use TcpState as T;
    let noted = EventCollector::default();
    let filter = self::filter(filter);
    let mut tracker = Tracker::new(TrackerLimits::default()).scoped(filter.kernel_part());
    let mut flow = PipelineState::new(
        Aggregate::new(Grouping::SERVICE, Scope::TimewaitSockets),
        Some(Box::new(noted.clone())),
        None,
        filter,
    );
    for record in [
        Record::SeedEnd { ts: Nanos(0), began: Nanos(0) },
        full(0, 7, T::Close, T::SynSent, 0, 0),
        full(10, 7, T::SynSent, T::Established, 0, 0),
        full(20, 7, T::Established, T::FinWait1, 0, 0),
        full(30, 7, T::FinWait1, T::FinWait2, 0, 0),
        kernel(timewait(40, Kind::TimewaitArmed, 7, T::TimeWait)),
        full(40, 7, T::FinWait2, T::Close, 0, 0),
        kernel(timewait(60_040, Kind::TimewaitExpired, 7, T::TimeWait)),
    ] {
        flow.take(&record, &mut tracker);
    }
    let snapshot = flow.aggregate.snapshot(Nanos(0), &tracker, &HostNames::default(), context());
    let events = noted.0.lock().expect("no panic before").clone();
    (events, snapshot)
}

#[test]
fn filtered_state_reports_its_start_and_end() {
    use TcpState as T;
    let (events, snapshot) = active_close("state time-wait");
    assert_eq!(events, [(T::FinWait2, T::TimeWait), (T::TimeWait, T::Close)]);
    let [group] = &snapshot.groups[..] else { panic!("{:?}", snapshot.groups) };
    assert_eq!((group.time_wait.entered, group.time_wait.dwell.count), (1, 1));
    assert_eq!((group.time_wait.ended.expired, group.fin_wait2.entered), (1, 0));
    assert_eq!(snapshot.states.map(|state| state.entered).iter().sum::<u64>(), 1);
}

#[test]
fn socket_that_matches_again_is_closed_once() {
    let (events, snapshot) = active_close("state established,time-wait");
    assert_eq!(events.len(), 4);
    let closers = snapshot.groups[0].closers;
    assert_eq!(closers[Closer::Local as usize], 1);
    assert_eq!(closers.iter().sum::<u64>(), 1);
}

#[test]
fn unmatched_sockets_leave_no_trace() {
    for filter in ["rport 81", "pid 71", "role inbound", "not lport 40000", "ipv6"] {
        let (events, snapshot) = active_close(filter);
        assert_eq!(events, [], "{filter}");
        assert_eq!(snapshot.losses.total(), 0, "{filter}");
        let ended = snapshot.groups.iter().map(|group| group.ended[EndReason::Expired as usize]).sum::<u64>();
        assert_eq!(ended + snapshot.states.map(|state| state.now).iter().sum::<u64>(), 0, "{filter}");
    }
}

proptest! {
    /// For any records the counted sockets are the matching sockets of the table, each in one group.
    #[test]
    fn counted_sockets_are_the_matching_ones(
        filter in select(&FILTERS[..]).prop_map(filter),
        records in vec(any_owned_record(), 0..200),
    ) {
        let mut tracker = Tracker::new(TrackerLimits::default()).scoped(filter.kernel_part());
        let mut flow = PipelineState::new(Aggregate::cramped("state,process".parse().expect("two keys"), Scope::Every), None, None, filter.clone());
        for (i, record) in records.into_iter().enumerate() {
            if i == 50 {
                flow.take(&Record::SeedEnd { ts: Nanos(0), began: Nanos(0) }, &mut tracker);
            }
            flow.take(&record, &mut tracker);
            let mut matching = [0_u64; TcpState::COUNT];
            for (_, socket) in tracker.sockets() {
                let subject = socket.subject(tracker.processes());
                let counts = socket.state != TcpState::Close && filter.matches(&subject, socket.state);
                matching[socket.state.index()] += u64::from(counts);
            }
            prop_assert_eq!(TcpState::ALL.map(|state| flow.aggregate.now(state)), matching, "record {}", i);
        }
        let snapshot = flow.aggregate.snapshot(Nanos(0), &tracker, &HostNames::default(), context());
        for state in TcpState::ALL {
            let in_groups: u64 = snapshot.groups.iter().map(|group| group.counts[state.index()]).sum();
            prop_assert_eq!(in_groups, snapshot.states[state.index()].now);
        }
        let orphans = |socket: &Socket| {
            let subject = socket.subject(tracker.processes());
            socket.is_orphan_fin_wait2() && filter.matches(&subject, socket.state)
        };
        let orphans = tracker.sockets().filter(|(_, socket)| orphans(socket)).count() as u64;
        prop_assert_eq!(snapshot.groups.iter().map(|group| group.fin_wait2_orphan).sum::<u64>(), orphans);
        for all in &snapshot.dwells {
            let of_groups = snapshot.groups.iter().flat_map(|group| &group.dwells);
            let same = of_groups.filter(|of| (of.state, of.split) == (all.state, all.split));
            let count = same.map(|of| of.distribution.count).sum::<u64>();
            prop_assert_eq!(count, all.distribution.count, "{:?} {:?}", all.state, all.split);
        }
    }
}

proptest! {
    /// A new key and filter give the same counts as if used from the start.
    #[test]
    fn new_query_gives_the_counts_of_a_first_query(
        filters in (select(&FILTERS[..]), select(&FILTERS[..])),
        records in vec(any_owned_record(), 0..200),
    ) {
        let run = |grouping: &str, filter: Option<&str>, active: Option<ActiveQuery>| {
            let grouping = grouping.parse().expect("a key");
            let filter = filter.map(self::filter).unwrap_or_default();
            let mut flow = PipelineState::new(Aggregate::new(grouping, Scope::TimewaitSockets), None, active, filter);
            let mut tracker = Tracker::new(TrackerLimits::default());
            for record in &records {
                flow.take(record, &mut tracker);
            }
            (flow, tracker)
        };
        let counts = |(mut flow, tracker): (PipelineState, Tracker)| {
            let snapshot = flow.aggregate.snapshot(Nanos(0), &tracker, &HostNames::default(), context());
            let mut groups: Vec<_> = snapshot.groups.into_iter()
                .filter(|group| group.counts != [0; TcpState::COUNT])
                .map(|group| (group.key, group.counts, group.fin_wait2_orphan))
                .collect();
            groups.sort();
            (groups, snapshot.states.map(|state| state.now))
        };
        let first = Query::new("service".parse().expect("a key"));
        let (mut flow, mut tracker) = run("service", None, Some(ActiveQuery::new(first, Filter::EVERYTHING)));
        for text in [filters.0, filters.1] {
            let filter = parse("--filter", text).ok();
            let grouping = "peer,process".parse().expect("two keys");
            flow.ask(Query { filter, ..Query::new(grouping) }, &mut tracker);
        }
        prop_assert_eq!(counts((flow, tracker)), counts(run("peer,process", Some(filters.1), None)));
    }
}

/// Emits its records and ends.
struct ScriptedSource(std::vec::IntoIter<Record>);

impl Source for ScriptedSource {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        self.0.by_ref().for_each(take);
        Ok(Flow::Ended)
    }
}

/// Waits for a snapshot that answers `query`.
fn answered(running: &mut Running, ask: &watch::Sender<Query>, query: &Query) -> Arc<Snapshot> {
    ask.send_replace(query.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let is_it = |snapshot: &Option<Arc<Snapshot>>| {
        let answer = snapshot.as_ref().and_then(|snapshot| snapshot.answer.as_ref());
        answer.is_some_and(|answer| answer.query == *query)
    };
    let found = runtime.block_on(running.snapshots.wait_for(is_it)).expect("the pipeline runs").clone();
    found.expect("checked")
}

#[test]
fn queries_are_answered_after_the_source_has_ended() {
    use crate::aggregate::detail::{Before, Detail, Focus};
    use TcpState as T;
    let records = vec![
        Record::OwnersEnd { ts: Nanos(0) },
        full(0, 7, T::Close, T::SynSent, 0, 0),
        full(10, 7, T::SynSent, T::Established, 0, 0),
        full(20, 8, T::Established, T::CloseWait, 0, 0),
        Record::Tick { ts: Nanos(50_000_000) },
    ];
    let mut query = Query::new(Grouping::SERVICE);
    let (ask, queries) = watch::channel(query.clone());
    let plan = PipelinePlan::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::TimewaitSockets, Nanos(1));
    let plan = PipelinePlan { queries: Some(queries), ..plan };
    let mut running = start(Box::new(ScriptedSource(records.into_iter())), plan).expect("a thread");

    query.grouping = "state".parse().expect("a key");
    query.filter = parse("filter", "state established").ok();
    let snapshot = answered(&mut running, &ask, &query);
    assert_eq!(snapshot.groups.iter().map(|group| &*group.key).collect::<Vec<_>>(), ["ESTABLISHED"]);
    assert_eq!(&*snapshot.filter, "state established");
    // Destinations are those of the matching sockets.
    assert_eq!(snapshot.ports.destinations.len(), 1);
    query.filter = parse("filter", "state close-wait and role inbound").ok();
    assert!(answered(&mut running, &ask, &query).ports.destinations.is_empty());
    query.filter = parse("filter", "state established").ok();
    let snapshot = answered(&mut running, &ask, &query);
    assert_eq!(snapshot.ports.destinations.len(), 1);
    query.focus = Focus::Group(snapshot.groups[0].id.clone());
    let Detail::Group(members) =
        &answered(&mut running, &ask, &query).answer.as_ref().expect("one").detail.clone()
    else {
        panic!("no sockets");
    };
    assert_eq!((members.total, members.sockets[0].id), (1, SocketId(7)));
    query.focus = Focus::Socket(SocketId(7));
    let snapshot = answered(&mut running, &ask, &query);
    let answer = snapshot.answer.as_ref().expect("one");
    let Detail::Socket(life) = &answer.detail else { panic!("{:?}", answer.detail) };
    assert_eq!((life.steps.len(), life.before, answer.ended), (2, Before::Nothing, true));
    query.focus = Focus::Socket(SocketId(9));
    let snapshot = answered(&mut running, &ask, &query);
    assert!(matches!(snapshot.answer.as_ref().expect("one").detail, Detail::Gone));
    // An unknown namespace name leaves the filter unchanged.
    query.filter = parse("filter", "netns nowhere").ok();
    let snapshot = answered(&mut running, &ask, &query);
    let fault = snapshot.answer.as_ref().expect("one").filter_fault.clone();
    assert!(fault.is_some_and(|fault| fault.contains("nowhere")));
    assert_eq!(snapshot.groups.len(), 1);
    drop(ask);
    running.finish().expect("no fault");
}

#[test]
fn evicting_unused_names_is_not_a_loss() {
    let mut engine = Engine::new(filter("state listen"), Grouping::SERVICE, Scope::Nothing, "".into());
    let ts = Nanos(1);
    engine.take(&Record::SeedEnd { ts, began: ts });
    engine.take(&Record::OwnersEnd { ts });
    for cgroup in 1..100_000 {
        engine.take(&Record::CgroupPath { ts, cgroup, path: "/kubepods/box".into() });
    }
    let paths =
        engine.snapshot().tables.iter().find(|(table, _)| *table == "cgroup_paths").map(|(_, rows)| *rows);
    assert!(paths.is_some_and(|paths| (1_000..10_000).contains(&paths)), "{paths:?}");
    assert_eq!(engine.losses().evicted, 0);
}
