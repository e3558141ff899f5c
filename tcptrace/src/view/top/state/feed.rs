//! Snapshots as they come, and the one that is shown.

use std::sync::Arc;

use crate::{aggregate::Snapshot, inspect::Query};

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
        let mode = if has_ended(&snapshot) { Mode::Ended } else { Mode::Live };
        Self { newest: Arc::clone(&snapshot), shown: snapshot, mode }
    }

    /// The one to show.
    pub fn shown(&self) -> &Snapshot {
        &self.shown
    }

    /// Whether the picture moves.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes a newer snapshot in. A held picture takes no more of it than the answer to what was asked since,
    /// to `query`.
    pub fn take(&mut self, snapshot: Arc<Snapshot>, query: &Query) {
        self.newest = snapshot;
        if self.mode == Mode::Paused {
            self.take_answer(query);
        } else {
            self.show_newest();
        }
    }

    fn take_answer(&mut self, query: &Query) {
        let Some(answer) = self.newest.answer.as_ref().filter(|answer| answer.query == *query) else {
            return;
        };
        match &self.shown.answer {
            Some(shown) if shown.query == *query => {}
            Some(shown) if shown.query.counts_like(query) => {
                let answer = Some(Arc::clone(answer));
                self.shown = Arc::new(Snapshot { answer, ..Snapshot::clone(&self.shown) });
            }
            _ => self.shown = Arc::clone(&self.newest),
        }
    }

    /// There will be no newer snapshot.
    pub fn end(&mut self) {
        self.show_newest();
        self.mode = Mode::Ended;
    }

    /// Holds the picture, or lets it go on with the newest.
    pub fn pause(&mut self) {
        match self.mode {
            Mode::Live => self.mode = Mode::Paused,
            Mode::Paused => {
                self.mode = Mode::Live;
                self.show_newest();
            }
            Mode::Ended => {}
        }
    }

    fn show_newest(&mut self) {
        self.shown = Arc::clone(&self.newest);
        if has_ended(&self.shown) {
            self.mode = Mode::Ended;
        }
    }
}

fn has_ended(snapshot: &Snapshot) -> bool {
    snapshot.answer.as_ref().is_some_and(|answer| answer.ended)
}
