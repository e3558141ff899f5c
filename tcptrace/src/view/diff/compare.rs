//! Compares two recordings: every rate, count and quantile of both, with a verdict on the difference.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap};

use super::chance::{self, Verdict};
use crate::{
    aggregate::{Distribution, GroupSummary, Grouping, Snapshot, StateSummary},
    lifecycle::{Closer, EndReason, Role},
    model::{Nanos, TcpState, text, units},
    view::top::summary::STATES,
};

/// A recording after it was read to its end.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The last snapshot.
    pub last: Snapshot,
    /// All sockets.
    pub all: GroupSummary,
    /// The groups.
    pub groups: Vec<GroupSummary>,
}

impl Recorded {
    /// Time from the first to the last record.
    pub const fn span(&self) -> Nanos {
        self.last.ts.since(self.last.began)
    }
}

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Mean number of sockets in the state over time.
    Sockets,
    /// Number of sockets that entered it per second.
    Entered,
    /// A quantile of the dwells in it.
    Dwell(Quantile),
    /// Connections closed by this closer, per second.
    ClosedBy(Closer),
    /// Sockets that ended for this reason, per second.
    Ended(EndReason),
}

impl Measure {
    /// Its name in JSON and in conditions; for closers and ends, with the closer or the reason.
    pub const fn name(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Sockets => ("sockets_mean", None),
            Self::Entered => ("entered_per_s", None),
            Self::Dwell(Quantile::P50) => ("dwell_p50_ns", None),
            Self::Dwell(Quantile::P90) => ("dwell_p90_ns", None),
            Self::Dwell(Quantile::P99) => ("dwell_p99_ns", None),
            Self::ClosedBy(closer) => ("closer_per_s", Some(closer.name())),
            Self::Ended(reason) => ("ended_per_s", Some(reason.name())),
        }
    }
}

/// Quantiles that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The median.
    P50,
    /// The 0.9 quantile.
    P90,
    /// The 0.99 quantile.
    P99,
}

impl Quantile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::P50, Self::P90, Self::P99];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
        }
    }

    const fn part(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P99 => 0.99,
        }
    }
}

/// One number, before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffRow {
    /// The state, if the row is about one.
    pub state: Option<TcpState>,
    /// The measured quantity.
    pub measure: Measure,
    /// Before and after: sockets, per second, or nanoseconds. `None` if there was no dwell.
    pub values: [Option<f64>; 2],
    /// Number of events or dwells behind the values; for sockets the peaks.
    pub counts: [u64; 2],
    /// The verdict on the difference.
    pub verdict: Verdict,
}

impl DiffRow {
    /// Relative change; `None` if `before` is zero or missing, or `after` is missing.
    pub fn change(&self) -> Option<f64> {
        let [before, after] = self.values;
        let before = before.filter(|&before| before > 0.0)?;
        Some(after? / before - 1.0)
    }

    /// Absolute change of a count or rate; 0 for quantiles.
    fn weight(&self) -> f64 {
        match (self.measure, self.values) {
            (Measure::Dwell(..), _) => 0.0,
            (_, [before, after]) => (before.unwrap_or_default() - after.unwrap_or_default()).abs(),
        }
    }
}

/// Which recordings contain a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Both.
    Both,
    /// Only the second.
    New,
    /// Only the first.
    Vanished,
}

impl Presence {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::New => "new",
            Self::Vanished => "vanished",
        }
    }
}

/// The same group, before and after.
#[derive(Clone, Debug)]
pub struct GroupDiff {
    /// The key, sanitised.
    pub key: String,
    /// Role of the connections.
    pub role: Role,
    /// Name of the process that last owned most of them.
    pub process: Option<String>,
    /// Which recordings contain it.
    pub presence: Presence,
    /// All measured rows.
    pub rows: Vec<DiffRow>,
    /// Dwells excluded from the quantiles, by state: bounds, and those of unknown start.
    pub not_exact: Vec<(TcpState, [u64; 2])>,
}

impl GroupDiff {
    /// Whether anything changed beyond chance.
    pub fn has_changed(&self) -> bool {
        self.presence != Presence::Both || self.rows.iter().any(|row| row.verdict == Verdict::Changed)
    }

    /// Total absolute change of the changed rows; for sorting.
    fn weight(&self) -> f64 {
        self.rows.iter().filter(|row| row.verdict == Verdict::Changed).map(DiffRow::weight).sum()
    }
}

