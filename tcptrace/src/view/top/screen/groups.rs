//! The table of groups.

use ratatui::{
    Frame,
    layout::Rect,
    widgets::{Paragraph, Wrap},
};

use super::table;
use crate::view::top::{
    columns::GROUPS, mouse::Regions, state::ScreenState, table::ScreenTable, theme::Theme,
};

/// Draws the groups that fit, or a note why there are none.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &mut ScreenState, theme: &Theme) -> Regions {
    if state.position().1 == 0 {
        let snapshot = state.snapshot();
        let text = if snapshot.filter.is_empty() && snapshot.host.filter.is_empty() {
            "No TCP sockets yet. They appear here as they open."
        } else {
            "No TCP socket matches the filter. Those that do appear here as they open."
        };
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return Regions::default();
    }
    let (_, rows) = table::split(area);
    let shown = state.rows(rows.height as usize).to_vec();
    let snapshot = state.snapshot();
    let sort = state.sort();
    let rows = shown.iter().map(|&row| &snapshot.groups[row]).collect();
    let table =
        ScreenTable { columns: &GROUPS, visible: state.columns(), snapshot, rows, sorted: sort.column };
    table::draw(frame, area, &table, sort, |group| state.is_selected(group), theme)
}
