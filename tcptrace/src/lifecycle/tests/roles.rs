//! Tests of roles: guessed from listeners, states and port ranges, and marked as guesses.

use super::*;

#[test]
fn socket_with_a_missed_beginning_gets_a_guessed_role() {
    use TcpState as T;
    let mut run = TrackerRun::new();
    let change = |cookie, old: T, new: T, sport, dport| {
        let raw = record(10, Kind::Transition);
        kernel(raw::RawRecord { cookie, old: old as u8, new: new as u8, sport, dport, ..raw })
    };
    run.take(change(1, T::Close, T::Listen, 8080, 0));
    run.take(change(7, T::Established, T::CloseWait, 8080, 50_000));
    run.take(change(8, T::Established, T::CloseWait, 40_000, 5432));
    run.take(change(9, T::SynSent, T::Established, 40_001, 5432));
    let role = |id: u64| {
        let socket = run.tracker.socket(SocketId(id)).expect("tracked");
        (socket.role, socket.role_guessed)
    };
    assert_eq!(role(7), (Role::Inbound, true));
    assert_eq!(role(8), (Role::Outbound, true));
    assert_eq!(role(9), (Role::Outbound, false), "a socket in SYN_SENT is outbound");
}

#[test]
fn roles_are_guessed_from_listeners_and_marked() {
    use TcpState as T;
    let mut run = TrackerRun::seeding();
    let listener = SeedSocket {
        tuple: Tuple { daddr: Addr::ANY, dport: 0, ..seed(1, T::Listen, SeedObject::Full).tuple },
        ..seed(1, T::Listen, SeedObject::Full)
    };
    let process = Process::new(70, "nginx", 1);
    run.take(Record::Seed(listener))
        .take(Record::Seed(seed(7, T::Established, SeedObject::Full)))
        .take(Record::SeedEnd { ts: Nanos(10 * MS), began: Nanos(0) })
        .take(Record::Owner { ts: Nanos(11 * MS), id: SocketId(1), process, fd: None })
        .take(Record::OwnersEnd { ts: Nanos(12 * MS) });
    let (_, socket) = run.tracker.sockets().find(|(id, _)| *id == SocketId(7)).expect("tracked");
    assert_eq!((socket.role, socket.role_guessed, socket.owner), (Role::Inbound, true, OwnerKind::Listener));
}

#[test]
fn role_without_listener_follows_the_local_port_range() {
    let settings = |range: &str| Record::NetnsSettings {
        ts: Nanos(1),
        netns: NetnsId(1),
        sysctls: [("net.ipv4.ip_local_port_range".to_owned(), range.to_owned())].into(),
    };
    let time_wait = |cookie, sport, dport| {
        let timewait = SeedObject::Timewait { left: Nanos(30 * S) };
        let socket = seed(cookie, TcpState::TimeWait, timewait);
        SeedSocket { tuple: Tuple { sport, dport, ..socket.tuple }, ..socket }
    };
    // (local port range, local port, remote port, role)
    let cases = [
        (Some("32768\t60999"), SERVER, CLIENT, Role::Inbound),
        (Some("32768\t60999"), CLIENT, SERVER, Role::Outbound),
        // Both ends or neither may have been chosen: most such connections are outbound.
        (Some("32768\t60999"), CLIENT + 1, CLIENT, Role::Outbound),
        (Some("32768\t60999"), 1000, 2049, Role::Outbound),
        (Some("1024\t65535"), 8080, CLIENT, Role::Outbound),
        (None, SERVER, CLIENT, Role::Outbound),
    ];
    for (range, sport, dport, role) in cases {
        let mut run = TrackerRun::seeding();
        run.take(Record::Seed(time_wait(7, sport, dport)));
        if let Some(range) = range {
            run.take(settings(range));
        }
        run.take(Record::SeedEnd { ts: Nanos(5 * MS), began: Nanos(0) });
        // A sweep that finds one later makes the same guess.
        run.take(Record::Found(time_wait(8, sport, dport)));
        for id in [7, 8] {
            let socket = run.tracker.socket(SocketId(id)).expect("tracked");
            assert_eq!((socket.role, socket.role_guessed), (role, true), "{range:?} {sport} {dport}");
        }
    }
}
