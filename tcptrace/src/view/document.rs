//! What every JSON document begins with, and how it is written: on one line, a document in itself and one of many
//! in JSON lines.

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

/// What every document begins with.
#[derive(Serialize)]
pub struct Head<'a> {
    /// The name of the document's schema.
    pub schema: &'static str,
    /// When and where its numbers were taken.
    #[serde(flatten)]
    pub origin: Origin<'a>,
}

impl<'a> Head<'a> {
    /// That of a document about `snapshot`.
    pub fn of(schema: &'static str, snapshot: &'a Snapshot) -> Self {
        Self { schema, origin: Origin::of(snapshot) }
    }
}

/// When and where numbers were taken, and what is missing in them.
#[derive(Serialize)]
pub struct Origin<'a> {
    /// Wall-clock time, RFC 3339.
    pub taken_at: String,
    /// The release of the kernel.
    pub kernel: Cow<'a, str>,
    /// `live`, or the name of a recording.
    pub source: Cow<'a, str>,
    /// What was lost, by cause.
    pub loss: Losses,
}

impl<'a> Origin<'a> {
    /// Those of `snapshot`.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            taken_at: clock::wall(&snapshot.host, snapshot.ts).to_string(),
            kernel: text::sanitise(&snapshot.host.kernel),
            source: text::sanitise(&snapshot.source),
            loss: snapshot.losses,
        }
    }
}

/// What the trace can't see, in sentences.
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

/// Serializes sockets per state, indexed by [`TcpState::index`], by the states' names.
pub fn counts<S: Serializer>(counts: &[u64; TcpState::COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(STATES.into_iter().map(|state| (state.name(), counts[state.index()])))
}

/// Writes `document` on one line.
pub fn write(out: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    out.write_all(b"\n")
}
