//! Tests of `sock_diag` sweeps: sockets that they end, add and correct.

use super::*;

#[test]
fn two_sweeps_without_a_socket_end_the_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7).sweep(Sweep::Whole, 61_000, &[]);
    assert_eq!(run.count(T::TimeWait), 1, "it may have begun during the sweep");
    run.sweep(Sweep::Whole, 66_000, &[]);
    assert_eq!(run.count(T::TimeWait), 1, "the previous sweep may have missed it");
    run.sweep(Sweep::Whole, 71_000, &[]);
    assert_eq!(run.lines()[5..], ["7 TIME_WAIT>CLOSE lost"], "how long it was is not known");
    assert_eq!((run.tracker.counters().healed, run.tracker.sockets().count()), (1, 0));
}

#[test]
fn record_between_two_sweeps_clears_a_suspicion() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7).sweep(Sweep::Whole, 100, &[]).sweep(Sweep::Whole, 200, &[]);
    run.take(kernel(timewait(210, Kind::TimewaitArmed, 7, T::TimeWait))).sweep(Sweep::Whole, 300, &[]);
    assert_eq!((run.count(T::TimeWait), run.tracker.counters().healed), (1, 0));
    // Unknown, and ended by a record before a second sweep lists it.
    let unknown = seed(8, T::Established, SeedObject::Full);
    let known = seed(7, T::TimeWait, SeedObject::Timewait { left: Nanos(59 * S) });
    run.sweep(Sweep::Whole, 400, &[known, unknown]).client(450, 8, T::Established, T::Close).sweep(
        Sweep::Whole,
        440,
        &[known, unknown],
    );
    assert_eq!(run.tracker.sockets().count(), 1);
}

#[test]
fn two_sweeps_with_an_unknown_socket_add_the_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let unknown = [
        seed(8, T::Established, SeedObject::Full),
        seed(9, T::TimeWait, SeedObject::Timewait { left: Nanos(20 * S) }),
    ];
    run.sweep(Sweep::Whole, 60_000, &unknown);
    assert_eq!(run.tracker.sockets().count(), 0);
    run.sweep(Sweep::Whole, 65_000, &unknown);
    assert_eq!((run.count(T::Established), run.count(T::TimeWait)), (1, 1));
    assert_eq!(run.tracker.counters().healed, 2);
    run.client(70_001, 8, T::Established, T::CloseWait).take(kernel(timewait(
        86_001,
        Kind::TimewaitExpired,
        9,
        T::TimeWait,
    )));
    assert_eq!(run.lines(), ["8 ESTABLISHED>CLOSE_WAIT >=5000ms", "9 TIME_WAIT>CLOSE ~61000ms expired"]);
    assert_eq!(run.tracker.counters().healed, 2);
}

#[test]
fn two_sweeps_with_another_state_correct_the_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7);
    let listed = seed(7, T::TimeWait, SeedObject::Timewait { left: Nanos(50 * S) });
    let later = SeedSocket { object: SeedObject::Timewait { left: Nanos(45 * S) }, ..listed };
    run.sweep(Sweep::Whole, 10_039, &[listed]);
    assert_eq!(run.count(T::FinWait2), 1);
    run.sweep(Sweep::Whole, 15_039, &[later]);
    assert_eq!((run.count(T::TimeWait), run.count(T::FinWait2)), (1, 0));
    run.take(kernel(timewait(60_840, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!(run.lines()[4..], ["7 TIME_WAIT>CLOSE ~60800ms expired"], "no dwell of FIN_WAIT2");
    assert_eq!(run.tracker.counters().healed, 1);
}

#[test]
fn sweep_matches_handshakes_by_tuple() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 1 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(0, Kind::RequestArmed))).sweep(Sweep::Whole, 100, &[listed]).sweep(
        Sweep::Whole,
        200,
        &[listed],
    );
    assert_eq!((run.count(T::SynRecv), run.tracker.counters().healed), (1, 0));
    // Its last step is missed: the connection replaces it.
    let child = SeedSocket { object: SeedObject::Full, state: T::Established, ..listed };
    run.sweep(Sweep::Whole, 300, &[child]).sweep(Sweep::Whole, 400, &[child]);
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
    assert_eq!((run.tracker.counters().healed, run.tracker.sockets().count()), (1, 1));
    // An unknown handshake, dropped before a second sweep lists it.
    let mut run = TrackerRun::new();
    run.sweep(Sweep::Whole, 100, &[listed]).take(kernel(request(150, Kind::RequestCancelled))).sweep(
        Sweep::Whole,
        140,
        &[listed],
    );
    assert_eq!(run.tracker.sockets().count(), 0);
}

#[test]
fn socket_in_an_unlisted_namespace_is_not_missing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let elsewhere = raw::RawRecord { netns: 2, cookie: 9, old: 7, new: 2, ..record(0, Kind::Transition) };
    run.take(kernel(elsewhere));
    for ms in [100, 200, 300] {
        run.sweep(Sweep::Whole, ms, &[]);
    }
    assert_eq!(run.count(T::SynSent), 1);
    // A dying namespace can't be listed, and its sockets end too.
    let dying = timewait(400, Kind::TimewaitCancelled, 77, T::TimeWait);
    run.take(kernel(raw::RawRecord { netns: 2, flags: flag::NETNS_DYING, ..dying }));
    run.sweep(Sweep::Whole, 500, &[]).sweep(Sweep::Whole, 600, &[]);
    assert_eq!((run.count(T::SynSent), run.tracker.counters().healed), (0, 1));
}

