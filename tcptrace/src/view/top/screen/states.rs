//! Table of the states: counts, rates and, if the height allows, growth and history.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use crate::{
    aggregate::Snapshot,
    model::units,
    view::top::{
        summary::{self, StateCells},
        theme::{StyleRole, Theme},
        verdict::growth_per_s,
    },
};

/// Draws one column per state, as many as fit.
pub fn draw(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, theme: &Theme) {
    let mut lines = ["   ", "now", "+/s", "net", "   "].map(Line::raw);
    for cells in summary::states(snapshot, area.width as usize) {
        let number = if cells.is_nothing { theme.style(StyleRole::Faint) } else { Style::new() };
        let (net, growth) = net(snapshot, &cells);
        let growth = match growth {
            Growth::Up => theme.style(StyleRole::Warning),
            Growth::Down => theme.style(StyleRole::Live).remove_modifier(Modifier::BOLD),
            Growth::None => theme.style(StyleRole::Faint),
        };
        let history = cells.history(snapshot, theme.glyphs());
        lines[0].push_span(Span::styled(cells.head, number.patch(theme.style(StyleRole::Strong))));
        lines[1].push_span(Span::styled(cells.now, number));
        lines[2].push_span(Span::styled(cells.entered_per_s, number));
        lines[3].push_span(Span::styled(net, growth));
        lines[4].push_span(Span::styled(history, theme.style(StyleRole::History)));
    }
    frame.render_widget(Paragraph::new(lines.to_vec()), area);
}

/// Trend of a state over the last seconds.
enum Growth {
    Up,
    Down,
    None,
}

/// Growth of a state per second over the last seconds, as wide as the other cells.
fn net(snapshot: &Snapshot, cells: &StateCells) -> (String, Growth) {
    let (text, growth) = match growth_per_s(snapshot, cells.state) {
        None => ("-".into(), Growth::None),
        Some(per_s) if per_s.abs() < 0.05 => ("0".into(), Growth::None),
        Some(per_s) if per_s > 0.0 => (format!("+{}", units::rate(per_s)), Growth::Up),
        Some(per_s) => (format!("-{}", units::rate(-per_s)), Growth::Down),
    };
    let room = cells.head.len() - 2;
    (format!("  {text:>room$}"), growth)
}
