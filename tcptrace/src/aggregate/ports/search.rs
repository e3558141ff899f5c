//! How long `connect()` searches for a local port, per destination, over the last seconds: `__inet_hash_connect()` runs
//! between CLOSE -> SYN_SENT and the SYN, see [`Event::search`].

use crate::{lifecycle::Event, model::Nanos};

/// Buckets per power of two: a bucket is at most a quarter wide.
const PER_OCTAVE: u32 = 4;
/// From 2^10 ns, a microsecond, to 2^34 ns, 17 s.
const OCTAVES: u32 = 24;
const FIRST_OCTAVE: u32 = 10;
const BUCKETS: usize = (OCTAVES * PER_OCTAVE) as usize;
/// Times are kept for one to two periods.
const PERIOD: Nanos = Nanos(10 * Nanos::SECOND.0);

/// How long `connect()` searches: quantiles to a quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchTimes {
    /// Median.
    pub p50: Nanos,
    /// 99th percentile.
    pub p99: Nanos,
    /// Longest.
    pub max: Nanos,
    /// Searches.
    pub count: u64,
}

/// Searches of one destination.
#[derive(Clone, Debug, Default)]
pub(super) struct Searches {
    /// Allocated at the first connect.
    periods: Option<Box<[SearchPeriod; 2]>>,
    /// Number of the newer period. Periods begin at multiples of [`PERIOD`]: a replay has the same ones.
    period: u64,
}

#[derive(Clone, Debug)]
struct SearchPeriod {
    counts: [u32; BUCKETS],
    max: Nanos,
}

impl SearchPeriod {
    const EMPTY: Self = Self { counts: [0; BUCKETS], max: Nanos(0) };
}

impl Searches {
    /// Adds the search of a `connect()` that ends with `event`, if it is known.
    pub(super) fn take(&mut self, event: &Event<'_>) {
        if let Some(search) = event.search {
            self.add(event.ts, search);
        }
    }

    fn add(&mut self, ts: Nanos, length: Nanos) {
        self.advance(ts);
        let periods = self.periods.get_or_insert_with(|| Box::new([SearchPeriod::EMPTY; 2]));
        let count = &mut periods[0].counts[bucket(length)];
        *count = count.saturating_add(1);
        periods[0].max = periods[0].max.max(length);
    }

    /// Drops times that are older than two periods.
    fn advance(&mut self, now: Nanos) {
        let period = now.0 / PERIOD.0;
        if period <= self.period {
            return;
        }
        let is_next = period == self.period + 1;
        self.period = period;
        if let Some(periods) = &mut self.periods {
            periods.swap(0, 1);
            periods[0] = SearchPeriod::EMPTY;
            if !is_next {
                periods[1] = SearchPeriod::EMPTY;
            }
        }
    }

    /// Quantiles of the last seconds; `None` without a connect.
    pub(super) fn times(&mut self, now: Nanos) -> Option<SearchTimes> {
        self.advance(now);
        let [newer, older] = self.periods.as_deref()?;
        let counts = || newer.counts.iter().zip(&older.counts).map(|(&a, &b)| u64::from(a) + u64::from(b));
        let (count, max) = (counts().sum::<u64>(), newer.max.max(older.max));
        let quantile = |share: f64| {
            let rank = (share * count as f64).ceil() as u64;
            let mut below = 0;
            let at = counts().position(|count| {
                below += count;
                below >= rank
            });
            at.map_or(max, |at| upper_edge(at).min(max))
        };
        (count > 0).then(|| SearchTimes { p50: quantile(0.5), p99: quantile(0.99), max, count })
    }
}

fn bucket(length: Nanos) -> usize {
    let octave = length.0.max(1).ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let within = (length.0 >> (octave - PER_OCTAVE.ilog2())) as u32 % PER_OCTAVE;
    (((octave - FIRST_OCTAVE) * PER_OCTAVE + within) as usize).min(BUCKETS - 1)
}

/// The longest time in a bucket.
const fn upper_edge(bucket: usize) -> Nanos {
    let (octave, within) = (bucket as u64 / PER_OCTAVE as u64, bucket as u64 % PER_OCTAVE as u64);
    Nanos((PER_OCTAVE as u64 + within + 1) << (octave + FIRST_OCTAVE as u64 - PER_OCTAVE.ilog2() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_at_most_a_quarter_below_its_edge() {
        for shift in 10..33 {
            for length in [1_u64 << shift, (1 << shift) + 77, (1 << shift) * 7 / 4, (2 << shift) - 1] {
                let edge = upper_edge(bucket(Nanos(length))).0;
                assert!(length <= edge && edge as f64 <= length as f64 * 1.25 + 1.0, "{length}: {edge}");
            }
        }
        assert_eq!((bucket(Nanos(0)), bucket(Nanos(900)), bucket(Nanos(u64::MAX))), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_cover_the_last_seconds() {
        let mut searches = Searches::default();
        assert_eq!(searches.times(Nanos(1)), None);
        let second = Nanos::SECOND.0;
        (0..98).for_each(|n| searches.add(Nanos(100 * second + n), Nanos(5_000)));
        (0..2).for_each(|_| searches.add(Nanos(101 * second), Nanos(600_000)));
        let times = searches.times(Nanos(105 * second)).expect("connects");
        assert!((5_000..6_250).contains(&times.p50.0), "{times:?}");
        assert_eq!((times.p99, times.max, times.count), (Nanos(600_000), Nanos(600_000), 100));
        (0..100).for_each(|n| searches.add(Nanos(111 * second + n), Nanos(600_000)));
        assert_eq!(searches.times(Nanos(112 * second)).map(|times| times.count), Some(200));
        assert_eq!(searches.times(Nanos(125 * second)).map(|times| times.count), Some(100));
        assert_eq!(searches.times(Nanos(150 * second)), None);
    }
}
