//! A report as one JSON document, schema `tcptrace.report.v1`: everything that the page shows.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::{
    Report,
    bins::{Bin, Bins, Scale},
    story,
};
use crate::{
    aggregate::{Group, Snapshot},
    model::{TcpState, text},
    view::{
        document::{self, Head, limits},
        hist::{closes, json::Numbers},
        top::{json::GroupFields, summary::STATES},
    },
};

/// The name of what this module writes.
const SCHEMA: &str = "tcptrace.report.v1";

/// Writes the document on one line.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    document::write(out, &Document::of(report))
}

/// The document.
#[derive(Serialize)]
pub struct Document<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    /// What the recording does not tell, or only as a bound, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    host: Cow<'a, str>,
    boot_id: Cow<'a, str>,
    /// What it was recorded with; empty for everything.
    recorded_filter: Cow<'a, str>,
    /// What the report was made with.
    filter: &'a str,
    sysctls: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    began_at: String,
    traced_ns: u64,
    /// What happened, in three sentences.
    summary: [String; 3],
    states: Vec<State>,
    fin_wait2: FinWait2,
    timeline: Timeline<'a>,
    histograms: Vec<Histogram<'a>>,
    group_by: String,
    /// Groups counted together, in the one with the key `other`.
    other_groups: u64,
    all: GroupFields<'a>,
    #[serde(serialize_with = "skipped")]
    skipped_time_wait: &'a Group,
    groups: Vec<GroupFields<'a>>,
}

impl<'a> Document<'a> {
    /// That of `report`.
    pub fn of(report: &'a Report<'a>) -> Self {
        let snapshot = report.snapshot;
        let host = &snapshot.host;
        let listed = &report.listed;
        Self {
            head: Head::of(SCHEMA, snapshot),
            limits: limits(host),
            records: snapshot.records,
            host: text::sanitise(&host.host),
            boot_id: text::sanitise(&host.boot_id),
            recorded_filter: text::sanitise(&host.filter),
            filter: report.filter,
            sysctls: host
                .sysctls
                .iter()
                .map(|(name, value)| (text::sanitise(name), text::sanitise(value)))
                .collect(),
            began_at: report.wall(snapshot.began).to_string(),
            traced_ns: report.span().0,
            summary: story::sentences(report),
            states: STATES.into_iter().map(|state| State::of(state, report)).collect(),
            fin_wait2: FinWait2 { orphan: listed.all.fin_wait2_orphan, held: listed.all.fin_wait2_held() },
            timeline: Timeline(snapshot),
            histograms: histograms(snapshot),
            group_by: snapshot.grouping.to_string(),
            other_groups: listed.other_groups,
            all: GroupFields::of(&listed.all, snapshot),
            skipped_time_wait: &listed.all,
            groups: listed.groups.iter().map(|group| GroupFields::of(group, snapshot)).collect(),
        }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
struct State {
    state: &'static str,
    /// At the end.
    count: u64,
    entered: u64,
    entered_per_s: f64,
    /// The most at once.
    highest: u64,
    /// When, from the beginning on; null when there never was one.
    highest_at_ns: Option<u64>,
}

impl State {
    fn of(state: TcpState, report: &Report<'_>) -> Self {
        let peak = report.snapshot.timeline.peak(state);
        Self {
            state: state.name(),
            count: report.now(state),
            entered: report.entered(state),
            entered_per_s: report.per_s(report.entered(state)),
            highest: peak.map_or(0, |(highest, _)| highest),
            highest_at_ns: peak.map(|(_, ts)| ts.since(report.snapshot.began).0),
        }
    }
}

#[derive(Serialize)]
struct FinWait2 {
    orphan: u64,
    held: u64,
}

/// Column by column: shorter, and what a chart takes.
struct Timeline<'a>(&'a Snapshot);

impl Serialize for Timeline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            interval_ns: u64,
            ts_ns: Vec<u64>,
            highest: BTreeMap<&'static str, Vec<u64>>,
            entered: BTreeMap<&'static str, Vec<u64>>,
        }
        let Self(Snapshot { timeline, began, .. }) = *self;
        let points = &timeline.points;
        Fields {
            interval_ns: timeline.interval.0,
            ts_ns: points.iter().map(|point| point.ts.since(*began).0).collect(),
            highest: columns(|state| points.iter().map(|point| point.highest[state.index()]).collect()),
            entered: columns(|state| points.iter().map(|point| point.entered[state.index()]).collect()),
        }
        .serialize(serializer)
    }
}

fn columns(of: impl Fn(TcpState) -> Vec<u64>) -> BTreeMap<&'static str, Vec<u64>> {
    STATES.into_iter().map(|state| (state.name(), of(state))).collect()
}

#[derive(Serialize)]
struct Histogram<'a> {
    #[serde(flatten)]
    numbers: Numbers<'a>,
    scale: Scale,
    buckets: Vec<Bin>,
}

/// Those of all sockets: every state, and its parts.
fn histograms(snapshot: &Snapshot) -> Vec<Histogram<'_>> {
    let histogram = |of| {
        let numbers = Numbers::of(of, None);
        let Bins { scale, bins } = Bins::of(&of.distribution);
        Histogram { numbers, scale, buckets: bins }
    };
    snapshot.dwells.iter().map(histogram).collect()
}

fn skipped<S: Serializer>(group: &Group, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(closes::skipped(group))
}
