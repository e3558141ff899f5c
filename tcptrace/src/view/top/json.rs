//! JSON output of a [`Snapshot`]: one document, schema `tcptrace.top.v1`.
//!
//! Every field is always present, also when it is 0, so that queries need no existence check. CLOSE is left out of the
//! states: a socket in it is no connection.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::{columns::ports_of, summary::STATES};
use crate::{
    aggregate::{
        DestinationPorts, DwellQuantiles, Group, Snapshot, StateTotal, TimeWaitEnds, TimewaitSockets,
    },
    lifecycle::{Closer, EndReason},
    model::{TcpState, text},
    view::document::{self, DocumentHead, ProcessFields, counts, limits},
};

/// Schema name of the document.
const SCHEMA: &str = "tcptrace.top.v1";

/// Writes `snapshot` on one line, so that several documents form JSON lines.
pub fn write(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    document::write(out, &TopDocument::of(snapshot))
}

#[derive(Serialize)]
struct TopDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    /// Limits of the trace, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    /// Interval of the rates; 0 while there are none.
    interval_ns: u64,
    states: Vec<StateDocument>,
    /// Grouping keys: `service`, `service,process`.
    group_by: String,
    /// Number of groups merged into the one with the key `other`.
    other_groups: u64,
    groups: Vec<GroupFields<'a>>,
}

impl<'a> TopDocument<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            head: DocumentHead::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            records: snapshot.records,
            interval_ns: snapshot.interval.0,
            states: STATES.into_iter().map(|state| StateDocument::of(state, snapshot)).collect(),
            group_by: snapshot.grouping.to_string(),
            other_groups: snapshot.other_groups,
            groups: snapshot.groups.iter().map(|group| GroupFields::of(group, snapshot)).collect(),
        }
    }
}

#[derive(Serialize)]
struct StateDocument {
    state: &'static str,
    count: u64,
    entered: u64,
    entered_per_s: f64,
}

impl StateDocument {
    fn of(state: TcpState, snapshot: &Snapshot) -> Self {
        let StateTotal { now, entered, entered_per_s } = snapshot.states[state.index()];
        Self { state: state.name(), count: now, entered, entered_per_s }
    }
}

/// The numbers of one group.
#[derive(Serialize)]
pub(in crate::view) struct GroupFields<'a> {
    key: Cow<'a, str>,
    /// If all sockets of the group are of one host.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    /// Name of the remote address or network in the key.
    peer_name: Option<&'a str>,
    role: &'static str,
    #[serde(serialize_with = "counts")]
    counts: &'a [u64; TcpState::COUNT],
    time_wait: TimewaitFields,
    fin_wait2: TopFinWait2,
    /// Age of the oldest socket in `CLOSE_WAIT`.
    oldest_close_wait_ns: Option<u64>,
    #[serde(serialize_with = "closers")]
    closers: &'a [u64; Closer::ALL.len() + 1],
    #[serde(serialize_with = "closers")]
    closed: &'a [u64; Closer::ALL.len() + 1],
    #[serde(serialize_with = "ended")]
    ended: &'a [u64; EndReason::COUNT],
    process: Option<ProcessFields<'a>>,
    other_processes: u64,
    /// Outbound services only.
    ports: Option<PortFields>,
}

/// Local ports towards a service, for the local address that runs out of them first.
#[derive(Serialize)]
struct PortFields {
    used: u64,
    available: Option<u64>,
    exhausted_in_ns: Option<u64>,
}

impl PortFields {
    fn of(ports: &DestinationPorts) -> Self {
        let exhausted_in_ns = ports.exhausted_in.map(|left| left.0);
        Self { used: ports.used, available: ports.available, exhausted_in_ns }
    }
}

impl<'a> GroupFields<'a> {
    /// The fields of `group`, which belongs to `snapshot`.
    pub(in crate::view) fn of(group: &'a Group, snapshot: &'a Snapshot) -> Self {
        Self {
            key: text::sanitise(&group.key),
            host: group.host.as_deref().map(text::sanitise),
            peer_name: group.peer_name(&snapshot.peer_names).map(AsRef::as_ref),
            role: group.role.name(),
            counts: &group.counts,
            time_wait: TimewaitFields::of(&group.time_wait),
            fin_wait2: TopFinWait2 {
                all: TimewaitFields::of(&group.fin_wait2),
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
            ports: ports_of(snapshot, group).map(PortFields::of),
        }
    }
}

#[derive(Serialize)]
struct TimewaitFields {
    now: u64,
    entered: u64,
    entered_per_s: f64,
    ended: TimeWaitEnds,
    dwell_ns: DwellQuantiles,
    dwell_bounds: u64,
}

impl TimewaitFields {
    fn of(of: &TimewaitSockets) -> Self {
        let TimewaitSockets { now, entered, entered_per_s, ended, dwell, dwell_bounds } = *of;
        Self { now, entered, entered_per_s, ended, dwell_ns: dwell, dwell_bounds }
    }
}

#[derive(Serialize)]
struct TopFinWait2 {
    #[serde(flatten)]
    all: TimewaitFields,
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
        write(&mut out, snapshot).expect("write to a Vec");
        String::from_utf8(out).expect("UTF-8")
    }

    /// Pretty-printed in field order.
    fn pretty(snapshot: &Snapshot) -> String {
        let mut out = Vec::new();
        let mut serializer = serde_json::Serializer::pretty(&mut out);
        TopDocument::of(snapshot).serialize(&mut serializer).expect("write to a Vec");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn document_with_one_group() {
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
