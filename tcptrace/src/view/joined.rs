//! Writes one line per [`JoinedConnection`]: text, JSON lines or CSV.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Serialize, Serializer};

use super::events::EventFormat;
use crate::{
    join::{ConnectionEnd, JoinStatus, JoinedConnection},
    lifecycle::{Closer, EndReason},
    model::{
        Nanos, TcpState,
        text::{csv_cell, sanitise},
        units,
    },
};

/// Columns of each end in CSV, after `client_` and `server_`.
const END_COLUMNS: [&str; 10] =
    ["host", "netns", "id", "addr", "port", "states", "closer", "end_reason", "pid", "comm"];
/// The other columns, before those of the ends.
const COLUMNS: [&str; 7] =
    ["ts_ns", "status", "closed_first", "unmatched", "lasted_ns", "translated", "clock_offset_ns"];

/// Writes connections in one format. The caller buffers between lines.
pub struct JoinedWriter {
    format: EventFormat,
    zone: TimeZone,
    line: String,
}

impl JoinedWriter {
    /// A writer in `format`; `zone` is for the times in text.
    pub const fn new(format: EventFormat, zone: TimeZone) -> Self {
        Self { format, zone, line: String::new() }
    }

    /// Writes the column names, if the format has them.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            EventFormat::Json => Ok(()),
            EventFormat::Text => {
                writeln!(out, "{:12} {:9} {:7} {:>8} CLIENT > SERVER", "TIME", "STATUS", "FIRST", "LASTED")
            }
            EventFormat::Csv => {
                let ends = ["client", "server"].into_iter();
                let ends = ends.flat_map(|side| END_COLUMNS.map(|column| format!("{side}_{column}")));
                let columns: Vec<String> = COLUMNS.map(str::to_owned).into_iter().chain(ends).collect();
                write!(out, "{}\r\n", columns.join(","))
            }
        }
    }

    /// Writes `connection` as one line. `host` names a host by its number.
    pub fn write<'a>(
        &mut self,
        out: &mut impl Write,
        connection: &JoinedConnection,
        host: impl Fn(u16) -> &'a str,
    ) -> io::Result<()> {
        self.line.clear();
        match self.format {
            EventFormat::Text => text(&mut self.line, connection, &host, &self.zone),
            EventFormat::Csv => csv(&mut self.line, connection, &host),
            EventFormat::Json => {
                serde_json::to_writer(&mut *out, &ConnectionFields::of(connection, &host))?;
                self.line.push('\n');
                Ok(())
            }
        }
        .map_err(io::Error::other)?;
        out.write_all(self.line.as_bytes())
    }
}

fn text<'a>(
    line: &mut String,
    connection: &JoinedConnection,
    host: &impl Fn(u16) -> &'a str,
    zone: &TimeZone,
) -> std::fmt::Result {
    let time = Timestamp::from_nanosecond(connection.began_ns().into()).unwrap_or_default();
    let time = time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f");
    let lasted = connection.lasted_ns().map_or_else(|| "-".to_owned(), |ns| units::duration(Nanos(ns)));
    let (status, first) = (connection.status.name(), connection.closed_first().name());
    write!(line, "{time:12} {status:9} {first:7} {lasted:>8} ")?;
    let mut separator = "";
    for (end, other) in [(&connection.client, &connection.server), (&connection.server, &connection.client)] {
        line.push_str(separator);
        separator = " > ";
        match (end, other) {
            (Some(end), _) => write!(line, "{} {}", sanitise(host(end.host)), end.tuple.local())?,
            (None, Some(other)) => write!(line, "? {}", other.tuple.remote())?,
            (None, None) => line.push('?'),
        }
    }
    for (side, end) in [("client", &connection.client), ("server", &connection.server)] {
        let Some(end) = end else { continue };
        write!(line, "  {side}")?;
        for (state, dwell) in &end.left {
            write!(line, " {}", state.name())?;
            if let Some(dwell) = dwell {
                write!(line, " {}", units::duration(Nanos(*dwell)))?;
            }
            line.push(',');
        }
        write!(line, " {}", end.state.name())?;
        if let Some(reason) = end.end_reason {
            write!(line, " ({})", reason.name())?;
        }
    }
    if let JoinStatus::Unmatched(reason) = connection.status {
        write!(line, "  {}", reason.text())?;
    }
    line.write_char('\n')
}

