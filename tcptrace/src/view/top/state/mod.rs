//! What the screen remembers between two frames: [`Action`]s and snapshots in, what to show and what to ask
//! the pipeline for ([`State::query`]) out.

mod acts;
mod feed;
mod list;
mod prompt;
mod replay;

use std::{cmp::Ordering, sync::Arc};

pub use feed::{Feed, Mode};
pub use list::{List, Move};
pub use prompt::{EDITS, Edit, Prompt, edit};
pub use replay::Replay;

use super::{
    action::Action,
    columns::{AGE, GROUPS, SOCKETS},
    sort::Sort,
};
use crate::{
    aggregate::{Group, GroupKey, Snapshot},
    filter::SyntaxError,
    inspect::{Answer, Detail, Focus, Life, Members, Query, SocketRow},
    lifecycle::Role,
    model::SocketId,
    replay::Command,
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
    /// Go through the time of a recording.
    Drive(Command),
}

/// What is being typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// A filter.
    Filter,
    /// A moment of a recording.
    Moment,
}

/// What is on the screen, each looked at more closely than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The groups.
    Groups,
    /// The sockets of one.
    Sockets,
    /// The life of a socket.
    Life,
}

/// The group whose sockets are shown.
#[derive(Clone, Debug)]
pub struct Opened {
    id: GroupKey,
    /// Its name.
    pub key: String,
    /// Its role.
    pub role: Role,
}

/// The state of the screen.
#[derive(Debug)]
pub struct State {
    feed: Feed,
    place: Place,
    /// Columns of the groups that are wanted.
    columns: Vec<usize>,
    sort: Sort,
    groups: List<GroupKey>,
    opened: Option<Opened>,
    sockets_sort: Sort,
    sockets: List<SocketId>,
    /// What is asked for, the focus apart.
    query: Query,
    /// The filter as it was typed.
    filter: String,
    /// Why the line that is being typed is no filter.
    fault: Option<SyntaxError>,
    prompt: Option<Prompt>,
    typing: Typing,
    /// Why what was typed is no moment.
    no_moment: Option<String>,
    /// The time control of a recording.
    replay: Option<Replay>,
    /// The first line of the help, while it is open.
    help: Option<usize>,
}

impl State {
    /// A screen that shows `snapshot` in these columns, with nothing selected.
    pub fn new(snapshot: Arc<Snapshot>, columns: Vec<usize>) -> Self {
        let mut state = Self {
            place: Place::Groups,
            columns,
            sort: Sort::default(),
            groups: List::new(),
            opened: None,
            sockets_sort: Sort::by(&SOCKETS, AGE),
            sockets: List::new(),
            query: Query::new(snapshot.grouping),
            filter: String::new(),
            fault: None,
            prompt: None,
            typing: Typing::Filter,
            no_moment: None,
            replay: None,
            help: None,
            feed: Feed::new(snapshot),
        };
        state.arrange();
        state
    }

    /// The same for a recording that can be gone through.
    #[must_use]
    pub fn of_replay(self, replay: Replay) -> Self {
        Self { replay: Some(replay), ..self }
    }

    /// The time control of a recording.
    pub const fn replay(&self) -> Option<&Replay> {
        self.replay.as_ref()
    }

    /// Whether `action` means anything: a recording has a time to go through, and is always counted from its
    /// start.
    pub const fn offers(&self, action: Action) -> bool {
        match action {
            Action::Time(_) | Action::GoTo | Action::Click(_) => self.replay.is_some(),
            Action::Reset => self.replay.is_none(),
            _ => true,
        }
    }

    /// The same, to be drawn or told where it stands.
    pub const fn replay_mut(&mut self) -> Option<&mut Replay> {
        self.replay.as_mut()
    }

    /// What is being typed.
    pub const fn typing(&self) -> Typing {
        self.typing
    }

    /// What the screen shows, for the pipeline.
    pub fn query(&self) -> Query {
        let focus = match (self.place, &self.opened, self.sockets.selected()) {
            (Place::Sockets, Some(opened), _) => Focus::Group(opened.id.clone()),
            (Place::Life, _, Some(&id)) => Focus::Socket(id),
            _ => Focus::Groups,
        };
        Query { focus, ..self.query.clone() }
    }

    /// The snapshot to show.
    pub fn snapshot(&self) -> &Snapshot {
        self.feed.shown()
    }

