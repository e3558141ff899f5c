//! Tests of the table and the document with made-up counts.

use super::*;
use crate::model::NetnsId;

fn netns(id: u32, name: Option<&str>, counts: &[(TcpState, u64)]) -> NetnsCounts {
    let mut sum = StateCounts::default();
    for &(state, n) in counts {
        (0..n).for_each(|_| sum.add(state));
    }
    NetnsCounts {
        host: "web-3".into(),
        is_own: id == 4_026_531_833,
        id: NetnsId(id),
        name: name.map(Into::into),
        counts: sum,
    }
}

fn states(netns: Vec<NetnsCounts>, missing: &[&str]) -> States {
    States {
        host: HostFacts {
            host: "web-3".into(),
            kernel: "6.18.0".into(),
            clock_offset_ns: 1_750_000_000_000_000_000,
            netns: 4_026_531_833,
            ..HostFacts::default()
        },
        taken_at: Nanos(12_345_678_901),
        source: "live".into(),
        netns,
        groups: None,
        losses: Losses::default(),
        missing: missing.iter().map(ToString::to_string).collect(),
    }
}

fn text(states: &States) -> String {
    let mut out = Vec::new();
    write_text(states, &mut out).expect("writing to memory");
    String::from_utf8(out).expect("text")
}

fn busy() -> NetnsCounts {
    let mut busy = netns(
        4_026_531_833,
        None,
        &[
            (TcpState::Listen, 12),
            (TcpState::Established, 1_204),
            (TcpState::TimeWait, 18_122),
            (TcpState::CloseWait, 3),
            (TcpState::FinWait2, 2),
        ],
    );
    (0..40).for_each(|_| busy.counts.add_orphan_fin_wait2());
    busy
}

#[test]
fn one_namespace_prints_no_namespace_table() {
    insta::assert_snapshot!(text(&states(vec![busy()], &["other network namespaces were not visited"])));
}

#[test]
fn namespaces_are_listed_by_size() {
    let list = vec![
        busy(),
        netns(4_026_532_201, Some("blue"), &[(TcpState::TimeWait, 30_000)]),
        netns(4_026_532_305, None, &[(TcpState::Listen, 1)]),
        netns(4_026_532_306, None, &[]),
    ];
    insta::assert_snapshot!(text(&states(list, &[])));
}

#[test]
fn no_sockets_give_a_table_of_zeros() {
    let text = text(&states(Vec::new(), &[]));
    assert!(!text.contains("NaN"), "{text}");
    assert_eq!(text.lines().filter(|line| line.ends_with(" -")).count(), TcpState::COUNT);
}

#[test]
fn document_totals_add_up() {
    let list = vec![busy(), netns(4_026_532_201, Some("blue"), &[(TcpState::TimeWait, 5)])];
    let mut out = Vec::new();
    write_json(&states(list, &["a sentence"]), &mut out).expect("writing to memory");
    let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    let sum = |value: &serde_json::Value| -> u64 {
        value["states"].as_array().expect("rows").iter().filter_map(|row| row["count"].as_u64()).sum()
    };
    assert_eq!(document["total"], 19_388);
    assert_eq!(sum(&document), 19_388);
    assert_eq!(document["netns"].as_array().expect("rows").iter().map(sum).sum::<u64>(), 19_388);
    insta::assert_snapshot!(String::from_utf8(out).expect("text"));
}

#[test]
fn every_state_has_one_row() {
    for state in TcpState::ALL {
        assert_eq!(ORDER.iter().filter(|row| **row == state).count(), 1);
    }
}

fn grouped() -> States {
    use crate::{lifecycle::Role, view::top::fixture};
    let group = |key: &str, role, counts: &[(TcpState, u64)]| fixture::group(key, role, counts);
    let mut states = states(vec![busy()], &[]);
    states.groups = Some(GroupedCounts {
        grouping: "service,comm".parse().expect("two keys"),
        peer_names: std::sync::Arc::default(),
        groups: vec![
            group("*:443 / nginx", Role::Inbound, &[(TcpState::TimeWait, 18_000), (TcpState::Listen, 1)]),
            group(
                "[2001:db8:1:2:3:4:5:6]:5432 / \u{1b}[2Japi-server",
                Role::Outbound,
                &[(TcpState::Established, 1_204), (TcpState::CloseWait, 3)],
            ),
            group("10.0.0.9:80 / curl", Role::Outbound, &[]),
        ],
        other_groups: 4_321,
    });
    states
}

#[test]
fn groups_are_listed_by_size() {
    let text = text(&grouped());
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn document_has_the_groups() {
    let mut out = Vec::new();
    write_json(&grouped(), &mut out).expect("writing to memory");
    let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(document["group_by"], "service,comm");
    assert_eq!(document["other_groups"], 4_321);
    assert_eq!(document["groups"][0]["counts"]["TIME_WAIT"], 18_000);
    assert_eq!(document["groups"][1]["total"], 1_207);
}
