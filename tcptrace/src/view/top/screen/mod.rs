//! One frame: a [`State`] in, the cells of the terminal out. One file for each part of it, their places in
//! [`layout`].

mod footer;
mod groups;
mod header;
mod help;
mod layout;
mod states;
mod table;

#[cfg(test)]
mod tests;

use ratatui::Frame;

use super::{mouse::Regions, settings::Settings, state::State};
use crate::view::losses::losses;

/// Draws `state` on the whole of `frame`; returns where things stand.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, settings: &Settings) -> Regions {
    let theme = &settings.theme;
    let losses = losses(&state.snapshot().losses);
    let parts = layout::parts(frame.area(), u16::from(losses.is_some()));
    header::draw(frame, parts.header, state, theme);
    if let Some(losses) = &losses {
        header::draw_losses(frame, parts.losses, losses, theme);
    }
    states::draw(frame, parts.states, state.snapshot(), theme);
    let regions = groups::draw(frame, parts.table, state, theme);
    footer::draw(frame, parts.hints, state, settings);
    if state.is_help_open() {
        help::draw(frame, state, settings);
        return Regions::default();
    }
    regions
}
