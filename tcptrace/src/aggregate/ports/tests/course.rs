//! Checks the destinations of one client with several traffic patterns, second by second.

use std::fmt::Write as _;

use super::*;

fn lines(out: &mut String, title: &str, ports: &PortsSnapshot) {
    writeln!(out, "{title}: {} others", ports.others).expect("a String");
    for netns in &ports.netns {
        writeln!(out, "  netns {} taken {} available {:?}", netns.netns.0, netns.taken, netns.available())
            .expect("a String");
    }
    for row in &ports.destinations {
        let states = TcpState::ALL.into_iter().filter(|&state| row.count(state) > 0);
        let states: Vec<_> = states.map(|state| format!("{} {}", row.count(state), state.name())).collect();
        writeln!(
            out,
            "  {} used {} of {:?}, held {}, share {:?}: {}; bound {}, outside {}",
            row.remote,
            row.used,
            row.available,
            row.held(),
            row.share(),
            states.join(", "),
            row.bound,
            row.outside
        )
        .expect("a String");
        let left = row.exhausted_in.map(|left| left.0 / MS);
        let soon = row.runs_out_soon().map(|left| left.0 / MS);
        writeln!(
            out,
            "    +{:.3}/s -{:.3}/s, predicted {} or {} with reuse, out in {left:?} ms, soon {soon:?}",
            row.entered_per_s, row.left_per_s, row.predicted, row.predicted_with_reuse
        )
        .expect("a String");
        writeln!(
            out,
            "    failures {}, reuse {} of {}, reused {}, by TIME_WAIT {}, searches {}, main {:?}, owners {} and {}",
            row.connect_failures,
            row.reuse.name(),
            row.reusable,
            row.reused,
            row.is_held_by_time_wait(),
            row.searches_long(),
            row.main_state(),
            row.processes.len(),
            row.other_processes
        )
        .expect("a String");
        assert_eq!(ports.netns(row.netns).map(|netns| netns.netns), Some(row.netns));
    }
}

/// Ten connections per second to one destination, six of them closed locally first; a few others: bound, with a port
/// outside the range, failing.
#[test]
fn client_with_several_destinations() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "1"), ("tcp_timestamps", "1")]);
    let mut out = String::new();
    let mut lingering = Vec::new();
    for n in 0..120_u64 {
        let at = T0 + n * 100 * MS;
        let client = host.client("10.0.0.5", 80, 41_000 + (n % 100) as u16);
        host.open(at, client);
        match n % 10 {
            0..6 => {
                host.close(at + 20 * MS, client);
                lingering.push(client);
            }
            6..8 => host.close_passively(at + 30 * MS, client),
            _ => {}
        }
        if n % 20 == 7 {
            let other = host.client("10.0.0.6", 443, 41_000 + (n % 100) as u16);
            host.open(at + 40 * MS, other);
            let bound = host.client("10.0.0.6", 443, 41_001 + (n % 50) as u16);
            host.open_bound(at + 41 * MS, bound);
            let outside = host.client("10.0.0.6", 443, 6_000 + n as u16);
            host.open(at + 42 * MS, outside);
        }
        if n == 50 || n == 90 {
            // One connection replaces an older one.
            let old: Client = lingering.remove(0);
            let new = host.client("10.0.0.5", 80, old.sport);
            host.step(at + 50 * MS, new, TcpState::Close, TcpState::SynSent, flag::TASK);
            host.reuse_timewait(at + 51 * MS, old);
            host.step(at + 52 * MS, new, TcpState::SynSent, TcpState::Established, 0);
        }
        if n == 70 {
            let client = host.client("10.0.0.7", 80, 0);
            host.fail(at + 60 * MS, client);
        }
        if n % 20 == 19 {
            let ports = host.ports(at + 90 * MS);
            lines(&mut out, &format!("after {} s", n / 10), &ports);
        }
    }
    for reuse in ["0", "2"] {
        host.set(&[HUNDRED, ("tcp_tw_reuse", reuse), ("tcp_timestamps", "1")]);
        let ports = host.ports(T0 + 12 * S);
        lines(&mut out, &format!("with tcp_tw_reuse={reuse}"), &ports);
    }
    host.set(&[HUNDRED, ("tcp_tw_reuse", "1"), ("tcp_timestamps", "0")]);
    let ports = host.ports(T0 + 12 * S);
    lines(&mut out, "without timestamps", &ports);
    // The first half of the timers expire, the others are late.
    let half = lingering.len() / 2;
    for (n, client) in lingering.drain(..half).enumerate() {
        host.expire(T0 + 60 * S + n as u64 * 160 * MS, client);
    }
    for second in [61, 66, 71, 74] {
        let ports = host.ports(T0 + second * S);
        lines(&mut out, &format!("after {second} s"), &ports);
    }
    insta::assert_snapshot!(out);
}

