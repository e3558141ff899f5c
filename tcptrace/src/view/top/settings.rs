//! Screen settings, from the configuration and the capabilities of the terminal.

use jiff::tz::TimeZone;

use super::{
    config::ScreenConfig,
    keymap::Keymap,
    theme::{TerminalStyle, Theme},
};

/// Look, keys and columns of the screen.
#[derive(Clone, Debug)]
pub struct ScreenSettings {
    /// Key bindings.
    pub(super) keymap: Keymap,
    /// Colours and characters.
    pub(super) theme: Theme,
    /// Columns of the groups, from left to right.
    pub(super) columns: Vec<usize>,
    /// Use of the mouse.
    pub(super) mouse: Mouse,
    /// Time zone of the times of day.
    pub(super) zone: TimeZone,
}

impl ScreenSettings {
    /// Applies `config` on a terminal with this look.
    pub fn new(config: &ScreenConfig, look: TerminalStyle, zone: TimeZone) -> Self {
        Self {
            keymap: config.keymap().unwrap_or_default(),
            theme: config.theme(look),
            columns: config.columns(),
            mouse: if config.mouse() { Mouse::Captured } else { Mouse::LeftToTerminal },
            zone,
        }
    }
}

/// Use of the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mouse {
    /// The screen captures it: clicks select and sort.
    Captured,
    /// The terminal keeps it: text can be selected.
    LeftToTerminal,
}
