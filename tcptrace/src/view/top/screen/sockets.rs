//! Table of the sockets of one group, with the dwell charts of the group.

use ratatui::{
    Frame,
    layout::Rect,
    widgets::{Paragraph, Wrap},
};

use super::{dwells, layout, table};
use crate::view::top::{
    columns::{ALL_OF_SOCKETS, SOCKETS},
    mouse::Regions,
    state::ScreenState,
    table::ScreenTable,
    theme::Theme,
};

/// Draws the sockets that fit, or a note why there are none.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &mut ScreenState, theme: &Theme) -> Regions {
    let (area, beside) = layout::with_dwells(area);
    let Some(members) = state.members() else {
        let text = if state.is_gone() {
            "This group has no sockets left. Go back to see all groups."
        } else {
            "Loading..."
        };
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return Regions::default();
    };
    dwells::draw(frame, beside, &members.dwells, theme);
    if members.sockets.is_empty() {
        let text = "No open sockets: all have ended. New ones appear here.";
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return Regions::default();
    }
    let (_, lines) = table::split(area);
    let shown = state.rows(lines.height as usize).to_vec();
    let Some(members) = state.members() else { return Regions::default() };
    let sort = state.sort();
    let rows = shown.iter().filter_map(|&row| members.sockets.get(row)).collect();
    let snapshot = state.snapshot();
    let table =
        ScreenTable { columns: &SOCKETS, visible: &ALL_OF_SOCKETS, snapshot, rows, sorted: sort.column };
    table::draw(frame, area, &table, sort, |socket| state.is_selected_socket(socket), theme)
}