/// A fact that differs between the recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The value in each recording.
    pub values: [Cow<'a, str>; 2],
}

/// Result of a comparison.
#[derive(Debug)]
pub struct Diff<'a> {
    /// The two recordings.
    pub sides: [&'a Recorded; 2],
    /// Kernel settings that differ.
    pub settings: Vec<Fact<'a>>,
    /// Limits of the comparison, in sentences.
    pub cautions: Vec<String>,
    /// The grouping.
    pub grouping: Grouping,
    /// All sockets.
    pub all: GroupDiff,
    /// The groups, the largest change first.
    pub groups: Vec<GroupDiff>,
}

impl<'a> Diff<'a> {
    /// Compares `before` with `after`.
    pub fn of(before: &'a Recorded, after: &'a Recorded) -> Self {
        let sides = [before, after];
        let grouping = before.last.grouping;
        let spans = sides.map(Recorded::span);
        let mut groups: Vec<GroupDiff> =
            pairs(sides, grouping).into_iter().map(|pair| group(pair, spans)).collect();
        groups.sort_by(|a, b| {
            let order = b.weight().total_cmp(&a.weight());
            order.then_with(|| (Reverse(a.has_changed()), &a.key).cmp(&(Reverse(b.has_changed()), &b.key)))
        });
        Self {
            sides,
            settings: settings(sides),
            cautions: cautions(sides, spans),
            grouping,
            all: group([Some(&before.all), Some(&after.all)], spans),
            groups,
        }
    }
}

/// Pairs the groups of both recordings.
fn pairs(sides: [&Recorded; 2], grouping: Grouping) -> Vec<[Option<&GroupSummary>; 2]> {
    let mut pairs: BTreeMap<(&str, Option<Role>), [Option<&GroupSummary>; 2]> = BTreeMap::new();
    for (side, recorded) in sides.into_iter().enumerate() {
        for group in &recorded.groups {
            // If the role is not part of the key, it is the role of most sockets and can differ.
            let role = grouping.has_roles().then_some(group.role);
            pairs.entry((&group.key, role)).or_default()[side] = Some(group);
        }
    }
    pairs.into_values().collect()
}

/// End reasons that add nothing to the closer.
const IMPLIED_BY_CLOSER: [EndReason; 2] = [EndReason::Closed, EndReason::Refused];

fn group(pair: [Option<&GroupSummary>; 2], spans: [Nanos; 2]) -> GroupDiff {
    let [before, after] = pair;
    let presence = match pair {
        [Some(_), None] => Presence::Vanished,
        [None, Some(_)] => Presence::New,
        _ => Presence::Both,
    };
    let known = after.or(before);
    let mut rows = Vec::new();
    let mut not_exact = Vec::new();
    for state in STATES {
        let of_state = pair.map(|group| group?.states.iter().find(|of| of.state == state));
        if of_state.iter().any(Option::is_some) {
            state_rows(state, of_state, spans, &mut rows);
            let bounds = of_state
                .map(|of| of.map_or(0, |of| of.dwells.at_least + of.dwells.inferred + of.dwells.unknown));
            if bounds != [0, 0] {
                not_exact.push((state, bounds));
            }
        }
    }
    let closers = Closer::ALL.into_iter().map(|closer| {
        (Measure::ClosedBy(closer), pair.map(|group| group.map_or(0, |group| group.closed[closer as usize])))
    });
    let ends =
        EndReason::ALL.into_iter().filter(|reason| !IMPLIED_BY_CLOSER.contains(reason)).map(|reason| {
            (Measure::Ended(reason), pair.map(|group| group.map_or(0, |group| group.ended[reason as usize])))
        });
    let rates = closers.chain(ends).filter(|(_, counts)| *counts != [0, 0]);
    rows.extend(rates.map(|(measure, counts)| rate(None, measure, counts, spans)));
    GroupDiff {
        key: known.map(|group| text::sanitise(&group.key).into_owned()).unwrap_or_default(),
        role: known.map_or(Role::Unknown, |group| group.role),
        process: known
            .and_then(|group| group.process.as_ref())
            .map(|process| text::sanitise(&process.comm).into_owned()),
        presence,
        rows,
        not_exact,
    }
}

