//! Tests of the code that findings name.

use super::*;
use crate::{
    aggregate::{LeakGroup, StackCall, StackGroup},
    view::top::fixture,
};

fn calls(call: StackCall, function: &str, calls: u64) -> StackGroup {
    StackGroup {
        call,
        stack: fixture::stack(&["connect", function, "main"]),
        process: process(),
        processes: 1,
        calls,
        captured: calls,
        dwells: Vec::new(),
    }
}

/// The evidence of the only finding.
fn evidence(change: impl FnOnce(&mut Snapshot)) -> Vec<String> {
    let mut snapshot = healthy();
    change(&mut snapshot);
    let [found] = diagnose(&snapshot).try_into().expect("one finding");
    found.evidence
}

#[test]
fn findings_name_the_code_if_stacks_were_captured() {
    let leaked = evidence(|snapshot| {
        stuck(snapshot, TcpState::CloseWait, 60);
        snapshot.stacks.leaks = vec![LeakGroup {
            stack: Some(fixture::stack(&["connect", "open_session", "main"])),
            call: StackCall::Connect,
            process: Some(process()),
            processes: 1,
            close_wait: 33,
            fin_wait2: 0,
            longest: Nanos::SECOND,
        }];
    });
    assert_eq!(leaked.last().map(String::as_str), Some("33 opened by open_session app/pool.c:10 < main"));

    let exhausted = evidence(|snapshot| {
        ports(snapshot, 28_230, 5);
        let other =
            StackGroup { process: Process::new(9, "other", 0), ..calls(StackCall::Close, "other", 9) };
        let close = calls(StackCall::Close, "release", 8);
        snapshot.stacks.groups = vec![other, close, calls(StackCall::Connect, "open", 7)];
    });
    assert_eq!(exhausted.last().map(String::as_str), Some("8 closed by release app/pool.c:10 < main"));

    let pools = evidence(|snapshot| {
        snapshot.pools = vec![super::pools_tests::demand(1, &process().comm)];
        snapshot.stacks.groups =
            vec![StackGroup { captured: 400, ..calls(StackCall::Connect, "open", 1_234) }];
    });
    assert_eq!(pools.last().map(String::as_str), Some("~1,234 opened by open app/pool.c:10 < main"));
}
