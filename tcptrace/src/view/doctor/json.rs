//! Writes findings as one JSON document, schema `tcptrace.doctor.v1`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use super::{Finding, healthy};
use crate::{
    aggregate::Snapshot,
    view::document::{self, DocumentHead, limits},
};

/// Schema of the document.
const SCHEMA: &str = "tcptrace.doctor.v1";

#[derive(Serialize)]
struct DoctorDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    /// Limits of the trace, in sentences.
    limits: Vec<Cow<'a, str>>,
    records: u64,
    watched_ns: u64,
    findings: &'a [Finding],
    /// One sentence per check.
    seen: Vec<String>,
}

/// Writes `findings` on one line.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, findings: &[Finding]) -> io::Result<()> {
    let document = DoctorDocument {
        head: DocumentHead::of(SCHEMA, snapshot),
        limits: limits(&snapshot.host),
        records: snapshot.records,
        watched_ns: snapshot.ts.since(snapshot.began).0,
        findings,
        seen: healthy::reasons(snapshot),
    };
    document::write(out, &document)
}
