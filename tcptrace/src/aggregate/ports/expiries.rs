//! When the TIME_WAIT sockets of a destination entered: how many in each of the last seconds.

use super::predict::Ending;
use crate::model::Nanos;

/// Seconds kept: a minute, and the two seconds that a timer may be late.
const KEPT: u64 = 64;

/// TIME_WAIT by the second in which it began.
#[derive(Clone, Debug)]
pub(super) struct Expiries {
    by_second: [u32; KEPT as usize],
    /// The newest second in `by_second`.
    second: u64,
    /// Of those that began earlier: late segments made them last longer.
    older: u32,
}

impl Default for Expiries {
    fn default() -> Self {
        Self { by_second: [0; KEPT as usize], second: 0, older: 0 }
    }
}

impl Expiries {
    /// One more, since `entered`.
    pub(super) fn add(&mut self, entered: Nanos) {
        let second = second_of(entered);
        self.advance(second);
        *self.counter(second) += 1;
    }

    /// One less of those that entered then.
    pub(super) fn remove(&mut self, entered: Nanos) {
        let counter = self.counter(second_of(entered));
        if *counter > 0 {
            *counter -= 1;
        } else if let Some(other) = self.any() {
            // Its time was computed, and has been corrected since.
            *other -= 1;
        }
    }

    /// When they will end, if each lasts `length`; those that should be over are left out.
    pub(super) fn endings(&mut self, now: Nanos, length: Nanos) -> Vec<Ending> {
        self.advance(second_of(now));
        let first = (self.second + 1).saturating_sub(KEPT);
        let endings = (first..=self.second).map(|second| {
            let (entered, last) = (start_of(second), start_of(second + 1));
            Ending {
                from: entered.plus(length).since(now),
                until: last.min(now).plus(length).since(now),
                ports: u64::from(self.by_second[slot(second)]),
            }
        });
        endings.filter(|ending| ending.until.0 > 0 && ending.ports > 0).collect()
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

/// Saturates: in a recording that lies, time can be anything.
const fn start_of(second: u64) -> Nanos {
    Nanos(second.saturating_mul(Nanos::SECOND.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Nanos {
        Nanos(seconds * Nanos::SECOND.0)
    }

    /// In so many seconds at the latest, so many.
    fn due(expiries: &mut Expiries, now: u64, length: u64) -> Vec<(u64, u64)> {
        let endings = expiries.endings(s(now), s(length));
        endings.iter().map(|ending| (ending.until.0 / Nanos::SECOND.0, ending.ports)).collect()
    }

    #[test]
    fn the_end_of_time_is_no_later_than_it_can_be() {
        let mut expiries = Expiries::default();
        expiries.add(Nanos(u64::MAX));
        assert!(expiries.endings(Nanos(u64::MAX), s(60)).is_empty());
    }

    #[test]
    fn each_is_due_a_minute_after_it_began() {
        let mut expiries = Expiries::default();
        for entered in [1_000, 1_000, 1_005, 1_059] {
            expiries.add(s(entered));
        }
        assert_eq!(due(&mut expiries, 1_059, 60), [(2, 2), (7, 1), (60, 1)]);
        // The first are over, as far as that can be known.
        assert_eq!(due(&mut expiries, 1_062, 60), [(4, 1), (58, 1)]);
        expiries.remove(s(1_005));
        assert_eq!(due(&mut expiries, 1_062, 60), [(58, 1)]);
    }

    #[test]
    fn only_young_ones_keep_their_port_where_it_is_reused() {
        let mut expiries = Expiries::default();
        (1_000..1_030).for_each(|entered| expiries.add(s(entered)));
        assert_eq!(due(&mut expiries, 1_029, 1), [(1, 1), (1, 1)]);
    }

    #[test]
    fn one_that_lasts_longer_than_any_is_taken_out_all_the_same() {
        let mut expiries = Expiries::default();
        expiries.add(s(1_000));
        expiries.add(s(1_300));
        expiries.remove(s(1_000));
        assert_eq!(due(&mut expiries, 1_300, 60), [(60, 1)]);
        expiries.remove(s(1_299));
        assert_eq!(due(&mut expiries, 1_300, 60), []);
        expiries.remove(s(1_299));
    }
}
