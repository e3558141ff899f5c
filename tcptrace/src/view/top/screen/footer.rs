//! The last lines: what stands out; the keys that are used most, and where the selection stands, or the line
//! that is being typed.

use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use super::{table::arrow, words::wrap_into};
use crate::{
    model::{text, units},
    replay,
    view::top::{
        action::ACTIONS,
        insight::{self, Severity},
        settings::Settings,
        state::{Place, Prompt, State, Typing},
        theme::{Role, Theme},
    },
};

/// The most important thing, in words.
pub fn draw_insight(frame: &mut Frame<'_>, area: Rect, state: &State, theme: &Theme) {
    if area.is_empty() {
        return;
    }
    let insight = insight::of(state.snapshot());
    let role = match insight.severity {
        Severity::Alarm => Some(Role::Alarm),
        Severity::Warning => Some(Role::Warning),
        Severity::Note => None,
        Severity::Calm => Some(Role::Faint),
    };
    let style = role.map(|role| theme.style(role)).unwrap_or_default();
    let lines = wrap_into(&insight.text, area.width as usize, area.height as usize);
    for (line, row) in lines.into_iter().zip(area.rows()) {
        frame.render_widget(Line::styled(line, style), row);
    }
}

/// As many hints as there is room for, or the line that is being typed.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, settings: &Settings) {
    if area.is_empty() {
        return;
    }
    if let Some(prompt) = state.prompt() {
        return draw_prompt(frame, area, prompt, state, &settings.theme);
    }
    let theme = &settings.theme;
    let right = Line::styled(right(state, theme), theme.style(Role::Faint)).right_aligned();
    let room = (area.width as usize).saturating_sub(right.width() + 1);
    let mut left = Line::default();
    for (i, row) in ACTIONS.iter().enumerate() {
        let (Some((hint, at)), Some(key)) = (row.hint, settings.keymap.first(i)) else { continue };
        if !at.contains(&state.place()) || !state.offers(row.action) {
            continue;
        }
        let gap = if left.spans.is_empty() { "" } else { "  " };
        let key = Span::styled(format!("{gap}{key}"), theme.style(Role::Strong));
        let hint = Span::styled(format!(" {hint}"), theme.style(Role::Faint));
        if left.width() + key.width() + hint.width() > room {
            break;
        }
        left.push_span(key);
        left.push_span(hint);
    }
    frame.render_widget(left, area);
    frame.render_widget(right, area);
}

/// The order of the rows, and where the selection stands.
fn right(state: &State, theme: &Theme) -> String {
    if state.place() == Place::Life {
        return String::new();
    }
    let what = match (state.place(), state.position().1) {
        (Place::Groups, 1) => "group",
        (Place::Groups, _) => "groups",
        (_, 1) => "socket",
        _ => "sockets",
    };
    let position = match state.position() {
        (Some(row), rows) => format!("{}/{}", units::count(row as u64 + 1), units::count(rows as u64)),
        (None, rows) => format!("{} {what}", units::count(rows as u64)),
    };
    format!("by {} {}  {position}", state.sorted_by(), arrow(theme.glyphs(), state.sort().direction))
}

/// The line, the cursor in it, and why it is no filter where it is none.
fn draw_prompt(frame: &mut Frame<'_>, area: Rect, prompt: &Prompt, state: &State, theme: &Theme) {
    let (head, example) = match state.typing() {
        Typing::Filter => {
            ("filter: ", "state time-wait and rport 5432, comm nginx, peer 10.0.0.0/8, not role inbound")
        }
        Typing::Moment => ("go to: ", replay::EXPECTED),
    };
    let before = text::sanitise(prompt.before_cursor()).width();
    let room = (area.width as usize).saturating_sub(head.len() + 1);
    // A long line moves to the left, so that the cursor stays on the screen.
    let hidden = before.saturating_sub(room);
    let shown: String = text::sanitise(prompt.text()).chars().skip(hidden).collect();
    let mut line = vec![Span::styled(head, theme.style(Role::Strong)), Span::raw(shown)];
    if let Some(fault) = state.filter_fault() {
        line.push(Span::styled(format!("   {}", text::sanitise(&fault)), theme.style(Role::Alarm)));
    } else if prompt.text().is_empty() {
        line.push(Span::styled(example, theme.style(Role::Faint)));
    }
    frame.render_widget(Line::from(line), area);
    let x = area.x.saturating_add((head.len() + before - hidden) as u16).min(area.right().saturating_sub(1));
    frame.set_cursor_position(Position::new(x, area.y));
}
