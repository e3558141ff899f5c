//! Tests of pages and documents over synthetic recordings.

use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{Report, document, page};
use crate::{
    aggregate::{
        Distribution, GroupKey, LeakGroup, Point, Snapshot, Split, StackCall, StackGroup, StacksSnapshot,
        StateDwells, Timeline,
        stuck_sockets::{One, StuckSockets},
    },
    join::{JoinSummary, tests::made_summary},
    lifecycle::{EndReason, Role},
    model::{
        Addr, Endpoint, Nanos, NetnsId, SocketId, TcpState,
        incident::Incident,
        record::{HostFacts, Process},
    },
    view::{losses::CAUSES, top::fixture},
};

const S: u64 = 1_000_000_000;
const HOSTILE: &str = "</script><script>alert(1)</script><b onmouseover='x()'>\"&\u{1b}[2J\u{2028}";

/// A timeline with one point per second and these TIME_WAIT counts.
fn timeline(began: Nanos, time_wait: impl IntoIterator<Item = u64>) -> Timeline {
    let mut timeline = Timeline { interval: Nanos::SECOND, points: Vec::new() };
    for (second, highest) in (1..).zip(time_wait) {
        let mut point = Point {
            ts: began.plus(Nanos(second * S)),
            highest: [0; TcpState::COUNT],
            entered: [0; TcpState::COUNT],
        };
        point.highest[TcpState::TimeWait.index()] = highest;
        point.highest[TcpState::Established.index()] = 40;
        point.entered[TcpState::TimeWait.index()] = 3;
        timeline.points.push(point);
    }
    timeline
}

fn dwells(state: TcpState, split: Option<Split>, lengths: impl IntoIterator<Item = u64>) -> StateDwells {
    StateDwells { state, split, open_now: Some(3), distribution: lengths.into_iter().collect() }
}

/// Stuck sockets of one process, the oldest with this `age`.
fn waiting(state: TcpState, count: u64, age: u64, comm: Option<&str>) -> StuckSockets {
    let end = Endpoint { addr: Addr::ANY, port: 80, ifindex: 0 };
    StuckSockets {
        state,
        netns: NetnsId(1),
        role: Role::Inbound,
        service: end,
        process: comm.map(|comm| Process::new(7, comm, 0)),
        count,
        old: 0,
        oldest: vec![One {
            id: SocketId(1),
            local: end,
            remote: end,
            age: Nanos(age),
            at_least: age > 60 * S,
        }],
    }
}

/// A recording that fills every section.
fn busy() -> Snapshot {
    let mut snapshot = fixture::lossy();
    snapshot.source = "incident.tcpt".into();
    let incident = |second: u64, title: &str| Incident {
        finding: "close_wait_leak".into(),
        title: title.into(),
        ts_ns: snapshot.host.wall_ns(snapshot.began.plus(Nanos(second * S))),
    };
    let incidents = vec![incident(600, "batch-exporter leaks sockets"), incident(100_000, "after the end")];
    Arc::make_mut(&mut snapshot.host).incidents = incidents;
    snapshot.states[TcpState::TimeWait.index()].entered = 34_000;
    snapshot.timeline = timeline(snapshot.began, (0..842).map(|second| second % 600 * 30));
    let mut time_wait: Distribution = (0..900).map(|n| 60 * S + n * 37 % 2_048 * 1_000_000).collect();
    time_wait.at_least = 12;
    time_wait.inferred = 7;
    snapshot.stuck = vec![
        waiting(TcpState::CloseWait, 1_200, 14 * S, Some("batch-exporter")),
        waiting(TcpState::CloseWait, 4, 840 * S, Some(HOSTILE)),
        waiting(TcpState::FinWait2, 1, 11 * S, None),
        waiting(TcpState::Listen, 1, 842 * S, None),
    ];
    snapshot.dwells = vec![
        dwells(TcpState::Established, None, (0..3_000).map(|n| 1_000 << (n % 22))),
        dwells(TcpState::TimeWait, None, []),
        dwells(
            TcpState::TimeWait,
            Some(Split::Ended(EndReason::Expired)),
            (0..900).map(|n| 60 * S + n * 1_000_000),
        ),
        dwells(TcpState::Listen, None, []),
    ];
    snapshot.dwells[1].distribution = time_wait;
    snapshot.stacks = stacks("release_to_pool");
    snapshot
}

