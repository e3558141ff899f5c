//! A [`Snapshot`] as one JSON document, schema `tcptrace.top.v1`.
//!
//! All names are always there, also where the number is 0, so that a query for one never has to ask
//! whether it exists. CLOSE is not among the states: a socket in it is no connection.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::summary::STATES;
use crate::{
    aggregate::{DwellQuantiles, Group, Minisockets, Snapshot, StateTotal, TimeWaitEnds},
    lifecycle::{Closer, EndReason},
    model::{TcpState, text},
    view::document::{self, Head, ProcessFields, counts, limits},
};

/// The name of what this module writes.
const SCHEMA: &str = "tcptrace.top.v1";

/// Writes `snapshot` on one line: a document in itself, and one of many in JSON lines.
pub fn write(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    document::write(out, &Document::of(snapshot))
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    /// What the trace can't see, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    /// What the rates are over; 0: there are none yet.
    interval_ns: u64,
    states: Vec<State>,
    /// What the groups have in common: `service`, `service,process`.
    group_by: String,
    /// Groups counted together, in the one with the key `other`.
    other_groups: u64,
    groups: Vec<GroupFields<'a>>,
}

impl<'a> Document<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            head: Head::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            records: snapshot.records,
            interval_ns: snapshot.interval.0,
            states: STATES.into_iter().map(|state| State::of(state, snapshot)).collect(),
            group_by: snapshot.grouping.to_string(),
            other_groups: snapshot.other_groups,
            groups: snapshot.groups.iter().map(|group| GroupFields::of(group, snapshot)).collect(),
        }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
struct State {
    state: &'static str,
    count: u64,
    entered: u64,
    entered_per_s: f64,
}

impl State {
    fn of(state: TcpState, snapshot: &Snapshot) -> Self {
        let StateTotal { now, entered, entered_per_s } = snapshot.states[state.index()];
        Self { state: state.name(), count: now, entered, entered_per_s }
    }
}

/// The numbers of one group.
#[derive(Serialize)]
pub(in crate::view) struct GroupFields<'a> {
    key: Cow<'a, str>,
    role: &'static str,
    #[serde(serialize_with = "counts")]
    counts: &'a [u64; TcpState::COUNT],
    time_wait: MinisocketFields,
    fin_wait2: FinWait2,
    /// How long the oldest socket in `CLOSE_WAIT` has been there.
    oldest_close_wait_ns: Option<u64>,
    #[serde(serialize_with = "closers")]
    closers: &'a [u64; Closer::ALL.len() + 1],
    #[serde(serialize_with = "closers")]
    closed: &'a [u64; Closer::ALL.len() + 1],
    #[serde(serialize_with = "ended")]
    ended: &'a [u64; EndReason::COUNT],
    process: Option<ProcessFields<'a>>,
    other_processes: u64,
}

impl<'a> GroupFields<'a> {
    /// Those of `group`, which is one of `snapshot`.
    pub(in crate::view) fn of(group: &'a Group, snapshot: &Snapshot) -> Self {
        Self {
            key: text::sanitise(&group.key),
            role: group.role.name(),
            counts: &group.counts,
            time_wait: MinisocketFields::of(&group.time_wait),
            fin_wait2: FinWait2 {
                all: MinisocketFields::of(&group.fin_wait2),
                orphan: group.fin_wait2_orphan,
                held: group.fin_wait2_held(),
            },
            oldest_close_wait_ns: group
                .oldest_close_wait
                .and_then(|since| since.age(snapshot.ts))
                .map(|age| age.length.0),
            closers: &group.closers,
            closed: &group.closed,
            ended: &group.ended,
            process: group.process.as_ref().map(Into::into),
            other_processes: group.other_processes,
        }
    }
}

#[derive(Serialize)]
struct MinisocketFields {
    now: u64,
    entered: u64,
    entered_per_s: f64,
    ended: TimeWaitEnds,
    dwell_ns: DwellQuantiles,
    dwell_bounds: u64,
}

impl MinisocketFields {
    fn of(of: &Minisockets) -> Self {
        let Minisockets { now, entered, entered_per_s, ended, dwell, dwell_bounds } = *of;
        Self { now, entered, entered_per_s, ended, dwell_ns: dwell, dwell_bounds }
    }
}

#[derive(Serialize)]
struct FinWait2 {
    #[serde(flatten)]
    all: MinisocketFields,
    orphan: u64,
    held: u64,
}

fn closers<S: Serializer>(n: &[u64; Closer::ALL.len() + 1], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Closer::ALL.into_iter().map(|closer| (closer.name(), n[closer as usize])))
}

fn ended<S: Serializer>(n: &[u64; EndReason::COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(EndReason::ALL.into_iter().map(|reason| (reason.name(), n[reason as usize])))
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    fn json(snapshot: &Snapshot) -> String {
        let mut out = Vec::new();
        write(&mut out, snapshot).expect("a Vec takes everything");
        String::from_utf8(out).expect("UTF-8")
    }

    /// The order of the names as written, one value a line.
    fn pretty(snapshot: &Snapshot) -> String {
        let mut out = Vec::new();
        let mut serializer = serde_json::Serializer::pretty(&mut out);
        Document::of(snapshot).serialize(&mut serializer).expect("a Vec takes everything");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn the_first_group_and_all_that_comes_before_it() {
        let mut snapshot = fixture::lossy();
        snapshot.groups.truncate(1);
        insta::assert_snapshot!(pretty(&snapshot));
    }

    #[test]
    fn empty() {
        insta::assert_snapshot!(json(&fixture::empty()));
    }

    #[test]
    fn a_document_is_one_line_without_control_characters() {
        let json = json(&fixture::lossy());
        let line = json.strip_suffix('\n').expect("ends in a newline");
        assert!(!line.contains(char::is_control));
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok());
    }
}
