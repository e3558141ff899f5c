//! Snapshots as they come, and the one that is shown.

use std::sync::Arc;

use crate::aggregate::Snapshot;

/// Whether the picture moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It shows the newest snapshot.
    Live,
    /// It is held; tracing goes on.
    Paused,
    /// It shows the last snapshot: the source has ended.
    Ended,
}

/// The newest snapshot and the one that is shown.
#[derive(Debug)]
pub struct Feed {
    shown: Arc<Snapshot>,
    newest: Arc<Snapshot>,
    mode: Mode,
}

impl Feed {
    /// Shows `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { newest: Arc::clone(&snapshot), shown: snapshot, mode: Mode::Live }
    }

    /// The one to show.
    pub fn shown(&self) -> &Snapshot {
        &self.shown
    }

    /// Whether the picture moves.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes a newer snapshot in.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) {
        self.newest = snapshot;
        if self.mode != Mode::Paused {
            self.shown = Arc::clone(&self.newest);
        }
    }

    /// There will be no newer snapshot.
    pub fn end(&mut self) {
        self.mode = Mode::Ended;
        self.shown = Arc::clone(&self.newest);
    }

    /// Holds the picture, or lets it go on with the newest.
    pub fn pause(&mut self) {
        match self.mode {
            Mode::Live => self.mode = Mode::Paused,
            Mode::Paused => {
                self.mode = Mode::Live;
                self.shown = Arc::clone(&self.newest);
            }
            Mode::Ended => {}
        }
    }
}
