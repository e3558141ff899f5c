//! Any stream of records, in any order, with a clock that jumps: what is told of the sockets is what the table holds, no
//! table outgrows that of the sockets, and when time goes on nothing waits for ever.

#![no_main]

use fuzz::{mirror::Mirror, script::Script};
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    lifecycle::{Limits, Tracker},
    model::{Nanos, Record},
};

const LIMITS: Limits = Limits { sockets: 12 };
/// Times the same stream is played, so that what is left behind of each piles up.
const ROUNDS: u32 = 3;

fuzz_target!(|bytes: &[u8]| {
    let mut tracker = Tracker::new(LIMITS);
    let mut told = Mirror::default();
    let mut now = Nanos(0);
    for _ in 0..ROUNDS {
        let mut script = Script::new(bytes);
        while let Some(record) = script.next() {
            now = now.max(script.now());
            tracker.take(&record, &mut told);
        }
        told.compare(&tracker, now);
    }
    assert!(tracker.sockets().count() <= LIMITS.sockets);
    for (table, entries) in tracker.side_tables() {
        // Threads that connect are thrown out by time, once there are many.
        let most = if table == "connects" { 4096 } else { LIMITS.sockets };
        assert!(entries <= most, "{entries} in {table}");
    }
    // Nothing is left that waits.
    let late = now.plus(Nanos(3_600 * Nanos::SECOND.0));
    tracker.take(&Record::Tick { ts: late }, &mut told);
    told.compare(&tracker, late);
});
