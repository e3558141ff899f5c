//! Fuzzes the decoder of ring entries and tracks the decoded records.

#![no_main]

use fuzz::mirror::Mirror;
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    kernel::decode,
    lifecycle::{Tracker, TrackerLimits},
    model::{Nanos, Record},
};
use tcptrace_common::record::{RECORD_LEN, RECORD_WITH_TASK_LEN, flag};

fuzz_target!(|bytes: &[u8]| {
    let mut tracker = Tracker::new(TrackerLimits { sockets: 64 });
    let mut mirror = Mirror::default();
    let mut now = Nanos(0);
    // Each entry has its own length, encoded in the first byte.
    let mut rest = bytes;
    while let Some((&length, tail)) = rest.split_first() {
        let length = match length {
            0..=99 => RECORD_LEN,
            100..=199 => RECORD_WITH_TASK_LEN,
            _ => usize::from(length),
        };
        let (entry, tail) = tail.split_at(length.min(tail.len()));
        rest = tail;
        let Some(seen) = decode(entry) else { continue };
        assert!(entry.len() >= RECORD_LEN);
        assert_eq!(seen.task.is_some(), seen.raw.flags & flag::TASK != 0);
        now = Nanos(seen.raw.ts_ns);
        tracker.take(&Record::Kernel(seen), &mut mirror);
    }
    mirror.compare(&tracker, now);
});
