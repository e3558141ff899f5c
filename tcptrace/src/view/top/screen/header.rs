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
        state::{Mode, Replay, State},
        summary,
        theme::{Role, Theme},
    },
};

/// As many facts as there is room for on the left, whether the picture moves on the right.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, theme: &Theme) {
    let snapshot = state.snapshot();
    let mut right = right(snapshot, state, theme);
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

fn right(snapshot: &Snapshot, state: &State, theme: &Theme) -> Line<'static> {
    let mut right = match state.replay() {
        Some(replay) => of_replay(replay, theme),
        None => vec![mode(snapshot, state.mode(), theme)],
    };
    if let Some(note) = state.replay().and_then(|replay| replay.status().note) {
        right.push(Span::styled(format!("  {note}"), theme.style(Role::Held)));
    } else if let Some(rate) = summary::records_per_s(snapshot) {
        right.push(Span::raw(format!("  {rate}")));
    }
    right.push(match snapshot.losses.total() {
        0 => Span::styled("  lost 0", theme.style(Role::Faint)),
        lost => Span::styled(format!("  lost {}", units::compact(lost)), theme.style(Role::Alarm)),
    });
    Line::from(right).right_aligned()
}

/// Whether the picture moves.
fn mode(snapshot: &Snapshot, mode: Mode, theme: &Theme) -> Span<'static> {
    let (word, role) = match mode {
        Mode::Live if &*snapshot.source != "live" => ("REPLAY", Role::Live),
        Mode::Live => ("LIVE", Role::Live),
        Mode::Paused => ("PAUSED", Role::Held),
        Mode::Ended => ("ENDED", Role::Held),
    };
    Span::styled(word, theme.style(role))
}

/// Where a replay stands, and how fast it goes on.
fn of_replay(replay: &Replay, theme: &Theme) -> Vec<Span<'static>> {
    let status = replay.status();
    let now = replay.clock(replay.now());
    let (word, role) = match (replay.target(), status.is_playing) {
        (Some(target), _) => (format!("GOING TO {}", replay.clock(target)), Role::Held),
        (None, true) => (format!("REPLAY {} {now}", replay.speed()), Role::Live),
        (None, false) => (format!("PAUSED {} {now}", replay.speed()), Role::Held),
    };
    vec![Span::styled(word, theme.style(role))]
}

/// What was lost and why.
pub fn draw_losses(frame: &mut Frame<'_>, area: Rect, losses: &str, theme: &Theme) {
    frame.render_widget(Line::styled(losses, theme.style(Role::Alarm)), area);
}
