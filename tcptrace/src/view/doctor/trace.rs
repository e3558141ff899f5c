//! The tracer itself: what it lost.

use super::{Found, Severity, case::Case};
use crate::view::losses;

/// Counts may be off.
pub fn losses(case: &Case<'_>) -> Option<Found> {
    let lost = case.snapshot.losses.total();
    let words = losses::losses(&case.snapshot.losses)?;
    Some(Found {
        severity: Severity::Note,
        title: "tcptrace itself missed something: the counts above may be off".into(),
        evidence: vec![words],
        numbers: vec![("lost", lost)],
        why: "The ring buffer between kernel and tcptrace was full, or the kernel kept a program from running twice \
              on one CPU. Every loss is counted by its cause.",
        who: Vec::new(),
        fix: vec![
            "Ring full: a larger ring (--ring-size 64), or a filter: what it drops never enters the ring."
                .into(),
        ],
        dont: "Do not take a count of this run for exact.",
        verify: "tcptrace doctor   # nothing lost".into(),
    })
}
