//! Writes a comparison as text for a terminal of 80 columns.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    chance::Verdict,
    compare::{Diff, DiffRow, GroupDiff, Measure, Presence, Quantile, Recorded},
};
use crate::{
    lifecycle::Role,
    model::{Nanos, TcpState, text, units},
    view::{
        clock,
        losses::losses,
        top::{
            columns,
            table::{Cut, fit},
        },
    },
};

/// Amount of detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffDetail {
    /// Changes beyond chance; for all sockets, and for new and vanished groups, the counts too.
    Changes,
    /// All rows.
    All,
}

/// Which rows of a group are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowSelection {
    Changed,
    /// The changed rows, and sockets and rates that do not round to zero.
    ChangedAndCounts,
    All,
}

impl RowSelection {
    fn takes(self, row: &DiffRow) -> bool {
        let is_count = !matches!(row.measure, Measure::Dwell(_));
        let is_something = row.values.into_iter().flatten().any(|value| value >= 0.05);
        match self {
            Self::All => true,
            Self::Changed => row.verdict == Verdict::Changed,
            Self::ChangedAndCounts => row.verdict == Verdict::Changed || (is_count && is_something),
        }
    }
}

/// Layout of the text.
#[derive(Clone, Debug)]
pub struct DiffLayout {
    /// Amount of detail.
    pub detail: DiffDetail,
    /// Time zone of the header.
    pub zone: TimeZone,
    /// Maximum number of groups; the number of omitted groups is printed.
    pub max_groups: usize,
}

/// Width of a value in the header.
const FACT: usize = 24;
/// Widths of the number columns.
const VALUE: usize = 9;
const CHANGE: usize = 8;
/// Widths of the text before the numbers: the state and the measure, or both as one name.
const STATE: usize = 11;
const MEASURE: usize = 14;
const NAME: usize = STATE + 1 + MEASURE;

/// Writes `diff`, ending in a newline.
pub fn write(out: &mut impl Write, diff: &Diff<'_>, layout: &DiffLayout) -> io::Result<()> {
    header(out, diff, layout)?;
    let indent = 2 + NAME;
    writeln!(
        out,
        "\n{:<indent$} {:>VALUE$} {:>VALUE$} {:>CHANGE$}",
        "ALL SOCKETS", "BEFORE", "AFTER", "CHANGE"
    )?;
    let choice = match layout.detail {
        DiffDetail::Changes => RowSelection::ChangedAndCounts,
        DiffDetail::All => RowSelection::All,
    };
    rows(out, &diff.all, choice)?;
    if diff.all.rows.is_empty() {
        writeln!(out, "  There were no TCP sockets in either recording.")?;
        return Ok(());
    }
    groups(out, diff, layout)
}

fn header(out: &mut impl Write, diff: &Diff<'_>, layout: &DiffLayout) -> io::Result<()> {
    let fact = |out: &mut _, name: &str, of: &dyn Fn(&Recorded) -> String| {
        let [before, after] = diff.sides.map(of);
        line(out, name, &before, &after)
    };
    line(out, "", "BEFORE", "AFTER")?;
    fact(out, "file", &|side| text::sanitise(&side.last.source).into_owned())?;
    fact(out, "recorded", &|side| began(side, &layout.zone))?;
    fact(out, "span", &|side| units::duration(side.span()))?;
    fact(out, "host", &|side| text::sanitise(&side.last.host.host).into_owned())?;
    fact(out, "kernel", &|side| text::sanitise(&side.last.host.kernel).into_owned())?;
    if diff.sides.iter().any(|side| !side.last.host.filter.is_empty()) {
        fact(out, "filter", &|side| match text::sanitise(&side.last.host.filter) {
            filter if filter.is_empty() => "-".into(),
            filter => filter.into_owned(),
        })?;
    }
    fact(out, "records", &|side| units::count(side.last.records))?;
    fact(out, "lost", &|side| match losses(&side.last.losses) {
        None => "0".into(),
        Some(losses) => losses.trim_start_matches("lost ").to_owned(),
    })?;
    for setting in &diff.settings {
        let [before, after] = &setting.values;
        line(out, &setting.name, before, after)?;
    }
    for caution in &diff.cautions {
        writeln!(out, "note: {caution}")?;
    }
    Ok(())
}

/// Writes a fact: both values side by side, or below each other if they are long.
fn line(out: &mut impl Write, name: &str, before: &str, after: &str) -> io::Result<()> {
    const NAME: usize = 28;
    let is_short = name.len() <= NAME && [before, after].into_iter().all(|value| value.len() <= FACT);
    if is_short {
        let line = format!("{name:<NAME$} {before:<FACT$} {after}");
        return writeln!(out, "{}", line.trim_end());
    }
    writeln!(out, "{name}")?;
    writeln!(out, "  before  {before}")?;
    writeln!(out, "  after   {after}")
}

fn began(side: &Recorded, zone: &TimeZone) -> String {
    clock::date(&side.last.host, side.last.began, zone)
}

