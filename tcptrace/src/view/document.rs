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
    /// Name of the host, or of the hosts.
    pub host: Cow<'a, str>,
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
            host: text::sanitise(&snapshot.host.host),
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
    #[serde(flatten)]
    names: NameFields<'a>,
}

impl<'a> From<&'a Process> for ProcessFields<'a> {
    fn from(process: &'a Process) -> Self {
        Self { pid: process.pid, comm: text::sanitise(&process.comm), names: NameFields::of(process) }
    }
}

/// Names of a process, where known. The source has sanitised them.
#[derive(Clone, Copy, Default, Serialize)]
pub struct NameFields<'a> {
    /// Kubernetes pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<&'a str>,
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_namespace: Option<&'a str>,
    /// Container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<&'a str>,
    /// Image of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<&'a str>,
    /// systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// Path of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<&'a str>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Name of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// First words of the command line of an interpreter, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'a str>,
}

impl<'a> NameFields<'a> {
    /// The names of `process`.
    pub fn of(process: &'a Process) -> Self {
        let workload = process.workload();
        let facts = process.facts.as_ref();
        Self {
            pod: workload.and_then(|workload| workload.pod.as_deref()),
            k8s_namespace: workload.and_then(|workload| workload.k8s_namespace.as_deref()),
            container: workload.and_then(|workload| workload.container.as_deref()),
            image: workload.and_then(|workload| workload.image.as_deref()),
            unit: workload.and_then(|workload| workload.unit.as_deref()),
            exe: facts.and_then(|facts| facts.exe.as_deref()),
            uid: facts.and_then(|facts| facts.uid),
            user: facts.and_then(|facts| facts.user.as_deref()),
            command: facts.and_then(|facts| facts.command.as_deref()),
        }
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
