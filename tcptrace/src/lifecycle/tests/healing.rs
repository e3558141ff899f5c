//! Tests of missed and duplicate transitions.

use super::*;

#[test]
fn a_missed_transition_is_healed_and_counted() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.client(0, 7, T::Close, T::SynSent).client(20, 7, T::Established, T::FinWait1).client(
        30,
        7,
        T::FinWait1,
        T::FinWait2,
    );
    assert_eq!(
        run.lines(),
        ["7 CLOSE>SYN_SENT", "7 ESTABLISHED>FIN_WAIT1", "7 FIN_WAIT1>FIN_WAIT2 10ms"],
        "a dwell with a missed beginning is unknown"
    );
    assert_eq!(run.tracker.counters().healed, 1);
    assert_eq!(run.log.counts.iter().sum::<i64>(), 1);
}

#[test]
fn duplicate_transition_report_changes_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.client(0, 7, T::Close, T::SynSent)
        .client(0, 7, T::Close, T::SynSent)
        .client(10, 7, T::SynSent, T::Close)
        .client(10, 7, T::SynSent, T::Close);
    assert_eq!(run.lines().len(), 2);
    assert_eq!((run.tracker.counters().doubles, run.tracker.counters().healed), (2, 0));
}
