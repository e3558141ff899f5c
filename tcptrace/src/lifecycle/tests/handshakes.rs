//! Tests of request sockets: SYN_RECV from the SYN to the accepted socket, timeout or drop.

use super::*;

#[test]
fn a_handshake_is_measured_from_its_syn() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(server(50, 8, T::Listen, T::SynRecv))
        .take(kernel(request(50, Kind::RequestCancelled)))
        .take(server(50, 8, T::SynRecv, T::Established))
        .time(200);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 50ms"]);
    assert_eq!((run.count(T::SynRecv), run.count(T::Established)), (0, 1));
}

#[test]
fn before_6_15_a_clone_carries_the_listeners_cookie() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let listener = |ms, old: T, new: T| {
        let raw = request(ms, Kind::Transition);
        kernel(raw::RawRecord { cookie: 3, old: old as u8, new: new as u8, dport: 0, daddr: [0; 16], ..raw })
    };
    run.take(listener(0, T::Close, T::Listen))
        .take(kernel(request(10, Kind::RequestArmed)))
        .take(listener(60, T::Listen, T::SynRecv))
        .take(kernel(request(60, Kind::RequestCancelled)))
        .take(server(60, 8, T::SynRecv, T::Established))
        .time(200);
    assert_eq!(run.lines(), ["3 CLOSE>LISTEN", "h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 50ms"]);
    assert_eq!((run.count(T::Listen), run.count(T::Established)), (1, 1));
}

#[test]
fn abandoned_handshake_times_out() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let retransmitted = raw::RawRecord { arg1: 1, ..request(1_000, Kind::RequestArmed) };
    run.take(kernel(request(0, Kind::RequestArmed)))
        .take(kernel(request(1_000, Kind::RequestCancelled)))
        .take(kernel(request(1_000, Kind::RequestExpired)))
        .take(kernel(retransmitted))
        .time(2_000);
    assert_eq!(run.count(T::SynRecv), 1, "the SYN-ACK was retransmitted");
    run.take(kernel(request(3_000, Kind::RequestCancelled)))
        .take(kernel(request(3_000, Kind::RequestExpired)))
        .time(3_300);
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "h SYN_RECV>CLOSE 3000ms timeout"]);
}

#[test]
fn handshake_found_in_another_state_is_corrected() {
    let mut run = TrackerRun::seeding();
    run.take(Record::Seed(seed(1, TcpState::FinWait2, SeedObject::Request { timeouts: 0 })));
    run.take(full(10, 1, TcpState::SynRecv, TcpState::FinWait2, 0, flag::ORPHAN));
    let orphans = run.tracker.sockets().filter(|(_, socket)| socket.is_orphan_fin_wait2()).count();
    assert_eq!(orphans, 1);
    assert_eq!(run.log.counts[TcpState::FinWait2.index()], 1);
    assert!(run.log.lines.iter().any(|line| line.starts_with("1 SYN_RECV>FIN_WAIT2")), "{:?}", run.log.lines);
}

#[test]
fn handshake_dropped_before_its_seed_entry_is_not_added() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let ends = Tuple { saddr: addr(2), daddr: addr(1), sport: SERVER, dport: CLIENT, ifindex: 0 };
    let listed = SeedSocket { tuple: ends, ..seed(8, T::SynRecv, SeedObject::Request { timeouts: 0 }) };
    run.take(kernel(request(1, Kind::RequestCancelled)))
        .take(Record::Seed(listed))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) });
    assert_eq!(run.tracker.sockets().count(), 0);
}

#[test]
fn connections_of_a_listener_without_port_inherit_its_owner() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    // inet_csk_listen_start() reports LISTEN before it chooses a port.
    let raw =
        raw::RawRecord { cookie: 3, old: 7, new: 10, sport: 0, dport: 0, ..request(0, Kind::Transition) };
    let listener = raw::RawRecord { saddr: [0; 16], daddr: [0; 16], flags: flag::TASK, ..raw };
    run.take(kernel(listener))
        .take(kernel(raw::RawRecord { arg0: 3, ..request(10, Kind::RequestArmed) }))
        .take(server(20, 8, T::Listen, T::SynRecv))
        .take(server(20, 8, T::SynRecv, T::Established));
    let socket = |id| run.tracker.sockets().find(|(known, _)| *known == SocketId(id)).expect("tracked").1;
    assert_eq!((socket(8).owner, socket(8).listener_is_any), (OwnerKind::Listener, true));
    assert_eq!(socket(3).tuple.sport, SERVER);
}

/// SYN, RST, SYN from the same port: the kernel gives the second request socket the address of the first.
#[test]
fn a_new_request_at_the_same_address_is_another_handshake() {
    use TcpState as T;
    let new = |ms| kernel(raw::RawRecord { flags: flag::NEW_REQUEST, ..request(ms, Kind::RequestArmed) });
    let mut run = TrackerRun::new();
    run.take(new(10))
        .take(kernel(request(20, Kind::RequestCancelled)))
        .take(new(30))
        .take(kernel(request(40, Kind::RequestCancelled)))
        .take(server(40, 8, T::SynRecv, T::Established));
    assert_eq!(
        run.lines(),
        [
            "h LISTEN>SYN_RECV",
            "h SYN_RECV>CLOSE 10ms dropped",
            "h LISTEN>SYN_RECV",
            "8 SYN_RECV>ESTABLISHED 10ms"
        ]
    );
}

/// Names and settings may be found while older records are still in the rings.
#[test]
fn a_fact_of_another_thread_ends_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(request(10, Kind::RequestArmed)))
        .take(kernel(request(20, Kind::RequestCancelled)))
        .take(Record::NetnsSettings { ts: Nanos(900 * MS), netns: NetnsId(1), sysctls: <_>::default() })
        .take(server(20, 8, T::SynRecv, T::Established));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 10ms"]);
}

/// A SYN that comes again arms the timer of the same request socket again (`tcp_check_req()`).
#[test]
fn a_request_that_is_armed_again_goes_on() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(raw::RawRecord { flags: flag::NEW_REQUEST, ..request(10, Kind::RequestArmed) }))
        .take(kernel(request(20, Kind::RequestCancelled)))
        .take(kernel(request(20, Kind::RequestArmed)))
        .take(server(40, 8, T::SynRecv, T::Established));
    assert_eq!(run.lines(), ["h LISTEN>SYN_RECV", "8 SYN_RECV>ESTABLISHED 30ms"]);
}

/// The kernel takes a request socket out of its table before it cancels its timer: another may be there by then.
#[test]
fn a_late_cancel_of_the_request_before_ends_nothing() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    run.take(kernel(request(10, Kind::RequestArmed)))
        .take(kernel(raw::RawRecord { object: 0xdef0, ..request(20, Kind::RequestArmed) }))
        .take(kernel(request(21, Kind::RequestCancelled)))
        .take(kernel(request(22, Kind::RequestExpired)))
        .time(400)
        .take(server(450, 8, T::SynRecv, T::Established));
    assert_eq!(
        run.lines(),
        [
            "h LISTEN>SYN_RECV",
            "h SYN_RECV>CLOSE 10ms dropped",
            "h LISTEN>SYN_RECV",
            "8 SYN_RECV>ESTABLISHED 430ms"
        ]
    );
}