    /// Whether the picture moves.
    pub const fn mode(&self) -> Mode {
        self.feed.mode()
    }

    /// What is on the screen.
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Columns of the groups that are wanted.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// What the rows of the table are sorted by.
    pub const fn sort(&self) -> Sort {
        match self.place {
            Place::Groups => self.sort,
            Place::Sockets | Place::Life => self.sockets_sort,
        }
    }

    /// The name of the column that is sorted by.
    pub fn sorted_by(&self) -> &'static str {
        match self.place {
            Place::Groups => GROUPS[self.sort.column].name,
            Place::Sockets | Place::Life => SOCKETS[self.sockets_sort.column].name,
        }
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

    /// The line that is being typed.
    pub const fn prompt(&self) -> Option<&Prompt> {
        self.prompt.as_ref()
    }

    /// Why what was typed is not in use.
    pub fn filter_fault(&self) -> Option<String> {
        if self.typing == Typing::Moment {
            return self.no_moment.clone();
        }
        let typed = self.fault.as_ref().map(|fault| fault.message.clone());
        typed.or_else(|| self.answer()?.filter_fault.clone())
    }

    /// The rows to show in `height` lines, as indices; scrolls so that the selected one is among them.
    pub fn rows(&mut self, height: usize) -> &[usize] {
        match self.place {
            Place::Groups => self.groups.rows(height),
            Place::Sockets | Place::Life => self.sockets.rows(height),
        }
    }

    /// Where the selected row stands, from 0, and how many rows there are.
    pub fn position(&self) -> (Option<usize>, usize) {
        match self.place {
            Place::Groups => self.groups.position(),
            Place::Sockets | Place::Life => self.sockets.position(),
        }
    }

    /// Whether `group` is the selected one.
    pub fn is_selected(&self, group: &Group) -> bool {
        self.groups.selected() == Some(&group.id)
    }

    /// Whether `socket` is the selected one.
    pub fn is_selected_socket(&self, socket: &SocketRow) -> bool {
        self.sockets.selected() == Some(&socket.id)
    }

    /// The group whose sockets are shown, as it was opened and as it is; `None` where it is not there any more.
    pub fn opened(&self) -> Option<(&Opened, Option<&Group>)> {
        let opened = self.opened.as_ref()?;
        Some((opened, self.snapshot().groups.iter().find(|group| group.id == opened.id)))
    }

    /// The sockets of the opened group; `None` until they are there.
    pub fn members(&self) -> Option<&Members> {
        match &self.answer()?.detail {
            Detail::Group(members) => Some(members),
            _ => None,
        }
    }

    /// The life of the selected socket; `None` until it is there.
    pub fn life(&self) -> Option<&Life> {
        match &self.answer()?.detail {
            Detail::Socket(life) => Some(life),
            _ => None,
        }
    }

    /// Whether what is looked at is not there any more.
    pub fn is_gone(&self) -> bool {
        self.answer().is_some_and(|answer| matches!(answer.detail, Detail::Gone))
    }

    /// The answer to what is on the screen now.
    pub fn answer(&self) -> Option<&Answer> {
        let answer = self.snapshot().answer.as_deref()?;
        (answer.query.focus == self.query().focus).then_some(answer)
    }

    /// Takes a newer snapshot in.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) {
        let query = self.query();
        self.feed.take(snapshot, &query);
        self.arrange();
    }

    /// There will be no newer snapshot.
    pub fn end(&mut self) {
        self.feed.end();
        self.arrange();
    }

    fn arrange(&mut self) {
        let snapshot = self.feed.shown();
        let order = self.sort.groups(snapshot);
        self.groups.arrange(order, |row| snapshot.groups[row].id.clone());
        let members = match snapshot.answer.as_deref() {
            Some(Answer { detail: Detail::Group(members), query, .. })
                if self
                    .opened
                    .as_ref()
                    .is_some_and(|opened| query.focus == Focus::Group(opened.id.clone())) =>
            {
                members
            }
            _ => return,
        };
        let order = self.sockets_sort.order(&SOCKETS, snapshot, &members.sockets, by_id);
        self.sockets.arrange(order, |row| members.sockets[row].id);
    }
}

fn by_id(a: &SocketRow, b: &SocketRow) -> Ordering {
    a.id.cmp(&b.id)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
