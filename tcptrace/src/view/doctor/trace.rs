//! Finding about the tracer itself: losses.

use super::{
    evidence::Case,
    finding::{Found, Severity},
};
use crate::{model::units, view::losses};

/// Counts are doubtful if more than one record in this many is lost.
const LOSS_TOLERANCE: u64 = 1_000;

/// Finding: the tracer lost records.
pub fn losses(case: &Case<'_>) -> Option<Found> {
    let losses = &case.snapshot.losses;
    let lost = losses.total();
    let words = losses::losses(losses)?;
    let is_doubtful =
        lost.saturating_sub(losses.healed).saturating_mul(LOSS_TOLERANCE) > case.snapshot.records;
    let (severity, title) = if is_doubtful {
        (Severity::Warning, "counts may be off: tcptrace lost records")
    } else {
        (Severity::Note, "hardly any count is off: tcptrace lost a few records")
    };
    Some(Found {
        severity,
        title: title.into(),
        evidence: vec![format!("{words}, of {} records", units::count(case.snapshot.records))],
        numbers: vec![("lost", lost)],
        why: "The ring buffer between kernel and tcptrace was full, or the kernel kept a program from running twice \
              on one CPU. Every loss is counted by its cause.",
        who: Vec::new(),
        fix: vec!["Ring full: a larger ring (--ring-size 64), or a filter.".into()],
        dont: "Counts of this run are not exact.",
        verify: "tcptrace doctor   # nothing lost".into(),
    })
}
