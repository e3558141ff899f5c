//! Sweeps of `sock_diag` in, what they end, add and correct out.

use super::*;

#[test]
fn two_sweeps_without_a_socket_end_it() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_time_wait(7).sweep(Sweep::Whole, 61_000, &[]);
    assert_eq!(run.count(T::TimeWait), 1, "it may have begun while the sweep was under way");
    run.sweep(Sweep::Whole, 66_000, &[]);
    assert_eq!(run.count(T::TimeWait), 1, "the one before may have missed it");
    run.sweep(Sweep::Whole, 71_000, &[]);
    assert_eq!(run.lines()[5..], ["7 TIME_WAIT>CLOSE lost"], "how long it was is not known");
    assert_eq!((run.tracker.counters().healed, run.tracker.sockets().count()), (1, 0));
}

#[test]
fn a_record_between_two_sweeps_ends_a_suspicion() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7).sweep(Sweep::Whole, 100, &[]).sweep(Sweep::Whole, 200, &[]);
    run.take(kernel(minisocket(210, Kind::MinisocketArmed, 7, T::TimeWait))).sweep(Sweep::Whole, 300, &[]);
    assert_eq!((run.count(T::TimeWait), run.tracker.counters().healed), (1, 0));
    // Unknown, and ended by a record before the second listing of it is read.
    let unknown = seed(8, T::Established, SeedObject::Full);
    let known = seed(7, T::TimeWait, SeedObject::Minisocket { left: Nanos(59 * S) });
    run.sweep(Sweep::Whole, 400, &[known, unknown]).client(450, 8, T::Established, T::Close).sweep(
        Sweep::Whole,
        440,
        &[known, unknown],
    );
    assert_eq!(run.tracker.sockets().count(), 1);
}

#[test]
fn two_sweeps_with_an_unknown_socket_add_it() {
    use TcpState as T;
    let mut run = Run::new();
    let unknown = [
        seed(8, T::Established, SeedObject::Full),
        seed(9, T::TimeWait, SeedObject::Minisocket { left: Nanos(20 * S) }),
    ];
    run.sweep(Sweep::Whole, 60_000, &unknown);
    assert_eq!(run.tracker.sockets().count(), 0);
    run.sweep(Sweep::Whole, 65_000, &unknown);
    assert_eq!((run.count(T::Established), run.count(T::TimeWait)), (1, 1));
    assert_eq!(run.tracker.counters().healed, 2);
    run.client(70_001, 8, T::Established, T::CloseWait).take(kernel(minisocket(
        86_001,
        Kind::MinisocketExpired,
        9,
        T::TimeWait,
    )));
    assert_eq!(run.lines(), ["8 ESTABLISHED>CLOSE_WAIT >=5000ms", "9 TIME_WAIT>CLOSE ~61000ms expired"]);
    assert_eq!(run.tracker.counters().healed, 2);
}

#[test]
fn two_sweeps_with_another_state_correct_it() {
    use TcpState as T;
    let mut run = Run::new();
    run.reach_fin_wait2(7);
    let listed = seed(7, T::TimeWait, SeedObject::Minisocket { left: Nanos(50 * S) });
    let later = SeedSocket { object: SeedObject::Minisocket { left: Nanos(45 * S) }, ..listed };
    run.sweep(Sweep::Whole, 10_039, &[listed]);
    assert_eq!(run.count(T::FinWait2), 1);
    run.sweep(Sweep::Whole, 15_039, &[later]);
    assert_eq!((run.count(T::TimeWait), run.count(T::FinWait2)), (1, 0));
    run.take(kernel(minisocket(60_840, Kind::MinisocketExpired, 7, T::TimeWait)));
    assert_eq!(run.lines()[4..], ["7 TIME_WAIT>CLOSE ~60800ms expired"], "no dwell of FIN_WAIT2");
    assert_eq!(run.tracker.counters().healed, 1);
}

#[test]
fn a_sweep_knows_handshakes_by_their_ends() {
    use TcpState as T;
    let mut run = Run::new();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 1 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(0, Kind::RequestArmed))).sweep(Sweep::Whole, 100, &[listed]).sweep(
        Sweep::Whole,
        200,
        &[listed],
    );
    assert_eq!((run.count(T::SynRecv), run.tracker.counters().healed), (1, 0));
    // Its last step is missed: the connection takes its place.
    let child = SeedSocket { object: SeedObject::Full, state: T::Established, ..listed };
    run.sweep(Sweep::Whole, 300, &[child]).sweep(Sweep::Whole, 400, &[child]);
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
    assert_eq!((run.tracker.counters().healed, run.tracker.sockets().count()), (1, 1));
    // One that is not known, and dropped before the second listing of it is read.
    let mut run = Run::new();
    run.sweep(Sweep::Whole, 100, &[listed]).take(kernel(request(150, Kind::RequestCancelled))).sweep(
        Sweep::Whole,
        140,
        &[listed],
    );
    assert_eq!(run.tracker.sockets().count(), 0);
}

#[test]
fn a_socket_where_no_sweep_comes_is_not_missing() {
    use TcpState as T;
    let mut run = Run::new();
    let elsewhere = raw::Record { netns: 2, cookie: 9, old: 7, new: 2, ..record(0, Kind::Transition) };
    run.take(kernel(elsewhere));
    for ms in [100, 200, 300] {
        run.sweep(Sweep::Whole, ms, &[]);
    }
    assert_eq!(run.count(T::SynSent), 1);
    // A namespace that is taken down can't be listed, and keeps nothing.
    let dying = minisocket(400, Kind::MinisocketCancelled, 77, T::TimeWait);
    run.take(kernel(raw::Record { netns: 2, flags: flag::NETNS_DYING, ..dying }));
    run.sweep(Sweep::Whole, 500, &[]).sweep(Sweep::Whole, 600, &[]);
    assert_eq!((run.count(T::SynSent), run.tracker.counters().healed), (0, 1));
}

#[test]
fn a_sweep_tells_a_port_that_was_chosen_late() {
    use TcpState as T;
    let mut run = Run::new();
    let connect = raw::Record { cookie: 7, old: 7, new: 2, sport: 0, ..record(0, Kind::Transition) };
    run.take(kernel(connect)).sweep(Sweep::Whole, 100, &[seed(7, T::SynSent, SeedObject::Full)]);
    let (_, socket) = run.tracker.sockets().next().expect("tracked");
    assert_eq!((socket.tuple.sport, run.tracker.counters()), (CLIENT, Counters::default()));
}
