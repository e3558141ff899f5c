//! Screen without a terminal, for benchmarks: renders snapshots as text.

use std::{convert::Infallible, sync::Arc};

use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};

use super::{Colours, ScreenConfig, ScreenSettings, TerminalStyle, screen, state::ScreenState};
use crate::{aggregate::Snapshot, view::glyphs::Glyphs};

/// A screen of a fixed size.
pub struct Offscreen {
    frames: Terminal<TestBackend>,
    state: ScreenState,
    settings: ScreenSettings,
}

impl Offscreen {
    /// Creates a screen that shows `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>, width: u16, height: u16) -> Result<Self, Infallible> {
        let look = TerminalStyle { colours: Colours::None, glyphs: Glyphs::Ascii };
        let settings = ScreenSettings::new(&ScreenConfig::default(), look, TimeZone::UTC);
        let state = ScreenState::new(snapshot, settings.columns.clone());
        Ok(Self { frames: Terminal::new(TestBackend::new(width, height))?, state, settings })
    }

    /// Draws the next snapshot; returns the text on the screen.
    pub fn show(&mut self, snapshot: Arc<Snapshot>) -> Result<String, Infallible> {
        self.state.take(snapshot);
        let Self { frames, state, settings } = self;
        frames.draw(|frame| {
            screen::draw(frame, state, settings);
        })?;
        Ok(frames.backend().to_string())
    }
}
