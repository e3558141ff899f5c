//! Draws one frame of a [`ScreenState`]. Each part has its own file; [`layout`] assigns the areas.

mod dwells;
mod findings;
mod footer;
mod groups;
mod header;
mod help;
mod layout;
mod life;
mod popup;
mod sockets;
mod states;
mod table;
mod table_title;
mod timeline;
pub(super) mod wrap;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;

use ratatui::{Frame, layout::Rect};

use super::{
    action::ScreenView,
    mouse::Regions,
    settings::ScreenSettings,
    state::{Popup, ScreenState},
    verdict,
};
use crate::view::losses::losses;

/// Draws `state` on `frame`; returns the clickable regions.
pub fn draw(frame: &mut Frame<'_>, state: &mut ScreenState, settings: &ScreenSettings) -> Regions {
    let theme = &settings.theme;
    let losses = losses(&state.snapshot().losses);
    let about = table_title::line(state, theme);
    let timeline = state.replay().map_or(0, |replay| timeline::lines(frame.area().height, replay));
    let verdict = verdict::of(state.snapshot(), state.findings().serious());
    let area = frame.area();
    let wanted = layout::LayoutRequest {
        losses: u16::from(losses.is_some()),
        timeline,
        about: u16::from(about.is_some()),
        verdict: verdict.height(area.width.into(), layout::most_verdict(area.height)),
    };
    let parts = layout::parts(area, wanted);
    header::draw(frame, parts.header, state, theme);
    if let Some(losses) = &losses {
        header::draw_losses(frame, parts.losses, losses, state.findings(), theme);
    }
    states::draw(frame, parts.states, state.snapshot(), theme);
    if let Some(about) = about {
        frame.render_widget(about, parts.about);
    }
    let timeline = match state.replay_mut() {
        Some(replay) => timeline::draw(frame, parts.timeline, replay, theme),
        None => Rect::default(),
    };
    let regions = match state.place() {
        ScreenView::Groups => groups::draw(frame, parts.table, state, theme),
        ScreenView::Sockets => sockets::draw(frame, parts.table, state, theme),
        ScreenView::Life => life::draw(frame, parts.table, state, settings),
    };
    footer::draw_verdict(frame, parts.verdict, &verdict, theme);
    footer::draw(frame, parts.hints, state, settings);
    match state.popup() {
        Some(Popup::Help) => help::draw(frame, state, settings),
        Some(Popup::Finding(n)) => findings::draw(frame, state, n, settings),
        None => return Regions { timeline, ..regions },
    }
    Regions::default()
}
