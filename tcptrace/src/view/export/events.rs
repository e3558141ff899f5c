//! The table `events`: a row per change of state.

use super::{
    Column,
    Kind::{Flag, Number, Text, Time},
    Value, column,
};
use crate::{
    lifecycle::{Bound, Closer, Dwell, EndReason, Event},
    model::{record::HostFacts, text},
};

/// Its columns: those of `tcptrace events --format csv`, and the cgroup.
pub const EVENTS: [Column; 22] = [
    column("ts_ns", Time),
    column("id", Number),
    column("netns", Number),
    column("role", Text),
    column("role_guessed", Flag),
    column("saddr", Text),
    column("sport", Number),
    column("daddr", Text),
    column("dport", Number),
    column("from", Text),
    column("to", Text),
    column("dwell_ns", Number),
    column("seeded", Flag),
    column("inferred", Flag),
    column("closer", Text),
    column("end_reason", Text),
    column("orphan", Flag),
    column("extended", Flag),
    column("pid", Number),
    column("comm", Text),
    column("owner", Text),
    column("cgroup", Number),
];

/// The row of `event`.
pub fn row<'a>(event: &Event<'a>, host: &HostFacts) -> [Value<'a>; EVENTS.len()] {
    let bound = |wanted| matches!(event.dwell, Some(Dwell { bound, .. }) if bound == wanted);
    let process = event.process;
    [
        Value::Number(host.clock_offset_ns.saturating_add(event.ts.0)),
        Value::Number(event.id.0),
        Value::Number(event.netns.0.into()),
        Value::text(event.role.name()),
        Value::Flag(event.role_guessed),
        Value::text(event.tuple.saddr.to_string()),
        Value::Number(event.tuple.sport.into()),
        Value::text(event.tuple.daddr.to_string()),
        Value::Number(event.tuple.dport.into()),
        Value::text(event.from.name()),
        Value::text(event.to.name()),
        Value::optional(event.dwell.map(|dwell| dwell.length.0)),
        Value::Flag(bound(Bound::AtLeast)),
        Value::Flag(bound(Bound::Inferred)),
        if event.closer == Closer::None { Value::Missing } else { Value::text(event.closer.name()) },
        event.end_reason.map_or(Value::Missing, |reason: EndReason| Value::text(reason.name())),
        event.orphan.map_or(Value::Missing, Value::Flag),
        Value::Flag(event.extended),
        Value::optional(process.map(|process| process.pid)),
        process.map_or(Value::Missing, |process| Value::Text(text::sanitise(&process.comm))),
        Value::text(event.owner.name()),
        Value::optional(process.map(|process| process.cgroup).filter(|&cgroup| cgroup != 0)),
    ]
}