/// Stacks of every kind of call, in which `function` calls the C library.
fn stacks(function: &str) -> StacksSnapshot {
    let stack = fixture::stack(&["close", function, "main"]);
    let group = |call, calls| StackGroup {
        call,
        stack: Arc::clone(&stack),
        process: Process::new(7, function, 0),
        processes: 1,
        calls,
        captured: calls,
        dwells: Vec::new(),
    };
    let leak = |stack: Option<_>, close_wait| LeakGroup {
        stack,
        call: StackCall::Accept,
        process: None,
        processes: 1,
        close_wait,
        fin_wait2: 0,
        longest: Nanos(14 * S),
    };
    StacksSnapshot {
        groups: vec![group(StackCall::Close, 900), group(StackCall::Connect, 2), group(StackCall::Accept, 1)],
        leaks: vec![leak(None, 4), leak(Some(Arc::clone(&stack)), 1_200)],
        ..StacksSnapshot::default()
    }
}

fn hostile() -> Snapshot {
    let mut snapshot = busy();
    let host = HostFacts {
        host: HOSTILE.into(),
        kernel: HOSTILE.into(),
        filter: HOSTILE.into(),
        sysctls: [(HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
        limits: vec![HOSTILE.into()],
        incidents: vec![Incident {
            finding: HOSTILE.into(),
            title: HOSTILE.into(),
            ts_ns: snapshot.host.wall_ns(snapshot.began.plus(Nanos(S))),
        }],
        ..(*snapshot.host).clone()
    };
    snapshot.host = Arc::new(host);
    snapshot.source = HOSTILE.into();
    snapshot.stacks = stacks(HOSTILE);
    for group in &mut snapshot.groups {
        group.key = HOSTILE.into();
        group.process = Some(Process::new(7, HOSTILE, 0));
    }
    snapshot
}

fn report(snapshot: &Snapshot) -> Report<'_> {
    static JOINED: LazyLock<JoinSummary> = LazyLock::new(made_summary);
    Report::of(snapshot, "", TimeZone::UTC).with_joined(Some(&JOINED))
}

fn page(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    page::write(&mut out, &report(snapshot)).expect("write to a Vec");
    String::from_utf8(out).expect("UTF-8")
}

fn document(snapshot: &Snapshot) -> Value {
    let mut out = Vec::new();
    document::write(&mut out, &report(snapshot)).expect("write to a Vec");
    serde_json::from_slice(&out).expect("JSON")
}

/// All numbers of a page, with their JSON pointers.
fn numbers(page: &str) -> Vec<(&str, &str)> {
    let attribute = |element: &'_ str, name: &str| {
        let from = element.find(name).expect("the attribute") + name.len();
        let length = element[from..].find('"').expect("its end");
        (from, length)
    };
    page.split("<data")
        .skip(1)
        .map(|element| {
            let (value, length) = attribute(element, " value=\"");
            let (at, at_length) = attribute(element, " data-at=\"");
            (&element[at..at + at_length], &element[value..value + length])
        })
        .collect()
}

fn summary(snapshot: &Snapshot) -> Vec<String> {
    document(snapshot)["summary"]
        .as_array()
        .expect("sentences")
        .iter()
        .map(|text| text.as_str().expect("text").into())
        .collect()
}

#[test]
fn page_numbers_match_the_document() {
    for snapshot in [busy(), hostile(), fixture::empty(), fixture::busy()] {
        let (page, document) = (page(&snapshot), document(&snapshot));
        let numbers = numbers(&page);
        assert!(numbers.len() > 50, "{}", numbers.len());
        for (at, value) in numbers {
            let value: Value = serde_json::from_str(value).expect("a number");
            assert_eq!(document.pointer(at), Some(&value), "{at}");
        }
    }
}

