//! Life of one socket: its known state changes, and a note about those not seen.

use std::sync::Arc;

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use crate::{
    aggregate::{
        Snapshot, StackCall,
        detail::{Before, Life, SocketRow, StateChange},
    },
    lifecycle::{self, Closer, OwnerKind, Role},
    model::{Nanos, TcpState, record::Process, text},
    view::{
        clock,
        top::{
            columns::{bounded, role, time_of},
            mouse::Regions,
            settings::ScreenSettings,
            state::ScreenState,
            theme::{StyleRole, Theme},
        },
    },
};

/// Draws the life; if it does not fit, only the last changes.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &ScreenState, settings: &ScreenSettings) -> Regions {
    let theme = &settings.theme;
    let lines = match state.life() {
        Some(life) => {
            let mut head = head(life, state.snapshot(), theme);
            let steps = steps(life, state.snapshot(), settings);
            let room = (area.height as usize).saturating_sub(head.len());
            let hidden = steps.len().saturating_sub(room);
            head.extend(steps.into_iter().skip(hidden));
            head
        }
        None if state.is_gone() => vec![Line::raw("This socket has ended; its history is not kept.")],
        None => vec![Line::raw("Loading...")],
    };
    frame.render_widget(Paragraph::new(lines), area);
    Regions::default()
}

fn head(life: &Life, snapshot: &Snapshot, theme: &Theme) -> Vec<Line<'static>> {
    let socket = &life.socket;
    let ends = if socket.role == lifecycle::Role::Listener {
        socket.tuple.local().to_string()
    } else {
        let remote = socket.tuple.remote();
        format!("{} -> {}", socket.tuple.local(), snapshot.peer_names.with_name(remote.addr, remote))
    };
    let closer = match socket.closer {
        Closer::None => String::new(),
        closer => format!("  closed first: {}", closer.name()),
    };
    let facts = format!("  {}{closer}", role(socket.role));
    let netns = if socket.netns.0 == snapshot.host.netns {
        String::new()
    } else {
        let known = snapshot.ports.netns.iter().find(|known| known.netns == socket.netns);
        let name = known.and_then(|known| known.name.as_deref().map(text::sanitise));
        let name = name.unwrap_or_else(|| socket.netns.to_string().into());
        format!("  network namespace {name}")
    };
    let mut lines = vec![
        Line::from(vec![
            Span::styled(ends, theme.style(StyleRole::Strong)),
            Span::raw(facts),
            Span::raw(netns),
        ]),
        Line::raw(owner(socket, snapshot)),
    ];
    lines.extend(socket.process.iter().flat_map(names).map(Line::raw));
    let opens = if socket.role == Role::Inbound { StackCall::Accept } else { StackCall::Connect };
    for (call, stack) in [(opens, &life.opened_by), (StackCall::Close, &life.closed_by)] {
        let what = call.phrase();
        lines.extend(stack.iter().map(|stack| Line::raw(format!("{what} {}", stack.summary()))));
    }
    lines.push(Line::default());
    lines
}

/// The workload, the program and the parents of an owner, as far as known.
fn names(process: &Process) -> Vec<String> {
    let workload = process.workload().map(AsRef::as_ref).cloned().unwrap_or_default();
    let facts = process.facts.as_deref().cloned().unwrap_or_default();
    let first_thread = facts.name.filter(|name| **name != *process.comm);
    // Each line fits 80 columns with names of usual length.
    let lines = [
        [("pod", workload.pod_label), ("container", workload.container)],
        [("image", workload.image), ("runtime", workload.runtime)],
        [("unit", workload.unit), ("user", facts.user_label)],
        [("program", facts.exe), ("first thread", first_thread)],
        [("command", facts.command), ("", None)],
    ];
    let line = |named: [(&str, Option<Arc<str>>); 2]| {
        let named = named.into_iter().filter_map(|(what, name)| Some(format!("{what} {}", name?)));
        named.collect::<Vec<_>>().join(", ")
    };
    let chain = facts.parents.iter().map(|parent| format!("{} ({})", parent.comm, parent.pid));
    let parents = chain.collect::<Vec<_>>().join(" < ");
    let parents = if parents.is_empty() { parents } else { format!("parents: {parents}") };
    lines.into_iter().map(line).chain([parents]).filter(|line| !line.is_empty()).collect()
}

/// The owner, and how it is known.
fn owner(socket: &SocketRow, snapshot: &Snapshot) -> String {
    let Some(process) = &socket.process else {
        return "owner: not known".into();
    };
    let how = match socket.owner {
        OwnerKind::Unknown => "",
        OwnerKind::Listener => ", inherited from its listener",
        OwnerKind::Proc => ", found in /proc/PID/fd",
        OwnerKind::Exact => ", seen in its own system call",
    };
    let descriptor = match snapshot.observed.descriptors.get(&socket.id) {
        Some(fd) if socket.state != TcpState::Close => format!(", descriptor {fd}"),
        _ => String::new(),
    };
    format!("owner: {} (pid {}){descriptor}{how}", text::sanitise(&process.comm), process.pid)
}

fn steps(life: &Life, snapshot: &Snapshot, settings: &ScreenSettings) -> Vec<Line<'static>> {
    let theme = &settings.theme;
    let clock = |ts: Nanos| clock::time(&snapshot.host, ts, &settings.zone);
    let faint = theme.style(StyleRole::Faint);
    let mut lines = Vec::new();
    match life.before {
        Before::Nothing => {}
        Before::OlderThanTrace => {
            lines
                .push(Line::styled("...           older than the trace: earlier changes are unknown", faint));
        }
        Before::ChangesDropped(ts) => {
            let note = format!(
                "...           changes before {} are not kept: open it earlier, or record",
                clock(ts)
            );
            lines.push(Line::styled(note, faint));
        }
    }
    lines.extend(life.steps.iter().map(|step| {
        Line::from(vec![Span::styled(format!("{}  ", clock(step.ts)), faint), Span::raw(change(step))])
    }));
    lines.push(now(life, snapshot, theme));
    lines
}

/// `ESTABLISHED -> FIN_WAIT1    after 1.2s`
fn change(step: &StateChange) -> String {
    let from = if step.begins && step.from == TcpState::Close { "" } else { step.from.name() };
    let orphan = if step.orphan && step.to == TcpState::FinWait2 { " (orphan)" } else { "" };
    let to = if step.to == TcpState::Close { "end" } else { step.to.name() };
    let dwell = step.dwell.map(|dwell| format!("  after {}", bounded(dwell))).unwrap_or_default();
    let reason = step.end_reason.map(|reason| format!("  {}", reason.name())).unwrap_or_default();
    format!("{from:>11} -> {:<20}{dwell}{reason}", format!("{to}{orphan}")).trim_end().to_owned()
}

/// The current state.
fn now(life: &Life, snapshot: &Snapshot, theme: &Theme) -> Line<'static> {
    let socket = &life.socket;
    let at = time_of(snapshot);
    if socket.state == TcpState::Close {
        return Line::styled("now           it has ended", theme.style(StyleRole::Held));
    }
    let age = socket.age(at).map_or("for an unknown time".into(), |age| format!("for {}", bounded(age)));
    let left = socket.time_left(at).map(|left| format!(", {} left", bounded(left))).unwrap_or_default();
    let orphan =
        if socket.orphan && socket.state == TcpState::FinWait2 { ", no process holds it" } else { "" };
    let state = format!("now           in {} {age}{left}{orphan}", socket.state.name());
    Line::styled(state, theme.style(StyleRole::Live))
}
