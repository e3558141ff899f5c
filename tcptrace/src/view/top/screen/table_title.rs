//! Title line above the table: the opened group, the filter, and the time since a counter reset.

use ratatui::text::{Line, Span};

use crate::{
    model::{Nanos, units},
    view::{
        losses::filter,
        top::{
            action::ScreenView,
            columns::role,
            state::ScreenState,
            theme::{StyleRole, Theme},
        },
    },
};

/// The title; `None` if it would be empty.
pub fn line(state: &ScreenState, theme: &Theme) -> Option<Line<'static>> {
    let mut spans = Vec::new();
    if state.place() != ScreenView::Groups
        && let Some((opened, now)) = state.opened()
    {
        let head = format!("{} {}", state.snapshot().grouping.head(), opened.key);
        spans.push(Span::styled(head, theme.style(StyleRole::Strong)));
        spans.push(Span::raw(format!(" ({})", role(opened.role))));
        if state.place() == ScreenView::Sockets {
            spans.push(Span::styled(sockets(state, now.is_some()), theme.style(StyleRole::Faint)));
        }
    }
    if let Some(filter) = filter(state.snapshot()) {
        let gap = if spans.is_empty() { "" } else { "  " };
        spans.push(Span::styled(format!("{gap}{filter}"), theme.style(StyleRole::Held)));
    }
    if let Some(since) = counted_since(state) {
        let gap = if spans.is_empty() { "" } else { "  " };
        spans.push(Span::styled(format!("{gap}counted for {since}"), theme.style(StyleRole::Faint)));
    }
    (!spans.is_empty()).then(|| Line::from(spans))
}

/// Number of sockets, and how many of them are listed.
fn sockets(state: &ScreenState, exists: bool) -> String {
    match state.members() {
        Some(members) if members.sockets.len() as u64 == members.total => {
            let noun = if members.total == 1 { "socket" } else { "sockets" };
            format!("  {} {noun}", units::count(members.total))
        }
        Some(members) => format!(
            "  {} sockets; shown: {} of each state, the oldest",
            units::count(members.total),
            crate::aggregate::detail::PER_STATE
        ),
        None if !exists => "  gone".into(),
        None => String::new(),
    }
}

/// Time since counting began, if that is later than the start of the trace.
fn counted_since(state: &ScreenState) -> Option<String> {
    let snapshot = state.snapshot();
    let answer = snapshot.answer.as_ref()?;
    let counted = snapshot.ts.since(answer.since);
    (answer.since > snapshot.began && counted > Nanos(0)).then(|| units::duration(counted))
}
