//! What the screen remembers between two frames: [`Action`]s and snapshots in, what to show out.

mod feed;
mod list;

use std::sync::Arc;

pub use feed::{Feed, Mode};
pub use list::{List, Move};

use super::{action::Action, sort::Sort};
use crate::{
    aggregate::{Group, Snapshot},
    lifecycle::Role,
};

/// What has to happen after an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Draw.
    Draw,
    /// Draw on an empty screen.
    Redraw,
    /// Close the screen.
    Quit,
    /// Stop the process.
    Suspend,
}

/// A group by what it is, not by where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    key: String,
    role: Role,
}

impl Identity {
    fn of(group: &Group) -> Self {
        Self { key: group.key.clone(), role: group.role }
    }

    fn is(&self, group: &Group) -> bool {
        self.role == group.role && self.key == group.key
    }
}

/// The state of the screen.
#[derive(Debug)]
pub struct State {
    feed: Feed,
    sort: Sort,
    groups: List<Identity>,
    /// The first line of the help, while it is open.
    help: Option<usize>,
}

impl State {
    /// A screen that shows `snapshot`, with nothing selected.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut state =
            Self { feed: Feed::new(snapshot), sort: Sort::default(), groups: List::new(), help: None };
        state.arrange();
        state
    }

    /// The snapshot to show.
    pub fn snapshot(&self) -> &Snapshot {
        self.feed.shown()
    }

    /// Whether the picture moves.
    pub const fn mode(&self) -> Mode {
        self.feed.mode()
    }

    /// What the groups are sorted by.
    pub const fn sort(&self) -> Sort {
        self.sort
    }

    /// The first of `lines` lines of the help to show in `height` rows; `None` while it is closed.
    pub fn help(&mut self, lines: usize, height: usize) -> Option<usize> {
        let line = self.help.as_mut()?;
        *line = (*line).min(lines.saturating_sub(height));
        Some(*line)
    }

    /// Whether the help is open.
    pub const fn is_help_open(&self) -> bool {
        self.help.is_some()
    }

    /// The groups to show in `height` rows, as indices into the snapshot's; scrolls so that the selected one
    /// is among them.
    pub fn rows(&mut self, height: usize) -> &[usize] {
        self.groups.rows(height)
    }

    /// Where the selected group stands, from 0, and how many groups there are.
    pub fn position(&self) -> (Option<usize>, usize) {
        self.groups.position()
    }

    /// Whether `group` is the selected one.
    pub fn is_selected(&self, group: &Group) -> bool {
        self.groups.selected().is_some_and(|selected| selected.is(group))
    }

    /// Takes a newer snapshot in.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) {
        self.feed.take(snapshot);
        self.arrange();
    }

    /// There will be no newer snapshot.
    pub fn end(&mut self) {
        self.feed.end();
        self.arrange();
    }

    /// Does what was asked for.
    pub fn act(&mut self, action: Action) -> Next {
        match action {
            Action::Quit => return Next::Quit,
            Action::Suspend => return Next::Suspend,
            Action::Redraw => return Next::Redraw,
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Back if self.help.is_some() => self.help = None,
            Action::Back => self.groups.select(None),
            Action::Move(step) => self.go(step),
            Action::SortPrevious => self.sort_by(self.sort.previous()),
            Action::SortNext => self.sort_by(self.sort.next()),
            Action::SortBy(column) if column == self.sort.column => self.sort_by(self.sort.reversed()),
            Action::SortBy(column) => self.sort_by(Sort::by(column)),
            Action::Reverse => self.sort_by(self.sort.reversed()),
            Action::Pause => {
                self.feed.pause();
                self.arrange();
            }
        }
        Next::Draw
    }

    fn go(&mut self, step: Move) {
        if let Some(line) = &mut self.help {
            *line = scrolled(*line, step);
            return;
        }
        let groups = &self.feed.shown().groups;
        self.groups.go(step, |row| Identity::of(&groups[row]));
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    fn arrange(&mut self) {
        let snapshot = self.feed.shown();
        let order = self.sort.order(snapshot);
        self.groups.arrange(order, |row| Identity::of(&snapshot.groups[row]));
    }
}

/// Where a step in the help ends, before the end of the help is known.
const fn scrolled(line: usize, step: Move) -> usize {
    const PAGE: usize = 10;
    match step {
        Move::Up => line.saturating_sub(1),
        Move::Down => line.saturating_add(1),
        Move::PageUp => line.saturating_sub(PAGE),
        Move::PageDown => line.saturating_add(PAGE),
        Move::First => 0,
        Move::Last => usize::MAX,
        Move::Shown(_) => line,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
