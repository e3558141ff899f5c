//! Counts per stack against connections whose stacks are known.

use tcptrace_common::record::stack::IS_SAMPLE;

use super::*;
use crate::{
    aggregate::{CallTotal, StackCall, StackGroup},
    model::stack::{StackFrame, UserStack},
};

fn stack(number: u32, function: &str) -> Record {
    let frame = StackFrame { function: function.into(), ..StackFrame::default() };
    let stack = UserStack { frames: vec![frame], is_cut: false };
    Record::Stack { ts: Nanos(5), number, stack: Arc::new(stack) }
}

/// Records of a connection up to TIME_WAIT, opened and closed by these stacks.
fn connection(cookie: u64, pid: u32, opened: u64, closed: u64) -> [Record; 6] {
    let connection =
        TestConnection { cookie, peer: peer(1), pid, begins_ns: cookie * 10 * MS, open_ns: cookie * MS };
    let mut records = connection.to_time_wait();
    for (at, arg0) in [(0, opened), (2, closed)] {
        if let Record::Kernel(seen) = &mut records[at] {
            seen.raw.arg0 = arg0;
        }
    }
    records
}

fn run(records: impl IntoIterator<Item = Record>) -> AggregateRun {
    let mut run = AggregateRun::new("service", Scope::TimewaitSockets, limits(9));
    run.aggregate = run.aggregate.with_stacks(Nanos::SECOND);
    for record in records {
        run.take(&record);
        run.aggregate.take(&record);
    }
    run
}

fn of(groups: &[StackGroup], call: StackCall) -> Vec<(String, u64, u64, usize)> {
    let name = |group: &StackGroup| group.stack.caller().map(StackFrame::name).unwrap_or_default();
    let groups = groups.iter().filter(|group| group.call == call);
    groups.map(|group| (name(group), group.calls, group.captured, group.processes)).collect()
}

#[test]
fn equal_stacks_of_several_processes_are_one_group() {
    // The names of the first stack come after its connections.
    let connections = [(1, 7, 1, 3), (2, 8, 2, 4), (3, 8, 2, 0), (4, 8, 5, 3 | IS_SAMPLE)];
    let records =
        connections.iter().flat_map(|&(cookie, pid, opened, closed)| connection(cookie, pid, opened, closed));
    let names = [stack(1, "open"), stack(2, "open"), stack(3, "release"), stack(4, "expire")];
    let snapshot = run(records.chain(names)).snapshot();
    let stacks = &snapshot.stacks;
    let name = |name: &str, calls, captured, processes| (name.to_owned(), calls, captured, processes);
    assert_eq!(of(&stacks.groups, StackCall::Connect), [name("open", 3, 3, 2), name("", 1, 1, 1)]);
    assert_eq!(of(&stacks.groups, StackCall::Close), [name("release", 65, 2, 1), name("expire", 1, 1, 1)]);
    let [connects, closes, _] = stacks.totals;
    assert_eq!(connects, CallTotal { calls: 4, with_stack: 4, captured: 4 });
    assert_eq!(closes, CallTotal { calls: 4, with_stack: 66, captured: 3 });
    // Dwells of the sockets: how long they were open.
    let group = stacks.groups.iter().find(|group| group.call == StackCall::Connect).expect("a group");
    let (state, dwell) = group.dwells[0];
    assert_eq!((state, dwell.count), (TcpState::Established, 3));
    assert!((2 * MS..3 * MS).contains(&dwell.p50), "{dwell:?}");
}

#[test]
fn forgotten_sockets_have_the_stack_of_their_connect() {
    let mut records = Vec::new();
    for (cookie, opened) in [(1, 1), (2, 1), (3, 0), (400, 1)] {
        let [connect, established, ..] = connection(cookie, 7, opened, 0);
        let Record::Kernel(HookRecord { mut raw, .. }) = established else { panic!("a hook's record") };
        records.extend([connect, established]);
        (raw.ts_ns, raw.old, raw.new) =
            (raw.ts_ns + MS, TcpState::Established as u8, TcpState::CloseWait as u8);
        records.push(Record::Kernel(HookRecord { raw, task: None }));
    }
    records.push(stack(1, "forget"));
    let mut run = run(records);
    run.now += 900 * MS;
    let leaks = run.snapshot().stacks.leaks;
    // The last one has not waited for a second yet.
    let found: Vec<_> =
        leaks.iter().map(|leak| (leak.stack.is_some(), leak.close_wait, leak.fin_wait2)).collect();
    assert_eq!(found, [(true, 2, 0), (false, 1, 0)]);
}

#[test]
fn accepted_sockets_have_the_stack_of_their_accept() {
    let connection = |cookie| TestConnection { cookie, peer: peer(1), pid: 7, begins_ns: MS, open_ns: MS };
    let mut records = Vec::new();
    for (cookie, accepted) in [(1, 1), (2, 1), (3, 2 | IS_SAMPLE), (4, 0)] {
        use TcpState::{CloseWait, Established, SynRecv};
        let connection = connection(cookie);
        let mut accept = connection.step(2 * MS, Kind::Accepted, Established, Established, accepted);
        let connect = connection.step(0, Kind::Transition, TcpState::Close, TcpState::SynSent, 0);
        // The task is in the record of the call.
        if let (Record::Kernel(accept), Record::Kernel(connect)) = (&mut accept, connect) {
            accept.raw.flags = flag::TASK;
            accept.task = connect.task;
        }
        records.extend([
            connection.transition(MS, SynRecv, Established),
            accept.clone(),
            // Another copy of the program reports it again.
            accept,
            connection.transition(3 * MS, Established, CloseWait),
        ]);
    }
    records.extend([stack(1, "forget"), stack(2, "serve")]);
    let mut run = run(records);
    run.now += 2_000 * MS;
    let stacks = run.snapshot().stacks;
    assert_eq!(
        of(&stacks.groups, StackCall::Accept),
        [("serve".to_owned(), 64, 1, 1), ("forget".to_owned(), 2, 2, 1)]
    );
    assert_eq!(
        stacks.totals[StackCall::Accept as usize],
        CallTotal { calls: 4, with_stack: 66, captured: 3 }
    );
    let leaks = stacks.leaks.iter().map(|leak| (leak.call, leak.stack.is_some(), leak.close_wait));
    assert_eq!(
        leaks.collect::<Vec<_>>(),
        [(StackCall::Accept, true, 2), (StackCall::Accept, true, 1), (StackCall::Accept, false, 1)],
        "those without a stack are the last of equal ones"
    );
    let owners = stacks.leaks.iter().map(|leak| leak.process.as_ref().map(|process| process.pid));
    assert!(owners.into_iter().all(|pid| pid == Some(7)), "{:#?}", stacks.leaks);
}

#[test]
fn stacks_with_few_calls_make_room() {
    let mut stacks = run([]);
    for cookie in 1..=5_000 {
        stacks.take_all(connection(cookie, 7, cookie, 0).into_iter().take(2));
    }
    let snapshot = stacks.snapshot();
    let listed: u64 = snapshot.stacks.groups.iter().map(|group| group.calls).sum();
    // Those without names are one group.
    assert_eq!((listed + snapshot.stacks.evicted, snapshot.stacks.evicted), (5_000, 1_024));
}
