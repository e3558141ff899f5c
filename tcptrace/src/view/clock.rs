//! Converts trace timestamps to wall-clock time.

use jiff::{Timestamp, tz::TimeZone};

use crate::model::{Nanos, record::HostFacts};

/// The wall-clock time at `ts`.
pub fn wall(host: &HostFacts, ts: Nanos) -> Timestamp {
    Timestamp::from_nanosecond(host.wall_ns(ts).into()).unwrap_or_default()
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
