//! A finding: one fault, its evidence and its fix.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::Nanos;

/// Severity of a finding, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Connections fail now.
    Critical,
    /// Connections will fail, or something leaks.
    Warning,
    /// Harmless or not urgent; often something that only looks like a fault.
    Note,
}

impl Severity {
    /// Name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Warning => "WARNING",
            Self::Note => "NOTE",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Stable name: `close_wait_leak`.
    pub id: &'static str,
    /// Severity.
    pub severity: Severity,
    /// The finding that causes this one, or is another side of it; it is listed before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows_from: Option<&'static str>,
    /// One sentence without a full stop.
    pub title: String,
    /// Observations, with numbers.
    pub evidence: Vec<String>,
    /// The numbers, by name.
    pub numbers: BTreeMap<&'static str, u64>,
    /// Why it happens.
    pub why: &'static str,
    /// The processes and services concerned, the largest first.
    pub who: Vec<Who>,
    /// Steps to fix it, in order, those in the application first.
    pub fix: Vec<String>,
    /// The settings of `fix` in the form that outlasts a reboot: for a sysctl file, a pod, a container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lasting: Vec<String>,
    /// Advice against a wrong fix.
    pub dont: &'static str,
    /// How to verify the fix.
    pub verify: String,
    /// Events counted since the watch began; `None` if the finding describes this moment.
    #[serde(skip)]
    pub events: Option<u64>,
}

/// A process and service concerned by a finding.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Who {
    /// Network namespace, if not the tracer's own. Untrusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Name of the process. Untrusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its name for people: of its pod, container or service, else its own. Untrusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Service: `*:443`, `10.0.0.5:5432`.
    pub service: String,
    /// Name of the remote address of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<String>,
    /// Number of sockets, connects or handshakes.
    pub count: u64,
    /// Descriptors of the oldest sockets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<u32>,
    /// Age of the oldest socket.
    #[serde(skip_serializing_if = "Option::is_none", rename = "oldest_ns")]
    pub oldest: Option<Nanos>,
    /// Whether the age is a lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<bool>,
}

/// Result of a row, without the row's name.
pub(super) struct Found {
    pub(super) severity: Severity,
    pub(super) title: String,
    pub(super) evidence: Vec<String>,
    pub(super) numbers: Vec<(&'static str, u64)>,
    pub(super) why: &'static str,
    pub(super) who: Vec<Who>,
    pub(super) fix: Vec<String>,
    pub(super) dont: &'static str,
    pub(super) verify: String,
}
