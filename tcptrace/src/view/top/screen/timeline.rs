//! Timeline of a recording: sockets per state over time, with a cursor at the current position.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

use crate::{
    model::units,
    replay::Mark,
    view::{
        glyphs::Glyphs,
        top::{
            state::Replay,
            theme::{StyleRole, Theme},
        },
    },
};

/// Width of the names on the left and of the numbers on the right, with the blanks between.
const NAMES: u16 = 12;
const NUMBERS: u16 = 9;

/// Height of the timeline on a screen of this height.
pub fn lines(height: u16, replay: &Replay) -> u16 {
    let states = match height {
        ..12 => return 0,
        12..24 => 1,
        24..40 => 3,
        _ => 5,
    };
    replay.states().min(states) as u16 + 1
}

/// Draws the timeline; returns its clickable area.
pub fn draw(frame: &mut Frame<'_>, area: Rect, replay: &mut Replay, theme: &Theme) -> Rect {
    let width = area.width.saturating_sub(NAMES + NUMBERS);
    if width == 0 || area.height < 2 {
        return Rect::default();
    }
    let columns = width as usize;
    let cursor = replay.column(replay.now(), columns);
    let target = replay.target().map(|ts| replay.column(ts, columns));
    let timeline = replay.timeline(columns);
    let marks = timeline.marks.clone();
    let shown = timeline.lines.len().min(area.height as usize - 1);
    for ((state, counts), row) in timeline.lines[..shown].iter().zip(area.rows()) {
        let spark = theme.glyphs().sparkline(counts.iter().copied());
        let most = counts.iter().copied().max().unwrap_or(0);
        let line = Line::from(vec![
            Span::raw(format!("{:<1$}", state.name(), NAMES as usize)),
            Span::styled(spark, theme.style(StyleRole::History)),
            Span::styled(format!(" {:<8}", units::compact(most)), theme.style(StyleRole::Faint)),
        ]);
        frame.render_widget(line, row);
    }
    let axis = Rect { y: area.y + shown as u16, height: 1, ..area };
    draw_axis(frame, axis, replay, &marks, (cursor, target), theme);
    // The current position is reversed in every line.
    let at = Rect { x: area.x + NAMES + cursor as u16, width: 1, height: shown as u16, ..area };
    frame.buffer_mut().set_style(at, Style::new().add_modifier(Modifier::REVERSED));
    Rect { x: area.x + NAMES, width, height: shown as u16 + 1, ..area }
}

/// Draws the axis: first and last time, incidents, losses, gaps and the cursor.
fn draw_axis(
    frame: &mut Frame<'_>,
    area: Rect,
    replay: &Replay,
    marks: &[Mark],
    (cursor, target): (usize, Option<usize>),
    theme: &Theme,
) {
    let (first, last) = replay.span();
    let (line, gap, incident, at_cursor, at_target) = match theme.glyphs() {
        Glyphs::Unicode => ('─', '·', '◆', '▲', '△'),
        Glyphs::Ascii => ('-', '.', '*', '^', '~'),
    };
    let mut spans = vec![Span::raw(format!("{:<1$}", replay.clock(first), NAMES as usize))];
    spans.extend(marks.iter().enumerate().map(|(column, mark)| match mark {
        _ if column == cursor => Span::styled(at_cursor.to_string(), theme.style(StyleRole::Strong)),
        _ if Some(column) == target => Span::styled(at_target.to_string(), theme.style(StyleRole::Held)),
        Mark::Incident => Span::styled(incident.to_string(), theme.style(StyleRole::Alarm)),
        Mark::Loss => Span::styled("!", theme.style(StyleRole::Alarm)),
        Mark::Gap => Span::styled(gap.to_string(), theme.style(StyleRole::Held)),
        Mark::None => Span::styled(line.to_string(), theme.style(StyleRole::Faint)),
    }));
    spans.push(Span::raw(format!(" {}", replay.clock(last))));
    frame.render_widget(Line::from(spans), area);
}
