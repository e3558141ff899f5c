//! Any bytes as a recording: read to the end or refused, and what it holds is tracked.

#![no_main]

use std::io::Cursor;

use fuzz::mirror::Mirror;
use libfuzzer_sys::fuzz_target;
use tcptrace::{
    lifecycle::{Limits, Tracker},
    model::Nanos,
    session::{AtEnd, Reader},
    source::{Flow, Source as _},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(Box::new(Cursor::new(bytes.to_vec())), AtEnd::Stop) else { return };
    let mut tracker = Tracker::new(Limits { sockets: 4096 });
    let mut told = Mirror::default();
    let mut now = Nanos(0);
    loop {
        let flow = reader.fill(&mut |record| {
            now = record.ts().unwrap_or(now);
            tracker.take(&record, &mut told);
        });
        if !matches!(flow, Ok(Flow::Running)) {
            break;
        }
    }
    told.compare(&tracker, now);
    assert!(reader.position() <= bytes.len() as u64);
});
