//! Feed of snapshots: the newest one and the shown one.

use std::sync::Arc;

use crate::aggregate::{Snapshot, detail::Query};

/// Feed mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedMode {
    /// The screen shows the newest snapshot.
    Live,
    /// The screen is frozen; tracing continues.
    Paused,
    /// The source has ended; the screen shows its last snapshot.
    Ended,
}

/// The newest snapshot and the shown one.
#[derive(Debug)]
pub struct Feed {
    shown: Arc<Snapshot>,
    newest: Arc<Snapshot>,
    mode: FeedMode,
}

impl Feed {
    /// Creates a feed that shows `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let mode = if has_ended(&snapshot) { FeedMode::Ended } else { FeedMode::Live };
        Self { newest: Arc::clone(&snapshot), shown: snapshot, mode }
    }

    /// The snapshot to show.
    pub fn shown(&self) -> &Snapshot {
        &self.shown
    }

    /// Feed mode.
    pub const fn mode(&self) -> FeedMode {
        self.mode
    }

    /// Receives a newer snapshot. While paused, it replaces only the shown answer, and only if `query` is new; if
    /// `query` also counts differently (grouping, filter, reset), it replaces the shown snapshot.
    pub fn take(&mut self, snapshot: Arc<Snapshot>, query: &Query) {
        self.newest = snapshot;
        if self.mode == FeedMode::Paused {
            self.update_answer(query);
        } else {
            self.show_newest();
        }
    }

    fn update_answer(&mut self, query: &Query) {
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

    /// Marks the feed as ended: no newer snapshot follows.
    pub fn end(&mut self) {
        self.show_newest();
        self.mode = FeedMode::Ended;
    }

    /// Pauses, or resumes with the newest snapshot.
    pub fn pause(&mut self) {
        match self.mode {
            FeedMode::Live => self.mode = FeedMode::Paused,
            FeedMode::Paused => {
                self.mode = FeedMode::Live;
                self.show_newest();
            }
            FeedMode::Ended => {}
        }
    }

    fn show_newest(&mut self) {
        self.shown = Arc::clone(&self.newest);
        if has_ended(&self.shown) {
            self.mode = FeedMode::Ended;
        }
    }
}

fn has_ended(snapshot: &Snapshot) -> bool {
    snapshot.answer.as_ref().is_some_and(|answer| answer.ended)
}
