//! Writes stacks as one JSON document, schema `tcptrace.stacks.v1`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::listed::{StackSubject, traced};
use crate::{
    aggregate::{DwellQuantiles, LeakGroup, Snapshot, StackCall, StackGroup},
    model::{
        stack::{StackFrame, UserStack},
        text::sanitise,
    },
    view::document::{self, DocumentHead, ProcessFields, limits},
};

const SCHEMA: &str = "tcptrace.stacks.v1";

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, on: StackSubject) -> io::Result<()> {
    let stacks = &snapshot.stacks;
    let total = on.call().map(|call| stacks.totals[call as usize]);
    let seconds = traced(snapshot).as_secs_f64();
    let groups = stacks.groups.iter().filter(|group| Some(group.call) == on.call());
    let leaks: &[LeakGroup] = if on == StackSubject::Leak { &stacks.leaks } else { &[] };
    document::write(
        out,
        &StacksDocument {
            head: DocumentHead::of(SCHEMA, snapshot),
            limits: limits(&snapshot.host),
            on: on.name(),
            measured_ns: traced(snapshot).0,
            calls: total.map(|total| total.calls),
            with_stack: total.map(|total| total.with_stack),
            captured: total.map(|total| total.captured),
            missed: stacks.missed,
            evicted_calls: stacks.evicted,
            older_ns: (on == StackSubject::Leak).then_some(stacks.older.0),
            stacks: groups
                .map(|group| CallsDocument::of(group, seconds))
                .map(StackDocument::Calls)
                .chain(leaks.iter().map(LeakDocument::of).map(StackDocument::Leak))
                .collect(),
        },
    )
}

#[derive(Serialize)]
struct StacksDocument<'a> {
    #[serde(flatten)]
    head: DocumentHead<'a>,
    limits: Vec<Cow<'a, str>>,
    on: &'static str,
    measured_ns: u64,
    /// All calls; null with `leak`.
    calls: Option<u64>,
    with_stack: Option<u64>,
    captured: Option<u64>,
    missed: u64,
    evicted_calls: u64,
    /// Only with `leak`.
    older_ns: Option<u64>,
    stacks: Vec<StackDocument<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StackDocument<'a> {
    Calls(CallsDocument<'a>),
    Leak(LeakDocument<'a>),
}

#[derive(Serialize)]
struct CallsDocument<'a> {
    process: ProcessFields<'a>,
    processes: usize,
    calls: u64,
    calls_per_s: f64,
    captured: u64,
    dwell_ns: BTreeMap<&'static str, DwellQuantiles>,
    #[serde(flatten)]
    frames: FramesDocument<'a>,
}

impl<'a> CallsDocument<'a> {
    fn of(group: &'a StackGroup, seconds: f64) -> Self {
        Self {
            process: (&group.process).into(),
            processes: group.processes,
            calls: group.calls,
            calls_per_s: if seconds > 0.0 { group.calls as f64 / seconds } else { 0.0 },
            captured: group.captured,
            dwell_ns: group.dwells.iter().map(|&(state, dwell)| (state.name(), dwell)).collect(),
            frames: FramesDocument::of(&group.stack),
        }
    }
}

#[derive(Serialize)]
struct LeakDocument<'a> {
    process: Option<ProcessFields<'a>>,
    processes: usize,
    close_wait: u64,
    fin_wait2: u64,
    longest_ns: u64,
    /// `connect`, `accept`, `shutdown`, or null without a stack.
    stack_of: Option<&'static str>,
    #[serde(flatten)]
    frames: Option<FramesDocument<'a>>,
}

impl<'a> LeakDocument<'a> {
    fn of(group: &'a LeakGroup) -> Self {
        Self {
            process: group.process.as_ref().map(Into::into),
            processes: group.processes,
            close_wait: group.close_wait,
            fin_wait2: group.fin_wait2,
            longest_ns: group.longest.0,
            stack_of: group.stack.as_ref().map(|_| match group.call {
                StackCall::Connect => "connect",
                StackCall::Accept => "accept",
                StackCall::Close => "shutdown",
            }),
            frames: group.stack.as_deref().map(FramesDocument::of),
        }
    }
}

#[derive(Serialize)]
struct FramesDocument<'a> {
    /// The outer frames are unknown.
    cut: bool,
    frames: Vec<FrameDocument<'a>>,
}

impl<'a> FramesDocument<'a> {
    fn of(stack: &'a UserStack) -> Self {
        Self { cut: stack.is_cut, frames: stack.frames.iter().map(FrameDocument::of).collect() }
    }
}

#[derive(Serialize)]
struct FrameDocument<'a> {
    function: Option<Cow<'a, str>>,
    offset: u64,
    module: Option<Cow<'a, str>>,
    file: Option<Cow<'a, str>>,
    line: Option<u32>,
    inlined: bool,
}

impl<'a> FrameDocument<'a> {
    fn of(frame: &'a StackFrame) -> Self {
        let known = |text: &'a str| Some(sanitise(text)).filter(|text| !text.is_empty());
        Self {
            function: known(&frame.function),
            offset: frame.offset,
            module: known(&frame.module),
            file: known(&frame.file),
            line: Some(frame.line).filter(|&line| line != 0),
            inlined: frame.is_inlined,
        }
    }
}
