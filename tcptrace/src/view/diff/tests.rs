//! Tests that compare synthetic traffic with itself, with similar and with different traffic.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::{
    chance::Verdict,
    compare::{Measure, Presence},
    json,
    text::{self, DiffDetail, DiffLayout},
    *,
};
use crate::{
    aggregate::{Grouping, Scope},
    filter::Filter,
    model::{Nanos, Record, TcpState, record::KernelLosses},
    pipeline::Engine,
    synthetic::{Shape, Traffic},
};

const SHAPE: Shape = Shape { connections_per_s: 100, services: 4, peers: 50, seeded: 20 };

fn recorded(records: impl Iterator<Item = Record>, seconds: u64) -> Recorded {
    let mut engine = Engine::new(Filter::EVERYTHING, Grouping::SERVICE, Scope::Whole, "test".into());
    let mut began = None;
    for record in records {
        let ts = record.ts().unwrap_or_default();
        if ts.0 > 0 && ts.since(*began.get_or_insert(ts)) > Nanos(seconds * 1_000_000_000) {
            break;
        }
        engine.take(&record);
    }
    let (all, groups) = engine.summary();
    Recorded { last: engine.snapshot(), all, groups }
}

fn traffic(shape: Shape, seed: u64, seconds: u64) -> Recorded {
    recorded(Traffic::new(shape, seed), seconds)
}

/// Traffic of a slower host with other settings and one service less.
fn other() -> Recorded {
    let shape = Shape { connections_per_s: 50, services: 3, ..SHAPE };
    let changed = Traffic::new(shape, 3).map(|record| match record {
        Record::Host(mut facts) => {
            facts.host = "other\u{1b}[2J".into();
            facts.sysctls = BTreeMap::from([
                ("net.ipv4.tcp_fin_timeout".into(), "30".into()),
                ("net.ipv4.tcp_tw_reuse".into(), "1".into()),
            ]);
            facts.limits = vec!["It can't see everything.".into()];
            Record::Host(facts)
        }
        Record::Loss { ts, losses } => Record::Loss { ts, losses: KernelLosses { ring_full: 12, ..losses } },
        other => other,
    });
    recorded(changed, 130)
}

fn as_text(before: &Recorded, after: &Recorded, detail: DiffDetail) -> String {
    let mut out = Vec::new();
    let layout = DiffLayout { detail, zone: TimeZone::UTC, max_groups: 40 };
    text::write(&mut out, &Diff::of(before, after), &layout).expect("writing to a Vec");
    String::from_utf8(out).expect("UTF-8")
}

