//! Chooses the rows of a chart, with readable bounds, from the shortest and the longest dwell.
//!
//! Row widths grow with the values (1-2-5 up to a second, then the steps of a clock), because dwells span many orders
//! of magnitude. Where dwells are so close that this would give two or three rows, as in TIME_WAIT, the rows have equal
//! width.

use crate::{aggregate::Distribution, model::Nanos};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * S;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const UNITS: [(u64, &str); 7] =
    [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (S, "s"), (MS, "ms"), (US, "us"), (1, "ns")];

/// Round bounds.
pub const FINE: [u64; 45] = [
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    US,
    2 * US,
    5 * US,
    10 * US,
    20 * US,
    50 * US,
    100 * US,
    200 * US,
    500 * US,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    S,
    2 * S,
    5 * S,
    10 * S,
    20 * S,
    30 * S,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    7 * DAY,
    30 * DAY,
];
/// Round bounds for dwells with a wide spread.
pub const COARSE: [u64; 16] = [
    1,
    10,
    100,
    US,
    10 * US,
    100 * US,
    MS,
    10 * MS,
    100 * MS,
    S,
    10 * S,
    MINUTE,
    10 * MINUTE,
    HOUR,
    DAY,
    30 * DAY,
];

/// Minimum and maximum number of rows of a chart.
const FEWEST: usize = 4;
const MOST: usize = 15;
/// Target number of rows of equal width.
const EQUAL_ROWS: u64 = 10;

/// The bounds of a chart's rows, ascending: one more than there are rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartScale {
    bounds: Vec<u64>,
    /// Row width, if all rows are equal.
    step: Option<u64>,
}

impl ChartScale {
    /// Rows that cover `distribution`, which is not empty.
    pub fn of(distribution: &Distribution) -> Self {
        let (shortest, longest) = (distribution.shortest.0.max(1), distribution.longest.0.max(1));
        let fine = between(&FINE, shortest, longest);
        if fine.len() <= FEWEST {
            return Self::equal(shortest, longest);
        }
        let bounds = if fine.len() <= MOST + 1 { fine } else { between(&COARSE, shortest, longest) };
        Self { bounds, step: None }
    }

    /// Equal steps from below `shortest` to above `longest`.
    fn equal(shortest: u64, longest: u64) -> Self {
        // Rows narrower than a bucket of the histogram would show nothing more.
        let finest = ((longest - shortest) / EQUAL_ROWS).max(longest / 500);
        let step = FINE.into_iter().find(|&step| step >= finest).unwrap_or(DAY);
        let first = shortest / step;
        let last = longest / step + 1;
        Self { bounds: (first..=last).map(|n| n * step).collect(), step: Some(step) }
    }

    /// Number of dwells per row. A dwell above the last bound counts in the last row.
    pub fn count(&self, distribution: &Distribution) -> Vec<u64> {
        let mut rows = vec![0; self.rows()];
        for bucket in distribution.buckets() {
            // A bucket that a bound cuts in two counts above the bound: timers expire slightly late.
            rows[self.row_of(bucket.highest)] += bucket.count;
        }
        rows
    }

    /// The row of `dwell`.
    pub fn row_of(&self, dwell: Nanos) -> usize {
        let above = self.bounds.partition_point(|&bound| bound <= dwell.0);
        above.saturating_sub(1).min(self.rows() - 1)
    }

    /// Number of rows; at least one.
    pub fn rows(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Labels of equal width for the rows: `10ms - 20ms`.
    pub fn labels(&self) -> Vec<String> {
        let texts: Vec<String> = self.bounds.iter().map(|&bound| self.text(bound)).collect();
        let width = texts.iter().map(String::len).max().unwrap_or(0);
        texts.windows(2).map(|pair| format!("{:>width$} - {:<width$}", pair[0], pair[1])).collect()
    }

    /// Text of a bound; for equal steps with as many decimals as distinguish it from the next.
    fn text(&self, bound: u64) -> String {
        let Some(step) = self.step else { return name(bound) };
        let longest = self.bounds.last().copied().unwrap_or(bound);
        let (unit, name) =
            UNITS.into_iter().find(|(unit, _)| *unit <= S && longest >= *unit).unwrap_or((1, "ns"));
        let mut decimals = 0;
        let mut resolution = unit;
        while !step.is_multiple_of(resolution) {
            resolution /= 10;
            decimals += 1;
        }
        let whole = bound / unit;
        let fraction = bound % unit / resolution;
        if decimals == 0 { format!("{whole}{name}") } else { format!("{whole}.{fraction:0decimals$}{name}") }
    }
}

/// Name of a bound of [`FINE`] or [`COARSE`].
pub fn name(bound: u64) -> String {
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| bound >= *unit).unwrap_or((1, "ns"));
    format!("{}{name}", bound / unit)
}

/// The part of `bounds` that encloses `shortest` and `longest`.
fn between(bounds: &[u64], shortest: u64, longest: u64) -> Vec<u64> {
    let first = bounds.partition_point(|&bound| bound <= shortest).saturating_sub(1);
    let last = bounds.partition_point(|&bound| bound <= longest).min(bounds.len() - 1);
    bounds[first.min(last - 1)..=last].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(lengths: &[u64]) -> Vec<String> {
        let labels = ChartScale::of(&lengths.iter().copied().collect()).labels();
        labels.into_iter().map(|label| label.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn rows_grow_with_the_values() {
        assert_eq!(
            labels(&[10 * MS, 100 * MS, 1_000 * MS]),
            [
                "10ms - 20ms",
                "20ms - 50ms",
                "50ms - 100ms",
                "100ms - 200ms",
                "200ms - 500ms",
                "500ms - 1s",
                "1s - 2s",
            ]
        );
        let far = labels(&[300, 3 * HOUR]);
        assert_eq!((far[0].as_str(), far[far.len() - 1].as_str()), ("100ns - 1us", "1h - 1d"));
    }

    #[test]
    fn close_dwells_get_equal_rows() {
        let time_wait = labels(&[60_012 * MS, 60_840 * MS]);
        assert_eq!(time_wait[0], "60.0s - 60.2s");
        assert_eq!(time_wait[time_wait.len() - 1], "60.8s - 61.0s");
        assert_eq!(labels(&[60 * S]), ["60.0s - 60.2s"]);
        assert_eq!(labels(&[3 * MINUTE, 3 * MINUTE + 30 * S])[0], "180s - 185s");
        assert_eq!(labels(&[50_100, 50_900])[0], "50.0us - 50.2us");
    }

    proptest! {
        #[test]
        fn every_dwell_falls_into_one_of_few_rows(lengths in prop::collection::vec(0_u64..1 << 52, 1..50)) {
            let dwells: Distribution = lengths.iter().copied().collect();
            let scale = ChartScale::of(&dwells);
            prop_assert!(scale.rows() <= MOST + 1, "{:?}", scale);
            prop_assert_eq!(scale.count(&dwells).iter().sum::<u64>(), dwells.count);
            prop_assert_eq!(scale.labels().len(), scale.rows());
        }

        #[test]
        fn close_dwells_get_distinct_labels(start in 1_u64..1 << 50, spread in 0_u64..1_000_000_000) {
            let dwells: Distribution = [start, start + spread].into_iter().collect();
            let scale = ChartScale::of(&dwells);
            prop_assert!(scale.rows() <= MOST + 1, "{:?}", scale);
            let labels = scale.labels();
            let mut distinct = labels.clone();
            distinct.dedup();
            prop_assert_eq!(labels, distinct);
        }
    }
}