fn state_rows(state: TcpState, pair: [Option<&StateSummary>; 2], spans: [Nanos; 2], rows: &mut Vec<DiffRow>) {
    let means = pair.map(|of| of.map_or(0.0, |of| of.mean));
    rows.push(DiffRow {
        state: Some(state),
        measure: Measure::Sockets,
        values: means.map(Some),
        counts: pair.map(|of| of.map_or(0, |of| of.most)),
        // As two samples: the sockets of one moment are mostly those of the moment before.
        verdict: chance::of_counts(means, [1.0, 1.0]),
    });
    let entered = pair.map(|of| of.map_or(0, |of| of.entered));
    if entered != [0, 0] {
        rows.push(rate(Some(state), Measure::Entered, entered, spans));
    }
    let nothing = Distribution::default();
    let dwells = pair.map(|of| of.map_or(&nothing, |of| &of.dwells));
    let counts = dwells.map(|dwells| dwells.count);
    if counts == [0, 0] {
        return;
    }
    rows.extend(Quantile::ALL.map(|quantile| DiffRow {
        state: Some(state),
        measure: Measure::Dwell(quantile),
        values: dwells.map(|dwells| (dwells.count > 0).then(|| dwells.quantile(quantile.part()).0 as f64)),
        counts,
        verdict: chance::of_quantiles(quantile.part(), dwells, spans[0].min(spans[1])),
    }));
}

fn rate(state: Option<TcpState>, measure: Measure, counts: [u64; 2], spans: [Nanos; 2]) -> DiffRow {
    let seconds = spans.map(Nanos::as_secs_f64);
    let per_s = [0, 1].map(|side: usize| (spans[side].0 > 0).then(|| counts[side] as f64 / seconds[side]));
    let verdict = chance::of_counts(counts.map(|n| n as f64), seconds);
    DiffRow { state, measure, values: per_s, counts, verdict }
}

/// Kernel settings that differ, including those that only one recording has.
fn settings<'a>(sides: [&'a Recorded; 2]) -> Vec<Fact<'a>> {
    let [before, after] = sides.map(|side| &side.last.host.sysctls);
    if before.is_empty() || after.is_empty() {
        return Vec::new();
    }
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = names.into_iter().filter(|&name| before.get(name) != after.get(name));
    let value = |of: Option<&'a String>| of.map_or(Cow::Borrowed("-"), |value| text::sanitise(value));
    differing
        .map(|name| Fact {
            name: text::sanitise(name),
            values: [value(before.get(name)), value(after.get(name))],
        })
        .collect()
}

/// Reasons why the recordings are hard to compare.
fn cautions(sides: [&Recorded; 2], spans: [Nanos; 2]) -> Vec<String> {
    const NAMES: [&str; 2] = ["before", "after"];
    /// A larger ratio of the spans causes a caution.
    const UNEQUAL: u64 = 2;
    let mut cautions = Vec::new();
    let hosts = sides.map(|side| &side.last.host);
    if hosts[0].host != hosts[1].host {
        cautions.push("The recordings are of different hosts.".into());
    }
    if hosts[0].kernel != hosts[1].kernel {
        cautions.push("The recordings are of different kernels.".into());
    }
    if hosts[0].filter != hosts[1].filter {
        cautions.push(
            "The recordings have different filters: sockets that only one filter excludes look new or vanished."
                .into(),
        );
    }
    if hosts[0].segments != hosts[1].segments {
        cautions.push(
            "Only one of the kernels reports segments that reach a timewait socket: FIN_WAIT2 and TIME_WAIT of the other \
             are partly bounds."
                .into(),
        );
    }
    if sides.iter().any(|side| side.last.host.sysctls.is_empty()) {
        cautions.push("A recording holds no kernel settings: they can't be compared.".into());
    }
    if spans[0].max(spans[1]).0 / UNEQUAL > spans[0].min(spans[1]).0 {
        cautions.push(format!(
            "The recordings are of unequal length ({} and {}): rates and means compare, counts do not, and the \
             shorter one can't show long dwells.",
            units::duration(spans[0]),
            units::duration(spans[1])
        ));
    }
    for (name, side) in NAMES.into_iter().zip(sides) {
        if side.span().0 == 0 {
            cautions.push(format!("{name}: the recording has no length: there are no rates."));
        }
        if side.last.losses.total() > 0 {
            let all = side.last.records.saturating_add(side.last.losses.total());
            cautions.push(format!(
                "{name}: {} of {} records are lost or doubtful: counts and rates are wrong by up to that share.",
                units::count(side.last.losses.total()),
                units::count(all)
            ));
        }
        let limits = side.last.host.limits.iter();
        cautions.extend(limits.map(|limit| format!("{name}: {}", text::sanitise(limit))));
    }
    cautions
}
