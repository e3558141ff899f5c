//! Describes losses in words, for the header of every snapshot and the end of a command.

use crate::{
    aggregate::{Losses, Snapshot},
    model::{text, units},
};

/// A cause of loss.
pub struct LossCause {
    /// Name in JSON.
    pub name: &'static str,
    /// Label in text.
    pub label: &'static str,
    /// Reads the count.
    pub of: fn(&Losses) -> u64,
}

const fn cause(name: &'static str, label: &'static str, of: fn(&Losses) -> u64) -> LossCause {
    LossCause { name, label, of }
}

/// Every cause of loss, the gravest first.
pub const CAUSES: [LossCause; 9] = [
    cause("ring_full", "ring full", |losses| losses.ring_full),
    cause("recursion_missed", "recursion", |losses| losses.recursion_missed),
    cause("evicted", "evicted", |losses| losses.evicted),
    cause("decode_errors", "decode errors", |losses| losses.decode_errors),
    cause("read_faults", "read faults", |losses| losses.read_faults),
    cause("output_dropped", "output", |losses| losses.output_dropped),
    cause("not_recorded", "not recorded", |losses| losses.not_recorded),
    cause("uncounted", "counters unread", |losses| losses.uncounted),
    cause("healed", "healed", |losses| losses.healed),
];

/// Losses by cause: `lost 1,200: ring full 1,200, healed 4`; `None` if nothing was lost.
pub fn losses(losses: &Losses) -> Option<String> {
    let causes: Vec<String> = CAUSES
        .iter()
        .map(|cause| (cause.label, (cause.of)(losses)))
        .filter(|(_, n)| *n > 0)
        .map(|(label, n)| format!("{label} {}", units::count(n)))
        .collect();
    (losses.total() > 0).then(|| format!("lost {}: {}", units::count(losses.total()), causes.join(", ")))
}

/// Number of unseeded sockets for the final line; they are not a loss.
fn unseeded(losses: &Losses) -> Option<String> {
    let sockets = units::plural(losses.unseeded, "unseeded socket", "unseeded sockets");
    (losses.unseeded > 0).then(|| format!(", {sockets}"))
}

/// The filter, as `filter: rport 5432`; `None` if there is none.
pub fn filter(snapshot: &Snapshot) -> Option<String> {
    (!snapshot.filter.is_empty()).then(|| format!("filter: {}", text::sanitise(&snapshot.filter)))
}

/// The final line on stderr: records received, and losses.
pub fn at_the_end(last: &Snapshot) -> String {
    format!(
        "tcptrace: {} records in {}{}{}; {}",
        units::count(last.records),
        units::duration(last.ts.since(last.began)),
        filter(last).map(|filter| format!(", {filter}")).unwrap_or_default(),
        unseeded(&last.losses).unwrap_or_default(),
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
            uncounted: 256,
            unseeded: 512,
        };
        // Each value is a bit of its own.
        assert_eq!(CAUSES.iter().map(|cause| (cause.of)(&all)).sum::<u64>(), 511);
        assert_eq!(losses(&Losses::default()), None);
        let older = Losses { unseeded: 3, ..Losses::default() };
        assert_eq!((losses(&older), unseeded(&older).as_deref()), (None, Some(", 3 unseeded sockets")));
        let some = Losses { ring_full: 1_200, healed: 4, ..Losses::default() };
        assert_eq!(losses(&some).as_deref(), Some("lost 1,200: ring full 1,200, healed 4"));
    }

    #[test]
    fn a_healed_socket_is_no_second_loss() {
        let total =
            |ring_full, healed, evicted| Losses { ring_full, healed, evicted, ..Losses::default() }.total();
        assert_eq!([total(3, 2, 0), total(3, 4, 0), total(0, 4, 1)], [3, 4, 5]);
    }
}
