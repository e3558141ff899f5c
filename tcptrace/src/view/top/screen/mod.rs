//! One frame: a [`State`] in, the cells of the terminal out. One file for each part of it, their places in
//! [`layout`].

mod about;
mod dwells;
mod footer;
mod groups;
mod header;
mod help;
mod layout;
mod life;
mod sockets;
mod states;
mod table;
mod timeline;
mod words;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;

use ratatui::{Frame, layout::Rect};

use super::{
    mouse::Regions,
    settings::Settings,
    state::{Place, State},
};
use crate::view::losses::losses;

/// Draws `state` on the whole of `frame`; returns where things stand.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, settings: &Settings) -> Regions {
    let theme = &settings.theme;
    let losses = losses(&state.snapshot().losses);
    let about = about::line(state, theme);
    let timeline = state.replay().map_or(0, |replay| timeline::lines(frame.area().height, replay));
    let wanted =
        layout::Wanted { losses: u16::from(losses.is_some()), timeline, about: u16::from(about.is_some()) };
    let parts = layout::parts(frame.area(), wanted);
    header::draw(frame, parts.header, state, theme);
    if let Some(losses) = &losses {
        header::draw_losses(frame, parts.losses, losses, theme);
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
        Place::Groups => groups::draw(frame, parts.table, state, theme),
        Place::Sockets => sockets::draw(frame, parts.table, state, theme),
        Place::Life => life::draw(frame, parts.table, state, settings),
    };
    footer::draw_insight(frame, parts.insight, state, theme);
    footer::draw(frame, parts.hints, state, settings);
    if state.is_help_open() {
        help::draw(frame, state, settings);
        return Regions::default();
    }
    Regions { timeline, ..regions }
}
