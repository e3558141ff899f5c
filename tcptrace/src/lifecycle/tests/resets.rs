//! Tests of why a socket ended: resets before and after CLOSE, reconnects, killed listeners.

use super::*;

fn ends(ms: u64, kind: Kind, arg0: u64) -> Record {
    kernel(raw::RawRecord { cookie: 7, arg0, ..record(ms, kind) })
}

#[test]
fn rst_after_close_gives_the_reason() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(full(40, 7, T::Established, T::Close, 0, flag::SHUTDOWN_BOTH));
    assert_eq!(run.count(T::Established), 1, "until the kernel reports why");
    let reset = |ms| ends(ms, Kind::ResetSent, raw::ResetReason::AbortOnClose as u64);
    // Both copies of a program may report it.
    run.take(full(40, 7, T::Established, T::Close, 0, flag::SHUTDOWN_BOTH)).take(reset(41)).take(reset(41));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms reset_sent_unread"]);
    assert_eq!((run.count(T::Established), run.tracker.counters().doubles), (0, 1));
    assert_eq!(run.tracker.counters().healed, 0);
}

#[test]
fn rst_before_close_gives_the_reason() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(ends(39, Kind::ResetReceived, 0)).take(full(40, 7, T::Established, T::Close, 104, 0));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms reset_received"]);
}

#[test]
fn data_after_close_is_not_a_received_rst() {
    use TcpState as T;
    let answer = |ms| kernel(raw::RawRecord { cookie: 7, arg0: 1, arg1: 1, ..record(ms, Kind::ResetSent) });
    for (sends, reason) in [(true, "aborted"), (false, "reset_received")] {
        let mut run = TrackerRun::new();
        run.sees_ends().reach_established(7);
        run.take(full(20, 7, T::Established, T::FinWait1, 0, flag::SHUTDOWN_BOTH));
        // tcp_reset() runs for a RST and for data alike; a held socket reports the error first.
        run.take(ends(39, Kind::ResetReceived, 0));
        run.take(full(40, 7, T::FinWait1, T::Close, 104, flag::SHUTDOWN_BOTH)).take(ends(
            40,
            Kind::ErrorReported,
            104,
        ));
        if sends {
            run.take(answer(41));
        }
        run.time(400);
        assert_eq!(run.lines()[3..], [format!("7 FIN_WAIT1>CLOSE 20ms {reason}")]);
    }
}

#[test]
fn rst_that_answers_a_segment_ends_no_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    let answer = kernel(raw::RawRecord { cookie: 7, arg0: 8, arg1: 1, ..record(30, Kind::ResetSent) });
    run.take(answer).take(full(40, 7, T::Established, T::Close, 110, 0)).time(300);
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms timeout"]);
}

#[test]
fn reconnect_ends_a_pending_close_as_unexplained() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_established(7);
    run.take(full(40, 7, T::Established, T::Close, 0, 0)).take(full(41, 7, T::Close, T::SynSent, 0, 0));
    assert_eq!(run.lines()[2..], ["7 ESTABLISHED>CLOSE 30ms unexplained", "7 CLOSE>SYN_SENT"]);
    assert_eq!((run.count(T::SynSent), run.tracker.counters().healed), (1, 0));
}

#[test]
fn killed_listener_is_recognised_by_its_error() {
    use TcpState as T;
    for (error, reason) in [(103, "killed"), (0, "listener_closed")] {
        let mut run = TrackerRun::new();
        run.sees_ends().take(full(0, 7, T::Close, T::Listen, 0, 0)).take(full(
            10,
            7,
            T::Listen,
            T::Close,
            0,
            0,
        ));
        run.take(ends(10, Kind::ErrorReported, error));
        assert_eq!(run.lines()[1..], [format!("7 LISTEN>CLOSE 10ms {reason}")]);
    }
}