#[test]
fn sweep_reports_a_late_port_at_once() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let connect = raw::RawRecord { cookie: 7, old: 7, new: 2, sport: 0, ..record(0, Kind::Transition) };
    run.take(kernel(connect)).sweep(Sweep::Whole, 100, &[seed(7, T::SynSent, SeedObject::Full)]);
    let (_, socket) = run.tracker.sockets().next().expect("tracked");
    assert_eq!((socket.tuple.sport, run.tracker.counters()), (CLIENT, Counters::default()));
}

#[test]
fn one_kind_of_difference_does_not_confirm_another() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7);
    let listed = seed(7, T::CloseWait, SeedObject::Full);
    run.sweep(Sweep::Whole, 100, &[]).sweep(Sweep::Whole, 200, &[listed]);
    assert_eq!((run.count(T::FinWait2), run.count(T::CloseWait)), (1, 0), "missing, then in another state");
    run.sweep(Sweep::Whole, 300, &[listed]);
    assert_eq!((run.count(T::FinWait2), run.count(T::CloseWait)), (0, 1));
}

#[test]
fn a_socket_listed_twice_in_one_sweep_confirms_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let unknown = seed(8, T::Established, SeedObject::Full);
    run.sweep(Sweep::Whole, 100, &[unknown, unknown]);
    assert_eq!(run.tracker.sockets().count(), 0);
    run.sweep(Sweep::Whole, 200, &[unknown]);
    assert_eq!((run.tracker.sockets().count(), run.tracker.counters().healed), (1, 1));
}

#[test]
fn unknown_address_or_port_raises_no_suspicion() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7);
    let unspecified = |cookie| SeedSocket {
        tuple: Tuple {
            saddr: Addr([0; 16]),
            daddr: Addr([0; 16]),
            ..seed(cookie, T::FinWait2, SeedObject::Full).tuple
        },
        ..seed(cookie, T::FinWait2, SeedObject::Full)
    };
    run.sweep(Sweep::Whole, 100, &[unspecified(7)]).sweep(Sweep::Whole, 200, &[unspecified(7)]);
    assert_eq!(run.tracker.counters().healed, 0);
    let mut elsewhere = seed(7, T::FinWait2, SeedObject::Full);
    elsewhere.tuple.daddr = addr(9);
    run.sweep(Sweep::Whole, 300, &[elsewhere]).sweep(Sweep::Whole, 400, &[elsewhere]);
    assert_eq!(run.tracker.counters().healed, 1, "another peer is a difference");
}

#[test]
fn listing_clears_the_suspicion() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7);
    let other = seed(7, T::TimeWait, SeedObject::Timewait { left: Nanos(50 * S) });
    let known = SeedSocket { inode: 1, ..seed(7, T::FinWait2, SeedObject::Full) };
    // Listed while it changes, before and after; then once more in another state.
    run.sweep(Sweep::Whole, 10_039, &[other, known]).sweep(Sweep::Whole, 15_039, &[other]);
    assert_eq!((run.count(T::FinWait2), run.tracker.counters().healed), (1, 0));
    run.sweep(Sweep::Whole, 20_039, &[other]);
    assert_eq!((run.count(T::TimeWait), run.tracker.counters().healed), (1, 1));
}

#[test]
fn fin_wait2_sweep_leaves_a_cancelled_timer_to_its_explanation() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7)
        .take(kernel(timewait(40, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(40, 7, T::FinWait2, T::Close)
        .take(kernel(timewait(5_100, Kind::TimewaitCancelled, 7, T::FinWait2)))
        .sweep(Sweep::FinWait2, 5_200, &[]);
    assert_eq!((run.count(T::FinWait2), run.count(T::TimeWait)), (1, 0));
    run.time(6_000);
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 5070ms orphan unexplained"]);
}

#[test]
fn orphan_listed_as_a_full_socket_is_still_in_fin_wait2() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    // `tcp_fin_timeout` above 60 s: `tcp_keepalive_timer()` makes it a timewait socket during the sweep.
    run.reach_fin_wait2(7);
    run.sweep(Sweep::Whole, 5_000, &[SeedSocket { inode: 0, ..seed(7, T::FinWait2, SeedObject::Full) }]);
    let socket = run.tracker.socket(SocketId(7)).expect("tracked");
    assert!(socket.is_orphan_fin_wait2() && socket.orphan_inferred, "the close() was before the sweep");
    run.take(kernel(timewait(30_030, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(30_030, 7, T::FinWait2, T::Close)
        .sweep(Sweep::FinWait2, 30_020, &[seed(7, T::FinWait2, SeedObject::Full)]);
    assert_eq!((run.count(T::FinWait2), run.count(T::TimeWait)), (1, 0));
    run.sweep(Sweep::FinWait2, 31_020, &[]);
    assert_eq!((run.count(T::FinWait2), run.count(T::TimeWait)), (0, 1));
}
