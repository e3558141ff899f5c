//! The states, and below them, where there is height for it, how they came to be what they are.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use crate::{
    aggregate::Snapshot,
    view::top::{
        summary,
        theme::{Role, Theme},
    },
};

/// One column for each state there is room for.
pub fn draw(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, theme: &Theme) {
    let mut lines = [Line::raw("   "), Line::raw("now"), Line::raw("+/s"), Line::raw("   ")];
    for cells in summary::states(snapshot, area.width as usize) {
        let history = cells.history(snapshot, theme.glyphs());
        let number = if cells.is_nothing { theme.style(Role::Faint) } else { Style::new() };
        lines[0].push_span(Span::styled(cells.head, number.patch(theme.style(Role::Strong))));
        lines[1].push_span(Span::styled(cells.now, number));
        lines[2].push_span(Span::styled(cells.entered_per_s, number));
        lines[3].push_span(Span::styled(history, theme.style(Role::History)));
    }
    frame.render_widget(Paragraph::new(lines.to_vec()), area);
}
