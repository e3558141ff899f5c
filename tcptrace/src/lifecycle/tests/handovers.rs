//! Tests of handovers: cookies, ports and handshakes that continue in another socket or recording.

use super::*;

/// `connect()` from the thread of every task here; port and peer as in the other records unless given.
fn connect(ms: u64, cookie: u64, sport: u16) -> Record {
    let raw = record(ms, Kind::Transition);
    let (old, new) = (TcpState::Close as u8, TcpState::SynSent as u8);
    kernel(raw::RawRecord { cookie, object: 1, old, new, sport, flags: flag::TASK, ..raw })
}

/// A TIME_WAIT timer cancelled by a system call of that thread, with half a minute left.
fn cancelled_by_thread(ms: u64, cookie: u64) -> Record {
    let raw = timewait(ms, Kind::TimewaitCancelled, cookie, TcpState::TimeWait);
    kernel(raw::RawRecord { arg0: 30 * HZ, arg1: 71 << 32, flags: flag::TASK, ..raw })
}

fn last(run: &TrackerRun) -> &str {
    run.log.lines.last().map_or("", String::as_str)
}

/// Continues the run in a recording that begins at `ms`.
fn continued(run: &TrackerRun, ms: u64) -> TrackerRun {
    let ts = Nanos(ms * MS);
    let (sockets, rest) = run.tracker.carry(ts);
    let mut next = TrackerRun::new();
    for carried in sockets {
        next.take(Record::SocketCheckpoint(Box::new(carried)));
    }
    next.take(Record::TrackerCheckpoint(Box::new(rest)));
    next
}

#[test]
fn only_a_connect_to_the_same_peer_reuses_a_time_wait() {
    for (connecting, ms, reason) in [
        (connect(1_000, 8, 0), 1_000, "reused"),
        (connect(1_000, 8, CLIENT), 1_000, "reused"),
        (connect(1_000, 8, CLIENT + 1), 1_000, "killed"),
        (connect(1_000, 8, 0), 1_999, "reused"),
        // Its port was chosen long ago.
        (connect(1_000, 8, 0), 2_000, "killed"),
    ] {
        let mut run = TrackerRun::new();
        run.reach_time_wait(7).take(connecting.clone()).take(cancelled_by_thread(ms, 7)).time(ms + 300);
        assert_eq!(last(&run), format!("7 TIME_WAIT>CLOSE {}ms {reason}", ms - 40), "{connecting:?} at {ms}");
    }
}

#[test]
fn checkpoint_carries_a_connect_in_progress() {
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(connect(1_000, 8, 0));
    let mut next = continued(&run, 1_001);
    next.take(cancelled_by_thread(1_002, 7));
    assert_eq!(last(&next), "7 TIME_WAIT>CLOSE 962ms reused");

    let mut late = continued(&run, 2_500);
    late.take(cancelled_by_thread(2_501, 7)).time(2_800);
    assert_eq!(last(&late), "7 TIME_WAIT>CLOSE 2461ms killed", "that connect() has ended");
}

#[test]
fn timer_set_again_late_continues_time_wait() {
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(kernel(timewait(1_000, Kind::TimewaitCancelled, 7, TcpState::TimeWait)));
    // A virtual CPU is paused; the others run.
    run.time(1_240).take(kernel(timewait(1_240, Kind::TimewaitArmed, 7, TcpState::TimeWait))).time(5_000);
    assert_eq!(run.count(TcpState::TimeWait), 1);
    assert_eq!(run.tracker.counters().healed, 0);
}

#[test]
fn timewait_first_seen_by_its_timer_counts_as_healed() {
    use TcpState as T;
    let armed = || kernel(timewait(10, Kind::TimewaitArmed, 7, T::TimeWait));
    let mut run = TrackerRun::new();
    run.take(armed());
    assert_eq!((run.count(T::TimeWait), run.tracker.counters().healed), (1, 1));
    let mut run = TrackerRun::seeding();
    run.take(armed());
    assert_eq!(
        (run.count(T::TimeWait), run.tracker.counters().healed),
        (1, 0),
        "it may be older than the trace"
    );
}

#[test]
fn duplicate_clone_report_adds_one_child() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let cloned = || server(20, 8, T::Listen, T::SynRecv);
    run.take(kernel(request(10, Kind::RequestArmed))).take(cloned()).take(cloned());
    assert_eq!((run.tracker.counters().doubles, run.count(T::SynRecv)), (1, 1));
    run.take(server(21, 8, T::SynRecv, T::Established));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 11ms"]);
}

#[test]
fn clone_with_the_listeners_cookie_is_ignored() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    // With a full tuple, as a connected listener has; only its state shows that it is the listener.
    run.take(server(0, 3, T::Close, T::Listen)).take(server(10, 3, T::Listen, T::SynRecv));
    assert_eq!(run.lines(), ["3 CLOSE>LISTEN"]);
    assert_eq!((run.tracker.counters(), run.count(T::Listen)), (Counters::default(), 1));
}

