//! Writes a comparison as one JSON document, schema `tcptrace.diff.v1`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{
    compare::{Diff, DiffRow, GroupDiff, Measure, Recorded},
    fail_on::FailCheck,
};
use crate::{
    model::{TcpState, text},
    view::{
        clock,
        document::{self, Origin, limits},
    },
};

/// Schema of the document.
const SCHEMA: &str = "tcptrace.diff.v1";

/// Writes `diff` on one line.
pub fn write(out: &mut impl Write, diff: &Diff<'_>, checks: &[FailCheck<'_>]) -> io::Result<()> {
    document::write(out, &DiffDocument::of(diff, checks))
}

#[derive(Serialize)]
struct DiffDocument<'a> {
    schema: &'static str,
    before: Side<'a>,
    after: Side<'a>,
    settings: Vec<Setting<'a>>,
    cautions: &'a [String],
    group_by: String,
    all: Vec<RowFields>,
    groups: Vec<GroupFields<'a>>,
    /// Only with `--fail-on`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fail_on: Vec<FailFields<'a>>,
}

/// A condition of `--fail-on`.
#[derive(Serialize)]
struct FailFields<'a> {
    condition: Cow<'a, str>,
    before: Option<f64>,
    after: Option<f64>,
    /// Null if a value is missing.
    failed: Option<bool>,
}

impl<'a> DiffDocument<'a> {
    fn of(diff: &'a Diff<'a>, checks: &'a [FailCheck<'a>]) -> Self {
        let [before, after] = diff.sides.map(Side::of);
        let setting = |fact: &'a super::compare::Fact<'a>| Setting {
            name: &fact.name,
            before: &fact.values[0],
            after: &fact.values[1],
        };
        Self {
            schema: SCHEMA,
            before,
            after,
            settings: diff.settings.iter().map(setting).collect(),
            cautions: &diff.cautions,
            group_by: diff.grouping.to_string(),
            all: rows(&diff.all),
            groups: diff.groups.iter().map(GroupFields::of).collect(),
            fail_on: checks
                .iter()
                .map(|check| FailFields {
                    condition: text::sanitise(check.condition),
                    before: check.values[0],
                    after: check.values[1],
                    failed: check.has_failed,
                })
                .collect(),
        }
    }
}

/// One recording.
#[derive(Serialize)]
struct Side<'a> {
    /// Origin of the last snapshot.
    #[serde(flatten)]
    origin: Origin<'a>,
    began_at: String,
    span_ns: u64,
    filter: Cow<'a, str>,
    records: u64,
    limits: Vec<Cow<'a, str>>,
    sysctls: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl<'a> Side<'a> {
    fn of(recorded: &'a Recorded) -> Self {
        let last = &recorded.last;
        let sysctls = last.host.sysctls.iter();
        Self {
            origin: Origin::of(last),
            began_at: clock::wall(&last.host, last.began).to_string(),
            span_ns: recorded.span().0,
            filter: text::sanitise(&last.host.filter),
            records: last.records,
            limits: limits(&last.host),
            sysctls: sysctls.map(|(name, value)| (text::sanitise(name), text::sanitise(value))).collect(),
        }
    }
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    before: &'a str,
    after: &'a str,
}

#[derive(Serialize)]
struct GroupFields<'a> {
    key: &'a str,
    role: &'static str,
    #[serde(rename = "in")]
    presence: &'static str,
    rows: Vec<RowFields>,
}

impl<'a> GroupFields<'a> {
    fn of(group: &'a GroupDiff) -> Self {
        Self { key: &group.key, role: group.role.name(), presence: group.presence.name(), rows: rows(group) }
    }
}

/// One number, before and after.
#[derive(Serialize)]
struct RowFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    measure: &'static str,
    /// For closers and ends: the closer or the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'static str>,
    before: Option<f64>,
    after: Option<f64>,
    change: Option<f64>,
    before_count: u64,
    after_count: u64,
    /// For quantiles: dwells known only as a bound, which the counts exclude.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_bounds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_bounds: Option<u64>,
    verdict: &'static str,
}

fn rows(group: &GroupDiff) -> Vec<RowFields> {
    group.rows.iter().map(|row| RowFields::of(row, group)).collect()
}

impl RowFields {
    fn of(row: &DiffRow, group: &GroupDiff) -> Self {
        let (measure, of) = row.measure.name();
        let bounds = |state: TcpState| group.not_exact.iter().find(|(of, _)| *of == state);
        let bounds = match row.measure {
            Measure::Dwell(..) => Some(row.state.and_then(bounds).map_or([0, 0], |(_, n)| *n)),
            _ => None,
        };
        Self {
            state: row.state.map(TcpState::name),
            measure,
            of,
            before: row.values[0],
            after: row.values[1],
            change: row.change(),
            before_count: row.counts[0],
            after_count: row.counts[1],
            before_bounds: bounds.map(|[before, _]| before),
            after_bounds: bounds.map(|[_, after]| after),
            verdict: row.verdict.name(),
        }
    }
}
