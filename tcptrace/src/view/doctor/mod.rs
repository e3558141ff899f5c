//! `doctor`: what is wrong on this host, how it is known, and what to do about it.
//!
//! A [`Snapshot`] in, [`Finding`]s out: each a row of [`FINDINGS`], a pure function that finds one kind of fault.
//! They are shown as [text] or [json]. [`truths`] says of every setting what it really does.

mod case;
mod closes;
mod healthy;
mod held;
pub mod json;
mod listeners;
mod ports;
mod settings;
#[cfg(test)]
mod tests;
pub mod text;
mod time_wait;
mod trace;
pub mod truths;

use std::collections::BTreeMap;

use serde::Serialize;

use self::case::Case;
use crate::{aggregate::Snapshot, model::Nanos};

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Connections fail now.
    Critical,
    /// They will, or something leaks.
    Warning,
    /// Nothing to do, or to be done some day; often what looks like a fault and is none.
    Note,
}

impl Severity {
    /// As shown.
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
    /// Its name, which stays the same: `close_wait_leak`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a sentence without an end.
    pub title: String,
    /// What was seen, with numbers.
    pub evidence: Vec<String>,
    /// The numbers alone, by name.
    pub numbers: BTreeMap<&'static str, u64>,
    /// Why it happens.
    pub why: &'static str,
    /// Who does it, the first the most.
    pub who: Vec<Who>,
    /// What to do, in this order: first in the application.
    pub fix: Vec<String>,
    /// What not to do.
    pub dont: &'static str,
    /// How to see that it worked.
    pub verify: String,
}

/// Who is concerned.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Who {
    /// Network namespace, where it is not the tracer's own. Untrusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Name of the process. Untrusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it is about: `*:443`, `10.0.0.5:5432`.
    pub service: String,
    /// How many sockets, connects or handshakes.
    pub count: u64,
    /// Descriptors of the oldest sockets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<u32>,
    /// How long the oldest has been there.
    #[serde(skip_serializing_if = "Option::is_none", rename = "oldest_ns")]
    pub oldest: Option<Nanos>,
    /// Whether it may be older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<bool>,
}

/// One kind of fault.
struct Row {
    /// [`Finding::id`].
    id: &'static str,
    find: fn(&Case<'_>) -> Option<Found>,
}

/// What a row found; its name is the row's.
struct Found {
    severity: Severity,
    title: String,
    evidence: Vec<String>,
    numbers: Vec<(&'static str, u64)>,
    why: &'static str,
    who: Vec<Who>,
    fix: Vec<String>,
    dont: &'static str,
    verify: String,
}

const fn row(id: &'static str, find: fn(&Case<'_>) -> Option<Found>) -> Row {
    Row { id, find }
}

/// Every kind of fault.
const FINDINGS: [Row; 24] = [
    row("client_ports_exhausted", ports::exhausted),
    row("client_ports_near", ports::near),
    row("time_wait_overflow", time_wait::overflow),
    row("accept_queue_overflow", listeners::accept_queue),
    row("close_wait_leak", held::close_wait),
    row("fin_wait2_held", held::fin_wait2),
    row("fin_wait2_orphans", held::orphans),
    row("syn_queue_overflow", listeners::syn_queue),
    row("syn_acks_again", listeners::syn_acks),
    row("connects_unanswered", closes::unanswered),
    row("connects_refused", closes::refused),
    row("closes_unread_data", closes::unread_data),
    row("closes_linger_zero", closes::linger_zero),
    row("tw_recycle_line", settings::tw_recycle),
    row("timestamps_off", settings::timestamps),
    row("tw_buckets_lowered", settings::tw_buckets),
    row("fin_timeout_shortened", settings::fin_timeout),
    row("rfc1337", settings::rfc1337),
    row("port_range", settings::port_range),
    row("port_range_listeners", settings::port_range_listeners),
    row("netns_settings_differ", settings::netns_settings),
    row("tw_reuse", time_wait::reuse),
    row("time_wait_harmless", time_wait::harmless),
    row("tracer_losses", trace::losses),
];

/// Everything that is found in `snapshot`, the worst first.
pub fn diagnose(snapshot: &Snapshot) -> Vec<Finding> {
    let case = Case::new(snapshot);
    let mut findings: Vec<Finding> = FINDINGS
        .iter()
        .filter_map(|row| {
            let found = (row.find)(&case)?;
            Some(Finding {
                id: row.id,
                severity: found.severity,
                title: found.title,
                evidence: found.evidence,
                numbers: found.numbers.into_iter().collect(),
                why: found.why,
                who: found.who,
                fix: found.fix,
                dont: found.dont,
                verify: found.verify,
            })
        })
        .collect();
    findings.sort_by_key(|finding| finding.severity);
    findings
}
