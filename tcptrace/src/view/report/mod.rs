//! `report`: what happened in a recording, on one page.
//!
//! The last [`Snapshot`] of a recording in, with its timeline and the dwells of every state; a [page] of HTML that needs
//! nothing beside it, or one [document] of JSON with the same numbers out. The page holds the document, and every
//! number in it says where in the document it stands.

mod axis;
mod bins;
mod cell;
mod chart;
pub mod document;
mod ends;
mod facts;
mod groups;
mod listed;
pub mod page;
mod sections;
mod story;

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::{
    aggregate::Snapshot,
    lifecycle::{Bound, Dwell},
    model::{Nanos, TcpState},
    view::clock,
};
use listed::Listed;

#[cfg(test)]
mod tests;

/// A recording, as a report tells of it.
pub struct Report<'a> {
    snapshot: &'a Snapshot,
    filter: &'a str,
    zone: TimeZone,
    listed: Listed<'a>,
}

const DAY: Nanos = Nanos(86_400 * Nanos::SECOND.0);

impl<'a> Report<'a> {
    /// The report of a recording that `snapshot` is the last of, made with `filter`, which is empty for everything.
    /// Times are told in `zone`.
    pub fn of(snapshot: &'a Snapshot, filter: &'a str, zone: TimeZone) -> Self {
        Self { snapshot, filter, zone, listed: Listed::of(snapshot) }
    }

    /// The wall-clock time at `ts`.
    fn wall(&self, ts: Nanos) -> Timestamp {
        clock::wall(&self.snapshot.host, ts)
    }

    fn local(&self, ts: Nanos) -> Zoned {
        self.wall(ts).to_zoned(self.zone.clone())
    }

    /// `ts` by the clock, with its day where the recording is longer than one.
    fn clock(&self, ts: Nanos) -> String {
        let format = if self.span() > DAY { "%-d %B %H:%M:%S" } else { "%H:%M:%S" };
        self.local(ts).strftime(format).to_string()
    }

    /// How long it goes on.
    const fn span(&self) -> Nanos {
        self.snapshot.ts.since(self.snapshot.began)
    }

    /// `count` per second of it.
    fn per_s(&self, count: u64) -> f64 {
        let seconds = self.span().as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    fn now(&self, state: TcpState) -> u64 {
        self.snapshot.states[state.index()].now
    }

    fn entered(&self, state: TcpState) -> u64 {
        self.snapshot.states[state.index()].entered
    }
}

/// The mark of an age that is a bound or was computed.
const fn bound(age: Dwell) -> &'static str {
    match age.bound {
        Bound::Exact => "",
        Bound::AtLeast => ">= ",
        Bound::Inferred => "~ ",
    }
}
