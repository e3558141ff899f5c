//! Entry into a state and length of the stay, each with its precision.

use serde::{Deserialize, Serialize};

use super::Nanos;

/// When the current state began, and how precisely that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Observed.
    Exact(Nanos),
    /// Was in this state at that time, possibly earlier.
    AtLatest(Nanos),
    /// Computed.
    Inferred(Nanos),
    /// Not known: a transition was missed.
    Unknown,
}

impl Since {
    /// The dwell that ends at `end`.
    pub fn dwell_until(self, end: Self) -> Option<Dwell> {
        let length = end.time()?.since(self.time()?);
        let bound = match (self, end) {
            (Self::Exact(_), Self::Exact(_)) => Bound::Exact,
            // An end that is an upper bound cannot give a lower bound.
            (Self::AtLatest(_), Self::Exact(_)) => Bound::AtLeast,
            _ => Bound::Inferred,
        };
        Some(Dwell { length, bound })
    }

    /// The same with another time.
    #[must_use]
    pub fn map(self, to: impl FnOnce(Nanos) -> Nanos) -> Self {
        match self {
            Self::Exact(ts) => Self::Exact(to(ts)),
            Self::AtLatest(ts) => Self::AtLatest(to(ts)),
            Self::Inferred(ts) => Self::Inferred(to(ts)),
            Self::Unknown => Self::Unknown,
        }
    }

    /// Time in this state at `now`, and its precision.
    pub fn age(self, now: Nanos) -> Option<Dwell> {
        let bound = match self {
            Self::Exact(_) => Bound::Exact,
            Self::AtLatest(_) => Bound::AtLeast,
            Self::Inferred(_) => Bound::Inferred,
            Self::Unknown => return None,
        };
        Some(Dwell { length: now.since(self.time()?), bound })
    }

    /// The earlier of two; at equal times the inexact one, which may have begun before.
    #[must_use]
    pub fn older(self, other: Self) -> Self {
        let order = |since: Self| (since.time(), matches!(since, Self::Exact(_)));
        if order(other) < order(self) { other } else { self }
    }

    /// The earliest known time in this state.
    pub const fn time(self) -> Option<Nanos> {
        match self {
            Self::Exact(ts) | Self::AtLatest(ts) | Self::Inferred(ts) => Some(ts),
            Self::Unknown => None,
        }
    }
}

/// Precision of a dwell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Bound {
    /// Both ends were observed.
    #[default]
    Exact,
    /// The state began before tracing: the dwell is at least this long.
    AtLeast,
    /// Its beginning or end was computed from a timewait socket's timer or found by a sweep, not observed.
    Inferred,
}

/// One stay of one socket in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dwell {
    /// Duration.
    pub length: Nanos,
    /// Precision. Only [`Bound::Exact`] enters a histogram.
    pub bound: Bound,
}
