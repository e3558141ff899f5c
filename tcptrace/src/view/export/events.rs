//! The table `events`: one row per state transition.

use super::table::{
    ColumnKind::{Flag, Number, Text, Time},
    ExportColumn, ExportValue, column,
};
use crate::{
    lifecycle::{Bound, Closer, Dwell, EndReason, Event},
    model::{record::HostFacts, text},
    view::document::NameFields,
};

/// Columns of `tcptrace events --format csv`, and the cgroup.
pub const EVENTS: [ExportColumn; 33] = [
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
    column("reason_inferred", Flag),
    column("pod", Text),
    column("k8s_namespace", Text),
    column("container", Text),
    column("image", Text),
    column("unit", Text),
    column("exe", Text),
    column("uid", Number),
    column("user", Text),
    column("command", Text),
    column("host", Text),
];

/// The row of `event`.
pub fn row<'a>(event: &Event<'a>, host: &'a HostFacts) -> [ExportValue<'a>; EVENTS.len()] {
    let bound = |wanted| matches!(event.dwell, Some(Dwell { bound, .. }) if bound == wanted);
    let process = event.process;
    let names = process.map(NameFields::of).unwrap_or_default();
    let name = |name: Option<&'a str>| {
        name.map_or(ExportValue::Missing, |name| ExportValue::Text(text::sanitise(name)))
    };
    [
        ExportValue::Number(host.wall_ns(event.ts)),
        ExportValue::Number(event.id.0),
        ExportValue::Number(event.netns.0.into()),
        ExportValue::text(event.role.name()),
        ExportValue::Flag(event.role_guessed),
        ExportValue::text(event.tuple.saddr.to_string()),
        ExportValue::Number(event.tuple.sport.into()),
        ExportValue::text(event.tuple.daddr.to_string()),
        ExportValue::Number(event.tuple.dport.into()),
        ExportValue::text(event.from.name()),
        ExportValue::text(event.to.name()),
        ExportValue::optional(event.dwell.map(|dwell| dwell.length.0)),
        ExportValue::Flag(bound(Bound::AtLeast)),
        ExportValue::Flag(bound(Bound::Inferred)),
        if event.closer == Closer::None {
            ExportValue::Missing
        } else {
            ExportValue::text(event.closer.name())
        },
        event.end_reason.map_or(ExportValue::Missing, |reason: EndReason| ExportValue::text(reason.name())),
        event.orphan.map_or(ExportValue::Missing, ExportValue::Flag),
        ExportValue::Flag(event.extended),
        ExportValue::optional(process.map(|process| process.pid)),
        process.map_or(ExportValue::Missing, |process| ExportValue::Text(text::sanitise(&process.comm))),
        ExportValue::text(event.owner.name()),
        ExportValue::optional(process.map(|process| process.cgroup).filter(|&cgroup| cgroup != 0)),
        ExportValue::Flag(event.reason_inferred),
        name(names.pod),
        name(names.k8s_namespace),
        name(names.container),
        name(names.image),
        name(names.unit),
        name(names.exe),
        ExportValue::optional(names.uid.map(u64::from)),
        name(names.user),
        name(names.command),
        name(Some(&host.host).filter(|host| !host.is_empty()).map(String::as_str)),
    ]
}
