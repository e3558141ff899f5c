//! What the user has chosen of the screen, and what the terminal leaves to choose.

use super::{
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
}

impl Settings {
    /// What there is without a configuration, on a terminal with this look.
    pub fn new(look: Look) -> Self {
        Self { keymap: Keymap::default(), theme: Theme::new(look) }
    }
}
