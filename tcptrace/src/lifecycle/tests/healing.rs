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

/// On 7.2 a thread can lose its CPU between both reports of a close.
#[test]
fn duplicate_report_of_a_close_may_come_after_other_closes() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.client(0, 7, T::Close, T::SynSent).client(10, 7, T::SynSent, T::Close);
    for id in 100..400 {
        run.client(11, id, T::Close, T::SynSent).client(12, id, T::SynSent, T::Close);
    }
    run.client(24, 7, T::SynSent, T::Close);
    assert_eq!(run.lines().len(), 602);
    assert_eq!((run.tracker.counters().doubles, run.tracker.counters().healed), (1, 0));
}

/// `tcp_time_wait()` is called in FIN_WAIT2 and CLOSING only: what came before was missed.
#[test]
fn a_timewait_socket_after_missed_transitions_has_no_dwell_before() {
    use TcpState as T;
    for substate in [T::TimeWait, T::FinWait2] {
        let mut run = TrackerRun::new();
        run.reach_established(7).take(kernel(timewait(9_000, Kind::TimewaitArmed, 7, substate)));
        assert!(run.lines().iter().all(|line| !line.contains("8990ms")), "{:?}", run.lines());
        assert_eq!((run.tracker.counters().healed, run.count(substate)), (1, 1));
    }
}
