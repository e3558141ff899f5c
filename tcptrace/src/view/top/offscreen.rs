//! The screen without a terminal, for benchmarks: snapshots in, lines of text out.

use std::{convert::Infallible, sync::Arc};

use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};

use super::{Colours, Config, Look, Settings, screen, state::State};
use crate::{aggregate::Snapshot, view::glyphs::Glyphs};

/// A screen of a fixed size.
pub struct Offscreen {
    frames: Terminal<TestBackend>,
    state: State,
    settings: Settings,
}

impl Offscreen {
    /// One that shows `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>, width: u16, height: u16) -> Result<Self, Infallible> {
        let look = Look { colours: Colours::None, glyphs: Glyphs::Ascii };
        let settings = Settings::new(&Config::default(), look, TimeZone::UTC);
        let state = State::new(snapshot, settings.columns.clone());
        Ok(Self { frames: Terminal::new(TestBackend::new(width, height))?, state, settings })
    }

    /// Takes in the next snapshot and draws it; returns what is on the screen.
    pub fn show(&mut self, snapshot: Arc<Snapshot>) -> Result<String, Infallible> {
        self.state.take(snapshot);
        let Self { frames, state, settings } = self;
        frames.draw(|frame| {
            screen::draw(frame, state, settings);
        })?;
        Ok(frames.backend().to_string())
    }
}
