//! Small dwell charts of one group.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use crate::{
    aggregate::StateDwells,
    model::{TcpState, units},
    view::{
        hist::scale::ChartScale,
        top::{
            table::{Cut, fit},
            theme::{StyleRole, Theme},
        },
    },
};

/// Charted states, in order; a state without dwells is skipped.
const CHARTED: [TcpState; 2] = [TcpState::TimeWait, TcpState::FinWait2];

/// Draws as much of the charts as fits.
pub fn draw(frame: &mut Frame<'_>, area: Rect, dwells: &[StateDwells], theme: &Theme) {
    if area.is_empty() {
        return;
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    for state in CHARTED {
        let whole = dwells.iter().find(|of| of.state == state && of.split.is_none());
        if let Some(of) = whole.filter(|of| of.distribution.count > 0) {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            chart(&mut lines, of, area.width as usize, theme);
        }
    }
    if lines.is_empty() {
        let text = "No TIME_WAIT or FIN_WAIT2 has ended since counting began: nothing to measure yet.";
        lines.extend(
            super::wrap::wrap(text, area.width as usize)
                .into_iter()
                .map(|line| Line::styled(line, theme.style(StyleRole::Faint))),
        );
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn chart(lines: &mut Vec<Line<'_>>, of: &StateDwells, width: usize, theme: &Theme) {
    const COUNT: usize = 7;
    let distribution = &of.distribution;
    let head = format!(
        "{} dwells {}  p50 {}  p99 {}",
        of.state.name(),
        units::count(distribution.count),
        units::duration(distribution.quantile(0.5)),
        units::duration(distribution.quantile(0.99))
    );
    lines.push(Line::styled(fit(&head, width, true, Cut::End), theme.style(StyleRole::Strong)));
    let scale = ChartScale::of(distribution);
    let counts = scale.count(distribution);
    let labels = scale.labels();
    let most = counts.iter().copied().max().unwrap_or(0);
    let label_width = labels.first().map_or(0, String::len);
    let room = width.saturating_sub(label_width + 1 + COUNT + 1);
    for (label, &count) in labels.iter().zip(&counts) {
        let bar = theme.glyphs().bar(count, most, room);
        let bar = fit(&bar, room, true, Cut::End);
        let line = format!("{label}{}{bar} {:>COUNT$}", theme.glyphs().axis(), units::compact(count));
        lines.push(Line::styled(line, theme.style(StyleRole::History)));
    }
}