fn csv<'a>(
    line: &mut String,
    connection: &JoinedConnection,
    host: &impl Fn(u16) -> &'a str,
) -> std::fmt::Result {
    let fields = ConnectionFields::of(connection, host);
    write!(
        line,
        "{},{},{},{},{},{},{}",
        fields.ts_ns,
        fields.status,
        fields.closed_first,
        fields.unmatched.unwrap_or_default(),
        cell(fields.lasted_ns),
        if fields.translated { "true" } else { "" },
        fields.clock_offset_ns,
    )?;
    for end in [fields.client, fields.server] {
        let Some(end) = end else {
            line.push_str(&",".repeat(END_COLUMNS.len()));
            continue;
        };
        let states = end.states.iter().map(|(state, dwell)| format!("{state}={}", cell(*dwell)));
        write!(
            line,
            ",{},{},{},{},{},{},{},{},{},{}",
            csv_cell(&end.host),
            end.netns,
            end.id,
            end.addr,
            end.port,
            states.collect::<Vec<_>>().join(";"),
            end.closer.unwrap_or_default(),
            end.end_reason.unwrap_or_default(),
            cell(end.pid),
            csv_cell(end.comm.as_deref().unwrap_or_default()),
        )?;
    }
    line.write_str("\r\n")
}

fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The fields of a connection in JSON.
#[derive(Serialize)]
struct ConnectionFields<'a> {
    ts_ns: u64,
    status: &'static str,
    closed_first: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmatched: Option<&'static str>,
    lasted_ns: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    translated: bool,
    clock_offset_ns: i64,
    client: Option<EndFields<'a>>,
    server: Option<EndFields<'a>>,
}

/// The fields of one end.
#[derive(Serialize)]
struct EndFields<'a> {
    host: Cow<'a, str>,
    netns: u32,
    id: u64,
    addr: String,
    port: u16,
    #[serde(serialize_with = "states")]
    states: Vec<(&'static str, Option<u64>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
}

impl<'a> ConnectionFields<'a> {
    fn of(connection: &JoinedConnection, host: &impl Fn(u16) -> &'a str) -> Self {
        Self {
            ts_ns: connection.began_ns(),
            status: connection.status.name(),
            closed_first: connection.closed_first().name(),
            unmatched: match connection.status {
                JoinStatus::Unmatched(reason) => Some(reason.name()),
                _ => None,
            },
            lasted_ns: connection.lasted_ns(),
            translated: connection.is_translated,
            clock_offset_ns: connection.clock_offset_ns,
            client: connection.client.as_ref().map(|end| EndFields::of(end, host(end.host))),
            server: connection.server.as_ref().map(|end| EndFields::of(end, host(end.host))),
        }
    }
}

impl<'a> EndFields<'a> {
    fn of(end: &ConnectionEnd, host: &'a str) -> Self {
        let left = end.left.iter().map(|(state, dwell)| (TcpState::name(*state), *dwell));
        Self {
            host: sanitise(host),
            netns: end.netns.0,
            id: end.id.0,
            addr: end.tuple.saddr.to_string(),
            port: end.tuple.sport,
            states: left.chain([(end.state.name(), None)]).collect(),
            closer: (end.closer != Closer::None).then(|| end.closer.name()),
            end_reason: end.end_reason.map(EndReason::name),
            pid: end.process.as_ref().map(|(pid, _)| *pid),
            comm: end.process.as_ref().map(|(_, comm)| sanitise(comm).into_owned()),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

fn states<S: Serializer>(states: &[(&'static str, Option<u64>)], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct StateFields {
        state: &'static str,
        dwell_ns: Option<u64>,
    }
    serializer.collect_seq(states.iter().map(|&(state, dwell_ns)| StateFields { state, dwell_ns }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::join::tests::made;

    /// The lines of a few connections, one with a hostile name, on hosts of which one has a hostile name.
    fn written(format: EventFormat) -> String {
        let mut writer = JoinedWriter::new(format, TimeZone::UTC);
        let mut out = Vec::new();
        writer.write_header(&mut out).expect("writing to a Vec");
        let (mut connections, _) = made();
        if let Some(client) = &mut connections[0].client {
            client.process = Some((7, Arc::from("=a,\"b\"\u{1b}[2J\n")));
        }
        let host = |number: u16| ["a", "web-1", "\u{1b}[2Jdb,1"][usize::from(number)];
        for connection in &connections {
            writer.write(&mut out, connection, host).expect("writing to a Vec");
        }
        String::from_utf8(out).expect("UTF-8").replace("\r\n", "\n")
    }

    #[test]
    fn one_line_per_connection_in_every_format() {
        for format in [EventFormat::Text, EventFormat::Json, EventFormat::Csv] {
            let written = written(format);
            assert!(!written.contains('\u{1b}'));
            insta::assert_snapshot!(format!("{format:?}"), written);
        }
    }

    #[test]
    fn a_line_of_csv_has_a_field_per_column() {
        let written = written(EventFormat::Csv);
        let columns = written.lines().next().map(|head| head.split(',').count());
        let plain: Vec<usize> =
            written.lines().filter(|line| !line.contains('"')).map(|line| line.split(',').count()).collect();
        assert!(!plain.is_empty() && plain.iter().all(|fields| Some(*fields) == columns), "{plain:?}");
    }
}
