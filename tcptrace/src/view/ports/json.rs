//! Writes local ports as one JSON document, schema `tcptrace.ports.v1`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use super::{binds, measured};
use crate::{
    aggregate::{BindPorts, ConntrackTable, DestinationPorts, NatPorts, NetnsPorts, Snapshot},
    model::{
        Nanos, TcpState,
        nat::{Backend, TranslatedSource},
        text,
    },
    view::document::{self, DocumentHead, ProcessFields, counts, limits},
};

/// Schema of the document.
const SCHEMA: &str = "tcptrace.ports.v1";

/// Writes the ports of `snapshot` on one line, so that a stream of documents is JSON lines.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, missing: &[String]) -> io::Result<()> {
    document::write(out, &PortsDocument::of(snapshot, missing))
}

#[derive(Serialize)]
struct PortsDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    /// Limits of the trace, in sentences.
    limits: Vec<Cow<'a, str>>,
    /// Missing information, in sentences.
    missing: Vec<Cow<'a, str>>,
    /// Duration of the trace; null for a single snapshot, which has no rates.
    measured_ns: Option<u64>,
    netns: Vec<NetnsDocument<'a>>,
    /// Number of omitted destinations.
    other_destinations: u64,
    destinations: Vec<DestinationDocument<'a>>,
    /// Local addresses whose ports `bind()` holds.
    binds: Vec<BindDocument<'a>>,
    /// Local addresses and ports that `binds` leaves out.
    other_binds: u64,
    /// Connection tracking tables, by network namespace.
    conntrack: Vec<ConntrackDocument<'a>>,
    /// Translated source ports.
    nat: Vec<NatDocument<'a>>,
    /// Connections with a translated source that `nat` leaves out.
    other_nat_entries: u64,
}

impl<'a> PortsDocument<'a> {
    fn of(snapshot: &'a Snapshot, missing: &'a [String]) -> Self {
        let ports = &snapshot.ports;
        Self {
            head: DocumentHead::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            missing: missing.iter().map(|sentence| text::sanitise(sentence)).collect(),
            measured_ns: measured(snapshot).map(|span| span.0),
            netns: ports.netns.iter().map(NetnsDocument::of).collect(),
            other_destinations: ports.others,
            destinations: ports
                .destinations
                .iter()
                .map(|row| DestinationDocument::of(row, snapshot))
                .collect(),
            binds: ports.binds.iter().map(|row| BindDocument::of(row, snapshot)).collect(),
            other_binds: ports.other_binds,
            conntrack: ports.nat.tables.iter().map(|table| ConntrackDocument::of(table, snapshot)).collect(),
            nat: ports.nat.translations.iter().map(|row| NatDocument::of(row, snapshot)).collect(),
            other_nat_entries: ports.nat.other_entries,
        }
    }
}

#[derive(Serialize)]
struct NetnsDocument<'a> {
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

impl<'a> NetnsDocument<'a> {
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

/// Values that need a trace are null for a single snapshot.
#[derive(Serialize)]
struct DestinationDocument<'a> {
    netns: u32,
    saddr: String,
    daddr: String,
    dport: u16,
    peer_name: Option<&'a str>,
    /// Where NAT sends its connections instead.
    backends: Vec<BackendDocument>,
    used: u64,
    available: Option<u64>,
    slow_above: Option<u64>,
    connect_search_ns: Option<SearchDocument>,
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
    free_at_failure: Option<u64>,
    tw_reuse: Reuse,
    processes: Vec<ProcessFields<'a>>,
    other_processes: u64,
}

