//! Formats numbers to be short and readable: `60.8s`, `12.3ms`, `18,122`, `14m`. Parses durations and sizes.

use std::{fmt::Write as _, time::Duration};

use super::Nanos;

/// A duration in at most six characters, three digits of precision:
/// `0`, `820ns`, `12.3us`, `4.05ms`, `60.8s`, `14m02s`, `3h07m`, `12d04h`.
pub fn duration(length: Nanos) -> String {
    let mut text = String::new();
    push_duration(&mut text, length);
    text
}

/// Time until an event: `now`, `in <1s`, `in 9.00s`. No prediction is exact to a part of a second.
pub fn in_time(left: Nanos) -> String {
    match left {
        Nanos(0) => "now".into(),
        left if left < Nanos::SECOND => "in <1s".into(),
        left => format!("in {}", duration(left)),
    }
}

/// Appends [`duration`]. Without `format_args!`: every line of `events` has one.
pub fn push_duration(text: &mut String, length: Nanos) {
    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;
    let ns = length.0;
    match ns {
        0 => text.push('0'),
        1..US => {
            text.push_str(itoa::Buffer::new().format(ns));
            text.push_str("ns");
        }
        US..999_500 => push_scaled(text, ns, US, "us"),
        999_500..999_500_000 => push_scaled(text, ns, MS, "ms"),
        999_500_000..99_950_000_000 => push_scaled(text, ns, S, "s"),
        _ => {
            let s = (ns + S / 2) / S;
            let _ = match s {
                0..3_600 => write!(text, "{}m{:02}s", s / 60, s % 60),
                3_600..86_400 => write!(text, "{}h{:02}m", s / 3_600, s % 3_600 / 60),
                _ => write!(text, "{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
            };
        }
    }
}

/// Appends `ns` in `unit` with three digits; `unit` is a multiple of 1,000, and the result rounds to at least 1 and
/// less than 1,000.
fn push_scaled(text: &mut String, ns: u64, unit: u64, name: &str) {
    let (last_place, decimals) = match ns {
        ns if ns < unit / 1_000 * 9_995 => (unit / 100, 2),
        ns if ns < unit / 100 * 9_995 => (unit / 10, 1),
        _ => (unit, 0),
    };
    if ns % last_place == last_place / 2 {
        // An exact half rounds as the floating-point number does: up or down.
        let _ = write!(text, "{:.decimals$}{name}", ns as f64 / unit as f64);
        return;
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format((ns + last_place / 2) / last_place);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    text.push_str(whole);
    if !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text.push_str(name);
}

/// A count with thousands separators: `18,122`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 socket`, `1,204 sockets`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A size in bytes, three digits of precision: `820 B`, `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A count in at most four characters, rounded: `999`, `9.9k`, `123k`, `1.2M`.
pub fn compact(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..9_950 => format!("{:.1}k", n as f64 / 1e3),
        9_950..999_500 => format!("{:.0}k", n as f64 / 1e3),
        999_500..9_950_000 => format!("{:.1}M", n as f64 / 1e6),
        9_950_000..999_500_000 => format!("{:.0}M", n as f64 / 1e6),
        _ => format!("{:.0}G", n as f64 / 1e9),
    }
}

/// A rate per second in at most five characters: `0`, `0.3`, `412`, `31.2k`, `1.25M`.
pub fn rate(per_s: f64) -> String {
    match per_s {
        r if r < 0.05 => "0".into(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 9_999.5 => format!("{r:.0}"),
        r if r < 999_500.0 => format!("{:.1}k", r / 1e3),
        r => format!("{:.2}M", r / 1e6),
    }
}

/// Parses a duration: `250ms`, `30s`, `5m`, `2h`; a number alone is seconds, as for `timeout` and `sleep`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a length of time: 250ms, 30s, 5m, 2h".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("'{number}' is not a number"))?;
    let length = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if length.is_zero() { Err("must be longer than 0".into()) } else { Ok(length) }
}

/// Parses a size: `64MiB`, `1GB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    let expected = || "expected a number with a unit: 64MiB, 1GiB".to_owned();
    let (number, unit) = UNITS
        .iter()
        .find_map(|&(name, bytes)| text.strip_suffix(name).map(|number| (number, bytes)))
        .ok_or_else(expected)?;
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(unit).filter(|&bytes| bytes > 0).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_keep_three_digits() {
        let cases = [
            (0, "0"),
            (820, "820ns"),
            (12_340, "12.3us"),
            (999_499, "999us"),
            (999_500, "1.00ms"),
            (4_054_000, "4.05ms"),
            (60_844_000_000, "60.8s"),
            (99_940_000_000, "99.9s"),
            (99_950_000_000, "1m40s"),
            (842_000_000_000, "14m02s"),
            (11_220_000_000_000, "3h07m"),
            (1_051_200_000_000_000, "12d04h"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(Nanos(ns)), text, "{ns} ns");
        }
    }

    proptest! {
        #[test]
        fn durations_are_the_rounded_quotient(ns in 1_000..99_950_000_000_u64, shift in 0..27_u32) {
            let ns = (ns >> shift).max(1_000);
            let (unit, name) = match ns {
                0..999_500 => (1e3, "us"),
                999_500..999_500_000 => (1e6, "ms"),
                _ => (1e9, "s"),
            };
            let value = ns as f64 / unit;
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            prop_assert_eq!(duration(Nanos(ns)), format!("{value:.decimals$}{name}"));
        }
    }

    #[test]
    fn counts_have_thousands_separators() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(18_122), "18,122");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn bytes_keep_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "0.98 KiB"),
            (12_345, "12.1 KiB"),
            (123_456_789, "118 MiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
    }

    #[test]
    fn compact_counts_stay_short() {
        let cases = [(999, "999"), (1_000, "1.0k"), (9_949, "9.9k"), (9_950, "10k"), (123_456, "123k")];
        for (n, text) in cases.into_iter().chain([(999_500, "1.0M"), (12_345_678, "12M")]) {
            assert_eq!(compact(n), text);
        }
    }

    #[test]
    fn rates_stay_short() {
        assert_eq!(rate(0.04), "0");
        assert_eq!(rate(0.34), "0.3");
        assert_eq!(rate(412.2), "412");
        assert_eq!(rate(31_240.0), "31.2k");
        assert_eq!(rate(1_250_000.0), "1.25M");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("2GB"), Ok(2_000_000_000));
        for bad in ["", "5", "MiB", "0MiB", "-1MiB", "1.5GiB", "99999999999999GiB", "5m"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", ".", "0", "5x", "s", "-1s", "0s", "1..2s", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
