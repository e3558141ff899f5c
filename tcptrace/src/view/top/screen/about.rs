//! The line above the table: whose sockets it shows, and which filter is in use.

use ratatui::text::{Line, Span};

use crate::{
    model::{Nanos, units},
    view::{
        losses::filter,
        top::{
            columns::role,
            state::{Place, State},
            theme::{Role, Theme},
        },
    },
};

/// What there is to say; `None` where that is nothing.
pub fn line(state: &State, theme: &Theme) -> Option<Line<'static>> {
    let mut spans = Vec::new();
    if state.place() != Place::Groups
        && let Some((opened, now)) = state.opened()
    {
        let head = format!("{} {}", state.snapshot().grouping.head(), opened.key);
        spans.push(Span::styled(head, theme.style(Role::Strong)));
        spans.push(Span::raw(format!(" ({})", role(opened.role))));
        if state.place() == Place::Sockets {
            spans.push(Span::styled(sockets(state, now.is_some()), theme.style(Role::Faint)));
        }
    }
    if let Some(filter) = filter(state.snapshot()) {
        let gap = if spans.is_empty() { "" } else { "  " };
        spans.push(Span::styled(format!("{gap}{filter}"), theme.style(Role::Held)));
    }
    if let Some(since) = counted_since(state) {
        let gap = if spans.is_empty() { "" } else { "  " };
        spans.push(Span::styled(format!("{gap}counted for {since}"), theme.style(Role::Faint)));
    }
    (!spans.is_empty()).then(|| Line::from(spans))
}

/// How many sockets there are and are shown.
fn sockets(state: &State, exists: bool) -> String {
    match state.members() {
        Some(members) if members.sockets.len() as u64 == members.total => {
            let noun = if members.total == 1 { "socket" } else { "sockets" };
            format!("  {} {noun}", units::count(members.total))
        }
        Some(members) => format!(
            "  {} sockets; shown: {} of each state, the oldest",
            units::count(members.total),
            crate::inspect::PER_STATE
        ),
        None if !exists => "  gone".into(),
        None => String::new(),
    }
}

/// For how long sockets have been counted, where that is not since the trace began.
fn counted_since(state: &State) -> Option<String> {
    let snapshot = state.snapshot();
    let answer = snapshot.answer.as_ref()?;
    let counted = snapshot.ts.since(answer.since);
    (answer.since > snapshot.began && counted > Nanos(0)).then(|| units::duration(counted))
}
