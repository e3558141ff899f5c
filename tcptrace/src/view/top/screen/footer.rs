//! Footer: the verdict; below it hints and the position of the selection, or the input line.

use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use super::{table::arrow, wrap::wrap_into};
use crate::{
    model::{text, units},
    replay,
    view::doctor::Severity,
    view::top::{
        action::{ACTIONS, ScreenView},
        settings::ScreenSettings,
        state::{Prompt, ScreenState, Typing},
        theme::{StyleRole, Theme},
        verdict::BottomLine,
    },
};

/// Draws the verdict.
pub fn draw_verdict(frame: &mut Frame<'_>, area: Rect, verdict: &BottomLine, theme: &Theme) {
    if area.is_empty() {
        return;
    }
    let style = theme.style(severity(verdict.severity));
    let (width, height) = (area.width.into(), area.height.into());
    let lines = wrap_into(&verdict.fitted(width, height), width, height);
    for (line, row) in lines.into_iter().zip(area.rows()) {
        frame.render_widget(Line::styled(line, style), row);
    }
}

/// The colour of a severity; `None` is no finding.
pub fn severity(severity: Option<Severity>) -> StyleRole {
    match severity {
        Some(Severity::Critical) => StyleRole::Alarm,
        Some(Severity::Warning) => StyleRole::Warning,
        Some(Severity::Note) => StyleRole::Strong,
        None => StyleRole::Faint,
    }
}

/// Draws as many hints as fit, or the input line.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &ScreenState, settings: &ScreenSettings) {
    if area.is_empty() {
        return;
    }
    if let Some(prompt) = state.prompt() {
        return draw_prompt(frame, area, prompt, state, &settings.theme);
    }
    let theme = &settings.theme;
    let mut right = Line::styled(right(state, theme), theme.style(StyleRole::Faint)).right_aligned();
    if right.width() > area.width as usize {
        right = Line::default();
    }
    let room = (area.width as usize).saturating_sub(right.width() + 1);
    let mut left = Line::default();
    for (i, row) in ACTIONS.iter().enumerate() {
        let (Some((hint, at)), Some(key)) = (row.hint, settings.keymap.first(i)) else { continue };
        if !at.contains(&state.place()) || !state.offers(row.action) {
            continue;
        }
        let gap = if left.spans.is_empty() { "" } else { "  " };
        let key = Span::styled(format!("{gap}{key}"), theme.style(StyleRole::Strong));
        let hint = Span::styled(format!(" {hint}"), theme.style(StyleRole::Faint));
        if left.width() + key.width() + hint.width() > room {
            break;
        }
        left.push_span(key);
        left.push_span(hint);
    }
    frame.render_widget(left, area);
    frame.render_widget(right, area);
}

/// The sort order and the position of the selection.
fn right(state: &ScreenState, theme: &Theme) -> String {
    if state.place() == ScreenView::Life {
        return String::new();
    }
    let what = match (state.place(), state.position().1) {
        (ScreenView::Groups, 1) => "group",
        (ScreenView::Groups, _) => "groups",
        (_, 1) => "socket",
        _ => "sockets",
    };
    let position = match state.position() {
        (Some(row), rows) => format!("{}/{}", units::count(row as u64 + 1), units::count(rows as u64)),
        (None, rows) => format!("{} {what}", units::count(rows as u64)),
    };
    format!("by {} {}  {position}", state.sorted_by(), arrow(theme.glyphs(), state.sort().direction))
}

/// Draws the input line with its cursor, and its error if it is invalid.
fn draw_prompt(frame: &mut Frame<'_>, area: Rect, prompt: &Prompt, state: &ScreenState, theme: &Theme) {
    let (head, example) = match state.typing() {
        Typing::Filter => {
            ("filter: ", "state time-wait and rport 5432, comm nginx, peer 10.0.0.0/8, not role inbound")
        }
        Typing::Time => ("go to: ", replay::EXPECTED),
    };
    let before = text::sanitise(prompt.before_cursor()).width();
    let room = (area.width as usize).saturating_sub(head.len() + 1);
    // A long line scrolls left so that the cursor stays visible.
    let hidden = before.saturating_sub(room);
    let shown: String = text::sanitise(prompt.text()).chars().skip(hidden).collect();
    let mut line = vec![Span::styled(head, theme.style(StyleRole::Strong)), Span::raw(shown)];
    if let Some(fault) = state.filter_fault() {
        line.push(Span::styled(format!("   {}", text::sanitise(&fault)), theme.style(StyleRole::Alarm)));
    } else if prompt.text().is_empty() {
        line.push(Span::styled(example, theme.style(StyleRole::Faint)));
    }
    frame.render_widget(Line::from(line), area);
    let x = area.x.saturating_add((head.len() + before - hidden) as u16).min(area.right().saturating_sub(1));
    frame.set_cursor_position(Position::new(x, area.y));
}
