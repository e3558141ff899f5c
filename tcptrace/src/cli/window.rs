//! Parses `--since` and `--until`, which select a part of a recording.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::exit::misuse;
use crate::{
    model::{Nanos, units::parse_duration},
    pipeline::{Moment, Window},
};

/// Arguments of everything that reads recordings.
#[derive(Args, Clone, Debug, Default)]
pub struct WindowArgs {
    /// Of a recording: start at 30s, or at a time; also --until
    ///
    /// An offset (30s), or a clock time (2026-11-22T18:03:20Z).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Of a recording: end at this time, in the same forms
    #[arg(long, value_name = "TIME", value_parser = moment, hide_short_help = true)]
    until: Option<Moment>,
}

impl WindowArgs {
    /// The selected window, at most `length` long. Exits the process if `--until` is not later than `--since`.
    pub fn window(&self, length: Option<Duration>) -> Window {
        let is_turned = match (self.since, self.until) {
            (Some(Moment::FromStart(since)), Some(Moment::FromStart(until))) => until <= since,
            (Some(Moment::Wall(since)), Some(Moment::Wall(until))) => until <= since,
            _ => false,
        };
        if is_turned {
            misuse("--until must be later than --since");
        }
        let length = length.map(|length| Nanos(length.as_nanos() as u64));
        Window { since: self.since, until: self.until, length }
    }

    /// Exits the process if a window was given: there is no recording.
    pub fn reject_without_recording(&self) {
        if self.since.is_some() || self.until.is_some() {
            misuse("--since and --until choose a part of a recording: they need --from");
        }
    }
}

/// Parses a moment of a recording.
fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(length) = parse_duration(text) {
        return Ok(Moment::FromStart(Nanos(length.as_nanos() as u64)));
    }
    let expected = "expected a time after the start (30s, 5m), or a date and a time with their zone \
                    (2026-11-22T18:03:20Z, 2026-11-22T18:03:20+01:00)";
    let time: Timestamp = text.parse().map_err(|_| expected)?;
    u64::try_from(time.as_nanosecond()).map(Moment::Wall).map_err(|_| expected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_after_the_start_or_by_the_clock() {
        assert_eq!(moment("30s"), Ok(Moment::FromStart(Nanos(30_000_000_000))));
        let wall = Ok(Moment::Wall(1_795_370_600_500_000_000));
        assert_eq!(moment("2026-11-22T18:03:20.5Z"), wall);
        assert_eq!(moment("2026-11-22T19:03:20.5+01:00"), wall);
        for bad in
            ["", "0s", "18:03:20", "2026-11-22", "2026-11-22T18:03:20", "1960-01-01T00:00:00Z", "yesterday"]
        {
            assert!(moment(bad).is_err_and(|error| error.contains("2026-11-22T18:03:20Z")), "{bad}");
        }
    }
}
