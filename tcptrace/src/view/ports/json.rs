//! Local ports as one JSON document, schema `tcptrace.ports.v1`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use super::measured;
use crate::{
    aggregate::{DestinationPorts, NetnsPorts, Snapshot},
    model::{TcpState, text},
    view::document::{self, Head, ProcessFields, counts, limits},
};

/// The name of what this module writes.
const SCHEMA: &str = "tcptrace.ports.v1";

/// Writes the ports of `snapshot` on one line: a document in itself, and one of many in JSON lines.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, missing: &[String]) -> io::Result<()> {
    document::write(out, &Document::of(snapshot, missing))
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    /// What the trace can't see, in sentences.
    limits: Vec<Cow<'a, str>>,
    /// What is missing in this document, in sentences.
    missing: Vec<Cow<'a, str>>,
    /// How long was traced; null: one look, there are no rates.
    measured_ns: Option<u64>,
    netns: Vec<Netns<'a>>,
    /// Destinations left out.
    other_destinations: u64,
    destinations: Vec<Destination<'a>>,
}

impl<'a> Document<'a> {
    fn of(snapshot: &'a Snapshot, missing: &'a [String]) -> Self {
        let ports = &snapshot.ports;
        Self {
            head: Head::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            missing: missing.iter().map(|sentence| text::sanitise(sentence)).collect(),
            measured_ns: measured(snapshot).map(|span| span.0),
            netns: ports.netns.iter().map(Netns::of).collect(),
            other_destinations: ports.others,
            destinations: ports.destinations.iter().map(|row| Destination::of(row, snapshot)).collect(),
        }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
struct Netns<'a> {
    netns: u32,
    name: Option<Cow<'a, str>>,
    /// First and last port of the range.
    range: Option<(u16, u16)>,
    reserved: Option<u64>,
    taken_by_bind: u64,
    available: Option<u64>,
    tcp_tw_reuse: Option<u8>,
    tcp_timestamps: Option<bool>,
    reuse_delay_ns: Option<u64>,
}

impl<'a> Netns<'a> {
    fn of(netns: &'a NetnsPorts) -> Self {
        let settings = netns.settings.as_ref();
        Self {
            netns: netns.netns.0,
            name: netns.name.as_ref().map(|name| text::sanitise(name)),
            range: settings.map(|settings| settings.range),
            reserved: settings.map(|settings| settings.reserved),
            taken_by_bind: netns.taken,
            available: netns.available(),
            tcp_tw_reuse: settings.and_then(|settings| settings.tw_reuse),
            tcp_timestamps: settings.map(|settings| settings.timestamps),
            reuse_delay_ns: settings.map(|settings| settings.reuse_delay.0),
        }
    }
}

/// What rates and time tell is null where there was one look only.
#[derive(Serialize)]
struct Destination<'a> {
    netns: u32,
    saddr: String,
    daddr: String,
    dport: u16,
    used: u64,
    available: Option<u64>,
    time_wait: u64,
    #[serde(serialize_with = "counts")]
    counts: &'a [u64; TcpState::COUNT],
    bound: u64,
    outside_range: u64,
    entered_per_s: Option<f64>,
    left_per_s: Option<f64>,
    predicted: Option<u64>,
    exhausted_in_ns: Option<u64>,
    connect_failures: Option<u64>,
    tw_reuse: Reuse,
    processes: Vec<ProcessFields<'a>>,
    other_processes: u64,
}

impl<'a> Destination<'a> {
    fn of(row: &'a DestinationPorts, snapshot: &Snapshot) -> Self {
        let measured = measured(snapshot);
        Self {
            netns: row.netns.0,
            saddr: row.local.addr.to_string(),
            daddr: row.remote.addr.to_string(),
            dport: row.remote.port,
            used: row.used,
            available: row.available,
            time_wait: row.count(TcpState::TimeWait),
            counts: &row.counts,
            bound: row.bound,
            outside_range: row.outside,
            entered_per_s: measured.map(|_| row.entered_per_s),
            left_per_s: measured.map(|_| row.left_per_s),
            predicted: measured.map(|_| row.predicted),
            exhausted_in_ns: row.exhausted_in.map(|length| length.0),
            connect_failures: measured.map(|_| row.connect_failures),
            tw_reuse: Reuse {
                effect: row.reuse.name(),
                reusable: row.reusable,
                reused: measured.map(|_| row.reused),
                predicted: measured.map(|_| row.predicted_with_reuse),
            },
            processes: row.processes.iter().map(Into::into).collect(),
            other_processes: row.other_processes,
        }
    }
}

#[derive(Serialize)]
struct Reuse {
    effect: &'static str,
    reusable: u64,
    reused: Option<u64>,
    predicted: Option<u64>,
}