fn as_json(before: &Recorded, after: &Recorded) -> serde_json::Value {
    let mut out = Vec::new();
    json::write(&mut out, &Diff::of(before, after), &[]).expect("writing to a Vec");
    let line = String::from_utf8(out).expect("UTF-8");
    assert!(!line.trim_end().contains(char::is_control), "{line}");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn equal_recordings_have_no_differences() {
    let one = traffic(SHAPE, 1, 20);
    let diff = Diff::of(&one, &one);
    assert!(diff.settings.is_empty() && diff.cautions.is_empty(), "{:?}", diff.cautions);
    assert_eq!(diff.groups.len(), 8);
    for group in diff.groups.iter().chain([&diff.all]) {
        assert!(!group.has_changed(), "{group:?}");
        assert!(group.rows.iter().all(|row| row.values[0] == row.values[1]));
    }
}

#[test]
fn similar_traffic_has_few_differences() {
    let (one, two) = (traffic(SHAPE, 1, 125), traffic(SHAPE, 2, 125));
    let diff = Diff::of(&one, &two);
    let changed: Vec<_> = diff
        .groups
        .iter()
        .flat_map(|group| &group.rows)
        .filter(|row| row.verdict == Verdict::Changed)
        .collect();
    let all: usize = diff.groups.iter().map(|group| group.rows.len()).sum();
    // The threshold is three standard errors, but rows depend on each other.
    assert!(changed.len() * 100 < all, "{} of {all}: {changed:?}", changed.len());
}

#[test]
fn rows_match_the_snapshots() {
    let (one, two) = (traffic(SHAPE, 1, 65), other());
    let diff = Diff::of(&one, &two);
    for (side, recorded) in [&one, &two].into_iter().enumerate() {
        let seconds = recorded.span().as_secs_f64();
        for row in &diff.all.rows {
            let Some(state) = row.state else { continue };
            let total = &recorded.last.states[state.index()];
            let dwells = recorded.last.dwells.iter().find(|of| of.state == state && of.split.is_none());
            let count = dwells.map_or(0, |of| of.distribution.count);
            match row.measure {
                Measure::Entered => {
                    assert_eq!(row.counts[side], total.entered, "{state:?}");
                    assert_eq!(row.values[side], Some(total.entered as f64 / seconds));
                }
                Measure::Sockets => assert!(row.counts[side] as f64 >= row.values[side].unwrap_or_default()),
                Measure::Dwell(_) => assert_eq!(row.counts[side], count, "{state:?}"),
                _ => {}
            }
        }
        for group in &recorded.last.groups {
            let same = diff.groups.iter().find(|of| of.key == group.key && of.role == group.role);
            let rows = &same.expect("every group is compared").rows;
            let time_wait = |row: &&compare::DiffRow| {
                row.state == Some(TcpState::TimeWait) && row.measure == Measure::Entered
            };
            let entered = rows.iter().find(time_wait).map_or(0, |row| row.counts[side]);
            assert_eq!(entered, group.time_wait.entered, "{}", group.key);
        }
    }
}

#[test]
fn mean_of_established_is_rate_times_dwell() {
    let one = traffic(SHAPE, 1, 180);
    let of_state = one.all.states.iter().find(|of| of.state == TcpState::Established).expect("connections");
    let expected = of_state.entered as f64 / one.span().as_secs_f64() * of_state.dwells.mean.as_secs_f64();
    assert!((of_state.mean / expected - 1.0).abs() < 0.3, "{} against {expected}", of_state.mean);
}

#[test]
fn swapped_recordings_mirror_all_rows() {
    let (one, two) = (traffic(SHAPE, 1, 65), other());
    let (there, back) = (Diff::of(&one, &two), Diff::of(&two, &one));
    for group in &there.groups {
        let same = back.groups.iter().find(|of| (&of.key, of.role) == (&group.key, group.role));
        let same = same.expect("the same groups");
        for (row, mirrored) in group.rows.iter().zip(&same.rows) {
            assert_eq!((row.measure, row.verdict), (mirrored.measure, mirrored.verdict));
            assert_eq!(row.values, [mirrored.values[1], mirrored.values[0]]);
        }
    }
    let vanished = there.groups.iter().filter(|group| group.presence == Presence::Vanished).count();
    let new = back.groups.iter().filter(|group| group.presence == Presence::New).count();
    assert_eq!((vanished, new), (2, 2));
}

#[test]
fn largest_changes_come_first() {
    insta::assert_snapshot!(as_text(&traffic(SHAPE, 1, 65), &other(), DiffDetail::Changes));
}

#[test]
fn equal_recordings_print_no_groups() {
    let one = traffic(SHAPE, 1, 20);
    insta::assert_snapshot!(as_text(&one, &one, DiffDetail::Changes));
}

#[test]
fn few_dwells_are_marked_too_few() {
    let quiet = Shape { connections_per_s: 2, services: 1, seeded: 0, ..SHAPE };
    insta::assert_snapshot!(as_text(&traffic(quiet, 1, 4), &traffic(quiet, 2, 12), DiffDetail::All));
}

#[test]
fn empty_recordings_print_a_message() {
    let nothing = || recorded(std::iter::empty(), 1);
    insta::assert_snapshot!(as_text(&nothing(), &nothing(), DiffDetail::All));
}

#[test]
fn document_has_every_number() {
    let (one, two) = (traffic(SHAPE, 1, 65), other());
    let document = as_json(&one, &two);
    assert_eq!(document["schema"], "tcptrace.diff.v1");
    assert_eq!(document["before"]["records"], one.last.records);
    assert_eq!(document["after"]["loss"]["ring_full"], 12);
    assert_eq!(document["settings"][0]["name"], "net.ipv4.tcp_fin_timeout");
    assert_eq!(document["settings"][1]["before"], "-");
    let rows = document["all"].as_array().expect("rows");
    let entered = |row: &&serde_json::Value| row["state"] == "TIME_WAIT" && row["measure"] == "entered_per_s";
    let row = rows.iter().find(entered).expect("TIME_WAIT was entered");
    assert_eq!(row["before_count"], one.last.states[TcpState::TimeWait.index()].entered);
    assert_eq!(row["verdict"], "changed");
    let first = &document["groups"][0];
    insta::assert_snapshot!(serde_json::to_string_pretty(&first["rows"][0]).expect("JSON"));
}

#[test]
fn conditions_hold_where_values_exceed_their_limits() {
    let (before, after) = (traffic(SHAPE, 3, 130), other());
    let diff = Diff::of(&before, &after);
    let check = |text: &str| {
        let condition: fail_on::FailOn = text.parse().expect("a condition");
        let checks = condition.check(&diff).expect("a group");
        let failed: Vec<_> = checks.iter().map(|check| check.has_failed).collect();
        (failed, checks[0].to_string())
    };
    // Half the connections.
    assert_eq!(check("time_wait.entered_per_s > +20%").0, [Some(false)]);
    let (failed, line) = check("time_wait.entered_per_s < -20%");
    assert_eq!(failed, [Some(true)]);
    assert!(line.contains(" before, ") && line.contains("(-"), "{line}");
    assert_eq!(check("time_wait.entered_per_s < -90%").0, [Some(false)]);
    assert_eq!(check("time_wait.entered_per_s > 5").0, [Some(true)]);
    assert_eq!(check("time_wait.entered_per_s < -5").0, [Some(true)]);
    assert_eq!(check("established.dwell_p50_ns > 1000").0, [Some(true)]);
    assert_eq!(check("established.dwell_p50_ns > 1h").0, [Some(false)]);
    // There is none: a rate is zero, a dwell is missing.
    assert_eq!(check("closing.entered_per_s > 0").0, [Some(false)]);
    let (failed, line) = check("closing.dwell_p50_ns > 0");
    assert_eq!(failed, [None]);
    assert!(line.ends_with("none before, none after"), "{line}");
    // Of one service, and of one that neither has.
    let key = &diff.groups[0].key;
    assert!(!check(&format!("{key} time_wait.sockets_mean > 0")).0.is_empty());
    let absent: fail_on::FailOn = "nobody:1 time_wait.sockets_mean > 0".parse().expect("a condition");
    assert!(absent.check(&diff).is_err_and(|error| error.contains("'nobody:1' by service")));
    // In the document.
    let condition: fail_on::FailOn = "time_wait.entered_per_s < -20%".parse().expect("a condition");
    let checks = condition.check(&diff).expect("all sockets");
    let mut out = Vec::new();
    json::write(&mut out, &diff, &checks).expect("writing to a Vec");
    let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(document["fail_on"][0]["failed"], true);
}
