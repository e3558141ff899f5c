//! Decides whether chance explains a difference: two rules based on three standard errors, described in docs/diff.md.
//!
//! Both assume independent connections. Real connections come in bursts, which adds noise: differences slightly above
//! the threshold can still be chance.

use crate::{aggregate::Distribution, model::Nanos};

/// Threshold in standard errors: 1 of 400 comparisons of equal data exceeds it.
const ERRORS: f64 = 3.0;

/// Smaller relative differences are not reported, even if they are significant.
const SMALL: f64 = 0.05;

/// Verdict on a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Larger than chance explains.
    Changed,
    /// Less than a twentieth.
    Small,
    /// Explained by chance.
    Chance,
    /// Too few dwells for this quantile.
    Few,
    /// The shorter recording is too short to contain such dwells.
    Short,
}

impl Verdict {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Small => "small",
            Self::Chance => "chance",
            Self::Few => "few",
            Self::Short => "short",
        }
    }
}

/// Compares rates: `n` events in `time` (any unit), before and after.
pub fn of_counts(n: [f64; 2], time: [f64; 2]) -> Verdict {
    let [before, after] = [0, 1].map(|side: usize| n[side] / time[side]);
    let rate = (n[0] + n[1]) / (time[0] + time[1]);
    let error = (rate / time[0] + rate / time[1]).sqrt();
    let difference = (before - after).abs();
    if !difference.is_finite() || difference <= ERRORS * error {
        Verdict::Chance
    } else if difference < SMALL * before.max(after) {
        Verdict::Small
    } else {
        Verdict::Changed
    }
}

/// Compares the quantile `q` of dwells, before and after; `shorter` is the span of the shorter recording.
pub fn of_quantiles(q: f64, dwells: [&Distribution; 2], shorter: Nanos) -> Verdict {
    let [before, after] = dwells.map(|dwells| dwells.quantile(q).0);
    if dwells.into_iter().any(|dwells| dwells.count == 0 || error(q, dwells.count) > (1.0 - q).min(q)) {
        return Verdict::Few;
    }
    if before.max(after) > shorter.0 / 2 {
        return Verdict::Short;
    }
    let [a, b] = dwells.map(|dwells| {
        let error = error(q, dwells.count);
        (dwells.quantile(q - error).0, dwells.quantile(q + error).0)
    });
    if a.0 <= b.1 && b.0 <= a.1 {
        Verdict::Chance
    } else if (before.abs_diff(after) as f64) < SMALL * before.max(after) as f64 {
        Verdict::Small
    } else {
        Verdict::Changed
    }
}

/// Error of a quantile's rank, as a fraction of all dwells; independent of the distribution.
fn error(q: f64, n: u64) -> f64 {
    ERRORS * (q * (1.0 - q) / n as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_differ_only_with_enough_events() {
        let minute = [60.0, 60.0];
        let cases = [
            ([0.0, 0.0], minute, Verdict::Chance),
            ([0.0, 8.0], minute, Verdict::Chance),
            ([0.0, 20.0], minute, Verdict::Changed),
            ([100.0, 120.0], minute, Verdict::Chance),
            ([10_000.0, 12_000.0], minute, Verdict::Changed),
            ([1_000_000.0, 1_020_000.0], minute, Verdict::Small),
            // The same rate over a different time.
            ([600.0, 60.0], [60.0, 6.0], Verdict::Chance),
            ([600.0, 600.0], [60.0, 6.0], Verdict::Changed),
            ([5.0, 5.0], [0.0, 6.0], Verdict::Chance),
        ];
        for (n, time, verdict) in cases {
            assert_eq!(of_counts(n, time), verdict, "{n:?} in {time:?}");
            let back = |pair: [f64; 2]| [pair[1], pair[0]];
            assert_eq!(of_counts(back(n), back(time)), verdict, "{n:?} in {time:?}, swapped");
        }
    }

    fn dwells(n: u64, unit: u64) -> Distribution {
        (1..=n).map(|i| i * unit).collect()
    }

    #[test]
    fn quantiles_need_dwells_beyond_them() {
        let hour = Nanos(3_600_000_000_000);
        let verdict = |q, n, unit| of_quantiles(q, [&dwells(10_000, 1_000), &dwells(n, unit)], hour);
        assert_eq!(verdict(0.5, 8, 100_000_000), Verdict::Few);
        assert_eq!(verdict(0.5, 10, 100_000_000), Verdict::Changed);
        assert_eq!(verdict(0.99, 890, 1_000_000), Verdict::Few);
        assert_eq!(verdict(0.99, 900, 1_000_000), Verdict::Changed);
        assert_eq!(verdict(0.5, 10_000, 1_010), Verdict::Chance);
        assert_eq!(verdict(0.5, 0, 1), Verdict::Few);
    }

    #[test]
    fn short_recordings_have_no_verdict_on_long_dwells() {
        let long = dwells(1_000, 60_000_000);
        assert_eq!(of_quantiles(0.5, [&long, &dwells(1_000, 1)], Nanos(59_000_000_000)), Verdict::Short);
        assert_eq!(of_quantiles(0.5, [&long, &dwells(1_000, 1)], Nanos(61_000_000_000)), Verdict::Changed);
    }
}
