//! Tests of bounds: full tables, pending ends, sockets out of scope.

use super::*;

#[test]
fn full_table_counts_evictions() {
    use TcpState as T;
    let mut tracker = Tracker::new(TrackerLimits { sockets: 1 });
    let mut log = EventLog::default();
    for cookie in [7, 8] {
        tracker.take(&full(0, cookie, T::Close, T::SynSent, 0, 0), &mut log);
    }
    tracker.take(&kernel(request(0, Kind::RequestArmed)), &mut log);
    assert_eq!((log.lines.len(), tracker.sockets().count()), (1, 1));
    assert_eq!(tracker.counters().evicted, 2);
}

#[test]
fn full_table_adds_no_handshake_entries() {
    let mut run = TrackerRun::seeding();
    run.tracker = Tracker::new(TrackerLimits { sockets: 1 });
    for cookie in 1..10 {
        let mut request = seed(cookie, TcpState::SynRecv, SeedObject::Request { timeouts: 0 });
        request.tuple.dport = cookie as u16;
        run.take(Record::Seed(request));
    }
    assert_eq!(entries(&run.tracker, "handshakes"), 1);
}

#[test]
fn pending_ends_stay_bounded_while_time_does_not_advance() {
    let mut run = TrackerRun::new();
    run.tracker = Tracker::new(TrackerLimits { sockets: 4 });
    run.take(kernel(request(10, Kind::RequestArmed)));
    for _ in 0..100 {
        run.take(kernel(request(10, Kind::RequestCancelled)));
    }
    assert!(entries(&run.tracker, "pending ends") <= 5);
}

#[test]
fn ends_during_the_seed_are_bounded() {
    let mut run = TrackerRun::seeding();
    run.tracker = Tracker::new(TrackerLimits { sockets: 4 });
    for cookie in 1..100 {
        run.client(10, cookie, TcpState::Close, TcpState::SynSent);
        run.client(10, cookie, TcpState::SynSent, TcpState::Close);
    }
    assert_eq!(entries(&run.tracker, "ended in the seed"), 4);
    assert_eq!(run.tracker.counters().evicted, 95);
}

#[test]
fn socket_out_of_scope_is_dropped_once_its_port_is_known() {
    use TcpState as T;
    let port = u32::from(SERVER);
    let mut scope = KernelFilter::default();
    scope.terms[0] =
        Term { low: port, high: port, test: test::LOCAL_PORT, ends_clause: 1, ..Term::default() };
    let mut run = TrackerRun::seeding();
    run.tracker = run.tracker.scoped(scope);
    run.take(Record::Seed(seed(6, T::Established, SeedObject::Full)));
    run.take(Record::SeedEnd { ts: Nanos(1), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);

    let syn = raw::RawRecord { cookie: 7, old: 7, new: 2, sport: 0, ..record(0, Kind::Transition) };
    run.take(kernel(syn));
    assert_eq!(run.tracker.sockets().count(), 1);
    // Both copies may report it; a kernel side without the filter would report the rest.
    run.client(10, 7, T::SynSent, T::Established).client(10, 7, T::SynSent, T::Established);
    run.client(20, 7, T::Established, T::FinWait1);
    run.take(server(20, 8, T::Listen, T::SynRecv)).take(server(21, 8, T::SynRecv, T::Established));
    let left: Vec<_> = run.tracker.sockets().map(|(id, _)| id).collect();
    assert_eq!(left, [SocketId(8)]);
    assert_eq!(run.tracker.counters(), Counters::default());
    assert_eq!(run.lines().len(), 4);
}
