//! Omits redundant ticks from a recording.
//!
//! A source sends a tick whenever it has polled for records: one per record on a quiet host. A tick only
//! advances the time, and so does any record that is not older. So a tick is needed only before a record that
//! is older or has no time, at the end, and at intervals for the views; omitting the others changes nothing in
//! a replay.

use crate::model::{Nanos, Record};

/// The longest time without a tick; sources keep the same interval.
const INTERVAL: Nanos = Nanos(100_000_000);

/// Holds a tick until a later record shows whether it is needed.
#[derive(Debug, Default)]
pub struct Ticks {
    held: Option<Nanos>,
    written: Nanos,
}

impl Ticks {
    /// Accepts the tick of a view's snapshot: it is always written.
    pub fn milestone(&mut self, ts: Nanos) -> Record {
        self.held = None;
        self.written = ts;
        Record::Tick { ts }
    }

    /// The tick to write before `record`, and whether to write the record itself.
    pub fn before(&mut self, record: &Record) -> (Option<Record>, bool) {
        if let Record::Tick { ts } = *record {
            self.held = self.held.max(Some(ts));
            let due = ts.since(self.written) >= INTERVAL;
            return (if due { self.take() } else { None }, false);
        }
        match (self.held, record.ts()) {
            (Some(held), Some(ts)) if ts >= held => {
                self.held = None;
                (None, true)
            }
            _ => (self.take(), true),
        }
    }

    /// The held tick, which is needed now.
    pub fn take(&mut self) -> Option<Record> {
        let ts = self.held.take()?;
        self.written = ts;
        Some(Record::Tick { ts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[Record]) -> Vec<String> {
        let mut ticks = Ticks::default();
        let mut out = Vec::new();
        let show = |record: &Record| match record {
            Record::Tick { ts } => format!("tick {}", ts.0),
            Record::Host(_) => "host".into(),
            other => format!("other {}", other.ts().unwrap_or_default().0),
        };
        for record in records {
            let (tick, itself) = ticks.before(record);
            out.extend(tick.as_ref().map(show));
            if itself {
                out.push(show(record));
            }
        }
        out.extend(ticks.take().as_ref().map(show));
        out
    }

    const fn tick(ts: u64) -> Record {
        Record::Tick { ts: Nanos(ts) }
    }

    const fn other(ts: u64) -> Record {
        Record::OwnersEnd { ts: Nanos(ts) }
    }

    const T: u64 = 1_000_000_000;

    #[test]
    fn a_tick_before_a_later_record_is_omitted() {
        assert_eq!(
            written(&[tick(T), other(T + 1), tick(T + 2), other(T + 2), tick(T + 3)]),
            ["tick 1000000000", "other 1000000001", "other 1000000002", "tick 1000000003"]
        );
    }

    #[test]
    fn a_tick_before_an_older_or_timeless_record_is_kept() {
        let host = Record::Host(Box::default());
        assert_eq!(
            written(&[tick(T), tick(T + 5), other(T + 4), tick(T + 6), host]),
            ["tick 1000000000", "tick 1000000005", "other 1000000004", "tick 1000000006", "host"]
        );
    }

    #[test]
    fn of_consecutive_ticks_the_last_and_one_per_100_ms_are_kept() {
        let ticks: Vec<Record> = (0..25).map(|n| tick(T + n * 10_000_000)).collect();
        assert_eq!(
            written(&ticks),
            ["tick 1000000000", "tick 1100000000", "tick 1200000000", "tick 1240000000"]
        );
    }
}
