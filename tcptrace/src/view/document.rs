//! The common head of every JSON document, and the writer: one document per line, so that a stream of them is JSON
//! lines.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::{Serialize, Serializer};

use super::{clock, top::summary::STATES};
use crate::{
    aggregate::{Losses, Snapshot},
    model::{
        TcpState,
        record::{HostFacts, Process},
        text,
    },
};

/// The head of every document.
#[derive(Serialize)]
pub struct DocumentHead<'a> {
    /// The name of the document's schema.
    pub schema: &'static str,
    /// When and where its numbers were taken.
    #[serde(flatten)]
    pub origin: Origin<'a>,
}

impl<'a> DocumentHead<'a> {
    /// The head of a document about `snapshot`.
    pub fn of(schema: &'static str, snapshot: &'a Snapshot) -> Self {
        Self { schema, origin: Origin::of(snapshot) }
    }
}

/// When and where the numbers were taken, and what was lost.
#[derive(Serialize)]
pub struct Origin<'a> {
    /// Wall-clock time, RFC 3339.
    pub taken_at: String,
    /// The release of the kernel.
    pub kernel: Cow<'a, str>,
    /// `live`, or the name of a recording.
    pub source: Cow<'a, str>,
    /// Losses by cause.
    pub loss: Losses,
}

impl<'a> Origin<'a> {
    /// The origin of `snapshot`.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            taken_at: clock::wall(&snapshot.host, snapshot.ts).to_string(),
            kernel: text::sanitise(&snapshot.host.kernel),
            source: text::sanitise(&snapshot.source),
            loss: snapshot.losses,
        }
    }
}

/// The limits of the trace, in sentences.
pub fn limits(host: &HostFacts) -> Vec<Cow<'_, str>> {
    host.limits.iter().map(|limit| text::sanitise(limit)).collect()
}

/// A process in a document.
#[derive(Serialize)]
pub struct ProcessFields<'a> {
    pid: u32,
    comm: Cow<'a, str>,
}

impl<'a> From<&'a Process> for ProcessFields<'a> {
    fn from(process: &'a Process) -> Self {
        Self { pid: process.pid, comm: text::sanitise(&process.comm) }
    }
}

/// Serializes counts per state, indexed by [`TcpState::index`], as a map by state name.
pub fn counts<S: Serializer>(counts: &[u64; TcpState::COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(STATES.into_iter().map(|state| (state.name(), counts[state.index()])))
}

/// Writes `document` on one line.
pub fn write(out: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    out.write_all(b"\n")
}
