//! Writes the histograms as one JSON document, schema `tcptrace.hist.v1`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::closes;
use crate::{
    aggregate::{Distribution, Group, Snapshot, StateDwells},
    model::text,
    view::document::{self, DocumentHead, limits},
};

/// Schema of the document.
const SCHEMA: &str = "tcptrace.hist.v1";

/// Writes `snapshot` on one line, so that a stream of documents is JSON lines.
pub fn write(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    document::write(out, &HistDocument::of(snapshot))
}

#[derive(Serialize)]
struct HistDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    /// Limits of the trace, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    /// Duration of the trace.
    traced_ns: u64,
    /// The grouping: `service,process`; empty if there is none.
    group_by: String,
    /// Groups counted together, in the one with the key `other`.
    other_groups: u64,
    histograms: Vec<HistogramDocument<'a>>,
    closes: Vec<Closes<'a>>,
}

impl<'a> HistDocument<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let all = snapshot.dwells.iter().map(|dwells| HistogramDocument::of(dwells, None));
        let of_groups = snapshot
            .groups
            .iter()
            .flat_map(|group| group.dwells.iter().map(|dwells| HistogramDocument::of(dwells, Some(group))));
        let grouped = !snapshot.grouping.is_none();
        Self {
            head: DocumentHead::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            records: snapshot.records,
            traced_ns: snapshot.ts.since(snapshot.began).0,
            group_by: snapshot.grouping.to_string(),
            other_groups: snapshot.other_groups,
            histograms: all.chain(of_groups).collect(),
            closes: snapshot.groups.iter().map(|group| Closes { group, grouped }).collect(),
        }
    }
}

#[derive(Serialize)]
struct HistogramDocument<'a> {
    #[serde(flatten)]
    numbers: Numbers<'a>,
    #[serde(serialize_with = "buckets")]
    buckets: &'a Distribution,
}

impl<'a> HistogramDocument<'a> {
    fn of(dwells: &'a StateDwells, group: Option<&'a Group>) -> Self {
        Self { numbers: Numbers::of(dwells, group), buckets: &dwells.distribution }
    }
}

/// Subject and numbers of a histogram, without the buckets.
#[derive(Serialize)]
pub(in crate::view) struct Numbers<'a> {
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<&'static str>,
    pub count: u64,
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    pub mean_ns: u64,
    pub at_least_count: u64,
    pub inferred_count: u64,
    pub unknown_count: u64,
    /// Absent for splits that are known only when a dwell ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_now: Option<u64>,
}

impl<'a> Numbers<'a> {
    /// The numbers of `dwells`, for the sockets of `group` or for all.
    pub(in crate::view) fn of(dwells: &'a StateDwells, group: Option<&'a Group>) -> Self {
        let distribution = &dwells.distribution;
        let quantile = |q| distribution.quantile(q).0;
        Self {
            state: dwells.state.name(),
            key: group.map(|group| text::sanitise(&group.key)),
            host: group.and_then(|group| group.host.as_deref()).map(text::sanitise),
            role: group.map(|group| group.role.name()),
            split: dwells.split.map(crate::aggregate::Split::name),
            count: distribution.count,
            min_ns: distribution.shortest.0,
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: distribution.longest.0,
            mean_ns: distribution.mean.0,
            at_least_count: distribution.at_least,
            inferred_count: distribution.inferred,
            unknown_count: distribution.unknown,
            open_now: dwells.open_now,
        }
    }
}

fn buckets<S: Serializer>(distribution: &Distribution, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(distribution.buckets().map(|bucket| (bucket.highest.0, bucket.count)))
}

struct Closes<'a> {
    group: &'a Group,
    grouped: bool,
}

impl Serialize for Closes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct HistFields<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<Cow<'a, str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            role: Option<&'static str>,
            #[serde(serialize_with = "closers")]
            closers: &'a Group,
            #[serde(serialize_with = "skipped")]
            skipped_time_wait: &'a Group,
        }
        let group = self.group;
        HistFields {
            key: self.grouped.then(|| text::sanitise(&group.key)),
            role: self.grouped.then(|| group.role.name()),
            closers: group,
            skipped_time_wait: group,
        }
        .serialize(serializer)
    }
}

fn closers<S: Serializer>(group: &Group, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(closes::closers(group))
}

fn skipped<S: Serializer>(group: &Group, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(closes::skipped(group))
}
