//! What was lost, in words: in the header of every picture, and when a command ends.

use crate::{
    aggregate::{Losses, Snapshot},
    model::units,
};

/// A cause of loss: its label, and how many.
type Cause = (&'static str, fn(&Losses) -> u64);

/// Every cause of loss, the gravest first.
const CAUSES: [Cause; 8] = [
    ("ring full", |losses| losses.ring_full),
    ("recursion", |losses| losses.recursion_missed),
    ("evicted", |losses| losses.evicted),
    ("decode errors", |losses| losses.decode_errors),
    ("read faults", |losses| losses.read_faults),
    ("output", |losses| losses.output_dropped),
    ("not recorded", |losses| losses.not_recorded),
    ("healed", |losses| losses.healed),
];

/// What is lost and why: `lost 1,204: ring full 1,200, healed 4`; `None` when nothing is.
pub fn losses(losses: &Losses) -> Option<String> {
    let causes: Vec<String> = CAUSES
        .iter()
        .map(|(label, of)| (label, of(losses)))
        .filter(|(_, n)| *n > 0)
        .map(|(label, n)| format!("{label} {}", units::count(n)))
        .collect();
    (losses.total() > 0).then(|| format!("lost {}: {}", units::count(losses.total()), causes.join(", ")))
}

/// The line on stderr when a trace ends: what was taken in, and what was lost.
pub fn at_the_end(last: &Snapshot) -> String {
    format!(
        "tcptrace: {} records in {}; {}",
        units::count(last.records),
        units::duration(last.ts.since(last.began)),
        losses(&last.losses).as_deref().unwrap_or("nothing lost"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_loss_is_named() {
        let all = Losses {
            ring_full: 1,
            recursion_missed: 2,
            healed: 4,
            evicted: 8,
            decode_errors: 16,
            read_faults: 32,
            output_dropped: 64,
            not_recorded: 128,
        };
        assert_eq!(CAUSES.iter().map(|(_, of)| of(&all)).sum::<u64>(), all.total());
        assert_eq!(losses(&Losses::default()), None);
        let some = Losses { ring_full: 1_200, healed: 4, ..Losses::default() };
        assert_eq!(losses(&some).as_deref(), Some("lost 1,204: ring full 1,200, healed 4"));
    }
}
