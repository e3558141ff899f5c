use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use tcptrace_common::record::{Kind, Task, flag};

use super::*;
use crate::{
    filter::parse,
    lifecycle::tests::{any_stream::any_record, full, kernel, minisocket},
    lifecycle::{Closer, EndReason},
    model::record::{Observation, Process},
};

/// Each asks for something else that a socket can gain or lose on its way.
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

/// Any record, some with the task that caused them, and who was found to hold a socket.
fn any_owned_record() -> impl Strategy<Value = Record> {
    let process = (70_u32..73).prop_map(|pid| Process { pid, comm: "curl".into(), cgroup: 0 });
    prop_oneof![
        3 => any_record(),
        3 => (any_record(), 70_u32..73).prop_map(|(record, tgid)| match record {
            Record::Kernel(mut seen) => {
                seen.raw.flags |= flag::TASK;
                let comm = *b"curl\0\0\0\0\0\0\0\0\0\0\0\0";
                Record::Kernel(Observation { task: Some(Task { cgroup: 0, tgid, tid: 1, comm }), ..seen })
            }
            other => other,
        }),
        1 => (0_u64..6, process).prop_map(|(id, process)| Record::Owner { ts: Nanos(0), id: SocketId(id), process, fd: None }),
    ]
}

/// Notes the changes it is told of.
#[derive(Clone, Default)]
struct Noted(Arc<std::sync::Mutex<Vec<(TcpState, TcpState)>>>);

impl EventSink for Noted {
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
        records: 0,
        kernel_losses: KernelLosses::default(),
        output_dropped: 0,
        observed: Arc::default(),
    }
}

/// One connection that the client closes, up to the end of its TIME_WAIT, seen through `filter`.
fn active_close(filter: &str) -> (Vec<(TcpState, TcpState)>, Snapshot) {
    use TcpState as T;
    let noted = Noted::default();
    let filter = self::filter(filter);
    let mut tracker = Tracker::new(Limits::default()).scoped(filter.kernel_part());
    let mut flow = Taken::new(
        Aggregate::new(Grouping::SERVICE, Scope::Minisockets),
        Some(Box::new(noted.clone())),
        filter,
    );
    for record in [
        Record::SeedEnd { ts: Nanos(0), began: Nanos(0) },
        full(0, 7, T::Close, T::SynSent, 0, 0),
        full(10, 7, T::SynSent, T::Established, 0, 0),
        full(20, 7, T::Established, T::FinWait1, 0, 0),
        full(30, 7, T::FinWait1, T::FinWait2, 0, 0),
        kernel(minisocket(40, Kind::MinisocketArmed, 7, T::TimeWait)),
        full(40, 7, T::FinWait2, T::Close, 0, 0),
        kernel(minisocket(60_040, Kind::MinisocketExpired, 7, T::TimeWait)),
    ] {
        flow.take(&record, &mut tracker);
    }
    let snapshot = flow.aggregate.snapshot(Nanos(0), &tracker, &Names::default(), context());
    let told = noted.0.lock().expect("no panic before").clone();
    (told, snapshot)
}

#[test]
fn a_state_shows_its_beginning_and_its_end() {
    use TcpState as T;
    let (told, snapshot) = active_close("state time-wait");
    assert_eq!(told, [(T::FinWait2, T::TimeWait), (T::TimeWait, T::Close)]);
    let [group] = &snapshot.groups[..] else { panic!("{:?}", snapshot.groups) };
    assert_eq!((group.time_wait.entered, group.time_wait.dwell.count), (1, 1));
    assert_eq!((group.time_wait.ended.expired, group.fin_wait2.entered), (1, 0));
    assert_eq!(snapshot.states.map(|state| state.entered).iter().sum::<u64>(), 1);
}

#[test]
fn a_socket_that_comes_back_has_been_closed_once() {
    let (told, snapshot) = active_close("state established,time-wait");
    assert_eq!(told.len(), 4);
    let closers = snapshot.groups[0].closers;
    assert_eq!(closers[Closer::Local as usize], 1);
    assert_eq!(closers.iter().sum::<u64>(), 1);
}

#[test]
fn what_does_not_match_leaves_no_trace() {
    for filter in ["rport 81", "pid 71", "role inbound", "not lport 40000", "ipv6"] {
        let (told, snapshot) = active_close(filter);
        assert_eq!(told, [], "{filter}");
        assert_eq!(snapshot.losses.total(), 0, "{filter}");
        let ended = snapshot.groups.iter().map(|group| group.ended[EndReason::Expired as usize]).sum::<u64>();
        assert_eq!(ended + snapshot.states.map(|state| state.now).iter().sum::<u64>(), 0, "{filter}");
    }
}

proptest! {
    /// Whatever comes: the sockets counted are those in the table that match, each in one group.
    #[test]
    fn what_is_counted_is_what_matches(
        filter in select(&FILTERS[..]).prop_map(filter),
        records in vec(any_owned_record(), 0..200),
    ) {
        let mut tracker = Tracker::new(Limits::default()).scoped(filter.kernel_part());
        let mut flow = Taken::new(Aggregate::cramped("state,process".parse().expect("two keys"), Scope::Every), None, filter.clone());
        for (i, record) in records.into_iter().enumerate() {
            if i == 50 {
                flow.take(&Record::SeedEnd { ts: Nanos(0), began: Nanos(0) }, &mut tracker);
            }
            flow.take(&record, &mut tracker);
            let mut matching = [0_u64; TcpState::COUNT];
            for (_, socket) in tracker.sockets() {
                let subject = Subject::of(socket, tracker.processes());
                let counts = socket.state != TcpState::Close && filter.matches(&subject, socket.state);
                matching[socket.state.index()] += u64::from(counts);
            }
            prop_assert_eq!(TcpState::ALL.map(|state| flow.aggregate.now(state)), matching, "record {}", i);
        }
        let snapshot = flow.aggregate.snapshot(Nanos(0), &tracker, &Names::default(), context());
        for state in TcpState::ALL {
            let in_groups: u64 = snapshot.groups.iter().map(|group| group.counts[state.index()]).sum();
            prop_assert_eq!(in_groups, snapshot.states[state.index()].now);
        }
        let orphans = |socket: &Socket| {
            let subject = Subject::of(socket, tracker.processes());
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
