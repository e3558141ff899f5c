//! Entry times of a destination's TIME_WAIT sockets: counts per second.

use super::predict::PortReturn;
use crate::model::Nanos;

/// Seconds kept: a minute, plus two seconds for late timers.
const KEPT: u64 = 64;

/// TIME_WAIT sockets by the second of their entry.
#[derive(Clone, Debug)]
pub(super) struct Expiries {
    by_second: [u32; KEPT as usize],
    /// The newest second in `by_second`.
    second: u64,
    /// Sockets that entered earlier: late segments extended their TIME_WAIT.
    older: u32,
}

impl Default for Expiries {
    fn default() -> Self {
        Self { by_second: [0; KEPT as usize], second: 0, older: 0 }
    }
}

impl Expiries {
    /// Adds a socket that entered at `entered`.
    pub(super) fn add(&mut self, entered: Nanos) {
        let second = second_of(entered);
        self.advance(second);
        *self.counter(second) += 1;
    }

    /// Removes a socket that entered at `entered`.
    pub(super) fn remove(&mut self, entered: Nanos) {
        let counter = self.counter(second_of(entered));
        if *counter > 0 {
            *counter -= 1;
        } else if let Some(other) = self.any() {
            // Its entry time was inferred, and corrected since.
            *other -= 1;
        }
    }

    /// Expected ends if each socket lasts `length`; overdue ones are omitted.
    pub(super) fn endings(&mut self, now: Nanos, length: Nanos) -> Vec<PortReturn> {
        self.advance(second_of(now));
        let first = (self.second + 1).saturating_sub(KEPT);
        let endings = (first..=self.second).map(|second| {
            let (entered, last) = (start_of(second), start_of(second + 1));
            PortReturn {
                from: entered.plus(length).since(now),
                until: last.min(now).plus(length).since(now),
                ports: u64::from(self.by_second[slot(second)]),
            }
        });
        endings.filter(|ending| ending.until.0 > 0 && ending.ports > 0).collect()
    }

    /// Lower bound for the number of sockets that entered before `ts`, with a resolution of a second.
    pub(super) fn began_before(&self, ts: Nanos) -> u64 {
        let first = (self.second + 1).saturating_sub(KEPT);
        let recent =
            (first..second_of(ts).min(self.second + 1)).map(|second| u64::from(self.by_second[slot(second)]));
        u64::from(self.older) + recent.sum::<u64>()
    }

    fn counter(&mut self, second: u64) -> &mut u32 {
        if second + KEPT > self.second && second <= self.second {
            &mut self.by_second[slot(second)]
        } else {
            &mut self.older
        }
    }

    fn any(&mut self) -> Option<&mut u32> {
        std::iter::once(&mut self.older).chain(&mut self.by_second).find(|count| **count > 0)
    }

    fn advance(&mut self, second: u64) {
        if second <= self.second {
            return;
        }
        for second in self.second + 1..=second.min(self.second + KEPT) {
            self.older += std::mem::take(&mut self.by_second[slot(second)]);
        }
        self.second = second;
    }
}

const fn second_of(ts: Nanos) -> u64 {
    ts.0 / Nanos::SECOND.0
}

const fn slot(second: u64) -> usize {
    (second % KEPT) as usize
}

/// Saturates: timestamps in a malformed recording can have any value.
const fn start_of(second: u64) -> Nanos {
    Nanos(second.saturating_mul(Nanos::SECOND.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Nanos {
        Nanos(seconds * Nanos::SECOND.0)
    }

    /// Due time in seconds, at the latest, and number of sockets.
    fn due(expiries: &mut Expiries, now: u64, length: u64) -> Vec<(u64, u64)> {
        let endings = expiries.endings(s(now), s(length));
        endings.iter().map(|ending| (ending.until.0 / Nanos::SECOND.0, ending.ports)).collect()
    }

    #[test]
    fn largest_timestamp_does_not_overflow() {
        let mut expiries = Expiries::default();
        expiries.add(Nanos(u64::MAX));
        assert!(expiries.endings(Nanos(u64::MAX), s(60)).is_empty());
    }

    #[test]
    fn sockets_are_due_a_minute_after_entry() {
        let mut expiries = Expiries::default();
        for entered in [1_000, 1_000, 1_005, 1_059] {
            expiries.add(s(entered));
        }
        assert_eq!(due(&mut expiries, 1_059, 60), [(2, 2), (7, 1), (60, 1)]);
        // The first two are overdue.
        assert_eq!(due(&mut expiries, 1_062, 60), [(4, 1), (58, 1)]);
        expiries.remove(s(1_005));
        assert_eq!(due(&mut expiries, 1_062, 60), [(58, 1)]);
    }

    #[test]
    fn with_reuse_only_young_sockets_are_due() {
        let mut expiries = Expiries::default();
        (1_000..1_030).for_each(|entered| expiries.add(s(entered)));
        assert_eq!(due(&mut expiries, 1_029, 1), [(1, 1), (1, 1)]);
    }

    #[test]
    fn unusually_old_socket_can_be_removed() {
        let mut expiries = Expiries::default();
        expiries.add(s(1_000));
        expiries.add(s(1_300));
        expiries.remove(s(1_000));
        assert_eq!(due(&mut expiries, 1_300, 60), [(60, 1)]);
        expiries.remove(s(1_299));
        assert_eq!(due(&mut expiries, 1_300, 60), []);
        expiries.remove(s(1_299));
    }

    #[test]
    fn removing_an_old_socket_keeps_younger_ones() {
        let mut expiries = Expiries::default();
        expiries.add(s(1_000));
        // Both seconds map to the same slot; the first now counts as `older`.
        expiries.add(s(1_000 + KEPT));
        expiries.remove(s(1_000));
        assert_eq!(due(&mut expiries, 1_000 + KEPT, 60), [(60, 1)]);
        expiries.remove(s(1_000 + KEPT));
        assert_eq!(due(&mut expiries, 1_000 + KEPT, 60), []);
    }
}