#[test]
fn page_embeds_the_document() {
    let snapshot = busy();
    let page = page(&snapshot);
    let (_, rest) = page.split_once("id=\"document\"").expect("the element");
    let json =
        rest.split_once('>').and_then(|(_, rest)| rest.split_once("</script>")).expect("its content").0;
    assert_eq!(serde_json::from_str::<Value>(json).expect("JSON"), document(&snapshot));
}

#[test]
fn hostile_names_are_escaped_on_the_page() {
    let page = page(&hostile());
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2));
    assert!(!page.contains("<b onmouseover"), "an element");
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "a control character");
    assert!(page.contains("&lt;/script&gt;"), "the escaped name");
}

#[test]
fn findings_have_a_link_to_their_code() {
    let mut snapshot = busy();
    let page_with = page(&snapshot);
    let linked = |on: &str| page_with.matches(&format!("<a href=\"#code-{on}\">the code</a>")).count();
    // Who makes TIME_WAIT; CLOSE_WAIT and FIN_WAIT2.
    assert_eq!(["close", "connect", "accept", "leak"].map(linked), [1, 0, 0, 2]);
    assert!(
        ["close", "connect", "accept", "leak"]
            .iter()
            .all(|on| page_with.contains(&format!("id=\"code-{on}\"")))
    );
    snapshot.stacks = StacksSnapshot::default();
    assert!(!page(&snapshot).contains("#code-"));
}

#[test]
fn estimates_are_marked() {
    let mut snapshot = busy();
    assert!(!page(&snapshot).contains(">~900<"));
    snapshot.stacks.groups[0].captured -= 1;
    let (page, document) = (page(&snapshot), document(&snapshot));
    // In the heading and in the table.
    assert_eq!(page.matches(">~900</data>").count(), 2);
    assert!(page.contains("<p>~ marks an estimate"));
    let is_estimate = |kind: usize| &document["stacks"][kind]["is_estimate"];
    assert_eq!([is_estimate(0), is_estimate(1)], [true, false]);
}

#[test]
fn hostile_functions_stay_text_and_few() {
    let mut snapshot = busy();
    let process = Process::new(7, HOSTILE, 0);
    let many = (0..500).map(|n| StackGroup {
        call: StackCall::Close,
        // Recursion.
        stack: fixture::stack(&vec![format!("{HOSTILE}{n}").as_str(); 128]),
        process: process.clone(),
        processes: 1,
        calls: 1_000 - n,
        captured: 1,
        dwells: Vec::new(),
    });
    snapshot.stacks = StacksSnapshot { groups: many.collect(), ..StacksSnapshot::default() };
    let page = page(&snapshot);
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2));
    assert!(!page.contains("<b onmouseover"));
    let drawn = page.matches("<svg class=\"f-own\"").count();
    // Each of the listed stacks, as deep as the graph goes.
    assert_eq!(drawn, 24 * 40);
    assert!(page.contains("<title>other stacks") && page.len() < 4 << 20, "{}", page.len());
    let all: u64 = (501..=1_000).sum();
    assert_eq!(document(&snapshot)["stacks"][0]["total"], all);
    assert_eq!(document(&snapshot)["stacks"][0]["other"], (501..=976).sum::<u64>());
}

#[test]
fn page_fetches_nothing() {
    let page = page(&busy());
    for way in ["src=", "href=\"http", "url(", "@import", "<link", "fetch(", "XMLHttpRequest", " style=\""] {
        assert!(!page.contains(way), "{way}");
    }
    assert!(page.contains("default-src 'none'; style-src 'sha256-"));
}

#[test]
fn document_names_every_loss() {
    let document = document(&busy());
    let names: Vec<&String> = document["loss"].as_object().expect("losses").keys().collect();
    // The unseeded count is beside them, but is not a loss.
    assert_eq!(names.len(), CAUSES.len() + 1);
    assert!(CAUSES.iter().all(|cause| document["loss"][cause.name].is_u64()));
}

