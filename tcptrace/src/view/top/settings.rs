//! What the user has chosen of the screen, and what the terminal leaves to choose.

use jiff::tz::TimeZone;

use super::{
    config::Config,
    keymap::Keymap,
    theme::{Look, Theme},
};

/// How the screen looks and which keys it has.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which key asks for what.
    pub(super) keymap: Keymap,
    /// Colours and characters.
    pub(super) theme: Theme,
    /// Columns of the groups, from left to right.
    pub(super) columns: Vec<usize>,
    /// Whose the mouse is.
    pub(super) mouse: Mouse,
    /// For times of day.
    pub(super) zone: TimeZone,
}

impl Settings {
    /// What `config` says, on a terminal with this look.
    pub fn new(config: &Config, look: Look, zone: TimeZone) -> Self {
        Self {
            keymap: config.keymap().unwrap_or_default(),
            theme: config.theme(look),
            columns: config.columns(),
            mouse: if config.mouse() { Mouse::Ours } else { Mouse::Terminals },
            zone,
        }
    }
}

/// Whose the mouse is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mouse {
    /// The screen's: it can be clicked.
    Ours,
    /// The terminal's: text can be selected.
    Terminals,
}
