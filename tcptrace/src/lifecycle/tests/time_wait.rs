//! Tests of TIME_WAIT and FIN_WAIT2: how timewait sockets begin and end, and which times are inferred.

use super::*;

/// Test case of a timewait timer cancelled by a task, by the idle task, or with its namespace.
type Steps = fn(&mut TrackerRun, Record, Record, Record);

#[test]
fn an_active_close_ends_in_time_wait_that_expires() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).take(kernel(timewait(60_840, Kind::TimewaitCancelled, 7, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1, "pending until the reason is known");
    run.take(kernel(timewait(60_840, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!(
        run.lines(),
        [
            "7 CLOSE>SYN_SENT",
            "7 SYN_SENT>ESTABLISHED 10ms",
            "7 ESTABLISHED>FIN_WAIT1 10ms",
            "7 FIN_WAIT1>FIN_WAIT2 10ms",
            "7 FIN_WAIT2>TIME_WAIT 10ms",
            "7 TIME_WAIT>CLOSE 60800ms expired",
        ]
    );
    assert_eq!(run.log.counts, [0; TcpState::COUNT]);
    assert_eq!(run.tracker.sockets().count(), 0);
    assert_eq!(run.tracker.counters(), super::Counters::default());
}

#[test]
fn late_fin_within_the_timer_bucket_shows_as_a_segment() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(30, 7, T::FinWait2, T::Close)
        .take(segment(130, 7, T::TimeWait, FIN_ACK))
        .take(segment(140, 7, T::TimeWait, FIN_ACK))
        .take(kernel(timewait(60_840, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT 100ms orphan", "7 TIME_WAIT>CLOSE 60710ms extended expired"],
        "the second FIN restarts the timer without a timer record"
    );
    assert_eq!(run.log.orphans, 1);
}

#[test]
fn fin_that_another_cpu_reports_before_the_hand_over_is_no_loss() {
    use TcpState as T;
    for substate in [T::FinWait2, T::TimeWait] {
        let mut run = TrackerRun::new();
        run.reach_fin_wait2(7)
            .take(segment(30, 7, T::TimeWait, FIN_ACK))
            .take(kernel(timewait(30, Kind::TimewaitArmed, 7, substate)))
            .client(30, 7, T::FinWait2, T::Close)
            .take(kernel(timewait(60_030, Kind::TimewaitExpired, 7, T::TimeWait)));
        assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>TIME_WAIT 0ms", "7 TIME_WAIT>CLOSE 60000ms expired"]);
        assert_eq!(run.tracker.counters(), super::Counters::default());
    }
    // An ACK reaches the orphan.
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(segment(30, 7, T::FinWait2, PSH_ACK ^ 8))
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(30, 7, T::FinWait2, T::Close)
        .take(segment(130, 7, T::TimeWait, FIN_ACK));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>TIME_WAIT 100ms orphan"]);
    assert_eq!(run.tracker.counters(), super::Counters::default());
}

#[test]
fn late_fin_across_buckets_begins_time_wait_once() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(3_030, Kind::TimewaitCancelled, 7, T::TimeWait)))
        .take(kernel(timewait(3_030, Kind::TimewaitArmed, 7, T::TimeWait)))
        .take(segment(3_030, 7, T::TimeWait, FIN_ACK))
        .time(4_000)
        .take(kernel(timewait(63_030, Kind::TimewaitExpired, 7, T::TimeWait)));
    let lines = run.lines();
    assert!(lines[4].starts_with("7 FIN_WAIT2>TIME_WAIT") && lines[4].contains("3000ms"), "{lines:?}");
    assert_eq!(lines[5], "7 TIME_WAIT>CLOSE 60000ms expired");
}

#[test]
fn without_segments_the_entry_is_inferred_at_the_end() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let stamp =
        |ms: u64| raw::RawRecord { arg1: 2_030, ..timewait(ms, Kind::TimewaitExpired, 7, T::TimeWait) };
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(stamp(62_030)));
    assert_eq!(
        run.lines()[4..],
        ["7 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "7 TIME_WAIT>CLOSE ~60000ms expired"]
    );
    // Without a stamp, the timer shows when it was last set, once the tick is known.
    let mut run = TrackerRun::new();
    let end = raw::RawRecord { arg0: 0, ..timewait(62_030, Kind::TimewaitExpired, 8, T::TimeWait) };
    run.take(kernel(timewait(0, Kind::TimewaitArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 8, T::FinWait2)))
        .take(kernel(end));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2000ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_fin_wait2_sweep_infers_time_wait() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()));
    for cookie in [7, 8] {
        run.reach_fin_wait2(cookie).take(kernel(timewait(30, Kind::TimewaitArmed, cookie, T::FinWait2)));
    }
    let still = seed(8, T::FinWait2, SeedObject::Timewait { left: Nanos(S) });
    run.sweep(Sweep::FinWait2, 990, &[still]);
    assert_eq!(run.lines()[8..], ["7 FIN_WAIT2>TIME_WAIT ~961ms orphan"]);
    assert_eq!((run.count(T::TimeWait), run.count(T::FinWait2)), (1, 1));
    // A socket orphaned after the FIN_WAIT2 sweep began can't be missing from it.
    run.sweep(Sweep::FinWait2, 10, &[]);
    assert_eq!(run.count(T::FinWait2), 1);
}