impl<'a> DestinationDocument<'a> {
    fn of(row: &'a DestinationPorts, snapshot: &'a Snapshot) -> Self {
        let measured = measured(snapshot);
        Self {
            netns: row.netns.0,
            saddr: row.local.addr.to_string(),
            daddr: row.remote.addr.to_string(),
            dport: row.remote.port,
            peer_name: snapshot.peer_names.address(row.remote.addr).map(AsRef::as_ref),
            backends: row.backends.iter().map(BackendDocument::of).collect(),
            used: row.used,
            available: row.available,
            slow_above: row.slow_above,
            connect_search_ns: row.search.map(|search| SearchDocument {
                p50: search.p50.0,
                p99: search.p99.0,
                max: search.max.0,
                count: search.count,
            }),
            time_wait: row.count(TcpState::TimeWait),
            counts: &row.counts,
            bound: row.bound,
            outside_range: row.outside,
            entered_per_s: measured.map(|_| row.entered_per_s),
            left_per_s: measured.map(|_| row.left_per_s),
            predicted: measured.map(|_| row.predicted),
            exhausted_in_ns: row.exhausted_in.map(|length| length.0),
            connect_failures: measured.map(|_| row.connect_failures),
            free_at_failure: row.free_at_failure,
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
struct BackendDocument {
    daddr: String,
    dport: u16,
    used: u64,
}

impl BackendDocument {
    fn of(backend: &Backend) -> Self {
        Self { daddr: backend.addr.to_string(), dport: backend.port, used: backend.used }
    }
}

/// Includes the round trip to the peer.
#[derive(Serialize)]
struct SearchDocument {
    p50: u64,
    p99: u64,
    max: u64,
    count: u64,
}

#[derive(Serialize)]
struct Reuse {
    effect: &'static str,
    reusable: u64,
    reused: Option<u64>,
    predicted: Option<u64>,
}

#[derive(Serialize)]
struct BindDocument<'a> {
    netns: u32,
    saddr: String,
    bound: u64,
    available: Option<u64>,
    open: u64,
    idle: Option<u64>,
    connected: u64,
    processes: Vec<ProcessFields<'a>>,
}

impl<'a> BindDocument<'a> {
    fn of(row: &'a BindPorts, snapshot: &Snapshot) -> Self {
        Self {
            netns: row.netns.0,
            saddr: row.saddr.to_string(),
            bound: row.bound,
            available: row.available,
            open: row.open,
            idle: binds::idle(snapshot, row),
            connected: row.connected,
            processes: row.processes.iter().map(Into::into).collect(),
        }
    }
}

/// Growth of the counters is null for a single snapshot.
#[derive(Serialize)]
struct ConntrackDocument<'a> {
    netns: u32,
    name: Option<Cow<'a, str>>,
    entries: u64,
    max: Option<u64>,
    insert_failed: Option<u64>,
    drop: Option<u64>,
    early_drop: Option<u64>,
    time_wait_timeout_ns: Option<u64>,
    evicts_time_wait: bool,
    missing: Vec<Cow<'a, str>>,
}

impl<'a> ConntrackDocument<'a> {
    fn of(table: &'a ConntrackTable, snapshot: &Snapshot) -> Self {
        let grown = |counter| measured(snapshot).map(|_| table.grown(counter));
        Self {
            netns: table.netns.0,
            name: table.name.as_ref().map(|name| text::sanitise(name)),
            entries: table.entries,
            max: table.max,
            insert_failed: grown("insert_failed"),
            drop: grown("drop"),
            early_drop: grown("early_drop"),
            time_wait_timeout_ns: table.time_wait_s.map(|seconds| seconds.saturating_mul(Nanos::SECOND.0)),
            evicts_time_wait: table.evicts,
            missing: table.unknown.iter().map(|sentence| text::sanitise(sentence)).collect(),
        }
    }
}

#[derive(Serialize)]
struct NatDocument<'a> {
    netns: u32,
    snat_addr: String,
    daddr: String,
    dport: u16,
    peer_name: Option<&'a str>,
    zone: u16,
    used: u64,
    time_wait: u64,
    reclaimable: u64,
    held: u64,
    available: u64,
    /// First and last port.
    range: (u16, u16),
    /// `rule` or `default`.
    range_from: &'static str,
    held_growth_per_s: Option<f64>,
    exhausted_in_ns: Option<u64>,
    /// Of the namespace: the kernel does not count per address.
    insert_failed: Option<u64>,
    workloads: Vec<NatWorkloadDocument<'a>>,
    other_workloads_used: u64,
}

#[derive(Serialize)]
struct NatWorkloadDocument<'a> {
    saddr: String,
    peer_name: Option<&'a str>,
    used: u64,
    time_wait: u64,
}

impl<'a> NatDocument<'a> {
    fn of(row: &NatPorts, snapshot: &'a Snapshot) -> Self {
        let of = &row.of;
        let table = snapshot.ports.nat.table(row.netns);
        let name = |addr| snapshot.peer_names.address(addr).map(AsRef::as_ref);
        let workload = |source: &TranslatedSource| NatWorkloadDocument {
            saddr: source.saddr.to_string(),
            peer_name: name(source.saddr),
            used: source.used,
            time_wait: source.time_wait,
        };
        Self {
            netns: row.netns.0,
            snat_addr: of.snat_addr.to_string(),
            daddr: of.daddr.to_string(),
            dport: of.dport,
            peer_name: name(of.daddr),
            zone: of.zone,
            used: of.used,
            time_wait: of.time_wait,
            reclaimable: row.reclaimable,
            held: row.held(),
            available: row.available(),
            range: row.range,
            range_from: if row.has_rule { "rule" } else { "default" },
            held_growth_per_s: row.growth_per_s,
            exhausted_in_ns: row.exhausted_in.map(|length| length.0),
            insert_failed: measured(snapshot).and_then(|_| Some(table?.grown("insert_failed"))),
            workloads: of.sources.iter().map(workload).collect(),
            other_workloads_used: of.other_sources,
        }
    }
}
