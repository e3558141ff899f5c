//! Conditions on a comparison, for tests of a service: `time_wait.entered_per_s > +20%`.

use std::{fmt, str::FromStr};

use super::{
    chance::Verdict,
    compare::{Diff, GroupDiff, Measure, Quantile},
};
use crate::{
    lifecycle::{Closer, EndReason},
    model::{Nanos, TcpState, units},
    view::top::summary::STATES,
};

/// A condition; the comparison fails where it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct FailOn {
    /// As the user wrote it.
    text: String,
    /// Key of the group; `None`: all sockets.
    key: Option<String>,
    state: Option<TcpState>,
    measure: Measure,
    is_above: bool,
    limit: DiffLimit,
}

/// The value that a condition compares with a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum DiffLimit {
    /// The later value.
    Value(f64),
    /// The later value less the earlier one.
    Difference(f64),
    /// The same in parts of the earlier one.
    Change(f64),
}

/// A condition and the values of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct FailCheck<'a> {
    /// The condition.
    pub condition: &'a str,
    /// Before and after; `None` without a dwell.
    pub values: [Option<f64>; 2],
    /// Whether chance explains the difference.
    pub verdict: Option<Verdict>,
    /// Whether the condition holds; `None` if a value is missing.
    pub has_failed: Option<bool>,
    is_duration: bool,
}

/// Name of a metric, as in a condition.
fn metric_name(state: Option<TcpState>, measure: Measure) -> String {
    match (state, measure.name()) {
        (Some(state), (name, _)) => format!("{}.{name}", state.name().to_ascii_lowercase()),
        (None, (name, Some(of))) => format!("{name}.{of}"),
        (None, (name, None)) => name.into(),
    }
}

/// All metrics, and their names.
fn metrics() -> impl Iterator<Item = (String, Option<TcpState>, Measure)> {
    let measures = [Measure::Sockets, Measure::Entered].into_iter().chain(Quantile::ALL.map(Measure::Dwell));
    let of_states =
        STATES.into_iter().flat_map(move |state| measures.clone().map(move |measure| (Some(state), measure)));
    let closers = Closer::ALL.into_iter().map(|closer| (None, Measure::ClosedBy(closer)));
    let ends = EndReason::ALL.into_iter().map(|reason| (None, Measure::Ended(reason)));
    of_states.chain(closers).chain(ends).map(|(state, measure)| (metric_name(state, measure), state, measure))
}

impl FromStr for FailOn {
    type Err = String;

    /// `[KEY ]METRIC > LIMIT`, or `<`. A limit is a value (`100`, `2s`), a difference (`+5`, `-1s`) or a change (`+20%`).
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "expected METRIC > LIMIT or METRIC < LIMIT, such as 'time_wait.entered_per_s > +20%'";
        let at = text.rfind(['<', '>']).ok_or(form)?;
        let (subject, limit) = (text[..at].trim(), text[at + 1..].trim());
        let (key, name) = match subject.rsplit_once(char::is_whitespace) {
            Some((key, name)) => (Some(key.trim().to_owned()), name),
            None => (None, subject),
        };
        let Some((_, state, measure)) = metrics().find(|(known, ..)| known == name) else {
            let known: Vec<String> = metrics().map(|(known, ..)| known).collect();
            return Err(format!("unknown metric '{name}'; these are: {}", known.join(", ")));
        };
        let limit = DiffLimit::parse(limit, matches!(measure, Measure::Dwell(_)))?;
        Ok(Self { text: text.into(), key, state, measure, is_above: text[at..].starts_with('>'), limit })
    }
}

impl DiffLimit {
    fn parse(text: &str, is_duration: bool) -> Result<Self, String> {
        let wrong = || {
            let unit = if is_duration { "a time (2s)" } else { "a number" };
            format!("'{text}': expected {unit}, a difference with its sign, or a change with its sign (+20%)")
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(wrong);
        let sign = match text.as_bytes().first() {
            Some(b'+') => Some(1.0),
            Some(b'-') => Some(-1.0),
            _ => None,
        };
        let unsigned = if sign.is_some() { &text[1..] } else { text };
        // No second sign.
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        if let Some(percent) = unsigned.strip_suffix('%') {
            return Ok(Self::Change(sign.ok_or_else(wrong)? * number(percent)? / 100.0));
        }
        let value = if is_duration && unsigned.ends_with(|c: char| c.is_ascii_alphabetic()) {
            units::parse_duration(unsigned)?.as_nanos() as f64
        } else {
            number(unsigned)?
        };
        Ok(sign.map_or(Self::Value(value), |sign| Self::Difference(sign * value)))
    }
}

impl FailOn {
    /// Checks the condition on all groups with its key; an error if there are none.
    pub fn check<'a>(&'a self, diff: &Diff<'_>) -> Result<Vec<FailCheck<'a>>, String> {
        let Some(key) = &self.key else { return Ok(vec![self.of(&diff.all)]) };
        let checks: Vec<_> =
            diff.groups.iter().filter(|group| group.key == *key).map(|group| self.of(group)).collect();
        if checks.is_empty() {
            let by = diff.grouping;
            return Err(format!("--fail-on '{}': neither recording has '{key}' by {by}", self.text));
        }
        Ok(checks)
    }