#[test]
fn time_to_exhaustion_orders_destinations() {
    let end = |port| Endpoint { addr: addr("10.0.0.5"), port, ifindex: 0 };
    let row = |port, used, exhausted_in: Option<u64>| DestinationPorts {
        netns: NETNS,
        local: end(0),
        remote: end(port),
        backends: Vec::new(),
        has_place: false,
        counts: [0; TcpState::COUNT],
        used,
        available: Some(100),
        slow_above: Some(50),
        search: None,
        bound: 0,
        outside: 0,
        entered_per_s: 0.0,
        left_per_s: 0.0,
        predicted: 0,
        predicted_with_reuse: 0,
        exhausted_in: exhausted_in.map(|seconds| Nanos(seconds * S)),
        connect_failures: 0,
        free_at_failure: None,
        reuse: TwReuse::Off,
        reusable: 0,
        reused: 0,
        processes: Vec::new(),
        other_processes: 0,
    };
    // Soon means within ten minutes with a tenth of the ports held; no port left is always soon.
    for (used, left, soon) in [(9, 5, false), (10, 600, true), (10, 601, false), (0, 0, true), (50, 1, true)]
    {
        assert_eq!(row(1, used, Some(left)).runs_out_soon().is_some(), soon, "{used} {left}");
    }
    assert_eq!(row(1, 99, None).runs_out_soon(), None);
    for (used, long) in [(49, false), (50, true), (100, true)] {
        assert_eq!(row(1, used, None).searches_long(), long, "{used}");
    }
    let reusable = DestinationPorts { reusable: 60, ..row(1, 100, None) };
    assert_eq!((reusable.held(), reusable.searches_long(), reusable.share()), (40, false, Some(1.0)));
    let with_time_wait = |time_wait, used| {
        let mut row = row(1, used, None);
        row.counts[TcpState::TimeWait.index()] = time_wait;
        row.is_held_by_time_wait()
    };
    assert_eq!(
        [(9, 100), (10, 100), (0, 0)].map(|(time_wait, used)| with_time_wait(time_wait, used)),
        [false, true, false]
    );
    let unknown = DestinationPorts { available: None, slow_above: None, ..row(1, 100, None) };
    assert_eq!((unknown.share(), unknown.searches_long()), (None, false));
}

#[test]
fn places_go_to_the_soonest_exhausted_then_largest() {
    let mut ports = Vec::new();
    for (addresses, opened) in [("10.0.0.5", 100), ("10.0.0.6", 60), ("10.0.0.7", 5), ("10.0.0.8", 30)] {
        ports.push((addresses, opened));
    }
    for places in 1..=4 {
        let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
        host.aggregate = host.aggregate.with_places(places);
        for &(daddr, opened) in &ports {
            for n in 0..opened {
                let client = host.client(daddr, 80, 41_000 + n);
                host.open(T0, client);
            }
        }
        let seen = host.ports(T0 + 100 * S);
        let order: Vec<_> = seen.destinations.iter().map(|row| (row.remote.addr, row.has_place)).collect();
        let wanted = ["10.0.0.5", "10.0.0.6", "10.0.0.8", "10.0.0.7"];
        let wanted: Vec<_> = wanted.iter().enumerate().map(|(n, ip)| (addr(ip), n < places)).collect();
        assert_eq!(order, wanted, "{places}");
    }
}

#[test]
fn churn_does_not_change_searching_connects() {
    let mut host = Host::new(&[HUNDRED, ("tcp_tw_reuse", "0")]);
    let mut open: Vec<Client> = (0..100).map(|n| host.client("10.0.0.5", 80, 41_000 + n)).collect();
    for &client in &open {
        host.open(T0, client);
    }
    let searching = [0, 1].map(|_| host.client("10.0.0.5", 80, 0));
    for (n, client) in searching.into_iter().enumerate() {
        host.step(T0 + S + n as u64, client, TcpState::Close, TcpState::SynSent, flag::TASK);
    }
    for n in 0..5 {
        let old = open.remove(0);
        host.close_passively(T0 + (2 + n) * S, old);
        let new = host.client("10.0.0.5", 80, old.sport);
        host.open(T0 + (2 + n) * S + MS, new);
        let seen = host.only(T0 + (2 + n) * S + 2 * MS);
        // All ports are held, and the two searching connects have none.
        assert_eq!((seen.used, seen.available, seen.count(TcpState::SynSent)), (100, Some(100), 0), "{n}");
    }
    // Sockets closed locally first keep their ports.
    for n in 0..3 {
        host.close(T0 + (10 + n) * S, open.remove(0));
        let seen = host.only(T0 + (10 + n) * S + MS);
        assert_eq!((seen.used, seen.count(TcpState::TimeWait)), (100, n + 1));
    }
}
