//! The time of day of what a trace has seen.

use jiff::{Timestamp, tz::TimeZone};

use crate::model::{Nanos, record::HostFacts};

/// The wall-clock time at `ts`.
pub fn wall(host: &HostFacts, ts: Nanos) -> Timestamp {
    let wall_ns = i128::from(host.clock_offset_ns) + i128::from(ts.0);
    Timestamp::from_nanosecond(wall_ns).unwrap_or_default()
}

/// The date and the time of day at `ts`.
pub fn date(host: &HostFacts, ts: Nanos, zone: &TimeZone) -> String {
    format(host, ts, zone, "%Y-%m-%d %H:%M:%S")
}

/// The time of day at `ts`, to the millisecond.
pub fn time(host: &HostFacts, ts: Nanos, zone: &TimeZone) -> String {
    format(host, ts, zone, "%H:%M:%S%.3f")
}

fn format(host: &HostFacts, ts: Nanos, zone: &TimeZone, format: &str) -> String {
    wall(host, ts).to_zoned(zone.clone()).strftime(format).to_string()
}
