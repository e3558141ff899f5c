//! Simulated pools against connections whose savings are known.

use super::*;
use crate::aggregate::PoolDemand;

const PROCESS: u32 = 7;

/// Connections as `(begins, is open for)`, in ms, of one process to one destination.
fn demands(connections: &[(u64, u64)]) -> Vec<PoolDemand> {
    let mut run = AggregateRun::new("service", Scope::TimewaitSockets, limits(9));
    run.aggregate = run.aggregate.with_pools();
    let mut records: Vec<Record> = connections
        .iter()
        .zip(1..)
        .flat_map(|(&(begins_ms, open_ms), cookie)| {
            let connection = TestConnection {
                cookie,
                peer: peer(1),
                pid: PROCESS,
                begins_ns: begins_ms * MS,
                open_ns: open_ms * MS,
            };
            connection.to_time_wait()
        })
        .collect();
    records.sort_by_key(Record::ts);
    run.take_all(records);
    run.snapshot().pools
}

/// `(opened, closed here, short, most open, idle, saved)`.
fn numbers(connections: &[(u64, u64)]) -> Option<(u64, u64, u64, u32, u64, u64)> {
    let demands = demands(connections);
    let [one] = demands.as_slice() else { return None };
    assert_eq!((one.process.pid, &*one.process.comm, one.closed_there), (PROCESS, "curl", 0));
    Some((one.opened, one.closed_here, one.short, one.most_open, one.idle, one.saved))
}

#[test]
fn one_after_the_other_needs_one_idle_connection() {
    let connections: Vec<_> = (0..10).map(|n| (n * 100, 50)).collect();
    assert_eq!(numbers(&connections), Some((10, 10, 10, 1, 1, 9)));
}

#[test]
fn bursts_need_as_many_idle_connections_as_they_have_connections() {
    // Three bursts of eight: a pool of eight saves all but the first burst.
    let connections: Vec<_> = (0..24).map(|n| (n / 8 * 1_000 + n % 8, 100)).collect();
    assert_eq!(numbers(&connections), Some((24, 24, 24, 8, 8, 16)));
}

#[test]
fn connections_that_overlap_save_nothing() {
    let connections: Vec<_> = (0..10).map(|n| (n, 5_000)).collect();
    assert_eq!(numbers(&connections), None);
    assert_eq!(numbers(&[(0, 50)]), None, "a single one");
}

#[test]
fn long_connections_are_not_short() {
    assert_eq!(numbers(&[(0, 1_500), (2_000, 1_500), (4_000, 10)]), Some((3, 3, 1, 1, 1, 2)));
}

#[test]
fn another_program_of_the_same_pid_begins_at_nothing() {
    let mut run = AggregateRun::new("service", Scope::TimewaitSockets, limits(9));
    run.aggregate = run.aggregate.with_pools();
    let connection =
        |cookie, begins_ns| TestConnection { cookie, peer: peer(1), pid: PROCESS, begins_ns, open_ns: MS };
    run.take_all(connection(1, MS).to_time_wait());
    let other = connection(2, 10 * MS).to_time_wait().map(|record| match record {
        Record::Kernel(HookRecord { raw, task: Some(task) }) => Record::Kernel(HookRecord {
            raw,
            task: Some(raw::Task { comm: *b"wget\0\0\0\0\0\0\0\0\0\0\0\0", ..task }),
        }),
        other => other,
    });
    run.take_all(other);
    assert!(run.snapshot().pools.is_empty());
}
