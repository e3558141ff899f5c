//! Fuzzes the reader of recordings with arbitrary bytes and tracks the records.

#![no_main]

use std::io::Cursor;

use fuzz::mirror::Mirror;
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    lifecycle::{Tracker, TrackerLimits},
    model::{Flow, Nanos, Record, Source as _, record::HostFacts},
    session::{AtEnd, Reader},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(Box::new(Cursor::new(bytes.to_vec())), AtEnd::Stop) else { return };
    let mut tracker = Tracker::new(TrackerLimits { sockets: 4096 });
    let mut mirror = Mirror::default();
    let mut now = Nanos(0);
    let mut host = HostFacts::default();
    loop {
        let flow = reader.fill(&mut |record| {
            now = record.ts().unwrap_or(now);
            match &record {
                Record::Host(facts) => host = facts.after(&host),
                Record::ClockStep(step) => host.step_clock(*step),
                _ => {}
            }
            let wall_ns = host.wall_ns(now);
            let shown = host.first_shown(wall_ns, Nanos(0));
            // Unless the wall clock saturates at 64 bits, it shows this time now or showed it before.
            assert!(
                wall_ns == u64::MAX || shown.is_some_and(|shown| shown <= now),
                "{wall_ns} {now:?} {shown:?}"
            );
            tracker.take(&record, &mut mirror);
        });
        if !matches!(flow, Ok(Flow::Running)) {
            break;
        }
    }
    mirror.compare(&tracker, now);
    assert!(reader.position() <= bytes.len() as u64);
});
