//! Axis ticks: a few round numbers of a range, with labels.

use jiff::{SignedDuration, Zoned};

use super::bins::BinScale;
use crate::{
    model::{Nanos, units},
    view::hist::scale::{self, COARSE, FINE},
};

/// The side of the square that charts are drawn in.
pub const SIDE: f64 = 1_000.0;

/// One tick: its position in `0.0..=1.0` of the axis, and its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Position from the start of the axis.
    pub at: f64,
    /// Its label.
    pub label: String,
}

/// Target maximum of ticks on an axis.
const MOST: usize = 6;

/// Steps of a time axis.
const CLOCK: [u64; 22] = {
    const S: u64 = 1_000_000_000;
    [
        S / 10,
        S / 5,
        S / 2,
        S,
        2 * S,
        5 * S,
        10 * S,
        15 * S,
        30 * S,
        60 * S,
        120 * S,
        300 * S,
        600 * S,
        900 * S,
        1_800 * S,
        3_600 * S,
        7_200 * S,
        10_800 * S,
        21_600 * S,
        43_200 * S,
        86_400 * S,
        604_800 * S,
    ]
};

/// The top of an axis for counts up to `most`, and its ticks.
pub fn counts(most: u64) -> (u64, Vec<Tick>) {
    let step = (1..).map(|n| [1, 2, 5][(n - 1) % 3] * 10_u64.saturating_pow((n as u32 - 1) / 3));
    let step = step.into_iter().find(|step| most.div_ceil(*step) <= 5).unwrap_or(1);
    let top = most.div_ceil(step).max(1) * step;
    let marks = (0..=top / step).map(|n| Tick {
        at: (n * step) as f64 / top as f64,
        label: if top < 10_000 { units::count(n * step) } else { units::compact(n * step) },
    });
    (top, marks.collect())
}

/// Ticks of a time axis that starts at `began` and spans `length` nanoseconds, at round times of day.
pub fn clock(began: &Zoned, length: u64) -> Vec<Tick> {
    let midnight = began.start_of_day().unwrap_or_else(|_| began.clone());
    let since_midnight = began.duration_since(&midnight).as_nanos().max(0) as u64;
    let length = length.max(1);
    let step = CLOCK.into_iter().find(|step| length / step < MOST as u64).unwrap_or(CLOCK[CLOCK.len() - 1]);
    let format = match step {
        0..SECOND => "%H:%M:%S%.1f",
        SECOND..MINUTE => "%H:%M:%S",
        MINUTE..DAY if length <= DAY => "%H:%M",
        MINUTE..DAY => "%-d %b %H:%M",
        _ => "%-d %b",
    };
    let first = since_midnight.div_ceil(step);
    let marks = (first..).map(|n| n * step - since_midnight).take_while(|at| *at <= length);
    let label = |at: u64| {
        let time = began.checked_add(SignedDuration::from_nanos(at as i64)).unwrap_or_else(|_| began.clone());
        time.strftime(format).to_string()
    };
    marks.map(|at| Tick { at: at as f64 / length as f64, label: label(at) }).collect()
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 86_400 * SECOND;

/// Position of `length` on an axis from `from` to `to`.
pub fn place(length: f64, (from, to): (f64, f64), scale: BinScale) -> f64 {
    let place = |length: f64| if scale == BinScale::Linear { length } else { length.max(1.0).log2() };
    (place(length) - place(from)) / (place(to) - place(from))
}

/// Ticks of a duration axis over `range`, in nanoseconds.
pub fn lengths(range: (f64, f64), scale: BinScale) -> Vec<Tick> {
    let (from, to) = range;
    let marks: Vec<(f64, String)> = if scale == BinScale::Linear {
        let step =
            FINE.into_iter().find(|&step| (to - from) / step as f64 <= 5.0).unwrap_or(FINE[FINE.len() - 1]);
        let first = (from / step as f64).ceil() as u64;
        let marks = (first..).map(|n| n * step).take_while(|&at| at as f64 <= to);
        marks.map(|at| (at as f64, units::duration(Nanos(at)))).collect()
    } else {
        let within = |bounds: &[u64]| -> Vec<u64> {
            bounds.iter().copied().filter(|&at| (from..=to).contains(&(at as f64))).collect()
        };
        let fine = within(&FINE);
        let marks = if fine.len() <= MOST { fine } else { within(&COARSE) };
        let every = marks.len().div_ceil(MOST).max(1);
        marks.into_iter().step_by(every).map(|at| (at as f64, scale::name(at))).collect()
    };
    marks.into_iter().map(|(at, label)| Tick { at: place(at, range, scale), label }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn count_axis_ends_at_a_round_number() {
        for (most, top, last) in
            [(0, 1, "1"), (1, 1, "1"), (7, 8, "8"), (13_507, 15_000, "15k"), (2_000_000, 2_000_000, "2.0M")]
        {
            let (found, ticks) = counts(most);
            assert_eq!((found, *labels(&ticks).last().expect("a tick")), (top, last), "{most}");
            assert!(ticks.len() <= 6);
        }
        assert!(counts(u64::MAX / 2).1.len() <= 6);
    }

    #[test]
    fn time_ticks_are_round_times_of_day() {
        let began: Zoned = "2026-11-22T18:55:09[UTC]".parse().expect("a time");
        let labels = |seconds: u64| -> Vec<String> {
            clock(&began, seconds * SECOND).into_iter().map(|tick| tick.label).collect()
        };
        assert_eq!(labels(140), ["18:55:30", "18:56:00", "18:56:30", "18:57:00"]);
        assert_eq!(labels(4 * 3_600), ["19:00", "20:00", "21:00", "22:00"]);
        assert_eq!(labels(1)[..2], ["18:55:09.0", "18:55:09.2"]);
        assert_eq!(labels(40 * 3_600), ["23 Nov 00:00", "23 Nov 12:00", "24 Nov 00:00"]);
        assert_eq!(labels(3 * 86_400), ["23 Nov", "24 Nov", "25 Nov"]);
        assert!(labels(0).len() <= 1);
    }

    #[test]
    fn duration_ticks_have_units() {
        assert_eq!(
            labels(&lengths((60.0e9, 62.1e9), BinScale::Linear)),
            ["60.0s", "60.5s", "61.0s", "61.5s", "62.0s"]
        );
        assert_eq!(labels(&lengths((9.0e5, 6.0e9), BinScale::Logarithmic)), ["1ms", "10ms", "100ms", "1s"]);
        let far = lengths((100.0, 1e14), BinScale::Logarithmic);
        assert!((2..=6).contains(&far.len()), "{far:?}");
    }
}
