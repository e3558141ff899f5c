//! Cell values of a table: their text and their order.

use std::{borrow::Cow, cmp::Ordering};

use crate::{
    lifecycle::{Bound, Dwell},
    model::{Nanos, units},
};

/// A cell value, to be shown and compared.
#[derive(Clone, Debug, PartialEq)]
pub enum CellValue<'a> {
    /// A key: cut in the middle, since both ends are significant.
    Key(Cow<'a, str>),
    /// Text.
    Text(Cow<'a, str>),
    /// An identifier; `None` if unknown.
    Id(Option<u32>),
    /// A count.
    Count(u64),
    /// Two counts that add up.
    Pair(u64, u64),
    /// A rate per second; `None` while there is no interval.
    Rate(Option<f64>),
    /// A duration; `None` while there is none.
    Length(Option<Nanos>),
    /// Time until something runs out; `None` if it is not expected to.
    RunsOut(Option<Nanos>),
    /// A duration that may be a bound; `None` if unknown.
    Bounded(Option<Dwell>),
    /// A fraction in `0.0..`; `None` if there is no total.
    Part(Option<f64>),
    /// The largest part and its share in `0.0..=1.0`; `None` while the total is 0.
    Share(Option<(&'static str, f64)>),
}

impl CellValue<'_> {
    /// A count that may be unknown: `?`.
    pub fn count_if_known(count: Option<u64>) -> Self {
        count.map_or(Self::Text("?".into()), Self::Count)
    }

    /// Text for people, in at most `width` columns if possible.
    pub fn text(&self, width: usize) -> Cow<'_, str> {
        match self {
            Self::Key(text) | Self::Text(text) => Cow::Borrowed(text),
            Self::Id(Some(id)) => Cow::Owned(id.to_string()),
            Self::Count(n) => Cow::Owned(count(*n, width)),
            Self::Pair(a, b) => {
                let exact = format!("{}/{}", units::count(*a), units::count(*b));
                Cow::Owned(if exact.len() <= width {
                    exact
                } else {
                    format!("{}/{}", units::compact(*a), units::compact(*b))
                })
            }
            Self::Id(None)
            | Self::Rate(None)
            | Self::Length(None)
            | Self::RunsOut(None)
            | Self::Bounded(None)
            | Self::Part(None)
            | Self::Share(None) => Cow::Borrowed("-"),
            Self::Bounded(Some(dwell)) => Cow::Owned(bounded(*dwell)),
            Self::Rate(Some(per_s)) => {
                let rate = units::rate(*per_s);
                Cow::Owned(if rate.len() <= width { rate } else { units::compact(per_s.round() as u64) })
            }
            Self::Length(Some(length)) => Cow::Owned(units::duration(*length)),
            Self::RunsOut(Some(left)) => Cow::Owned(units::in_time(*left)),
            Self::Part(Some(part)) => Cow::Owned(format!("{:.0}%", part * 100.0)),
            Self::Share(Some((name, share))) => Cow::Owned(format!("{name} {:.0}%", share * 100.0)),
        }
    }

    /// Whether the value is missing or 0, and shown dim.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Text(text) => text == "-",
            Self::Id(id) => id.is_none(),
            Self::Count(n) => *n == 0,
            Self::Pair(a, b) => a + b == 0,
            Self::Rate(rate) => rate.is_none_or(|rate| rate < 0.05),
            Self::Length(length) | Self::RunsOut(length) => length.is_none(),
            Self::Bounded(length) => length.is_none(),
            Self::Part(part) => part.is_none(),
            Self::Share(share) => share.is_none(),
        }
    }

    /// Orders two values of the same column, smallest first; a missing value comes first.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Key(a), Self::Key(b)) | (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Id(a), Self::Id(b)) => a.cmp(b),
            (Self::Count(a), Self::Count(b)) => a.cmp(b),
            (Self::Pair(a, b), Self::Pair(c, d)) => a.saturating_add(*b).cmp(&c.saturating_add(*d)),
            (Self::Rate(a), Self::Rate(b)) | (Self::Part(a), Self::Part(b)) => {
                a.unwrap_or(-1.0).total_cmp(&b.unwrap_or(-1.0))
            }
            (Self::Length(a), Self::Length(b)) | (Self::RunsOut(a), Self::RunsOut(b)) => a.cmp(b),
            (Self::Bounded(a), Self::Bounded(b)) => a.map(|a| a.length).cmp(&b.map(|b| b.length)),
            (Self::Share(a), Self::Share(b)) => {
                let (a, b) = (a.unwrap_or(("", 0.0)), b.unwrap_or(("", 0.0)));
                a.0.cmp(b.0).then(a.1.total_cmp(&b.1))
            }
            _ => Ordering::Equal,
        }
    }
}

/// A count in at most `width` columns if possible: `18,122`, else `18k`.
pub fn count(n: u64, width: usize) -> String {
    let exact = units::count(n);
    if exact.len() <= width { exact } else { units::compact(n) }
}

/// A duration with the sign of its bound: `60.1s`, `>60.1s`, `~60.1s`.
pub fn bounded(dwell: Dwell) -> String {
    let sign = match dwell.bound {
        Bound::Exact => "",
        Bound::AtLeast => ">",
        Bound::Inferred => "~",
    };
    format!("{sign}{}", units::duration(dwell.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_too_wide_for_their_column_are_rounded() {
        assert_eq!(CellValue::Count(9_999).text(6), "9,999");
        assert_eq!(CellValue::Count(123_456).text(6), "123k");
        assert_eq!(CellValue::Pair(120, 3).text(7), "120/3");
        assert_eq!(CellValue::Rate(Some(312_456.7)).text(5), "312k");
        assert_eq!(CellValue::Pair(123_456, 3).text(7), "123k/3");
    }

    #[test]
    fn missing_values_sort_first() {
        let nothing = CellValue::Length(None);
        assert_eq!(nothing.compare(&CellValue::Length(Some(Nanos(0)))), Ordering::Less);
        assert_eq!(CellValue::Rate(None).compare(&CellValue::Rate(Some(0.0))), Ordering::Less);
        assert_eq!(CellValue::Share(None).compare(&CellValue::Share(Some(("both", 0.0)))), Ordering::Less);
    }
}
