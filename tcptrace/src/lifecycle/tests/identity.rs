//! Tests of socket identity: cookies shared by several sockets, handshakes that continue as another object.

use super::*;

const TIME_WAIT: SeedObject = SeedObject::Timewait { left: Nanos(20 * S) };

/// A socket with `cookie` as `sock_diag` lists it, connected from the local port `sport`.
fn listed(cookie: u64, sport: u16, state: TcpState, object: SeedObject) -> SeedSocket {
    let listed = seed(cookie, state, object);
    SeedSocket { tuple: Tuple { sport, ..listed.tuple }, ..listed }
}

/// One descriptor that connected six times: five sockets in TIME_WAIT, one connected.
fn one_descriptor() -> Vec<SeedSocket> {
    let mut sockets: Vec<_> = (1..=5).map(|port| listed(7, port, TcpState::TimeWait, TIME_WAIT)).collect();
    sockets.push(listed(7, 6, TcpState::Established, SeedObject::Full));
    sockets
}

fn counts(run: &TrackerRun) -> (i64, i64) {
    (run.count(TcpState::TimeWait), run.count(TcpState::Established))
}

#[test]
fn sockets_with_a_shared_cookie_are_all_seeded() {
    use TcpState as T;
    for turned in 0..6 {
        let mut sockets = one_descriptor();
        sockets.rotate_left(turned);
        let mut run = TrackerRun::seeding();
        for socket in &sockets {
            // Listed twice, as when a dump resumes at the same place.
            run.take(Record::Seed(*socket)).take(Record::Seed(*socket));
        }
        run.take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
        assert_eq!(counts(&run), (5, 1), "the list begins at {turned}");
        // From then on each is found by its tuple.
        let third = timewait(20_005, Kind::TimewaitExpired, 7, T::TimeWait);
        run.take(kernel(raw::RawRecord { sport: 3, ..third }));
        assert_eq!(counts(&run), (4, 1));
        let change =
            raw::RawRecord { cookie: 7, old: 1, new: 8, sport: 6, ..record(20_006, Kind::Transition) };
        run.take(kernel(change));
        assert_eq!((run.count(T::CloseWait), counts(&run)), (1, (4, 0)));
        assert_eq!(run.tracker.counters(), Counters::default());
    }
}

#[test]
fn sweeps_find_all_sockets_with_a_shared_cookie() {
    let mut run = TrackerRun::new();
    let sockets = one_descriptor();
    run.sweep(Sweep::Whole, 5_000, &sockets).sweep(Sweep::Whole, 10_000, &sockets);
    assert_eq!((counts(&run), run.tracker.counters().healed), ((5, 1), 6));
    for ms in [15_000, 20_000, 25_000] {
        run.sweep(Sweep::Whole, ms, &sockets);
    }
    assert_eq!((counts(&run), run.tracker.counters().healed), ((5, 1), 6), "all are tracked");
    // One of them is no longer listed.
    for ms in [30_000, 35_000] {
        run.sweep(Sweep::Whole, ms, &sockets[1..]);
    }
    assert_eq!((counts(&run), run.tracker.counters().healed), ((4, 1), 7));
}

#[test]
fn fin_wait2_sweep_finds_a_rekeyed_orphan() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let orphan = |port| SeedSocket {
        inode: 0,
        ..listed(7, port, T::FinWait2, SeedObject::Timewait { left: Nanos(S) })
    };
    run.take(Record::Host(Box::default())).take(Record::Seed(orphan(1))).take(Record::Seed(orphan(2)));
    run.sweep(Sweep::FinWait2, 1_000, &[orphan(1), orphan(2)]);
    assert_eq!((run.count(T::FinWait2), run.count(T::TimeWait)), (2, 0));
    run.sweep(Sweep::FinWait2, 2_000, &[orphan(1)]);
    assert_eq!((run.count(T::FinWait2), run.count(T::TimeWait)), (1, 1));
}

#[test]
fn seed_skips_only_the_socket_that_ended() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let ended = timewait(1, Kind::TimewaitExpired, 7, T::TimeWait);
    run.take(kernel(raw::RawRecord { sport: 3, ..ended }));
    for socket in one_descriptor() {
        run.take(Record::Seed(socket));
    }
    assert_eq!(counts(&run), (4, 1));
}

#[test]
fn same_cookie_with_another_tuple_is_another_socket() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(7);
    // All records of the connection in between are lost.
    let other = |ms, kind| {
        kernel(raw::RawRecord { sport: CLIENT + 1, object: 0xabc1, ..timewait(ms, kind, 7, T::TimeWait) })
    };
    run.take(other(100, Kind::TimewaitArmed));
    assert_eq!((run.count(T::TimeWait), run.tracker.counters().healed), (2, 1));
    run.take(other(60_100, Kind::TimewaitExpired));
    assert_eq!(run.count(T::TimeWait), 1);
    run.take(kernel(timewait(60_200, Kind::TimewaitExpired, 7, T::TimeWait)));
    assert_eq!(run.log.counts, [0; TcpState::COUNT]);
}

