//! Tests of sockets older than the trace: owners, and ends while the seed is read.

use super::*;
use crate::lifecycle::Closer;

fn process(pid: u32) -> Process {
    Process::new(pid, "curl", 1)
}

fn owner(cookie: u64, pid: u32) -> Record {
    Record::Owner { ts: Nanos(6 * MS), id: SocketId(cookie), process: process(pid), fd: None }
}

#[test]
fn closer_before_the_trace_follows_from_the_state() {
    use TcpState as T;
    for (state, closer) in [
        (T::SynSent, Closer::None),
        (T::Established, Closer::None),
        (T::FinWait1, Closer::Local),
        (T::FinWait2, Closer::Local),
        (T::CloseWait, Closer::Remote),
        (T::LastAck, Closer::Remote),
        (T::Closing, Closer::Both),
    ] {
        let mut run = TrackerRun::seeding();
        run.take(Record::Seed(seed(7, state, SeedObject::Full)));
        let (_, socket) = run.tracker.sockets().next().expect("tracked");
        assert_eq!(
            (socket.closer, socket.closed_before),
            (closer, closer != Closer::None),
            "{}",
            state.name()
        );
    }
}

#[test]
fn tracker_releases_processes_without_sockets() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    for cookie in [7, 8, 9] {
        let mut seed = seed(cookie, T::Established, SeedObject::Full);
        seed.tuple.sport += cookie as u16;
        run.take(Record::Seed(seed));
    }
    assert_eq!(entries(&run.tracker, "processes"), 0);
    run.take(owner(7, 70)).take(owner(8, 70)).take(owner(9, 90));
    assert_eq!(entries(&run.tracker, "processes"), 2);
    run.client(20, 7, T::Established, T::Close).client(20, 9, T::Established, T::Close);
    assert_eq!(entries(&run.tracker, "processes"), 1);
    run.client(20, 8, T::Established, T::Close);
    assert_eq!(entries(&run.tracker, "processes"), 0);
}

#[test]
fn segment_does_not_revive_a_socket_that_ended_in_the_seed() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    run.take(segment(1, 8, T::TimeWait, FIN_ACK));
    assert_eq!(run.count(T::TimeWait), 1, "new, and in TIME_WAIT since this segment");
    run.take(kernel(timewait(1, Kind::TimewaitExpired, 7, T::TimeWait)));
    run.take(segment(2, 7, T::TimeWait, FIN_ACK));
    run.take(Record::Seed(seed(7, T::TimeWait, SeedObject::Timewait { left: Nanos(S) })));
    assert_eq!((run.count(T::TimeWait), run.tracker.sockets().count()), (1, 1));
    // Without a FIN, or in FIN_WAIT2, a segment does not show when TIME_WAIT began.
    run.take(segment(3, 9, T::TimeWait, PSH_ACK)).take(segment(3, 10, T::FinWait2, FIN_ACK));
    assert_eq!(run.tracker.sockets().count(), 1);
    run.take(Record::SeedEnd { ts: Nanos(5 * MS), began: Nanos(0) });
    run.take(segment(6, 11, T::TimeWait, FIN_ACK));
    assert_eq!(run.tracker.sockets().count(), 1, "older than the trace, and not in the seed");
}

#[test]
fn seeded_handshake_matches_the_hooks_handshake() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 0 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(1, Kind::RequestArmed))).take(Record::Seed(listed));
    assert_eq!(run.count(T::SynRecv), 1, "no second handshake");
    // Seeded first: the timer record reveals the address of the request socket.
    let mut run = TrackerRun::seeding();
    run.take(Record::Seed(listed)).take(kernel(request(6, Kind::RequestArmed)));
    assert_eq!(run.count(T::SynRecv), 1);
    run.take(server(9, 8, T::SynRecv, T::Established));
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
}

