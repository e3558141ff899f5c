//! `doctor`: what is wrong on this host, the evidence, and the fix.
//!
//! Each row of [`FINDINGS`] is a pure function that detects one kind of fault in a [`Snapshot`] and returns a
//! [`Finding`]. [text] and [json] write the findings. [`sysctl_facts`] explains what each setting really does.

mod binds;
mod closes;
mod evidence;
mod finding;
mod healthy;
mod held;
pub mod json;
mod lasting;
mod listeners;
mod nat;
pub mod ongoing;
mod pools;
mod ports;
mod settings;
pub mod sysctl_facts;
#[cfg(test)]
mod tests;
pub mod text;
mod time_wait;
mod trace;

pub use self::finding::{Finding, Severity, Who};
pub use self::time_wait::TIMEWAIT_BYTES;
use self::{evidence::Case, finding::Found};
use crate::aggregate::Snapshot;

/// The finding about the losses of the tracer.
pub const LOSSES: &str = "tracer_losses";

/// One kind of fault.
struct FindingRow {
    /// [`Finding::id`].
    id: &'static str,
    find: fn(&Case<'_>) -> Option<Found>,
    /// Findings that explain this one if they name the same service.
    causes: &'static [&'static str],
    /// Its numbers that count events since the watch began; none if it describes this moment.
    events: &'static [&'static str],
}

const fn row(id: &'static str, find: fn(&Case<'_>) -> Option<Found>) -> FindingRow {
    FindingRow { id, find, causes: &[], events: &[] }
}

impl FindingRow {
    const fn follows_from(self, causes: &'static [&'static str]) -> Self {
        Self { causes, ..self }
    }

    const fn of_events(self, events: &'static [&'static str]) -> Self {
        Self { events, ..self }
    }

    /// See [`Finding::events`].
    fn count_events(&self, numbers: &[(&'static str, u64)]) -> Option<u64> {
        let waits_now = numbers.iter().any(|&(name, count)| name == "waiting" && count > 0);
        let counted = numbers.iter().filter(|(name, _)| self.events.contains(name));
        (!self.events.is_empty() && !waits_now).then(|| counted.map(|&(_, count)| count).sum())
    }
}

/// Every kind of fault.
const FINDINGS: &[FindingRow] = &[
    row("client_ports_exhausted", ports::exhausted).of_events(&["failures"]),
    row("client_ports_near", ports::near),
    row("bind_ports_exhausted", binds::exhausted),
    row("bind_ports_near", binds::near),
    row("nat_ports_exhausted", nat::exhausted),
    row("nat_ports_near", nat::near),
    row("conntrack_full", nat::table_full),
    row("time_wait_overflow", time_wait::overflow).of_events(&["overflow_counted", "overflow_traced"]),
    row("accept_queue_overflow", listeners::accept_queue).of_events(&["overflows"]),
    row("close_wait_leak", held::close_wait),
    row("fin_wait2_held", held::fin_wait2),
    row("fin_wait2_orphans", held::orphans),
    row("syn_queue_overflow", listeners::syn_queue).of_events(&["cookies_sent", "syns_dropped"]),
    row("syn_acks_again", listeners::syn_acks)
        .of_events(&["synacks_again"])
        .follows_from(&["accept_queue_overflow"]),
    row("syns_refused_by_time_wait", listeners::syns_at_time_wait).of_events(&["syns"]),
    row("connects_unanswered", closes::unanswered)
        .follows_from(&["accept_queue_overflow"])
        .of_events(&["timed_out", "given_up"]),
    row("pool_too_small", pools::too_small).follows_from(&["client_ports_exhausted", "client_ports_near"]),
    row("connects_refused", closes::refused).of_events(&["traced"]),
    row("closes_unread_data", closes::unread_data).of_events(&["traced"]),
    row("closes_linger_zero", closes::linger_zero).of_events(&["traced"]),
    row("peer_resets", closes::peer_resets)
        .of_events(&["traced"])
        .follows_from(&["closes_unread_data", "closes_linger_zero"]),
    row("tw_recycle_line", settings::tw_recycle),
    row("timestamps_off", settings::timestamps),
    row("tw_buckets_lowered", settings::tw_buckets),
    row("fin_timeout_shortened", settings::fin_timeout),
    row("rfc1337", settings::rfc1337),
    row("port_range", settings::port_range),
    row("port_range_listeners", settings::port_range_listeners),
    row("netns_settings_differ", settings::netns_settings),
    row("tw_reuse", time_wait::reuse).follows_from(&["client_ports_exhausted", "client_ports_near"]),
    row("conntrack_time_wait", nat::time_wait_timeout),
    row("time_wait_harmless", time_wait::harmless),
    row(LOSSES, trace::losses),
];

/// The ids of all findings.
pub fn ids() -> impl Iterator<Item = &'static str> {
    FINDINGS.iter().map(|row| row.id)
}

/// Returns the findings in `snapshot`, the worst first, each followed by those it causes.
pub fn diagnose(snapshot: &Snapshot) -> Vec<Finding> {
    let case = Case::new(snapshot);
    let mut findings: Vec<Finding> = FINDINGS
        .iter()
        .filter_map(|row| {
            let found = (row.find)(&case)?;
            Some(Finding {
                id: row.id,
                events: row.count_events(&found.numbers),
                severity: found.severity,
                follows_from: None,
                title: found.title,
                evidence: found.evidence,
                numbers: found.numbers.into_iter().collect(),
                why: found.why,
                who: found.who,
                lasting: lasting::lasting(&found.fix),
                fix: found.fix,
                dont: found.dont,
                verify: found.verify,
            })
        })
        .collect();
    findings.sort_by_key(|finding| finding.severity);
    fold(findings)
}

/// Moves each finding that has a cause behind its cause.
fn fold(findings: Vec<Finding>) -> Vec<Finding> {
    let causes = |id: &str| FINDINGS.iter().find(|row| row.id == id).map_or(&[][..], |row| row.causes);
    let cause_of = |finding: &Finding| {
        let explains =
            |cause: &&Finding| causes(finding.id).contains(&cause.id) && names_same_service(cause, finding);
        findings.iter().find(explains).map(|cause| cause.id)
    };
    let known: Vec<_> = findings.iter().map(cause_of).collect();
    let (mut alone, mut following) = (Vec::new(), Vec::new());
    for (finding, follows_from) in findings.into_iter().zip(known) {
        let list = if follows_from.is_some() { &mut following } else { &mut alone };
        list.push(Finding { follows_from, ..finding });
    }
    for finding in following.into_iter().rev() {
        let cause = alone.iter().position(|cause| Some(cause.id) == finding.follows_from);
        alone.insert(cause.map_or(alone.len(), |cause| cause + 1), finding);
    }
    alone
}

/// Whether both findings name the same service.
fn names_same_service(cause: &Finding, finding: &Finding) -> bool {
    let is_same = |a: &Who, b: &Who| (&a.netns, &a.service) == (&b.netns, &b.service);
    cause.who.iter().any(|a| finding.who.iter().any(|b| is_same(a, b)))
}
