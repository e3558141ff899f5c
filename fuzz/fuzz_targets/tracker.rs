//! Fuzzes the tracker with any records in any order and a jumping clock: events match the table, no side table outgrows
//! the socket table, and nothing waits indefinitely.

#![no_main]

use fuzz::{mirror::Mirror, script::Script};
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    lifecycle::{Tracker, TrackerLimits},
    model::{Nanos, Record},
};

const LIMITS: TrackerLimits = TrackerLimits { sockets: 12 };
/// Times the same stream is replayed, so that leftovers accumulate.
const ROUNDS: u32 = 3;

fuzz_target!(|bytes: &[u8]| {
    let mut tracker = Tracker::new(LIMITS);
    let mut mirror = Mirror::default();
    let mut now = Nanos(0);
    for _ in 0..ROUNDS {
        let mut script = Script::new(bytes);
        while let Some(record) = script.next() {
            now = now.max(script.now());
            tracker.take(&record, &mut mirror);
        }
        mirror.compare(&tracker, now);
    }
    assert!(tracker.sockets().count() <= LIMITS.sockets);
    for (table, entries) in tracker.side_tables() {
        // Connecting threads expire by time, but only once there are many.
        let most = if table == "connects" { 4096 } else { LIMITS.sockets };
        assert!(entries <= most, "{entries} in {table}");
    }
    // Let everything that waits expire.
    let late = now.plus(Nanos(3_600 * Nanos::SECOND.0));
    tracker.take(&Record::Tick { ts: late }, &mut mirror);
    mirror.compare(&tracker, late);
});