#[test]
fn ownerless_connections_inherit_after_the_owner_search() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let mut listener = seed(3, T::Listen, SeedObject::Full);
    listener.tuple = Tuple { saddr: addr(1), daddr: Addr([0; 16]), sport: CLIENT, dport: 0, ifindex: 0 };
    run.take(Record::Seed(listener))
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::SeedEnd { ts: Nanos(5 * MS), began: Nanos(0) })
        .take(owner(3, 70));
    let owner_of = |run: &TrackerRun| {
        let (_, socket) = run.tracker.sockets().find(|(id, _)| *id == SocketId(7)).expect("tracked");
        (socket.owner, socket.process.and_then(|id| run.tracker.processes().get(id)).map(|owner| owner.pid))
    };
    assert_eq!(owner_of(&run), (OwnerKind::Unknown, None));
    run.take(Record::OwnersEnd { ts: Nanos(7 * MS) });
    assert_eq!(owner_of(&run), (OwnerKind::Listener, Some(70)));
}

#[test]
fn ended_timewait_is_not_seeded_when_its_cookie_reconnects() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    // The port of the new connection is not known yet: it could be the timewait socket's.
    let connect = raw::RawRecord {
        cookie: 7,
        sport: 0,
        old: T::Close as u8,
        new: T::SynSent as u8,
        ..record(1, Kind::Transition)
    };
    let old = raw::RawRecord {
        sport: CLIENT + 1,
        object: 0xabc1,
        ..timewait(2, Kind::TimewaitExpired, 7, T::TimeWait)
    };
    run.take(kernel(raw::RawRecord { flags: flag::TASK, ..connect })).take(kernel(old));
    run.client(3, 7, T::SynSent, T::Established);
    let mut listed = seed(7, T::TimeWait, SeedObject::Timewait { left: Nanos(S) });
    listed.tuple.sport = CLIENT + 1;
    run.take(Record::Seed(listed)).take(Record::SeedEnd { ts: Nanos(6 * MS), began: Nanos(0) });
    assert_eq!((run.count(T::TimeWait), run.count(T::Established)), (0, 1));
    assert_eq!(run.tracker.counters(), Counters::default());
}

#[test]
fn hook_records_take_precedence_over_the_seed() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    // Ended before its seed entry is processed.
    run.client(1, 7, T::Established, T::FinWait1)
        .client(2, 7, T::FinWait1, T::Close)
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)));
    assert_eq!(run.log.counts, [0; TcpState::COUNT]);
    // Reported by a hook before its seed entry is processed.
    run.client(3, 8, T::Established, T::CloseWait).take(Record::Seed(seed(
        8,
        T::Established,
        SeedObject::Full,
    )));
    assert_eq!((run.count(T::CloseWait), run.count(T::Established)), (1, 0));
    // Seeded in the state that a later record announces.
    run.take(Record::Seed(seed(9, T::FinWait1, SeedObject::Full)))
        .client(4, 9, T::Established, T::FinWait1)
        .client(9, 9, T::FinWait1, T::FinWait2)
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    assert_eq!(run.lines()[3..], ["9 ESTABLISHED>FIN_WAIT1 >=4ms", "9 FIN_WAIT1>FIN_WAIT2 5ms"]);
    assert_eq!((run.count(T::FinWait2), run.log.counts.iter().sum::<i64>()), (1, 2));
    assert_eq!(run.tracker.counters().healed, 0, "nothing was lost");
}

#[test]
fn seeded_dwells_are_bounds() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    run.take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::Seed(seed(8, T::TimeWait, SeedObject::Timewait { left: Nanos(20 * S) })))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) })
        .client(105, 7, T::Established, T::CloseWait)
        .take(kernel(timewait(20_005, Kind::TimewaitExpired, 8, T::TimeWait)));
    // 40 s of the 60 had passed before the trace, which is 5 ms old: computed times are at least 0.
    assert_eq!(run.lines(), ["7 ESTABLISHED>CLOSE_WAIT >=100ms", "8 TIME_WAIT>CLOSE ~20005ms expired"]);
}
