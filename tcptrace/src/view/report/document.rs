//! JSON output of a report: one document, schema `tcptrace.report.v1`, with the content of the page.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::{
    Report,
    bins::{Bin, BinScale, Bins},
    code_stacks::{self, CodeStacks},
    incidents::{self, ReportIncident},
    joined::JoinedDocument,
    summary,
};
use crate::{
    aggregate::{Group, Snapshot},
    model::{TcpState, text},
    view::{
        document::{self, DocumentHead, limits},
        hist::{closes, json::Numbers},
        stacks::{comm, name},
        top::{json::GroupFields, summary::STATES},
    },
};

/// Schema name of the document.
const SCHEMA: &str = "tcptrace.report.v1";

/// Writes the document on one line.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    document::write(out, &ReportDocument::of(report))
}

/// The report document.
#[derive(Serialize)]
pub struct ReportDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    /// Facts that the recording lacks, or has only as a bound, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    boot_id: Cow<'a, str>,
    /// Filter of the recording; empty for everything.
    recorded_filter: Cow<'a, str>,
    /// Filter of the report.
    filter: &'a str,
    sysctls: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    began_at: String,
    traced_ns: u64,
    /// Summary in three sentences.
    summary: [String; 3],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    incidents: Vec<ReportIncident<'a>>,
    states: Vec<ReportState>,
    fin_wait2: ReportFinWait2,
    timeline: TimelineDocument<'a>,
    histograms: Vec<ReportHistogram<'a>>,
    stacks: Vec<ReportStacks<'a>>,
    group_by: String,
    /// Number of groups merged into the one with the key `other`.
    other_groups: u64,
    joined: Option<JoinedDocument>,
    all: GroupFields<'a>,
    #[serde(serialize_with = "skipped")]
    skipped_time_wait: &'a Group,
    groups: Vec<GroupFields<'a>>,
}

impl<'a> ReportDocument<'a> {
    /// Builds the document of `report`.
    pub fn of(report: &'a Report<'a>) -> Self {
        let snapshot = report.snapshot;
        let host = &snapshot.host;
        let listed = &report.listed;
        Self {
            head: DocumentHead::of(SCHEMA, snapshot),
            limits: limits(host),
            records: snapshot.records,
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
            summary: summary::sentences(report).map(|sentence| sentence.to_string()),
            incidents: incidents::all(report),
            states: STATES.into_iter().map(|state| ReportState::of(state, report)).collect(),
            fin_wait2: ReportFinWait2 {
                orphan: listed.all.fin_wait2_orphan,
                held: listed.all.fin_wait2_held(),
            },
            timeline: TimelineDocument(snapshot),
            histograms: histograms(snapshot),
            stacks: report.code.iter().map(ReportStacks::of).collect(),
            group_by: snapshot.grouping.to_string(),
            other_groups: listed.other_groups,
            joined: report.joined.map(JoinedDocument::of),
            all: GroupFields::of(&listed.all, snapshot),
            skipped_time_wait: &listed.all,
            groups: listed.groups.iter().map(|group| GroupFields::of(group, snapshot)).collect(),
        }
    }
}

#[derive(Serialize)]
struct ReportState {
    state: &'static str,
    /// At the end of the recording.
    count: u64,
    entered: u64,
    entered_per_s: f64,
    /// Peak count.
    highest: u64,
    /// Time of the peak since the start; null if the state was never seen.
    highest_at_ns: Option<u64>,
}

impl ReportState {
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
struct ReportFinWait2 {
    orphan: u64,
    held: u64,
}

/// Serialised by column: shorter, and the form that a chart needs.
struct TimelineDocument<'a>(&'a Snapshot);

impl Serialize for TimelineDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct ReportFields {
            interval_ns: u64,
            ts_ns: Vec<u64>,
            highest: BTreeMap<&'static str, Vec<u64>>,
            entered: BTreeMap<&'static str, Vec<u64>>,
        }
        let Self(Snapshot { timeline, began, .. }) = *self;
        let points = &timeline.points;
        ReportFields {
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
struct ReportHistogram<'a> {
    #[serde(flatten)]
    numbers: Numbers<'a>,
    scale: BinScale,
    buckets: Vec<Bin>,
}

/// User stacks of one kind of call.
#[derive(Serialize)]
struct ReportStacks<'a> {
    on: &'static str,
    total: u64,
    /// Whether `total` is an estimate.
    is_estimate: bool,
    /// Those whose stack is not listed.
    other: u64,
    stacks: Vec<ReportStack<'a>>,
}

#[derive(Serialize)]
struct ReportStack<'a> {
    count: u64,
    is_estimate: bool,
    comm: Cow<'a, str>,
    /// Names of the functions, outermost first.
    frames: Vec<String>,
}

impl<'a> ReportStacks<'a> {
    fn of(code: &CodeStacks<'a>) -> Self {
        let stacks = code.listed.iter().map(|listed| ReportStack {
            count: listed.count,
            is_estimate: listed.is_estimate,
            comm: comm(listed.process),
            frames: code_stacks::frames(listed).map(name).collect(),
        });
        Self {
            on: code.on.name(),
            total: code.total,
            is_estimate: code.is_estimate,
            other: code.other(),
            stacks: stacks.collect(),
        }
    }
}

/// Histograms of all sockets: every state and its splits.
fn histograms(snapshot: &Snapshot) -> Vec<ReportHistogram<'_>> {
    let histogram = |of| {
        let numbers = Numbers::of(of, None);
        let Bins { scale, bins } = Bins::of(&of.distribution);
        ReportHistogram { numbers, scale, buckets: bins }
    };
    snapshot.dwells.iter().map(histogram).collect()
}

fn skipped<S: Serializer>(group: &Group, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(closes::skipped(group))
}
