//! Report of a recording on one page (`report`).
//!
//! Renders the last [`Snapshot`] of a recording, with its timeline and the dwells of every state, as a self-contained
//! HTML [page], or as one JSON [document] with the same numbers. The page embeds the document, and its numbers have
//! their JSON pointers in it.

mod axis;
mod bins;
mod cell;
mod chart;
mod code;
mod code_stacks;
pub mod document;
mod ends;
mod facts;
mod groups;
mod incidents;
mod joined;
pub mod page;
mod ranking;
mod sections;
mod summary;
mod table;

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::{
    aggregate::Snapshot,
    join::JoinSummary,
    lifecycle::{Bound, Dwell},
    model::{Nanos, TcpState},
    view::clock,
};
use code_stacks::CodeStacks;
use ranking::ReportGroups;

#[cfg(test)]
mod tests;

/// A report of a recording.
pub struct Report<'a> {
    snapshot: &'a Snapshot,
    filter: &'a str,
    zone: TimeZone,
    listed: ReportGroups<'a>,
    code: Vec<CodeStacks<'a>>,
    /// `None` with a filter.
    joined: Option<&'a JoinSummary>,
}

const DAY: Nanos = Nanos(86_400 * Nanos::SECOND.0);

impl<'a> Report<'a> {
    /// Creates the report from the last `snapshot` of a recording, made with `filter` (empty: everything). Times are
    /// shown in `zone`.
    pub fn of(snapshot: &'a Snapshot, filter: &'a str, zone: TimeZone) -> Self {
        Self {
            snapshot,
            filter,
            zone,
            listed: ReportGroups::of(snapshot),
            code: CodeStacks::all(snapshot),
            joined: None,
        }
    }

    /// The same with counts of connections with both ends.
    #[must_use]
    pub fn with_joined(self, joined: Option<&'a JoinSummary>) -> Self {
        Self { joined, ..self }
    }

    /// The wall-clock time at `ts`.
    fn wall(&self, ts: Nanos) -> Timestamp {
        clock::wall(&self.snapshot.host, ts)
    }

    fn local(&self, ts: Nanos) -> Zoned {
        self.wall(ts).to_zoned(self.zone.clone())
    }

    /// Time of day at `ts`, with the date if the recording is longer than a day.
    fn clock(&self, ts: Nanos) -> String {
        let format = if self.span() > DAY { "%-d %B %H:%M:%S" } else { "%H:%M:%S" };
        self.local(ts).strftime(format).to_string()
    }

    /// Length of the recording.
    const fn span(&self) -> Nanos {
        self.snapshot.ts.since(self.snapshot.began)
    }

    /// `count` per second of the recording.
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