fn groups(out: &mut impl Write, diff: &Diff<'_>, layout: &DiffLayout) -> io::Result<()> {
    let is_shown = |group: &&GroupDiff| layout.detail == DiffDetail::All || group.has_changed();
    let shown: Vec<&GroupDiff> = diff.groups.iter().filter(is_shown).collect();
    for group in shown.iter().take(layout.max_groups) {
        writeln!(out, "\n{}", title(group, diff))?;
        let choice = match (layout.detail, group.presence) {
            (DiffDetail::All, _) => RowSelection::All,
            (DiffDetail::Changes, Presence::Both) => RowSelection::Changed,
            (DiffDetail::Changes, _) => RowSelection::ChangedAndCounts,
        };
        rows(out, group, choice)?;
    }
    writeln!(out)?;
    let hidden = shown.len().saturating_sub(layout.max_groups);
    if hidden > 0 {
        writeln!(out, "And {} more that changed less; --json has all.", units::count(hidden as u64))?;
    }
    let head = diff.grouping.to_string();
    match (shown.len(), diff.groups.len() - shown.len()) {
        (0, 0) => writeln!(out, "There is nothing to group by {head}."),
        (0, all) => writeln!(
            out,
            "By {head}: {} groups, none changed more than chance explains.",
            units::count(all as u64)
        ),
        (_, 0) => Ok(()),
        (_, same) => {
            writeln!(
                out,
                "By {head}: {} more groups did not change more than chance explains.",
                units::count(same as u64)
            )
        }
    }
}

fn title(group: &GroupDiff, diff: &Diff<'_>) -> String {
    let mut title = group.key.clone();
    if diff.grouping.has_roles() && group.role != Role::Unknown {
        title = format!("{title} {}", columns::role(group.role));
    }
    if let Some(process) = group.process.as_ref().filter(|_| !diff.grouping.needs_owners()) {
        title = format!("{title}  {process}");
    }
    match group.presence {
        Presence::Both => title,
        Presence::New => format!("{title}  NEW"),
        Presence::Vanished => format!("{title}  VANISHED"),
    }
}

fn rows(out: &mut impl Write, group: &GroupDiff, choice: RowSelection) -> io::Result<()> {
    let mut state_before = None;
    for row in group.rows.iter().filter(|row| choice.takes(row)) {
        // Print the name of a state once.
        let state = row.state.filter(|_| row.state != state_before).map_or("", TcpState::name);
        state_before = row.state;
        let [before, after] = row.values.map(|value| number(row.measure, value));
        let line = format!(
            "  {} {before:>VALUE$} {after:>VALUE$} {:>CHANGE$}  {}",
            fit(&name(state, row.measure), NAME, true, Cut::End),
            change(row),
            note(row, group),
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn name(state: &str, measure: Measure) -> String {
    match measure {
        Measure::Sockets => format!("{state:<STATE$} sockets"),
        Measure::Entered => format!("{state:<STATE$} entered/s"),
        Measure::Dwell(quantile) => format!("{state:<STATE$} {}", quantile.name()),
        Measure::ClosedBy(closer) => format!("closed by {}/s", closer.name()),
        Measure::Ended(reason) => format!("ended {}/s", reason.name()),
    }
}

fn number(measure: Measure, value: Option<f64>) -> String {
    match (measure, value) {
        (_, None) => "-".into(),
        (Measure::Dwell(..), Some(ns)) => units::duration(Nanos(ns as u64)),
        // The mean of few sockets needs a decimal.
        (Measure::Sockets, Some(mean)) if mean >= 99.95 => units::count(mean.round() as u64),
        (Measure::Sockets, Some(mean)) if mean > 0.0 && mean < 0.05 => "<0.1".into(),
        (Measure::Sockets, Some(mean)) => format!("{mean:.1}"),
        (_, Some(per_s)) if per_s > 0.0 && per_s < 0.05 => "<0.1".into(),
        (_, Some(per_s)) => units::rate(per_s),
    }
}

fn change(row: &DiffRow) -> String {
    match (row.values, row.change()) {
        (_, Some(part)) if part >= 9.995 => format!("x{:.0}", part + 1.0),
        (_, Some(part)) if part.abs() < 0.0005 => "0%".into(),
        (_, Some(part)) if part.abs() < 0.0995 => format!("{:+.1}%", part * 100.0),
        (_, Some(part)) => format!("{:+.0}%", part * 100.0),
        ([_, Some(after)], None) if after > 0.0 => "new".into(),
        _ => "-".into(),
    }
}

/// The verdict, and the counts behind it.
fn note(row: &DiffRow, group: &GroupDiff) -> String {
    let [before, after] = row.counts;
    let verdict = match row.verdict {
        Verdict::Changed | Verdict::Small => "",
        Verdict::Chance => "~chance",
        Verdict::Few => "too few",
        Verdict::Short => "too short",
    };
    let behind = match row.measure {
        Measure::Sockets if before == after => format!("peak {}", units::count(before)),
        Measure::Sockets => format!("peak {} > {}", units::count(before), units::count(after)),
        // Once per state: all quantiles come from the same dwells.
        Measure::Dwell(Quantile::P50) => dwells(row, group),
        _ if row.verdict == Verdict::Few => {
            format!("of {}, {}", units::compact(before), units::compact(after))
        }
        _ => String::new(),
    };
    [verdict, &behind].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn dwells(row: &DiffRow, group: &GroupDiff) -> String {
    let bounds = |state: TcpState| group.not_exact.iter().find(|(of, _)| *of == state).map(|(_, n)| *n);
    let [before, after] = row.counts.map(units::compact);
    let dwells = format!("of {before}, {after}");
    match row.state.and_then(bounds) {
        None => dwells,
        Some([before, after]) => {
            format!("{dwells}; not {}, {}", units::compact(before), units::compact(after))
        }
    }
}
