//! Header line: host facts, feed mode, record rate and losses; below it the losses by cause.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use crate::{
    aggregate::Snapshot,
    model::units,
    view::doctor::LOSSES,
    view::top::{
        state::{FeedMode, Findings, Replay, ScreenState},
        summary,
        theme::{StyleRole, Theme},
    },
};

/// Draws as many facts as fit on the left, the feed mode on the right.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &ScreenState, theme: &Theme) {
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
            Span::styled(fact, theme.style(StyleRole::Strong))
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

fn right(snapshot: &Snapshot, state: &ScreenState, theme: &Theme) -> Line<'static> {
    let mut right = match state.replay() {
        Some(replay) => of_replay(replay, theme),
        None => vec![mode(snapshot, state.mode(), theme)],
    };
    if let Some(note) = state.replay().and_then(|replay| replay.status().note.as_deref()) {
        right.push(Span::styled(format!("  {note}"), theme.style(StyleRole::Held)));
    } else if let Some(rate) = summary::records_per_s(snapshot) {
        right.push(Span::raw(format!("  {rate}")));
    }
    right.push(match snapshot.losses.total() {
        0 => Span::styled("  lost 0", theme.style(StyleRole::Faint)),
        lost => {
            Span::styled(format!("  lost {}", units::compact(lost)), theme.style(of_losses(state.findings())))
        }
    });
    Line::from(right).right_aligned()
}

/// The feed mode.
fn mode(snapshot: &Snapshot, mode: FeedMode, theme: &Theme) -> Span<'static> {
    let (word, role) = match mode {
        FeedMode::Live if !snapshot.is_live() => ("REPLAY", StyleRole::Live),
        FeedMode::Live => ("LIVE", StyleRole::Live),
        FeedMode::Paused => ("PAUSED", StyleRole::Held),
        FeedMode::Ended => ("ENDED", StyleRole::Held),
    };
    Span::styled(word, theme.style(role))
}

/// Position and speed of a replay.
fn of_replay(replay: &Replay, theme: &Theme) -> Vec<Span<'static>> {
    let status = replay.status();
    let now = replay.clock(replay.now());
    let (word, role) = match (replay.target(), status.is_playing) {
        (Some(target), _) => (format!("GOING TO {}", replay.clock(target)), StyleRole::Held),
        (None, true) => (format!("REPLAY {} {now}", replay.speed()), StyleRole::Live),
        (None, false) => (format!("PAUSED {} {now}", replay.speed()), StyleRole::Held),
    };
    let mut words = vec![Span::styled(word, theme.style(role))];
    if let Some(missing) = replay.missing() {
        words.push(Span::styled(format!("  {missing}"), theme.style(StyleRole::Alarm)));
    }
    words
}

/// Draws the losses by cause.
pub fn draw_losses(frame: &mut Frame<'_>, area: Rect, losses: &str, findings: &Findings, theme: &Theme) {
    frame.render_widget(Line::styled(losses, theme.style(of_losses(findings))), area);
}

/// Red when counts may be off.
fn of_losses(findings: &Findings) -> StyleRole {
    let is_doubtful = findings.serious().any(|finding| finding.id == LOSSES);
    if is_doubtful { StyleRole::Alarm } else { StyleRole::Faint }
}