    fn of(&self, group: &GroupDiff) -> FailCheck<'_> {
        let is_duration = matches!(self.measure, Measure::Dwell(_));
        let row = group.rows.iter().find(|row| row.state == self.state && row.measure == self.measure);
        // A count without a row is zero in both.
        let values = row.map_or(if is_duration { [None; 2] } else { [Some(0.0); 2] }, |row| row.values);
        let measured = match (self.limit, values) {
            (DiffLimit::Value(limit), [_, Some(after)]) => Some((after, limit)),
            (DiffLimit::Difference(limit), [Some(before), Some(after)]) => Some((after - before, limit)),
            (DiffLimit::Change(limit), [Some(before), Some(after)]) => {
                let difference = after - before;
                // From zero to zero there is no change.
                let change = if difference.abs() > 0.0 { difference / before } else { 0.0 };
                Some((change, limit))
            }
            _ => None,
        };
        FailCheck {
            condition: &self.text,
            values,
            verdict: row.map(|row| row.verdict),
            has_failed: measured
                .map(|(value, limit)| if self.is_above { value > limit } else { value < limit }),
            is_duration,
        }
    }
}

/// `time_wait.entered_per_s > +20%: 10.00 before, 15.00 after (+50.0%)`.
impl fmt::Display for FailCheck<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: Option<f64>| match value {
            None => "none".into(),
            Some(value) if self.is_duration => units::duration(Nanos(value as u64)),
            Some(value) => format!("{value:.2}"),
        };
        let [before, after] = self.values;
        write!(f, "{}: {} before, {} after", self.condition, value(before), value(after))?;
        if let (Some(before), Some(after)) = (before.filter(|&before| before > 0.0), after) {
            write!(f, " ({:+.1}%)", (after / before - 1.0) * 100.0)?;
        }
        if let Some(verdict @ (Verdict::Chance | Verdict::Few | Verdict::Short)) = self.verdict {
            write!(f, ", {}", verdict.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_parse() {
        let parsed = |text: &str| text.parse::<FailOn>().map(|of| (of.key, of.is_above, of.limit));
        let all = |is_above, limit| Ok((None, is_above, limit));
        assert_eq!(parsed("time_wait.entered_per_s > +20%"), all(true, DiffLimit::Change(0.2)));
        assert_eq!(parsed("established.sockets_mean<-50%"), all(false, DiffLimit::Change(-0.5)));
        assert_eq!(parsed("close_wait.sockets_mean > 3"), all(true, DiffLimit::Value(3.0)));
        assert_eq!(parsed("syn_sent.dwell_p99_ns > 250ms"), all(true, DiffLimit::Value(250e6)));
        assert_eq!(parsed("syn_sent.dwell_p99_ns > +1s"), all(true, DiffLimit::Difference(1e9)));
        assert_eq!(parsed("ended_per_s.reset_sent > +0.5"), all(true, DiffLimit::Difference(0.5)));
        let of_group = Ok((Some("10.0.0.5:5432 @blue".into()), true, DiffLimit::Value(1.0)));
        assert_eq!(parsed("10.0.0.5:5432 @blue closer_per_s.local > 1"), of_group);
        let error = |text: &str| parsed(text).expect_err("no condition");
        assert!(error("time_wait.entered_per_s").contains("expected METRIC"), "{}", error("a"));
        assert!(error("time_wait.enterd_per_s > 5").contains("time_wait.entered_per_s, "));
        for limit in ["", "20%", "+", "++5", "+-5%", "5s", "many", "inf", "nan"] {
            let text = format!("time_wait.entered_per_s > {limit}");
            assert!(error(&text).contains("expected a number"), "{text}");
        }
    }

    #[test]
    fn every_metric_has_its_own_name() {
        let names: std::collections::BTreeSet<String> = metrics().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), metrics().count());
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b"._0123456789".contains(&b)))
        );
    }
}
