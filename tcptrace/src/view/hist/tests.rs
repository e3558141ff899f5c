//! Tests of charts, documents and logs with made-up dwells.

use hdrhistogram::serialization::{
    Deserializer,
    interval_log::{IntervalLogIterator, LogEntry},
};
use jiff::tz::TimeZone;

use super::{hlog::IntervalLog, json, text};
use crate::{
    aggregate::{Distribution, Grouping, Sample, Snapshot, Split, StateDwells},
    lifecycle::{Closer, EndReason, Role},
    model::{Nanos, TcpState},
    view::{glyphs::Glyphs, top::fixture},
};

const MS: u64 = 1_000_000;

fn dwells(
    state: TcpState,
    split: Option<Split>,
    open_now: u64,
    lengths: impl IntoIterator<Item = u64>,
) -> StateDwells {
    StateDwells { state, split, open_now: Some(open_now), distribution: lengths.into_iter().collect() }
}

/// TIME_WAIT dwells as the timer wheel produces them: 60 s and up to one wheel bucket more.
fn time_wait(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(|i| 60_000 * MS + i * 37 % 2_048 * MS)
}

/// Dwells of 10, 100 and 1000 ms in thirds, each up to a tenth longer.
fn thirds(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(|i| 10_u64.pow((i % 3 + 1) as u32) * MS * (1_000 + i * 7 % 100) / 1_000)
}

fn sampled(mut snapshot: Snapshot) -> Snapshot {
    for second in 0..30 {
        let mut counts = [0; TcpState::COUNT];
        counts[TcpState::Established.index()] = 40 + second % 7 * 5;
        counts[TcpState::TimeWait.index()] = second * 50;
        snapshot.history.push(Sample { ts: Nanos(second * 1_000 * MS), counts });
    }
    snapshot
}

fn ungrouped() -> Snapshot {
    let mut snapshot = sampled(fixture::empty());
    snapshot.ts = Nanos(190_000 * MS);
    snapshot.records = 54_321;
    snapshot.grouping = Grouping::NONE;
    let (expired, reused) = (Split::Ended(EndReason::Expired), Split::Ended(EndReason::Reused));
    let mut all = time_wait(900).chain((0..30).map(|i| (1_500 + i * 100) * MS)).collect::<Distribution>();
    all.at_least = 12;
    all.inferred = 210;
    snapshot.dwells = vec![
        dwells(TcpState::Established, None, 65, thirds(3_000)),
        dwells(TcpState::TimeWait, None, 1_450, []),
        dwells(TcpState::TimeWait, Some(expired), 0, time_wait(900)),
        dwells(TcpState::TimeWait, Some(reused), 0, (0..30).map(|i| (1_500 + i * 100) * MS)),
        dwells(TcpState::Listen, None, 12, []),
    ];
    snapshot.dwells[1].distribution = all;
    let mut group = fixture::group("all", Role::Unknown, &[]);
    group.closers[Closer::Local as usize] = 2_380;
    group.closers[Closer::Remote as usize] = 600;
    group.closers[Closer::ResetReceived as usize] = 20;
    group.ended[EndReason::ResetReceived as usize] = 20;
    group.orphans_ended[EndReason::Expired as usize] = 3;
    snapshot.groups = vec![group];
    snapshot
}

fn grouped() -> Snapshot {
    let mut snapshot = ungrouped();
    snapshot.grouping = "service,process".parse().expect("two keys");
    snapshot.groups = (1..=12)
        .map(|n| {
            let key = format!("[2001:db8:1:2:3:4:5:{n:x}]:8443 / \u{1b}api-server ({})", 4_000 + n);
            let mut group = fixture::group(&key, Role::Outbound, &[]);
            group.dwells =
                vec![dwells(TcpState::Established, None, 0, thirds(3_000 / n).skip(n as usize - 1))];
            group.closers[Closer::Local as usize] = 10 * n;
            group.ended[EndReason::Overflow as usize] = n - 1;
            group
        })
        .collect();
    snapshot
}