#[test]
fn three_sentences() {
    insta::assert_debug_snapshot!(summary(&busy()));
    assert_eq!(
        summary(&fixture::empty()),
        [
            "On web-7 (Linux 6.18.5) TCP was followed for 0, on 2 January 2026 from 03:05:45 to 03:05:45 UTC: \
             0 sockets became ESTABLISHED, 0 a second.",
            "No socket was in TIME_WAIT, and no socket was ESTABLISHED.",
            "No problem found: nothing was lost, no CLOSE_WAIT is older than 10 s, no FIN_WAIT2 is held for longer, and \
             neither ports nor room for TIME_WAIT ran out.",
        ]
    );
}

/// What the page draws of incidents within the recording.
#[test]
fn incidents_are_marks_on_the_charts_over_time() {
    let page = page(&busy());
    let of = |from: &str, to: &str| -> Vec<String> {
        let parts = page.split(from).skip(1).filter_map(|part| part.split_once(to));
        parts.map(|(inner, _)| format!("{from}{inner}{to}")).collect()
    };
    let drawn = [of("<path class=\"incident\" data-ts", "</path>"), of("<ul class=\"incidents\">", "</ul>")];
    insta::assert_snapshot!(drawn.concat().join("\n"));
}

#[test]
fn both_ends_are_a_section_of_their_own() {
    let page = page(&busy());
    let section =
        page.split_once("<section id=\"joined\"").and_then(|(_, rest)| rest.split_once("</section>"));
    insta::assert_snapshot!(section.expect("the section").0);
    let snapshot = fixture::empty();
    let filtered = Report::of(&snapshot, "lport 80", TimeZone::UTC);
    let document = serde_json::to_value(document::ReportDocument::of(&filtered)).expect("JSON");
    assert!(document["joined"].is_null());
}

#[test]
fn the_document() {
    let mut snapshot = busy();
    snapshot.timeline.points.truncate(3);
    snapshot.groups.truncate(1);
    snapshot.dwells.truncate(2);
    let text = serde_json::to_string_pretty(&document(&snapshot)).expect("JSON");
    insta::assert_snapshot!(text);
}

#[test]
fn unlisted_groups_are_merged_without_loss() {
    let mut snapshot = fixture::empty();
    snapshot.ts = snapshot.began.plus(Nanos(60 * S));
    snapshot.other_groups = 5;
    snapshot.groups = (0..2_000)
        .map(|n| {
            let mut group = fixture::group(&format!("10.0.{}.{}:443", n / 250, n % 250), Role::Outbound, &[]);
            group.time_wait.entered = n + 1;
            group.counts[TcpState::CloseWait.index()] = u64::from(n == 3) * 7;
            group
        })
        .collect();
    let mut other = fixture::group("other", Role::Unknown, &[(TcpState::TimeWait, 11)]);
    other.id = GroupKey::OTHER;
    snapshot.groups.push(other);
    let document = document(&snapshot);
    let groups = document["groups"].as_array().expect("groups");
    assert!(groups.len() < 80, "{}", groups.len());
    let entered: u64 = groups.iter().filter_map(|group| group["time_wait"]["entered"].as_u64()).sum();
    assert_eq!(entered, (1..=2_000).sum::<u64>());
    assert_eq!(document["all"]["time_wait"]["entered"], entered);
    let rest = groups.last().expect("the rest");
    assert_eq!((rest["key"].as_str(), rest["counts"]["TIME_WAIT"].as_u64()), (Some("other"), Some(11)));
    assert_eq!(document["other_groups"], 2_000 - (groups.len() as u64 - 1) + 5);
    assert!(groups.iter().any(|group| group["key"] == "10.0.0.3:443"), "the leaking group is listed");
    assert!(page(&snapshot).len() < 1 << 20);
}
