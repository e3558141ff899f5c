//! Sockets per state over the trace, in at most a thousand points.
//!
//! A point covers an interval: the peak of sockets in each state, and how many entered it. Intervals have equal length
//! and start with the trace. When there are too many points, the length doubles and neighbours merge: peaks and entries
//! are kept, only their time within an interval is lost.

use crate::model::{Nanos, TcpState};

/// Maximum number of points.
const MOST: usize = 1_000;
/// Initial interval: the tick interval of a source.
const SHORTEST: Nanos = Nanos(100_000_000);

/// One interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Last mark within the interval.
    pub ts: Nanos,
    /// Peak of sockets, indexed by [`TcpState::index`].
    pub highest: [u64; TcpState::COUNT],
    /// Sockets that entered the state, indexed likewise.
    pub entered: [u64; TcpState::COUNT],
}

/// The intervals of a trace, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Length of an interval.
    pub interval: Nanos,
    /// Intervals with at least one mark.
    pub points: Vec<Point>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { interval: SHORTEST, points: Vec::new() }
    }
}

impl Timeline {
    /// Adds the changes since the previous call up to `point.ts`. `began` is the start of the trace.
    pub(super) fn add(&mut self, began: Nanos, point: Point) {
        self.put(began, point);
        while self.points.len() > MOST {
            self.interval = Nanos(self.interval.0 * 2);
            for point in std::mem::take(&mut self.points) {
                self.put(began, point);
            }
        }
    }

    fn put(&mut self, began: Nanos, point: Point) {
        let number = |ts: Nanos| ts.since(began).0 / self.interval.0;
        match self.points.last_mut() {
            Some(last) if number(last.ts) >= number(point.ts) => {
                last.ts = last.ts.max(point.ts);
                for (mine, theirs) in last.highest.iter_mut().zip(point.highest) {
                    *mine = theirs.max(*mine);
                }
                for (mine, theirs) in last.entered.iter_mut().zip(point.entered) {
                    *mine += theirs;
                }
            }
            _ => self.points.push(point),
        }
    }

    /// Peak of sockets in `state`, and the first point that has it; `None` if there never was a socket.
    pub fn peak(&self, state: TcpState) -> Option<(u64, Nanos)> {
        let highest = |point: &Point| point.highest[state.index()];
        let peak = self.points.iter().map(highest).max().filter(|&peak| peak > 0)?;
        let first = self.points.iter().find(|point| highest(point) == peak)?;
        Some((peak, first.ts))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME_WAIT: usize = TcpState::TimeWait.index();

    fn point(ts: u64, highest: u64, entered: u64) -> Point {
        let mut point = Point { ts: Nanos(ts), highest: [0; TcpState::COUNT], entered: [0; TcpState::COUNT] };
        point.highest[TIME_WAIT] = highest;
        point.entered[TIME_WAIT] = entered;
        point
    }

    proptest! {
        #[test]
        fn merging_points_keeps_peaks_and_entries(
            steps in prop::collection::vec((1_u64..3_000_000_000, 0_u64..100_000, 0_u64..50), 1..4_000),
        ) {
            let began = Nanos(7_000_000_000);
            let mut timeline = Timeline::default();
            let mut ts = began.0;
            for &(step, highest, entered) in &steps {
                ts += step;
                timeline.add(began, point(ts, highest, entered));
            }
            prop_assert!(timeline.points.len() <= MOST);
            prop_assert_eq!(timeline.points.last().map(|point| point.ts.0), Some(ts));
            prop_assert!(timeline.points.is_sorted_by_key(|point| point.ts));
            let highest = steps.iter().map(|&(_, highest, _)| highest).max().filter(|&highest| highest > 0);
            prop_assert_eq!(timeline.peak(TcpState::TimeWait).map(|(peak, _)| peak), highest);
            let entered: u64 = timeline.points.iter().map(|point| point.entered[TIME_WAIT]).sum();
            prop_assert_eq!(entered, steps.iter().map(|&(_, _, entered)| entered).sum::<u64>());
        }
    }

    #[test]
    fn ten_hours_use_at_least_half_of_the_points() {
        let mut timeline = Timeline::default();
        for tick in 0..360_000 {
            timeline.add(Nanos(0), point(tick * SHORTEST.0, tick, 1));
        }
        assert!((MOST / 2..=MOST).contains(&timeline.points.len()), "{}", timeline.points.len());
        assert!(timeline.points.iter().rev().skip(1).all(|point| point.entered[TIME_WAIT] == 512));
    }

    #[test]
    fn peak_is_at_its_first_point() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.peak(TcpState::TimeWait), None);
        for (ts, highest) in [(1, 3), (2, 9), (3, 9), (4, 0)] {
            timeline.add(Nanos(0), point(ts * Nanos::SECOND.0, highest, 0));
        }
        assert_eq!(timeline.peak(TcpState::TimeWait), Some((9, Nanos(2 * Nanos::SECOND.0))));
        assert_eq!(timeline.peak(TcpState::CloseWait), None);
    }
}
