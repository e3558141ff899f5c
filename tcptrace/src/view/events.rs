//! Writes one line per [`Event`]: text, JSON lines or CSV.
//!
//! This runs more than 100,000 times a second, so each line is built in a reused buffer and written with one call.

mod text;

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::{
    lifecycle::{Bound, Closer, Dwell, EndReason, Event},
    model::{
        Addr, Nanos,
        record::HostFacts,
        text::{csv_cell, sanitise},
    },
    view::document::NameFields,
};
pub use text::HostColumn;
use text::TextLines;

/// Output format of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventFormat {
    /// A line to read.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
    /// RFC 4180, with a header line.
    Csv,
}

/// The columns of CSV, which are the fields of JSON in the same order.
const COLUMNS: [&str; 32] = [
    "ts_ns",
    "id",
    "netns",
    "role",
    "role_guessed",
    "saddr",
    "sport",
    "daddr",
    "dport",
    "from",
    "to",
    "dwell_ns",
    "seeded",
    "inferred",
    "closer",
    "end_reason",
    "orphan",
    "extended",
    "pid",
    "comm",
    "owner",
    "reason_inferred",
    "pod",
    "k8s_namespace",
    "container",
    "image",
    "unit",
    "exe",
    "uid",
    "user",
    "command",
    "host",
];

/// Writes events in one format. The caller buffers between lines.
#[derive(Debug)]
pub struct EventWriter {
    format: EventFormat,
    text: TextLines,
    line: String,
    bytes: Vec<u8>,
}

impl EventWriter {
    /// A writer in `format`; `zone` is for the times in text.
    pub fn new(format: EventFormat, zone: TimeZone, hosts: HostColumn) -> Self {
        Self { format, text: TextLines::new(zone, hosts), line: String::new(), bytes: Vec::new() }
    }

    /// Writes the column names, if the format has them.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            EventFormat::Text => out.write_all(TextLines::header().as_bytes()),
            EventFormat::Json => Ok(()),
            EventFormat::Csv => write!(out, "{}\r\n", COLUMNS.join(",")),
        }
    }

    /// Writes `event` on `host` as one line.
    pub fn write(&mut self, out: &mut impl Write, event: &Event<'_>, host: &HostFacts) -> io::Result<()> {
        match self.format {
            EventFormat::Text => {
                self.line.clear();
                self.text.append(&mut self.line, event, host);
                out.write_all(self.line.as_bytes())
            }
            EventFormat::Json => {
                self.bytes.clear();
                serde_json::to_writer(&mut self.bytes, &EventFields::of(event, host))?;
                self.bytes.push(b'\n');
                out.write_all(&self.bytes)
            }
            EventFormat::Csv => {
                self.line.clear();
                self.csv(&EventFields::of(event, host)).map_err(io::Error::other)?;
                out.write_all(self.line.as_bytes())
            }
        }
    }

    fn csv(&mut self, f: &EventFields<'_>) -> std::fmt::Result {
        let line = &mut self.line;
        write!(line, "{},{},{},{},", f.ts_ns, f.id, f.netns, f.role)?;
        write!(line, "{},", if f.role_guessed { "true" } else { "" })?;
        write!(line, "{},{},{},{},{},{},", f.saddr, f.sport, f.daddr, f.dport, f.from, f.to)?;
        optional(line, f.dwell_ns)?;
        write!(line, "{},{},", f.seeded, if f.inferred { "true" } else { "" })?;
        optional(line, f.closer)?;
        optional(line, f.end_reason)?;
        optional(line, f.orphan)?;
        write!(line, "{},", if f.extended { "true" } else { "" })?;
        optional(line, f.pid)?;
        if let Some(comm) = &f.comm {
            line.push_str(&csv_cell(comm));
        }
        write!(line, ",{},{}", f.owner, if f.reason_inferred { "true" } else { "" })?;
        let NameFields { pod, k8s_namespace, container, image, unit, exe, uid, user, command } = f.names;
        for name in [pod, k8s_namespace, container, image, unit, exe] {
            write!(line, ",{}", csv_cell(name.unwrap_or_default()))?;
        }
        line.push(',');
        optional(line, uid)?;
        write!(line, "{},{},", csv_cell(user.unwrap_or_default()), csv_cell(command.unwrap_or_default()))?;
        write!(line, "{}\r\n", csv_cell(&f.host))
    }
}

