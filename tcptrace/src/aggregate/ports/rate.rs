//! Event rate over the last seconds.

use crate::model::Nanos;

/// Event counts of the last seconds, and the start of the activity.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    by_second: [u32; KEPT],
    /// The newest second in `by_second`.
    second: u64,
    /// First event after a pause at least as long as the kept seconds.
    began: Option<Nanos>,
}

/// Seconds kept: the longest window and the current second.
const KEPT: usize = 12;

/// Windows in seconds, with the events they need: the first that has enough is used. Ten seconds are short enough to
/// follow a change and long enough not to jump with every event.
const WINDOWS: [(usize, u64); 2] = [(2, 200), (10, 0)];

/// A rate and its statistical uncertainty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PerSecond {
    pub(super) per_s: f64,
    /// One standard deviation, if events are independent.
    pub(super) spread: f64,
}

impl Rate {
    /// Adds `n` events at `ts`.
    pub(super) fn add(&mut self, ts: Nanos, n: u32) {
        self.advance(ts);
        if self.by_second.iter().all(|&count| count == 0) {
            self.began = Some(ts);
        }
        let count = &mut self.by_second[slot(self.second)];
        *count = count.saturating_add(n);
    }

    /// Removes one event that was just added.
    pub(super) fn take_back(&mut self) {
        let count = &mut self.by_second[slot(self.second)];
        *count = count.saturating_sub(1);
    }

    /// Event rate at `now`.
    pub(super) fn per_second(&mut self, now: Nanos) -> PerSecond {
        let [only] = Self::compared([self], now);
        only
    }

    /// Rates at `now` over one window, whose differences are therefore growth: that of the busiest, from the start of the
    /// longest activity.
    pub(super) fn compared<const N: usize>(mut rates: [&mut Self; N], now: Nanos) -> [PerSecond; N] {
        for rate in &mut rates {
            rate.advance(now);
        }
        let began = rates.iter().filter_map(|rate| rate.began).min();
        let counts = |seconds: usize| rates.each_ref().map(|rate| rate.over(seconds));
        let has_enough = |&(seconds, least): &(usize, u64)| counts(seconds).iter().any(|&n| n >= least);
        let (window, _) = WINDOWS.into_iter().find(has_enough).unwrap_or(WINDOWS[WINDOWS.len() - 1]);
        let start = Nanos((now.0 / Nanos::SECOND.0).saturating_sub(window as u64) * Nanos::SECOND.0);
        let start = began.map_or(start, |began| began.max(start));
        let seconds = now.since(start).as_secs_f64().max(1.0);
        rates.map(|rate| {
            let n = rate.over(window);
            if n == 0 {
                return PerSecond::default();
            }
            // A window that starts with an event contains half an interval too much on average.
            let opens_with_event = rate.began == Some(start);
            let events = n as f64 - if opens_with_event { 0.5 } else { 0.0 };
            PerSecond { per_s: events / seconds, spread: (n as f64).sqrt() / seconds }
        })
    }

    /// Number of events in the last `seconds` and the current one.
    fn over(&self, seconds: usize) -> u64 {
        let first = self.second.saturating_sub(seconds as u64);
        (first..=self.second).map(|second| u64::from(self.by_second[slot(second)])).sum()
    }

    fn advance(&mut self, ts: Nanos) {
        let second = ts.0 / Nanos::SECOND.0;
        if second <= self.second {
            return;
        }
        if second - self.second >= KEPT as u64 {
            self.by_second = [0; KEPT];
        } else {
            (self.second + 1..=second).for_each(|second| self.by_second[slot(second)] = 0);
        }
        self.second = second;
    }
}

const fn slot(second: u64) -> usize {
    (second % KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_000_300_000_000;

    /// `n` events, the first at `T0`, `apart` nanoseconds apart.
    fn regular(n: u64, apart: u64) -> Rate {
        let mut rate = Rate::default();
        (0..n).for_each(|n| rate.add(Nanos(T0 + n * apart), 1));
        rate
    }

    #[test]
    fn constant_rate_is_measured_from_the_first_event() {
        for (per_s, seconds) in [(5, 2), (5, 40), (50, 3), (1_000, 2), (1_000, 20), (30_000, 5)] {
            let apart = 1_000_000_000 / per_s;
            let mut rate = regular(per_s * seconds, apart);
            let seen = rate.per_second(Nanos(T0 + seconds * 1_000_000_000 - apart / 2)).per_s;
            assert!((seen / per_s as f64 - 1.0).abs() < 0.06, "{per_s}/s for {seconds} s: {seen}");
        }
    }

    #[test]
    fn rate_falls_to_zero_after_the_last_event() {
        let mut rate = regular(1_000, 10_000_000);
        let at = |rate: &mut Rate, seconds: u64| rate.per_second(Nanos(T0 + seconds * 1_000_000_000)).per_s;
        let falling: Vec<f64> = (10..24).map(|seconds| at(&mut rate, seconds)).collect();
        assert!(falling.is_sorted_by(|a, b| a >= b), "{falling:?}");
        assert_eq!(falling.last(), Some(&0.0));
    }

    #[test]
    fn rate_follows_a_change() {
        let mut rate = regular(100, 100_000_000);
        let later = T0 + 10_000_000_000;
        (0..400).for_each(|n| rate.add(Nanos(later + n * 10_000_000), 1));
        let seen = rate.per_second(Nanos(later + 4_000_000_000)).per_s;
        assert!((seen - 100.0).abs() < 5.0, "{seen}");
    }

    #[test]
    fn compared_rates_have_one_window() {
        let mut late = regular(20, 50_000_000);
        let mut rate = regular(20, 1);
        let again = T0 + 12_500_000_000;
        for n in 0..20 {
            rate.add(Nanos(again + n * 50_000_000), 1);
            late.add(Nanos(again + n * 50_000_000), 1);
        }
        // The one had a pause that is long enough to begin again, the other one had not.
        assert!(rate.began > late.began);
        let seen = Rate::compared([&mut rate, &mut late], Nanos(again + 1_000_000_000));
        assert_eq!(seen[0], seen[1]);
    }

    #[test]
    fn take_back_removes_the_event() {
        let mut rate = regular(1, 1);
        rate.take_back();
        assert_eq!(rate.per_second(Nanos(T0 + 5)), PerSecond::default());
    }
}
