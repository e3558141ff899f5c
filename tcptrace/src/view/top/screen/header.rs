//! The first line: which host, and whether the picture moves; below it what was lost.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use crate::{
    aggregate::Snapshot,
    model::units,
    view::top::{
        state::{Mode, State},
        summary,
        theme::{Role, Theme},
    },
};

/// As many facts as there is room for on the left, whether the picture moves on the right.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, theme: &Theme) {
    let snapshot = state.snapshot();
    let mut right = right(snapshot, state.mode(), theme);
    let facts = summary::facts(snapshot);
    let name = facts.first().map_or(0, String::len);
    while right.width() + name + 2 > area.width as usize && right.spans.len() > 2 {
        right.spans.remove(1);
    }
    let room = (area.width as usize).saturating_sub(right.width() + 2);
    let mut left = Line::default();
    for (i, fact) in facts.into_iter().enumerate() {
        let span = if i == 0 {
            Span::styled(fact, theme.style(Role::Strong))
        } else {
            Span::raw(format!("  {fact}"))
        };
        if left.width() + span.width() > room {
            break;
        }
        left.push_span(span);
    }
    frame.render_widget(left, area);
    frame.render_widget(right, area);
}

fn right(snapshot: &Snapshot, mode: Mode, theme: &Theme) -> Line<'static> {
    let (word, role) = match mode {
        Mode::Live if &*snapshot.source != "live" => ("REPLAY", Role::Live),
        Mode::Live => ("LIVE", Role::Live),
        Mode::Paused => ("PAUSED", Role::Held),
        Mode::Ended => ("ENDED", Role::Held),
    };
    let mut right = vec![Span::styled(word, theme.style(role))];
    if let Some(rate) = summary::records_per_s(snapshot) {
        right.push(Span::raw(format!("  {rate}")));
    }
    right.push(match snapshot.losses.total() {
        0 => Span::styled("  lost 0", theme.style(Role::Faint)),
        lost => Span::styled(format!("  lost {}", units::compact(lost)), theme.style(Role::Alarm)),
    });
    Line::from(right).right_aligned()
}

/// What was lost and why.
pub fn draw_losses(frame: &mut Frame<'_>, area: Rect, losses: &str, theme: &Theme) {
    frame.render_widget(Line::styled(losses, theme.style(Role::Alarm)), area);
}
