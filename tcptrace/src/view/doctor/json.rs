//! Findings as one JSON document, schema `tcptrace.doctor.v1`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{Finding, healthy};
use crate::{
    aggregate::{Losses, Snapshot},
    model::text,
};

/// The name of what this module writes.
const SCHEMA: &str = "tcptrace.doctor.v1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    taken_at: String,
    kernel: Cow<'a, str>,
    source: Cow<'a, str>,
    loss: Losses,
    /// What the trace can't see, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    watched_ns: u64,
    findings: &'a [Finding],
    /// What was looked at.
    seen: Vec<String>,
}

/// Writes `findings` on one line.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, findings: &[Finding]) -> io::Result<()> {
    let wall_ns = snapshot.host.clock_offset_ns.saturating_add(snapshot.ts.0);
    let document = Document {
        schema: SCHEMA,
        taken_at: Timestamp::from_nanosecond(wall_ns.into()).unwrap_or_default().to_string(),
        kernel: text::sanitise(&snapshot.host.kernel),
        source: text::sanitise(&snapshot.source),
        loss: snapshot.losses,
        limits: snapshot.host.limits.iter().map(|limit| text::sanitise(limit)).collect(),
        records: snapshot.records,
        watched_ns: snapshot.ts.since(snapshot.began).0,
        findings,
        seen: healthy::reasons(snapshot),
    };
    serde_json::to_writer(&mut *out, &document)?;
    out.write_all(b"\n")
}
