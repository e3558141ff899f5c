//! A moment as people type it: `18:03:20`, `+90s`, `-10s`, `50%`.

use jiff::{
    SignedDuration, Timestamp, Zoned,
    civil::{DateTime, Time},
    tz::TimeZone,
};

use crate::model::Nanos;

/// What a typed moment is relative to.
#[derive(Clone, Debug)]
pub struct Here {
    /// The moment that is shown.
    pub now: Nanos,
    /// The first and the last there are.
    pub span: (Nanos, Nanos),
    /// Wall-clock time at monotonic 0.
    pub clock_offset_ns: u64,
    /// In which times of day are meant.
    pub zone: TimeZone,
}

/// What can be typed.
pub const EXPECTED: &str = "18:03:20, +90s, -10s or 50%";

impl Here {
    /// The moment that `text` means, within the recording.
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

    /// A time of day, or a day and a time. Of the days of the recording the first on which it is there.
    fn wall_clock(&self, text: &str) -> Result<Nanos, String> {
        if let Ok(at) = text.parse::<DateTime>()
            && text.contains('-')
        {
            return at.to_zoned(self.zone.clone()).map(|at| self.monotonic(&at)).map_err(|_| unknown());
        }
        let time: Time = text.parse().map_err(|_| unknown())?;
        let (first, last) = self.span;
        let (from, to) = (self.zoned(first), self.zoned(last));
        let days = from.date().series(jiff::Span::new().days(1)).take_while(|&day| day <= to.date());
        let moments: Vec<Nanos> = days
            .filter_map(|day| day.to_datetime(time).to_zoned(self.zone.clone()).ok())
            .map(|at| self.monotonic(&at))
            .collect();
        let within = moments.iter().find(|&&at| at >= first && at <= last);
        within.or(moments.last()).copied().ok_or_else(unknown)
    }

    fn zoned(&self, ts: Nanos) -> Zoned {
        let wall_ns = i128::from(self.clock_offset_ns) + i128::from(ts.0);
        Timestamp::from_nanosecond(wall_ns).unwrap_or_default().to_zoned(self.zone.clone())
    }

    fn monotonic(&self, at: &Zoned) -> Nanos {
        let ns = at.timestamp().as_nanosecond() - i128::from(self.clock_offset_ns);
        Nanos(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
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

    const S: u64 = 1_000_000_000;

    /// A recording from 18:00:00 on that lasts `seconds`, ten minutes into it.
    fn here(seconds: u64) -> Here {
        let start: Timestamp = "2026-11-22T18:00:00Z".parse().expect("a time");
        let began = 100 * S;
        Here {
            now: Nanos(began + 600 * S),
            span: (Nanos(began), Nanos(began + seconds * S)),
            clock_offset_ns: start.as_nanosecond() as u64 - began,
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn moments_are_what_they_say() {
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
            // What is not in the recording is its end.
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
    fn past_midnight_it_is_the_next_day() {
        let night = here(12 * 3600);
        assert_eq!(night.parse("02:00:00"), Ok(Nanos((100 + 8 * 3600) * S)));
        assert_eq!(night.parse("19:00:00"), Ok(Nanos((100 + 3600) * S)));
    }

    #[test]
    fn what_is_no_moment_is_said() {
        for bad in ["", "x", "25:00:00", "+", "-", "+x", "+-5s", "101%", "-5%", "%", "90s", "+5"] {
            assert_eq!(here(3600).parse(bad), Err(format!("expected {EXPECTED}")), "{bad}");
        }
    }
}
