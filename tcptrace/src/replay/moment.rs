//! Parses a point in time as typed by the user: `18:03:20`, `+90s`, `-10s`, `50%`.

use std::sync::Arc;

use jiff::{
    SignedDuration, Timestamp, Zoned,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

use crate::model::{Nanos, record::HostFacts};

/// Reference for a typed point in time.
#[derive(Clone, Debug)]
pub struct Here {
    /// Time of the snapshot on screen.
    pub now: Nanos,
    /// First and last time of the recording.
    pub span: (Nanos, Nanos),
    /// Host whose clock is meant.
    pub host: Arc<HostFacts>,
    /// Time zone of typed times of day.
    pub zone: TimeZone,
}

/// Accepted formats.
pub const EXPECTED: &str = "18:03:20, +90s, -10s or 50%";

impl Here {
    /// Time that `text` denotes, clamped to the recording.
    pub fn parse(&self, text: &str) -> Result<Nanos, String> {
        let text = text.trim();
        let (first, last) = self.span;
        let wanted = match text.as_bytes() {
            [b'+', rest @ ..] => self.now.plus(length(rest)?),
            [b'-', rest @ ..] => self.now.minus(length(rest)?),
            [number @ .., b'%'] => {
                let part = str::from_utf8(number).ok().and_then(|number| number.trim().parse::<f64>().ok());
                let part = part.filter(|part| (0.0..=100.0).contains(part)).ok_or_else(unknown)?;
                first.plus(Nanos((last.since(first).0 as f64 * part / 100.0) as u64))
            }
            _ => self.wall_clock(text)?,
        };
        Ok(wanted.clamp(first, last))
    }

    /// A time of day, or a date and a time. A time of day means its first occurrence on the clock of the recording.
    fn wall_clock(&self, text: &str) -> Result<Nanos, String> {
        if let Ok(at) = text.parse::<DateTime>()
            && text.contains('-')
        {
            return at.to_zoned(self.zone.clone()).map(|at| self.monotonic(&at).0).map_err(|_| unknown());
        }
        let time: Time = text.parse().map_err(|_| unknown())?;
        let (first, last) = self.span;
        // A clock that was set showed other dates in between.
        let steps = self.host.clock_steps.iter().map(|step| step.ts).filter(|&ts| ts > first && ts < last);
        let dates: Vec<Date> =
            [first, last].into_iter().chain(steps).map(|ts| self.zoned(ts).date()).collect();
        let (from, to) = (dates.iter().min().copied(), dates.iter().max().copied());
        let days = from.into_iter().flat_map(|from| from.series(jiff::Span::new().days(1)));
        let moments: Vec<(Nanos, bool)> = days
            .take_while(|&day| Some(day) <= to)
            .filter_map(|day| day.to_datetime(time).to_zoned(self.zone.clone()).ok())
            .map(|at| self.monotonic(&at))
            .collect();
        let within = |&&(at, _): &&(Nanos, bool)| at >= first && at <= last;
        let shown = moments.iter().find(|moment| within(moment) && moment.1);
        let moment = shown.or_else(|| moments.iter().find(within)).or(moments.last());
        moment.map(|&(at, _)| at).ok_or_else(unknown)
    }

    fn zoned(&self, ts: Nanos) -> Zoned {
        let wall_ns = self.host.wall_ns(ts).into();
        Timestamp::from_nanosecond(wall_ns).unwrap_or_default().to_zoned(self.zone.clone())
    }

    /// When the clock showed `at`, or when it jumped over it, and whether it showed it.
    fn monotonic(&self, at: &Zoned) -> (Nanos, bool) {
        let ns = u64::try_from(at.timestamp().as_nanosecond().max(0)).unwrap_or(u64::MAX);
        let shown = self.host.first_shown(ns, self.span.0);
        (shown.unwrap_or_else(|| self.host.monotonic(ns)), shown.is_some())
    }
}

fn length(text: &[u8]) -> Result<Nanos, String> {
    let text = str::from_utf8(text).unwrap_or_default().trim();
    let length: SignedDuration = text.parse().map_err(|_| unknown())?;
    if length.is_negative() || text.starts_with(['-', '+']) {
        return Err(unknown());
    }
    Ok(Nanos(u64::try_from(length.as_nanos()).map_err(|_| unknown())?))
}

fn unknown() -> String {
    format!("expected {EXPECTED}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClockStep;

    const S: u64 = 1_000_000_000;

    /// A recording of `seconds` that starts at 18:00:00, ten minutes into it.
    fn here(seconds: u64) -> Here {
        let start: Timestamp = "2026-11-22T18:00:00Z".parse().expect("a time");
        let began = 100 * S;
        Here {
            now: Nanos(began + 600 * S),
            span: (Nanos(began), Nanos(began + seconds * S)),
            host: Arc::new(HostFacts {
                clock_offset_ns: start.as_nanosecond() as u64 - began,
                ..HostFacts::default()
            }),
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn typed_moments_are_parsed() {
        let hour = here(3600);
        let cases = [
            ("18:03:20", 200.0),
            ("18:03", 180.0),
            (" 18:03:20.5 ", 200.5),
            ("2026-11-22 18:30:00", 1800.0),
            ("+90s", 690.0),
            ("-10s", 590.0),
            ("+5m", 900.0),
            ("-250ms", 599.75),
            ("+1m 30s", 690.0),
            ("0%", 0.0),
            ("50%", 1800.0),
            ("100 %", 3600.0),
            // A time outside the recording is clamped.
            ("17:00:00", 0.0),
            ("23:59:59", 3600.0),
            ("-1h", 0.0),
            ("+5h", 3600.0),
        ];
        for (text, seconds) in cases {
            let expected = Nanos(((100.0 + seconds) * 1e9) as u64);
            assert_eq!(hour.parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn times_of_day_follow_clock_steps() {
        let mut hour = here(3600);
        let mut host = HostFacts::clone(&hour.host);
        let by = |seconds: u64| host.clock_offset_ns + seconds * S;
        // After five minutes the clock is set an hour forward, after ten minutes back.
        host.clock_steps = vec![
            ClockStep { ts: Nanos(400 * S), offset_ns: by(3600) },
            ClockStep { ts: Nanos(700 * S), offset_ns: by(0) },
        ];
        hour.host = Arc::new(host);
        for (text, seconds) in
            [("18:03:20", 200), ("19:08:00", 480), ("18:30:00", 1800), ("19:20:00", 4800), ("+90s", 690)]
        {
            let expected = Nanos((100 + seconds.min(3600)) * S);
            assert_eq!(hour.parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn clock_off_by_years_hides_no_time_of_day() {
        let mut hour = here(3600);
        let right = hour.host.clock_offset_ns;
        let year = 366 * 86_400 * S;
        for wrong in [0, right + year] {
            // The clock is set ten minutes after the start.
            let clock_steps = vec![ClockStep { ts: Nanos(700 * S), offset_ns: right }];
            let host = HostFacts { clock_offset_ns: wrong, clock_steps, ..HostFacts::default() };
            hour.host = Arc::new(host);
            for (text, seconds) in [("18:30:00", 1800), ("2026-11-22 18:20:00", 1200)] {
                assert_eq!(hour.parse(text), Ok(Nanos((100 + seconds) * S)), "{text} {wrong}");
            }
        }
    }

    #[test]
    fn time_past_midnight_is_on_the_next_day() {
        let night = here(12 * 3600);
        assert_eq!(night.parse("02:00:00"), Ok(Nanos((100 + 8 * 3600) * S)));
        assert_eq!(night.parse("19:00:00"), Ok(Nanos((100 + 3600) * S)));
    }

    #[test]
    fn invalid_moment_is_an_error() {
        for bad in ["", "x", "25:00:00", "+", "-", "+x", "+-5s", "101%", "-5%", "%", "90s", "+5"] {
            assert_eq!(here(3600).parse(bad), Err(format!("expected {EXPECTED}")), "{bad}");
        }
    }
}
