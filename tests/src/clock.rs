//! The clock of scenarios, time spans, the kernel's tick, and waiting with a time-out.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_getres, clock_gettime};

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock of `bpf_ktime_get_ns()`.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The wall clock less `CLOCK_MONOTONIC`, in nanoseconds: from the quickest of several readings, as an interruption between the two
/// clocks adds its length.
pub static WALL_OFFSET_NS: LazyLock<u64> = LazyLock::new(|| {
    let read = || {
        let start_ns = now_ns();
        let wall = clock_gettime(ClockId::Realtime);
        let wall_ns = wall.tv_sec as u64 * 1_000_000_000 + wall.tv_nsec as u64;
        let end_ns = now_ns();
        (end_ns - start_ns, wall_ns.wrapping_sub(start_ns.midpoint(end_ns)))
    };
    let (_, offset_ns) = std::iter::repeat_with(read).take(16).min().expect("16 readings");
    offset_ns
});

/// The time in which an event happened, in `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Not earlier than this.
    pub start_ns: u64,
    /// Not later than this.
    pub end_ns: u64,
}

impl Span {
    /// Runs `action`; returns its result and the span of the call.
    pub fn of<T>(action: impl FnOnce() -> T) -> (T, Self) {
        let start_ns = now_ns();
        let result = action();
        (result, Self { start_ns, end_ns: now_ns() })
    }

    /// From `start_ns` until now.
    pub fn since(start_ns: u64) -> Self {
        Self { start_ns, end_ns: now_ns() }
    }

    /// From the start of this span to the end of `later`.
    #[must_use]
    pub const fn to(self, later: Self) -> Self {
        Self { start_ns: self.start_ns, end_ns: later.end_ns }
    }

    /// This span, `least` to `most` later.
    #[must_use]
    pub const fn later(self, least: Duration, most: Duration) -> Self {
        Self {
            start_ns: self.start_ns + least.as_nanos() as u64,
            end_ns: self.end_ns + most.as_nanos() as u64,
        }
    }

    /// Whether `at_ns` is within the span, with `slack` at both ends.
    pub const fn holds(self, at_ns: u64, slack: Duration) -> bool {
        let slack_ns = slack.as_nanos() as u64;
        at_ns + slack_ns >= self.start_ns && at_ns <= self.end_ns + slack_ns
    }
}

/// Ticks per second of the kernel's timer: the resolution of the coarse clock is one tick.
pub fn hz() -> u32 {
    let tick_ns = clock_getres(ClockId::MonotonicCoarse).tv_nsec.max(1);
    (1_000_000_000 / tick_ns) as u32
}

/// One tick of the kernel's timer.
pub fn jiffy() -> Duration {
    Duration::from_secs(1) / hz()
}

/// The longest delay of a timer of this length: the width of its bucket in the timer wheel
/// (`calc_wheel_index()`, eight times coarser a level).
pub fn timer_granularity(length: Duration) -> Duration {
    let jiffies = length.as_secs() * u64::from(hz());
    let level = (0..8_u32).find(|level| jiffies < 63 << (3 * level)).unwrap_or(8);
    jiffy() * (1 << (3 * level))
}

/// Whether this is an emulated machine, which is slow: time-outs are longer, results are the same.
pub fn is_emulated() -> bool {
    std::env::var_os("TCPTRACE_EMULATED").is_some()
}

/// Time-out of anything that is immediate on an idle machine.
pub fn soon() -> Duration {
    Duration::from_secs(if is_emulated() { 60 } else { 10 })
}

/// The longest delay of polling, and of a timer of the kernel.
pub fn late() -> Duration {
    if is_emulated() { Duration::from_secs(1) } else { 5 * jiffy() }
}

/// Calls `probe` every millisecond until it returns a value.
pub fn wait_for<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline_ns = now_ns() + bound.as_nanos() as u64;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if now_ns() > deadline_ns {
            bail!("time-out after {bound:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sleeps for at least `length`; [`now_ns`] gives the exact time afterwards.
pub fn hold(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_of_sixty_seconds_has_the_granularity_of_the_kernel() {
        let expected = match hz() {
            100 => 5_120,
            250 => 2_048,
            1_000 => 4_096,
            _ => return,
        };
        assert_eq!(timer_granularity(Duration::from_secs(60)), Duration::from_millis(expected));
    }
}
