//! Tests of the local port findings and their advice.

use super::*;

/// A host with one destination that uses `used` of 28,232 ports in `state`.
fn host(state: TcpState, used: u64, change: impl FnOnce(&mut DestinationPorts)) -> Snapshot {
    let mut snapshot = healthy();
    ports(&mut snapshot, used, 0);
    let destination = &mut snapshot.ports.destinations[0];
    destination.counts = [0; TcpState::COUNT];
    destination.counts[state.index()] = used;
    change(destination);
    snapshot
}

const fn seconds(s: u64) -> Nanos {
    Nanos(s * Nanos::SECOND.0)
}

#[test]
fn few_ports_that_grow_slowly_are_no_finding() {
    // (used, none left in s, whether it is near)
    let cases = [
        (211, Some(seconds(4 * 3_600 + 240)), false),
        (211, Some(seconds(300)), false),
        (5_000, Some(seconds(300)), true),
        (5_000, Some(seconds(4 * 3_600)), false),
        (28_232, Some(seconds(0)), true),
        (13_000, None, false),
        // From half of the range on, connect() searches long.
        (14_200, None, true),
    ];
    for (used, left, is_near) in cases {
        let snapshot = host(TcpState::Established, used, |ports| ports.exhausted_in = left);
        let ids: Vec<_> = diagnose(&snapshot).iter().map(|finding| finding.id).collect();
        let expected: &[&str] = if is_near { &["client_ports_near"] } else { &[] };
        assert_eq!(ids, expected, "{used} used, none left in {left:?}");
    }
}

#[test]
fn a_long_search_is_named_with_its_cost() {
    let times =
        |p50| SearchTimes { p50: Nanos(p50), p99: Nanos(4_700_000), max: Nanos(5_000_000), count: 600 };
    let searching = |used| {
        host(TcpState::Established, used, |ports| {
            (ports.search, ports.entered_per_s) = (Some(times(600_000)), 60.0);
        })
    };
    let findings = diagnose(&searching(14_200));
    let [found] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(
        found.evidence[0].ends_with("; connect() searches 600us (p50), 4.70ms (p99): 3.6% of a CPU"),
        "{:?}",
        found.evidence
    );
    // A long round trip alone is no search.
    assert!(diagnose(&searching(11_000)).is_empty());
}

#[test]
fn reusable_ports_do_not_count_as_near_exhaustion() {
    let snapshot = host(TcpState::TimeWait, 20_000, |ports| {
        (ports.reuse, ports.reusable) = (TwReuse::On, 19_000);
    });
    assert!(diagnose(&snapshot).is_empty());
}

#[test]
fn advice_matches_the_state_that_holds_the_ports() {
    let advice = |state| {
        let snapshot = host(state, 20_000, |ports| ports.exhausted_in = Some(seconds(30)));
        let findings = diagnose(&snapshot);
        let [found] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(found.title, "local ports to 10.0.0.5:5432 run out in 30.0s");
        assert!(
            found.evidence[0]
                .contains(&format!("20,000 of 28,232 ports used, 20,000 of them {}", state.name()))
        );
        (found.fix.join("\n"), found.dont)
    };
    let (fix, dont) = advice(TcpState::TimeWait);
    assert!(fix.contains("keep and reuse connections") && fix.contains("tcp_tw_reuse=1"), "{fix}");
    assert!(!dont.contains("tcp_tw_reuse"), "{dont}");
    for (state, says) in [
        (TcpState::Established, "an upper limit for the pool, and close what is idle"),
        (TcpState::CloseWait, "call close() on what the peer has closed"),
        (TcpState::SynSent, "a connect timeout"),
        (TcpState::FinWait2, "why the other side does not finish the close"),
    ] {
        let (fix, dont) = advice(state);
        assert!(fix.contains(says), "{state:?}: {fix}");
        assert!(!fix.contains("keep and reuse") && !fix.contains("tcp_tw_reuse"), "{state:?}: {fix}");
        assert!(dont.contains("Not tcp_tw_reuse"), "{state:?}: {dont}");
    }
}

/// A destination with enough TIME_WAIT for a note of its own.
fn short_of_ports(snapshot: &mut Snapshot) {
    ports(snapshot, 28_232, 37);
    snapshot.ports.destinations[0].netns = OWN;
    group(snapshot, Role::Outbound, |group| group.time_wait.now = 28_232);
}

#[test]
fn findings_are_folded_under_their_cause() {
    let mut snapshot = healthy();
    short_of_ports(&mut snapshot);
    set(&mut snapshot, BLUE, "tcp_timestamps", "0");
    let findings = diagnose(&snapshot);
    let order: Vec<_> = findings.iter().map(|finding| (finding.id, finding.follows_from)).collect();
    assert_eq!(
        order,
        [
            ("client_ports_exhausted", None),
            ("tw_reuse", Some("client_ports_exhausted")),
            ("timestamps_off", None)
        ]
    );
    insta::assert_snapshot!(shown(&snapshot, FindingDetail::Short, Paint::Plain, 80));

    // A note about another destination has no cause.
    snapshot.groups[0].service = Some((OWN, end("10.0.0.9:80")));
    assert!(diagnose(&snapshot).iter().all(|finding| finding.follows_from.is_none()));
}
