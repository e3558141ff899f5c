//! Tests of the three formats.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::*;
use crate::{
    aggregate::{CallTotal, DwellQuantiles, LeakGroup, StackCall, StackGroup, StacksSnapshot},
    model::{
        Nanos, TcpState,
        record::Process,
        stack::{StackFrame, UserStack},
    },
    view::top::fixture,
};

fn frame(function: &str, offset: u64, module: &str, source: Option<(&str, u32)>) -> StackFrame {
    let (file, line) = source.unwrap_or_default();
    StackFrame {
        function: function.into(),
        offset,
        module: module.into(),
        file: file.into(),
        line,
        is_inlined: function.starts_with("inlined"),
    }
}

fn snapshot() -> Snapshot {
    let c_library = frame("close", 0x17, "libc.so.6", None);
    let whole = Arc::new(UserStack {
        frames: vec![
            c_library.clone(),
            frame("inlined_helper", 0, "shop", Some(("/src/shop/pool.c", 21))),
            frame("release_to_pool", 0x1c, "shop", Some(("/src/shop/pool.c", 40))),
            frame("handle;request\u{1b}", 0x88, "shop", None),
            frame("", 0x1234, "shop", None),
        ],
        is_cut: false,
    });
    let cut =
        Arc::new(UserStack { frames: vec![c_library, frame("expire", 0xf, "shop", None)], is_cut: true });
    let group = |call, stack: &Arc<UserStack>, calls, captured, processes| StackGroup {
        call,
        stack: Arc::clone(stack),
        process: Process::new(812, "shop", 1),
        processes,
        calls,
        captured,
        dwells: vec![(
            TcpState::Established,
            DwellQuantiles { count: 40, p50: 1_200_000, p90: 2_000_000, p99: 30_000_000, max: 31_000_000 },
        )],
    };
    let total = |calls, with_stack, captured| CallTotal { calls, with_stack, captured };
    let leak = |stack: Option<&Arc<UserStack>>, call| LeakGroup {
        stack: stack.cloned(),
        call,
        process: stack.map(|_| Process::new(812, "shop", 1)),
        processes: 1,
        close_wait: 37,
        fin_wait2: u64::from(call == StackCall::Close),
        longest: Nanos(42_000_000_000),
    };
    let stacks = StacksSnapshot {
        totals: [total(203, 200, 200), total(2_400, 2_432, 1_300), total(200, 200, 200)],
        groups: vec![
            group(StackCall::Close, &whole, 2_200, 1_150, 4),
            group(StackCall::Connect, &whole, 200, 200, 1),
            group(StackCall::Accept, &whole, 200, 200, 1),
            group(StackCall::Close, &cut, 168, 168, 1),
            group(StackCall::Close, &Arc::default(), 64, 1, 1),
        ],
        leaks: vec![
            leak(Some(&whole), StackCall::Accept),
            leak(Some(&cut), StackCall::Close),
            leak(None, StackCall::Connect),
        ],
        older: Nanos(10_000_000_000),
        evicted: 0,
        missed: 3,
    };
    Snapshot { stacks, ts: Nanos(105_000_000_000), ..fixture::empty() }
}

fn written(on: StackSubject, format: StackFormat) -> String {
    of(&snapshot(), on, format)
}

fn of(snapshot: &Snapshot, on: StackSubject, format: StackFormat) -> String {
    let layout = StackLayout { on, format, most: 2, zone: TimeZone::UTC };
    let mut out = Vec::new();
    write(&mut out, snapshot, &layout).expect("memory");
    String::from_utf8(out).expect("text")
}

#[test]
fn text_has_the_caller_in_the_first_line_of_a_stack() {
    insta::assert_snapshot!("close", written(StackSubject::Close, StackFormat::Text));
    insta::assert_snapshot!("connect", written(StackSubject::Connect, StackFormat::Text));
    insta::assert_snapshot!("accept", written(StackSubject::Accept, StackFormat::Text));
    insta::assert_snapshot!("leak", written(StackSubject::Leak, StackFormat::Text));
}

/// A leak without a stack: not because of the sample if nothing in the recording has one.
#[test]
fn a_recording_without_stacks_is_named_as_the_reason() {
    let mut snapshot = snapshot();
    snapshot.source = "incident.tcptrace".into();
    assert!(!of(&snapshot, StackSubject::Leak, StackFormat::Text).contains("the recording has none"));
    let leak = LeakGroup { stack: None, ..snapshot.stacks.leaks.remove(0) };
    snapshot.stacks = StacksSnapshot { leaks: vec![leak], ..StacksSnapshot::default() };
    assert!(
        of(&snapshot, StackSubject::Leak, StackFormat::Text).contains("no stack: the recording has none")
    );
}

#[test]
fn folded_lines_begin_with_the_program() {
    insta::assert_snapshot!(written(StackSubject::Close, StackFormat::Folded), @r"
    shop;shop+0x1234;handle:request?;release_to_pool;inlined_helper;close 2200
    shop;expire;close 168
    shop;[unknown] 64
    ");
}

/// The fields of a message: number, and value or bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (&first, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first < 0x80 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let value = varint(&mut message);
        let bytes = if key & 7 == 2 { message.split_at(value as usize) } else { (&message[..0], message) };
        message = bytes.1;
        found.push((key >> 3, value, bytes.0));
    }
    found
}

#[test]
fn a_profile_has_samples_of_known_locations() {
    let layout =
        StackLayout { on: StackSubject::Close, format: StackFormat::Pprof, most: 2, zone: TimeZone::UTC };
    let mut out = Vec::new();
    write(&mut out, &snapshot(), &layout).expect("memory");
    let profile = fields(&out);
    let of = |wanted| profile.iter().filter(move |(number, ..)| *number == wanted).map(|(.., bytes)| *bytes);
    let strings: Vec<&[u8]> = of(6).collect();
    assert!(strings[0].is_empty() && strings.contains(&b"release_to_pool".as_slice()));
    let samples: Vec<_> = of(2).map(fields).collect();
    assert_eq!(samples.iter().map(|sample| sample[0].2.len()).collect::<Vec<_>>(), [5, 2, 1]);
    let locations: Vec<u64> = of(4).map(|location| fields(location)[0].1).collect();
    let functions: Vec<u64> = of(5).map(|function| fields(function)[0].1).collect();
    // `close` is in two stacks.
    assert_eq!((locations, functions), ((1..=7).collect(), (1..=7).collect()));
    assert!(samples.iter().all(|sample| sample[0].2.iter().all(|id| (1..=7).contains(id))));
}

#[test]
fn a_document_has_every_frame() {
    for on in [StackSubject::Close, StackSubject::Leak] {
        let document: serde_json::Value =
            serde_json::from_str(&written(on, StackFormat::Json)).expect("a document");
        assert_eq!(document["schema"], "tcptrace.stacks.v1");
        let first = &document["stacks"][0];
        assert_eq!(first["frames"].as_array().map(Vec::len), Some(5));
        assert_eq!(first["frames"][2]["line"], 40);
        assert_eq!(document["stacks"][1]["cut"], true);
    }
}
