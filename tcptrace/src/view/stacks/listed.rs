//! What is listed, and in which form: the part that all forms share.

use std::{borrow::Cow, sync::Arc};

use jiff::tz::TimeZone;

use crate::{
    aggregate::{Snapshot, StackCall},
    model::{
        Nanos,
        record::Process,
        stack::{StackFrame, UserStack},
        text::sanitise,
    },
};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StackSubject {
    /// Calls that close a connection before the peer does: their sockets go to TIME_WAIT
    Close,
    /// Calls that open a connection
    Connect,
    /// Calls that accept a connection, where the kernel allows programs at functions
    Accept,
    /// Sockets that were opened or accepted here and never closed: in CLOSE_WAIT, or in FIN_WAIT2 while a process holds them
    Leak,
}

impl StackSubject {
    /// As in arguments and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Leak => "leak",
        }
    }

    pub(super) const fn call(self) -> Option<StackCall> {
        match self {
            Self::Close => Some(StackCall::Close),
            Self::Connect => Some(StackCall::Connect),
            Self::Accept => Some(StackCall::Accept),
            Self::Leak => None,
        }
    }
}

/// How stacks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StackFormat {
    /// Lines to read: process, function, source line, count; then the stack, innermost function first
    Text,
    /// One line per stack, outermost function first, with its count: for flame graph programs
    Folded,
    /// A profile for `go tool pprof` and Pyroscope
    Pprof,
    /// One JSON document
    Json,
}

/// What is written, and how.
#[derive(Clone, Debug)]
pub struct StackLayout {
    /// What is listed.
    pub on: StackSubject,
    /// The format.
    pub format: StackFormat,
    /// Most stacks in text.
    pub most: usize,
    /// Time zone of the header.
    pub zone: TimeZone,
}

/// One stack with its count, whatever is listed.
pub struct ListedStack<'a> {
    /// The stack, if it is known.
    pub stack: Option<&'a Arc<UserStack>>,
    /// The process, or one of several with the same name.
    pub process: Option<&'a Process>,
    /// Calls or sockets.
    pub count: u64,
    /// Whether `count` is an estimate.
    pub is_estimate: bool,
}

/// What stands before a count.
pub const fn mark(is_estimate: bool) -> &'static str {
    if is_estimate { "~" } else { "" }
}

/// The stacks of `on`, those with the highest counts first.
pub fn counted(snapshot: &Snapshot, on: StackSubject) -> Vec<ListedStack<'_>> {
    let stacks = &snapshot.stacks;
    match on.call() {
        Some(call) => stacks
            .groups
            .iter()
            .filter(|group| group.call == call)
            .map(|group| ListedStack {
                stack: Some(&group.stack),
                process: Some(&group.process),
                count: group.calls,
                is_estimate: group.is_estimate(),
            })
            .collect(),
        None => stacks
            .leaks
            .iter()
            .map(|group| ListedStack {
                stack: group.stack.as_ref(),
                process: group.process.as_ref(),
                count: group.close_wait + group.fin_wait2,
                is_estimate: false,
            })
            .collect(),
    }
}

/// How long was traced.
pub(super) fn traced(snapshot: &Snapshot) -> Nanos {
    snapshot.ts.since(snapshot.began)
}

/// The name of a frame. A recording may hold any text.
pub fn name(frame: &StackFrame) -> String {
    sanitise(&frame.name()).into_owned()
}

/// The name of a process, sanitised.
pub fn comm(process: Option<&Process>) -> Cow<'_, str> {
    process.map_or(Cow::Borrowed("[unknown]"), |process| sanitise(&process.comm))
}
