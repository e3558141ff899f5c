//! Finding about the tracer itself: losses.

use super::{
    evidence::Case,
    finding::{Found, Severity},
};
use crate::view::losses;

/// Finding: the tracer lost records, so counts may be wrong.
pub fn losses(case: &Case<'_>) -> Option<Found> {
    let lost = case.snapshot.losses.total();
    let words = losses::losses(&case.snapshot.losses)?;
    Some(Found {
        severity: Severity::Note,
        title: "tcptrace lost records: the counts above may be wrong".into(),
        evidence: vec![words],
        numbers: vec![("lost", lost)],
        why: "The ring buffer between kernel and tcptrace was full, or the kernel kept a program from running twice \
              on one CPU. Every loss is counted by its cause.",
        who: Vec::new(),
        fix: vec![
            "Ring full: a larger ring (--ring-size 64), or a filter: what it drops never enters the ring."
                .into(),
        ],
        dont: "Counts of this run are not exact.",
        verify: "tcptrace doctor   # nothing lost".into(),
    })
}