#[test]
fn without_segments_the_end_refines_a_swept_entry() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()))
        .take(kernel(timewait(0, Kind::TimewaitArmed, 6, T::TimeWait)))
        .reach_fin_wait2(8)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 8, T::FinWait2)))
        .sweep(Sweep::FinWait2, 2_999, &[])
        .take(kernel(raw::RawRecord { arg0: 0, ..timewait(62_030, Kind::TimewaitExpired, 8, T::TimeWait) }));
    assert_eq!(
        run.lines()[4..],
        ["8 FIN_WAIT2>TIME_WAIT ~2970ms orphan", "8 TIME_WAIT>CLOSE ~60000ms expired"]
    );
}

#[test]
fn without_segments_a_rearmed_timer_gives_an_inferred_entry() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(Record::Host(Box::default()))
        .reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(3_030, Kind::TimewaitCancelled, 7, T::TimeWait)))
        .take(kernel(timewait(3_030, Kind::TimewaitArmed, 7, T::TimeWait)));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>TIME_WAIT ~3000ms orphan"], "the first set it unseen");
}

#[test]
fn early_timewait_ends_have_distinct_reasons() {
    use TcpState as T;
    let in_time_wait = |run: &mut TrackerRun| {
        run.reach_time_wait(7);
    };
    let cancelled = |tid: u64, flags: u8| {
        let raw = timewait(5_040, Kind::TimewaitCancelled, 7, T::TimeWait);
        kernel(raw::RawRecord { arg1: tid << 32, flags, ..raw })
    };
    let cases: [(&str, Steps); 7] = [
        ("killed", |run, by_task, _, _| {
            run.take(by_task).time(5_300);
        }),
        // A SYN that the listener dropped: any segment that could end the socket otherwise would have been reported.
        ("~reopened", |run, _, by_idle, _| {
            run.take(by_idle).time(5_300);
        }),
        ("unexplained", |run, by_task, _, _| {
            let Record::Kernel(seen) = by_task else { return };
            let by_kernel_thread = raw::RawRecord { arg1: u64::from(raw::KERNEL_THREAD) << 32, ..seen.raw };
            run.take(kernel(by_kernel_thread)).time(5_300);
        }),
        ("purged", |run, _, _, dying| {
            run.take(dying);
        }),
        ("reset", |run, _, by_idle, _| {
            run.take(by_idle).take(segment(5_041, 7, TcpState::TimeWait, RST));
        }),
        ("reused", |run, by_task, _, _| {
            // Thread 71 connects to the same remote end, and its port is not chosen yet.
            let raw = record(5_039, Kind::Transition);
            let connect = raw::RawRecord { cookie: 9, old: 7, new: 2, sport: 0, flags: flag::TASK, ..raw };
            run.take(kernel(connect)).take(by_task);
        }),
        ("reopened", |run, _, by_idle, _| {
            // The peer's SYN arrives for the same tuple, now at a listener.
            run.take(by_idle).take(kernel(record(5_041, Kind::RequestArmed)));
        }),
    ];
    for (reason, steps) in cases {
        let mut run = TrackerRun::new();
        in_time_wait(&mut run);
        steps(&mut run, cancelled(71, 0), cancelled(0, 0), cancelled(0, flag::NETNS_DYING));
        let wanted = format!("7 TIME_WAIT>CLOSE 5000ms {reason}");
        assert!(run.lines().contains(&wanted.as_str()), "{reason}: {:?}", run.lines());
        assert_eq!(run.count(T::TimeWait), 0, "{reason}");
    }
}