#[test]
fn tick_is_learned_from_the_first_full_minute() {
    use TcpState as T;
    let armed = |ms, cookie, left: i64| {
        kernel(raw::RawRecord { arg0: left as u64, ..timewait(ms, Kind::TimewaitArmed, cookie, T::TimeWait) })
    };
    let mut run = TrackerRun::new();
    for (cookie, left) in [(1, 0), (2, -60), (3, 14_999), (4, -15_000)] {
        run.take(armed(0, cookie, left));
        assert_eq!(run.tracker.hz, None, "{left} jiffies are no minute");
    }
    run.take(armed(0, 5, 15_000)).take(armed(0, 6, 60_000));
    assert_eq!(run.tracker.hz, Some(250));
    // Without a stamp the timer shows the entry: 2 s of the minute are left.
    run.reach_fin_wait2(8).take(kernel(timewait(30, Kind::TimewaitArmed, 8, T::FinWait2)));
    let end = timewait(60_000, Kind::TimewaitExpired, 8, T::TimeWait);
    run.take(kernel(raw::RawRecord { arg0: 500, ..end }));
    assert_eq!(last(&run), "8 TIME_WAIT>CLOSE ~58000ms expired");
}

#[test]
fn checkpoint_carries_a_rekeyed_timewait_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(connect(50, 7, 0));
    assert_eq!((run.count(T::TimeWait), entries(&run.tracker, "minisockets set aside")), (1, 1));
    let mut next = continued(&run, 60);
    assert_eq!(entries(&next.tracker, "minisockets set aside"), 1);
    next.take(kernel(timewait(60_040, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert!(last(&next).contains("TIME_WAIT>CLOSE 60000ms expired"), "{:?}", next.lines());
    assert_eq!((next.count(T::TimeWait), next.count(T::SynSent)), (0, 1));
    assert_eq!(entries(&next.tracker, "minisockets set aside"), 0);
}

#[test]
fn handshakes_match_by_tuple_without_interface() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let armed = request(10, Kind::RequestArmed);
    run.take(kernel(raw::RawRecord { ifindex: 3, ..armed })).take(kernel(raw::RawRecord {
        dport: CLIENT + 1,
        object: 0xabc1,
        ..armed
    }));
    assert_eq!(run.count(T::SynRecv), 2);
    // The child is bound to no interface.
    run.take(server(20, 8, T::Listen, T::SynRecv)).take(server(21, 8, T::SynRecv, T::Established));
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (1, 1));
}

#[test]
fn second_syn_with_the_same_tuple_drops_the_first_request() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let armed = |ms, object| kernel(raw::RawRecord { object, ..request(ms, Kind::RequestArmed) });
    run.take(armed(10, 1)).take(armed(15, 1));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV"], "its timer is armed again");
    run.take(armed(20, 2));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "h SYN_RECV>CLOSE 10ms dropped", "h LISTEN>SYN_RECV"]);
    assert_eq!(run.count(T::SynRecv), 1);
}

#[test]
fn handshake_with_a_cookie_keeps_its_id_from_the_syn() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(raw::RawRecord { cookie: 9, ..request(10, Kind::RequestArmed) }));
    let ids = |run: &TrackerRun| run.tracker.sockets().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(&run), [SocketId(9)]);
    run.take(server(20, 9, T::Listen, T::SynRecv)).take(server(21, 9, T::SynRecv, T::Established));
    assert_eq!(run.lines(), ["9 LISTEN>SYN_RECV", "9 SYN_RECV>ESTABLISHED 11ms"]);
    // The cookie of a live socket is never another's.
    let again = request(30, Kind::RequestArmed);
    run.take(kernel(raw::RawRecord { cookie: 9, dport: CLIENT + 1, object: 2, ..again }));
    assert_eq!((run.count(T::Established), run.count(T::SynRecv)), (1, 1));
    assert!(ids(&run).iter().any(|id| id.kind() == crate::model::IdKind::Handshake));
}

#[test]
fn connect_that_left_syn_sent_reuses_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(connect(1_000, 8, 0)).client(1_000, 8, T::SynSent, T::Established);
    run.take(cancelled_by_thread(1_001, 7)).time(1_300);
    assert_eq!(last(&run), "7 TIME_WAIT>CLOSE 961ms killed");
    // A connect in another namespace reuses nothing either.
    let mut run = TrackerRun::new();
    let elsewhere = match connect(1_000, 8, 0) {
        Record::Kernel(seen) => {
            Record::Kernel(HookRecord { raw: raw::RawRecord { netns: 2, ..seen.raw }, ..seen })
        }
        other => other,
    };
    run.reach_time_wait(7).take(elsewhere).take(cancelled_by_thread(1_001, 7)).time(1_300);
    assert_eq!(last(&run), "7 TIME_WAIT>CLOSE 961ms killed");
}