#[test]
fn missing_timewait_socket_is_matched_by_tuple() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    for socket in one_descriptor() {
        run.take(Record::Seed(socket));
    }
    run.take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    // Under an id that another recording assigned.
    let tuple = Tuple { ifindex: 3, ..listed(7, 3, T::TimeWait, TIME_WAIT).tuple };
    let id = SocketId::rekeyed(77);
    run.take(Record::Missing { ts: Nanos(S), id, netns: NetnsId(1), tuple, from: Sweep::Whole });
    assert_eq!(counts(&run), (4, 1));
    assert!(run.tracker.sockets().all(|(_, socket)| socket.tuple.sport != 3));
}

#[test]
fn descending_cookies_are_normal_sockets() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_time_wait(u64::MAX).reach_time_wait(u64::MAX - 1);
    run.take(kernel(timewait(60_840, Kind::TimewaitExpired, u64::MAX, T::TimeWait)));
    assert_eq!(run.count(T::TimeWait), 1);
    assert_eq!(run.lines().last(), Some(&"18446744073709551615 TIME_WAIT>CLOSE 60800ms expired"));
    assert_eq!(run.tracker.counters(), Counters::default());
}

#[test]
fn migrated_handshake_continues_under_another_listener() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let expired = |ms, kind| kernel(raw::RawRecord { object: 1, ..request(ms, kind) });
    let clone = raw::RawRecord { object: 2, arg1: 1, ..request(1_000, Kind::RequestArmed) };
    run.take(expired(0, Kind::RequestArmed))
        .take(expired(1_000, Kind::RequestCancelled))
        .take(expired(1_000, Kind::RequestExpired))
        .take(kernel(clone))
        .time(2_000);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV"], "neither dropped nor restarted");
    run.take(kernel(raw::RawRecord { object: 2, ..request(2_500, Kind::RequestCancelled) }))
        .take(server(2_500, 8, T::Listen, T::SynRecv))
        .take(server(2_500, 8, T::SynRecv, T::Established));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 2500ms"]);
}

#[test]
fn migrated_handshake_gets_its_new_listeners_owner() {
    let mut run = TrackerRun::new();
    let listener = |cookie, tgid| {
        let raw = request(0, Kind::Transition);
        let raw =
            raw::RawRecord { cookie, old: 7, new: 10, dport: 0, daddr: [0; 16], flags: flag::TASK, ..raw };
        let task = Some(raw::Task { cgroup: 1, tgid, tid: tgid, comm: *b"server\0\0\0\0\0\0\0\0\0\0" });
        Record::Kernel(HookRecord { raw, task })
    };
    run.take(listener(3, 70)).take(listener(4, 80));
    let armed = |ms, object, arg0, arg1| {
        kernel(raw::RawRecord { object, arg0, arg1, ..request(ms, Kind::RequestArmed) })
    };
    let owner = |run: &TrackerRun| {
        let (_, socket) = run.tracker.sockets().find(|(_, s)| s.state == TcpState::SynRecv).expect("tracked");
        socket.process.and_then(|id| run.tracker.processes().get(id)).map(|process| process.pid)
    };
    run.take(armed(10, 1, 3, 0));
    assert_eq!(owner(&run), Some(70));
    run.take(armed(1_010, 2, 4, 1));
    assert_eq!(owner(&run), Some(80));
}

#[test]
fn finished_handshake_leaves_the_next_syn_alone() {
    use TcpState as T;
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 0 };
    let listed = |state, object| SeedSocket { tuple: ends, ..seed(8, state, object) };
    let as_request = listed(T::SynRecv, SeedObject::Request { timeouts: 0 });
    let as_child = listed(T::Established, SeedObject::Full);
    // Every record of the step from the handshake, which had a cookie, to its child was lost.
    let lost: [fn(&mut TrackerRun, SeedSocket); 3] = [
        |run, child| {
            run.sweep(Sweep::Whole, 100, &[child]).sweep(Sweep::Whole, 200, &[child]);
        },
        |run, _| {
            run.take(server(200, 8, T::Established, T::CloseWait));
        },
        |run, _| {
            let armed = request(200, Kind::TimewaitArmed);
            run.take(kernel(raw::RawRecord { cookie: 8, new: T::TimeWait as u8, arg0: 60 * HZ, ..armed }));
        },
    ];
    for (n, lose) in lost.into_iter().enumerate() {
        let mut run = TrackerRun::seeding();
        run.take(Record::Seed(as_request)).take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
        lose(&mut run, as_child);
        assert_eq!((run.count(T::SynRecv), entries(&run.tracker, "handshakes")), (0, 0), "case {n}");
        run.take(kernel(raw::RawRecord { object: 9, ..request(1_000, Kind::RequestArmed) }));
        assert_eq!(run.count(T::SynRecv), 1, "case {n}: the next SYN with this tuple");
    }
}