#[test]
fn due_timer_with_a_late_expiry_record_counts_as_expired() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let late = |ms, kind| kernel(raw::RawRecord { arg0: 0, ..timewait(ms, kind, 7, T::TimeWait) });
    run.reach_time_wait(7)
        .take(late(60_040, Kind::TimewaitCancelled))
        .time(60_200)
        .take(late(60_040, Kind::TimewaitExpired));
    assert_eq!(run.lines().last(), Some(&"7 TIME_WAIT>CLOSE 60000ms expired"));
    assert_eq!(run.count(T::TimeWait), 0);
}

#[test]
fn data_for_an_orphan_fin_wait2_aborts_it() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(30, Kind::TimewaitArmed, 7, T::FinWait2)))
        .take(kernel(timewait(50, Kind::TimewaitCancelled, 7, T::FinWait2)))
        .take(segment(50, 7, T::FinWait2, PSH_ACK));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 20ms orphan aborted"]);
}

#[test]
fn missing_timewait_socket_is_an_overflow() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.sees_ends().reach_fin_wait2(7).take(full(40, 7, T::FinWait2, T::Close, 0, flag::ORPHAN));
    assert_eq!(run.lines().len(), 4, "a RST may follow");
    run.time(300);
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 10ms overflow"]);
}

#[test]
fn reconnecting_cookie_keeps_its_timewait_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7);
    let again = raw::RawRecord {
        object: 1,
        cookie: 7,
        old: 7,
        new: 2,
        sport: 0,
        dport: 99,
        ..record(50, Kind::Transition)
    };
    run.take(kernel(again));
    assert_eq!((run.count(T::TimeWait), run.count(T::SynSent)), (1, 1));
    run.take(kernel(timewait(60_040, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!((run.count(T::TimeWait), run.count(T::SynSent)), (0, 1));
}

#[test]
fn reused_kernel_address_is_a_new_timewait_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7);
    let again = raw::RawRecord {
        object: 1,
        sport: 0,
        dport: 99,
        cookie: 7,
        old: 7,
        new: 2,
        ..record(50, Kind::Transition)
    };
    run.take(kernel(again));
    // The end of the rekeyed one is missed, and another socket reuses its address.
    run.take(kernel(timewait(70_000, Kind::TimewaitArmed, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 2);
    run.take(kernel(timewait(130_000, Kind::TimewaitExpired, 8, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1);
    assert!(run.lines().contains(&"8 TIME_WAIT>CLOSE 60000ms expired"), "{:?}", run.lines());
}

#[test]
fn timewait_record_with_a_wrong_substate_is_undecodable() {
    let mut run = TrackerRun::new();
    let mut raw = record(10, Kind::TimewaitArmed);
    (raw.cookie, raw.new) = (7, TcpState::Close as u8);
    run.take(kernel(raw));
    assert_eq!((run.tracker.sockets().count(), run.tracker.counters().undecodable), (0, 1));
}

/// A file may state any number of ticks per second.
#[test]
fn ticks_per_second_of_a_hostile_file_are_ignored() {
    use TcpState as T;
    for hz in [0, -1, i64::MAX] {
        let mut run = TrackerRun::new();
        let checkpoint = crate::model::checkpoint::TrackerCheckpoint { hz: Some(hz), ..<_>::default() };
        run.take(Record::TrackerCheckpoint(Box::new(checkpoint)))
            .reach_fin_wait2(7)
            .take(kernel(timewait(40, Kind::TimewaitArmed, 7, T::FinWait2)))
            .take(kernel(raw::RawRecord {
                arg0: 0,
                ..timewait(60_040, Kind::TimewaitExpired, 7, T::TimeWait)
            }));
        assert_eq!(run.count(T::TimeWait), 0, "{:?}", run.lines());
    }
}