fn optional(line: &mut String, value: Option<impl std::fmt::Display>) -> std::fmt::Result {
    match value {
        Some(value) => write!(line, "{value},"),
        None => line.write_char(','),
    }
}

/// The fields of an event in JSON and CSV.
#[expect(clippy::struct_excessive_bools, reason = "each is a field of its own in the contract")]
#[derive(Serialize)]
struct EventFields<'a> {
    /// Nanoseconds since the epoch.
    ts_ns: u64,
    id: u64,
    netns: u32,
    role: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    role_guessed: bool,
    #[serde(serialize_with = "display")]
    saddr: Addr,
    sport: u16,
    #[serde(serialize_with = "display")]
    daddr: Addr,
    dport: u16,
    from: &'static str,
    to: &'static str,
    dwell_ns: Option<u64>,
    /// The dwell is a lower bound.
    seeded: bool,
    #[serde(skip_serializing_if = "is_false")]
    inferred: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    closer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    reason_inferred: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphan: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    extended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    owner: &'static str,
    #[serde(flatten)]
    names: NameFields<'a>,
    host: Cow<'a, str>,
}

impl<'a> EventFields<'a> {
    fn of(event: &Event<'a>, host: &'a HostFacts) -> Self {
        let bound = |wanted| matches!(event.dwell, Some(Dwell { bound, .. }) if bound == wanted);
        Self {
            ts_ns: host.wall_ns(event.ts),
            id: event.id.0,
            netns: event.netns.0,
            role: event.role.name(),
            role_guessed: event.role_guessed,
            saddr: event.tuple.saddr,
            sport: event.tuple.sport,
            daddr: event.tuple.daddr,
            dport: event.tuple.dport,
            from: event.from.name(),
            to: event.to.name(),
            dwell_ns: event.dwell.map(|Dwell { length: Nanos(ns), .. }| ns),
            seeded: bound(Bound::AtLeast),
            inferred: bound(Bound::Inferred),
            closer: (event.closer != Closer::None).then(|| event.closer.name()),
            end_reason: event.end_reason.map(EndReason::name),
            reason_inferred: event.reason_inferred,
            orphan: event.orphan,
            extended: event.extended,
            pid: event.process.map(|process| process.pid),
            comm: event.process.map(|process| sanitise(&process.comm)),
            owner: event.owner.name(),
            names: event.process.map(NameFields::of).unwrap_or_default(),
            host: sanitise(&host.host),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

fn display<S: Serializer>(addr: &Addr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(addr)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        lifecycle::{OwnerKind, Role},
        model::{NetnsId, SocketId, TcpState, Tuple, record::Process},
    };

    /// 2026-01-02 03:04:05 UTC at monotonic 0.
    const OFFSET: u64 = 1_767_323_045_000_000_000;

    fn host() -> HostFacts {
        HostFacts { host: "web-3".into(), clock_offset_ns: OFFSET, ..HostFacts::default() }
    }

    fn process(comm: &str) -> Process {
        Process::new(4242, comm, 0)
    }

    fn tuple(saddr: &str, sport: u16, daddr: &str, dport: u16) -> Tuple {
        let addr = |ip: &str| ip.parse::<IpAddr>().expect("an address").into();
        Tuple { saddr: addr(saddr), daddr: addr(daddr), sport, dport, ifindex: 2 }
    }

    fn event(process: Option<&Process>) -> Event<'_> {
        Event {
            ts: Nanos(1_234_567_890),
            id: SocketId(77),
            netns: NetnsId(4_026_531_840),
            tuple: tuple("10.0.0.5", 43210, "10.0.0.9", 5432),
            role: Role::Outbound,
            role_guessed: false,
            from: TcpState::TimeWait,
            to: TcpState::Close,
            begins: false,
            dwell: Some(Dwell { length: Nanos(60_844_000_000), bound: Bound::Exact }),
            closer: Closer::Local,
            end_reason: Some(EndReason::Expired),
            reason_inferred: false,
            orphan: None,
            orphan_for: None,
            search: None,
            extended: false,
            owner: if process.is_some() { OwnerKind::Exact } else { OwnerKind::Unknown },
            process,
        }
    }

    /// One event per variant of the output.
    fn written(format: EventFormat) -> String {
        let (psql, evil) = (process("psql"), process("a,\"b\"\u{1b}[2J\n"));
        let plain = event(Some(&psql));
        let listener = Tuple { ifindex: 0, ..tuple("0.0.0.0", 80, "0.0.0.0", 0) };
        let v6 = tuple("2001:db8:1:2:3:4:5:6", 443, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535);
        let at_least = Some(Dwell { length: Nanos(842_000_000_000), bound: Bound::AtLeast });
        let inferred = Some(Dwell { length: Nanos(60_000_000_000), bound: Bound::Inferred });
        let events = [
            Event { from: TcpState::Close, to: TcpState::SynSent, dwell: None, end_reason: None, ..plain },
            plain,
            Event { extended: true, dwell: inferred, process: None, owner: OwnerKind::Unknown, ..plain },
            Event {
                role: Role::Inbound,
                from: TcpState::FinWait1,
                to: TcpState::FinWait2,
                orphan: Some(true),
                process: Some(&evil),
                owner: OwnerKind::Listener,
                end_reason: None,
                ..plain
            },
            Event {
                tuple: v6,
                role: Role::Unknown,
                role_guessed: true,
                from: TcpState::Established,
                dwell: at_least,
                closer: Closer::ResetSent,
                end_reason: Some(EndReason::ResetSentUnread),
                ..plain
            },
            Event {
                tuple: listener,
                role: Role::Listener,
                from: TcpState::Listen,
                closer: Closer::None,
                end_reason: Some(EndReason::ListenerClosed),
                ..plain
            },
        ];
        let mut writer = EventWriter::new(format, TimeZone::UTC, HostColumn::Hidden);
        let mut out = Vec::new();
        writer.write_header(&mut out).expect("writing to a Vec");
        for event in &events {
            writer.write(&mut out, event, &host()).expect("writing to a Vec");
        }
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn text_lines() {
        insta::assert_snapshot!(written(EventFormat::Text));
    }

    #[test]
    fn json_lines() {
        insta::assert_snapshot!(written(EventFormat::Json));
    }

    #[test]
    fn csv_lines() {
        insta::assert_snapshot!(written(EventFormat::Csv).replace("\r\n", "\n"));
    }

    #[test]
    fn a_short_ipv4_line_without_an_owner_fits_80_columns() {
        let mut out = Vec::new();
        let unowned = Event { end_reason: None, ..event(None) };
        let mut writer = EventWriter::new(EventFormat::Text, TimeZone::UTC, HostColumn::Hidden);
        writer.write(&mut out, &unowned, &host()).expect("writing to a Vec");
        assert!(out.len() <= 82, "{}", out.len());
    }

    #[test]
    fn json_fields_follow_the_order_of_csv() {
        for line in written(EventFormat::Json).lines() {
            let mut columns = COLUMNS.iter();
            for field in line.trim_matches(['{', '}']).split(",\"").map(|field| field.trim_start_matches('"'))
            {
                let name = field.split('"').next().unwrap_or_default();
                if COLUMNS.contains(&name) {
                    assert!(columns.any(|&column| column == name), "{name} in {line}");
                }
            }
        }
    }

    #[test]
    fn a_line_of_csv_has_a_field_per_column() {
        let (_, commas) = written(EventFormat::Csv)
            .lines()
            .nth(1)
            .map(|line| (line.to_owned(), line.matches(',').count()))
            .expect("a line");
        assert_eq!(commas + 1, COLUMNS.len());
    }
}