#[test]
fn full_socket_in_fin_wait2_without_owner_is_an_orphan() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.reach_fin_wait2(7);
    let held = seed(7, T::FinWait2, SeedObject::Full);
    run.sweep(Sweep::Whole, 5_000, &[held]);
    assert_eq!(run.log.orphans, 0);
    let orphan = SeedSocket { inode: 0, ..held };
    run.sweep(Sweep::Whole, 10_000, &[orphan]);
    assert_eq!((run.log.orphans, run.count(T::FinWait2)), (1, 1));
    run.sweep(Sweep::Whole, 15_000, &[orphan]);
    assert_eq!(
        (run.log.orphans, run.tracker.counters()),
        (1, Counters::default()),
        "reported once, and not a loss"
    );
    // Its timer turns it into a timewait socket a minute before the timeout.
    run.take(kernel(timewait(60_000, Kind::TimewaitArmed, 7, T::FinWait2)))
        .client(60_000, 7, T::FinWait2, T::Close)
        .take(kernel(timewait(120_000, Kind::TimewaitExpired, 7, T::FinWait2)));
    assert_eq!(run.lines()[4..], ["7 FIN_WAIT2>CLOSE 119970ms orphan expired"]);
}

#[test]
fn unseeded_namespace_counts_no_loss() {
    use TcpState as T;
    let elsewhere = |ms, cookie, old: T, new: T| {
        let raw = record(ms, Kind::Transition);
        kernel(raw::RawRecord { netns: 2, cookie, old: old as u8, new: new as u8, ..raw })
    };
    let mut run = TrackerRun::seeding();
    run.take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    // An orphan of a container that died before the trace times out.
    run.take(elsewhere(1_000, 7, T::FinWait1, T::Close));
    let timewait = timewait(1_001, Kind::TimewaitArmed, 8, T::TimeWait);
    run.take(kernel(raw::RawRecord { netns: 2, ..timewait }));
    assert_eq!(run.tracker.counters(), Counters { unseeded: 2, ..Counters::default() });
    assert_eq!(run.lines(), ["7 FIN_WAIT1>CLOSE >=1000ms ~disconnected"], "older than the trace");
    // The seed could visit this one.
    run.client(1_100, 9, T::Established, T::CloseWait);
    assert_eq!(run.tracker.counters(), Counters { unseeded: 2, healed: 1, ..Counters::default() });
    // A socket that begins there tells nothing about the age of the next one.
    run.take(elsewhere(1_200, 10, T::Close, T::SynSent)).take(elsewhere(1_210, 12, T::Listen, T::Close));
    assert_eq!(run.tracker.counters(), Counters { unseeded: 3, healed: 1, ..Counters::default() });
    // From its first visit on it is followed, also in a continued recording.
    run.take(Record::NetnsSettings { ts: Nanos(1_250 * MS), netns: NetnsId(2), sysctls: [].into() });
    let (_, rest) = run.tracker.carry(Nanos(1_300 * MS));
    let mut next = TrackerRun::new();
    next.take(Record::TrackerCheckpoint(Box::new(rest)));
    for run in [&mut run, &mut next] {
        let before = run.tracker.counters();
        run.take(elsewhere(2_000, 11, T::Established, T::CloseWait));
        assert_eq!(run.tracker.counters(), Counters { healed: before.healed + 1, ..before });
    }
}

#[test]
fn one_pass_covers_many_changed_namespaces() {
    /// Counts repeated `identified` calls.
    #[derive(Default)]
    struct Again(u64);

    impl Observer for Again {
        fn appeared(&mut self, _: SocketId, _: &mut Socket, _: &Processes) {}
        fn changed(&mut self, _: &Event<'_>, _: &mut Socket, _: &Processes) {}
        fn corrected(&mut self, _: TcpState, _: &mut Socket, _: &Processes) {}
        fn identified(&mut self, _: &mut Socket, _: &Processes) {
            self.0 += 1;
        }
        fn orphaned(&mut self, _: &mut Socket) {}
    }

    const SOCKETS: u64 = 5_000;
    let mut run = TrackerRun::new();
    for n in 0..SOCKETS {
        run.client(10, n + 1, TcpState::Close, TcpState::SynSent);
    }
    let mut again = Again::default();
    let mut passes = Vec::new();
    for ms in (0..3_000).step_by(10) {
        let ts = Nanos((100 + ms) * MS);
        run.tracker.revisit_namespace(NetnsId(1), ts, &mut again);
        run.tracker.take(&Record::Tick { ts }, &mut again);
        if again.0 > 0 {
            assert_eq!(std::mem::take(&mut again.0), SOCKETS, "each socket once");
            passes.push(ms);
        }
    }
    assert_eq!(passes, [0, 1_000, 2_000], "at the first change, then once per second");
}
