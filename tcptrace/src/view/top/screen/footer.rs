//! The last line: the keys that are used most, and where the selection stands.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use super::table::arrow;
use crate::{
    model::units,
    view::top::{action::ACTIONS, columns::GROUPS, settings::Settings, state::State, theme::Role},
};

/// As many hints as there is room for.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, settings: &Settings) {
    let theme = &settings.theme;
    let sort = state.sort();
    let position = match state.position() {
        (Some(row), groups) => format!("{}/{}", units::count(row as u64 + 1), units::count(groups as u64)),
        (None, groups) => format!("{} groups", units::count(groups as u64)),
    };
    let arrow = arrow(theme.glyphs(), sort.direction);
    let right = format!("by {} {arrow}  {position}", GROUPS[sort.column].name);
    let right = Line::styled(right, theme.style(Role::Faint)).right_aligned();
    let room = (area.width as usize).saturating_sub(right.width() + 1);
    let mut left = Line::default();
    for (i, row) in ACTIONS.iter().enumerate() {
        let (Some(hint), Some(key)) = (row.hint, settings.keymap.first(i)) else { continue };
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