fn chart(snapshot: &Snapshot, width: u16, glyphs: Glyphs) -> String {
    let mut out = Vec::new();
    let layout = text::HistLayout { width, glyphs, zone: TimeZone::UTC, max_groups: 10 };
    text::write(&mut out, snapshot, &layout).expect("writing to a Vec");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn chart_fits_80_columns() {
    let chart = chart(&ungrouped(), 80, Glyphs::Unicode);
    assert!(chart.lines().all(|line| line.chars().count() <= 80), "{chart}");
    insta::assert_snapshot!(chart);
}

#[test]
fn chart_in_ascii_by_service_and_process() {
    let chart = chart(&grouped(), 80, Glyphs::Ascii);
    assert!(chart.is_ascii() && !chart.contains(|c: char| c.is_control() && c != '\n'), "{chart}");
    assert!(chart.lines().all(|line| line.len() <= 80), "{chart}");
    insta::assert_snapshot!(chart);
}

#[test]
fn chart_at_140_columns() {
    insta::assert_snapshot!(chart(&grouped(), 140, Glyphs::Unicode));
}

#[test]
fn empty_snapshots_print_a_message() {
    let mut snapshot = fixture::empty();
    assert!(chart(&snapshot, 80, Glyphs::Ascii).contains("No TCP sockets."));
    snapshot.dwells = vec![dwells(TcpState::TimeWait, None, 7, [])];
    let chart = chart(&snapshot, 80, Glyphs::Ascii);
    assert!(chart.contains("TIME_WAIT    no dwell from beginning to end yet, 7 open now"), "{chart}");
}

#[test]
fn every_width_renders() {
    for width in 0..200 {
        chart(&grouped(), width, Glyphs::Unicode);
    }
}

#[test]
fn json_document() {
    let mut snapshot = ungrouped();
    snapshot.dwells[0] = dwells(TcpState::Established, None, 65, [10 * MS, 11 * MS, 10 * MS + 1]);
    snapshot.dwells[1].distribution = [60_000 * MS].into_iter().collect();
    snapshot.dwells[1].distribution.inferred = 210;
    snapshot.dwells[2] = StateDwells { open_now: None, ..snapshot.dwells[1].clone() };
    snapshot.dwells[2].split = Some(Split::Ended(EndReason::Expired));
    snapshot.dwells.truncate(3);
    let mut out = Vec::new();
    json::write(&mut out, &snapshot).expect("writing to a Vec");
    let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).expect("JSON"));
}

/// Parses a log with its own reader: tag, start and length in milliseconds, count and maximum.
fn read(log: &[u8]) -> Vec<(String, u128, u128, u64, u64)> {
    let entry = |entry| match entry {
        LogEntry::Interval(interval) => Some(interval),
        _ => None,
    };
    IntervalLogIterator::new(log)
        .filter_map(|line| entry(line.expect("a line of the format")))
        .map(|interval| {
            let bytes = base64_decode(interval.encoded_histogram());
            let histogram: hdrhistogram::Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
            let tag = interval.tag().expect("a tag").as_str().to_owned();
            let start = interval.start_timestamp().as_millis();
            (tag, start, interval.duration().as_millis(), histogram.len(), histogram.max())
        })
        .collect()
}

fn base64_decode(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'=').map(value).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let bits = four.iter().enumerate().fold(0_u32, |bits, (n, &v)| bits | u32::from(v) << (18 - 6 * n));
        bits.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}

#[test]
fn log_holds_the_growth_of_each_interval() {
    let mut log = IntervalLog::new(Vec::new());
    let mut snapshot = fixture::empty();
    snapshot.began = Nanos(100_000 * MS);
    snapshot.grouping = Grouping::SERVICE;
    for (seconds, lengths) in
        [(1, &[5 * MS, 7 * MS][..]), (2, &[5 * MS, 7 * MS]), (3, &[5 * MS, 7 * MS, 5 * MS])]
    {
        snapshot.ts = Nanos((100 + seconds) * 1_000 * MS);
        let state = TcpState::CloseWait;
        snapshot.dwells = vec![dwells(state, None, 0, lengths.iter().copied())];
        let mut group = fixture::group("*:80, x", Role::Inbound, &[]);
        group.dwells = vec![dwells(state, None, 0, lengths.iter().copied())];
        snapshot.groups = vec![group];
        log.write(&snapshot).expect("writing to a Vec");
    }
    let log = log.into_inner();
    let start = u128::from(snapshot.host.clock_offset_ns / MS) + 100_000;
    let (seven, five) = (7 * MS, 5 * MS);
    let equivalent = hdrhistogram::Histogram::<u64>::new(3).expect("three digits");
    let expected = [("CLOSE_WAIT", 0, 2, seven), ("CLOSE_WAIT@*:80__x/inbound", 0, 2, seven)]
        .into_iter()
        .chain([("CLOSE_WAIT", 2_000, 1, five), ("CLOSE_WAIT@*:80__x/inbound", 2_000, 1, five)]);
    let found = read(&log);
    assert_eq!(found.len(), 4, "an interval without dwells has no line");
    for ((tag, at, count, max), found) in expected.zip(found) {
        assert_eq!((found.0.as_str(), found.1, found.2, found.3), (tag, start + at, 1_000, count));
        assert_eq!(found.4, equivalent.highest_equivalent(max));
    }
}
