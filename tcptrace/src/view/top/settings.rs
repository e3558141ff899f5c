//! What the user has chosen of the screen, and what the terminal leaves to choose.

use jiff::tz::TimeZone;

use super::{
    columns::ALL,
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
    /// For times of day.
    pub(super) zone: TimeZone,
}

impl Settings {
    /// What there is without a configuration, on a terminal with this look.
    pub fn new(look: Look, zone: TimeZone) -> Self {
        Self { keymap: Keymap::default(), theme: Theme::new(look), columns: ALL.to_vec(), zone }
    }
}
