//! State of the screen between frames: [`Action`]s and snapshots update it; it yields the snapshot to show and the
//! query for the pipeline ([`ScreenState::query`]).

mod feed;
pub(super) mod list;
pub(super) mod prompt;
mod replay;
mod update;

use std::{cmp::Ordering, sync::Arc};

pub use crate::view::doctor::ongoing::Findings;
pub use feed::{Feed, FeedMode};
pub use list::{List, Move};
pub use prompt::{EDITS, Edit, Prompt, edit};
pub use replay::Replay;

use super::{
    action::{Action, ScreenView},
    columns::{AGE, GROUPS, SOCKETS},
    sort::Sort,
};
use crate::{
    aggregate::{
        Group, GroupKey, Snapshot,
        detail::{Detail, DetailAnswer, Focus, Life, Members, Query, SocketRow},
    },
    filter::SyntaxError,
    lifecycle::Role,
    model::SocketId,
    replay::ReplayCommand,
};

/// Follow-up of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// Draw.
    Draw,
    /// Clear the screen and draw.
    Redraw,
    /// Close the screen.
    Quit,
    /// Stop the process.
    Suspend,
    /// Send a time command to the replay.
    Drive(ReplayCommand),
}

/// Kind of input at the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// A filter.
    Filter,
    /// A time in the recording.
    Time,
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
pub struct ScreenState {
    feed: Feed,
    place: ScreenView,
    /// Visible columns of the group table.
    columns: Vec<usize>,
    sort: Sort,
    groups: List<GroupKey>,
    opened: Option<Opened>,
    sockets_sort: Sort,
    sockets: List<SocketId>,
    /// The query, except its focus.
    query: Query,
    /// The filter as typed.
    filter: String,
    /// Syntax error of the filter at the prompt.
    fault: Option<SyntaxError>,
    prompt: Option<Prompt>,
    typing: Typing,
    /// Error of the time at the prompt.
    time_error: Option<String>,
    /// Replay control, of a recording.
    replay: Option<Replay>,
    findings: Findings,
    popup: Option<Popup>,
    /// First visible line of the popup.
    popup_line: usize,
}

/// What lies over the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popup {
    /// The help.
    Help,
    /// This finding.
    Finding(usize),
}

impl ScreenState {
    /// A screen that shows `snapshot` in these columns, with nothing selected.
    pub fn new(snapshot: Arc<Snapshot>, columns: Vec<usize>) -> Self {
        let mut state = Self {
            place: ScreenView::Groups,
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
            time_error: None,
            replay: None,
            findings: Findings::default(),
            popup: None,
            popup_line: 0,
            feed: Feed::new(snapshot),
        };
        state.show();
        state
    }

    /// Adds replay control.
    #[must_use]
    pub fn of_replay(self, replay: Replay) -> Self {
        Self { replay: Some(replay), ..self }
    }

    /// Replay control, of a recording.
    pub const fn replay(&self) -> Option<&Replay> {
        self.replay.as_ref()
    }

    /// Whether `action` applies: time commands need a recording; a reset needs a live source, since a recording is
    /// always counted from its start.
    pub const fn offers(&self, action: Action) -> bool {
        match action {
            Action::Time(_) | Action::GoTo | Action::Click(_) => self.replay.is_some(),
            Action::Reset => self.replay.is_none(),
            _ => true,
        }
    }

    /// Replay control, to draw it or to update its status.
    pub const fn replay_mut(&mut self) -> Option<&mut Replay> {
        self.replay.as_mut()
    }

    /// Kind of input at the prompt.
    pub const fn typing(&self) -> Typing {
        self.typing
    }

    /// The query for the pipeline.
    pub fn query(&self) -> Query {
        let focus = match (self.place, &self.opened, self.sockets.selected()) {
            (ScreenView::Sockets, Some(opened), _) => Focus::Group(opened.id.clone()),
            (ScreenView::Life, _, Some(&id)) => Focus::Socket(id),
            _ => Focus::Groups,
        };
        Query { focus, ..self.query.clone() }
    }

    /// The snapshot to show.
    pub fn snapshot(&self) -> &Snapshot {
        self.feed.shown()
    }

    /// Feed mode.
    pub const fn mode(&self) -> FeedMode {
        self.feed.mode()
    }

    /// The view on the screen.
    pub const fn place(&self) -> ScreenView {
        self.place
    }

    /// Visible columns of the group table.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Sort order of the table on the screen.
    pub const fn sort(&self) -> Sort {
        match self.place {
            ScreenView::Groups => self.sort,
            ScreenView::Sockets | ScreenView::Life => self.sockets_sort,
        }
    }

    /// Name of the sort column.
    pub fn sorted_by(&self) -> &'static str {
        match self.place {
            ScreenView::Groups => GROUPS[self.sort.column].name,
            ScreenView::Sockets | ScreenView::Life => SOCKETS[self.sockets_sort.column].name,
        }
    }

    /// First of `lines` lines of the popup to show in `height` rows.
    pub fn popup_line(&mut self, lines: usize, height: usize) -> usize {
        self.popup_line = self.popup_line.min(lines.saturating_sub(height));
        self.popup_line
    }

    /// What lies over the screen.
    pub const fn popup(&self) -> Option<Popup> {
        self.popup
    }

    /// Findings of the shown snapshot.
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The input line, while it is open.
    pub const fn prompt(&self) -> Option<&Prompt> {
        self.prompt.as_ref()
    }

    /// Reason why the typed input is not in use.
    pub fn filter_fault(&self) -> Option<String> {
        if self.typing == Typing::Time {
            return self.time_error.clone();
        }
        let typed = self.fault.as_ref().map(|fault| fault.message.clone());
        typed.or_else(|| self.answer()?.filter_fault.clone())
    }

    /// Indices of the rows to show in `height` lines; scrolls to keep the selected one visible.
    pub fn rows(&mut self, height: usize) -> &[usize] {
        match self.place {
            ScreenView::Groups => self.groups.rows(height),
            ScreenView::Sockets | ScreenView::Life => self.sockets.rows(height),
        }
    }

    /// Position of the selected row, from 0, and the number of rows.
    pub fn position(&self) -> (Option<usize>, usize) {
        match self.place {
            ScreenView::Groups => self.groups.position(),
            ScreenView::Sockets | ScreenView::Life => self.sockets.position(),
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

    /// The group whose sockets are shown, as opened and as it is now; `None` if it no longer exists.
    pub fn opened(&self) -> Option<(&Opened, Option<&Group>)> {
        let opened = self.opened.as_ref()?;
        Some((opened, self.snapshot().groups.iter().find(|group| group.id == opened.id)))
    }

    /// The sockets of the opened group; `None` until the pipeline answers.
    pub fn members(&self) -> Option<&Members> {
        match &self.answer()?.detail {
            Detail::Group(members) => Some(members),
            _ => None,
        }
    }

    /// The life of the selected socket; `None` until the pipeline answers.
    pub fn life(&self) -> Option<&Life> {
        match &self.answer()?.detail {
            Detail::Socket(life) => Some(life),
            _ => None,
        }
    }

    /// Whether the opened group or socket no longer exists.
    pub fn is_gone(&self) -> bool {
        self.answer().is_some_and(|answer| matches!(answer.detail, Detail::Gone))
    }

    /// The pipeline's answer, if it has the current focus.
    pub fn answer(&self) -> Option<&DetailAnswer> {
        let answer = self.snapshot().answer.as_deref()?;
        (answer.query.focus == self.query().focus).then_some(answer)
    }

    /// Receives a newer snapshot.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) {
        let query = self.query();
        self.feed.take(snapshot, &query);
        self.show();
    }

    /// Marks the feed as ended: no newer snapshot follows.
    pub fn end(&mut self) {
        self.feed.end();
        self.show();
    }

    /// Shows the snapshot of the feed.
    fn show(&mut self) {
        self.findings.update(self.feed.shown());
        self.arrange();
    }

    fn arrange(&mut self) {
        let snapshot = self.feed.shown();
        let order = self.sort.groups(snapshot);
        self.groups.arrange(order, |row| snapshot.groups[row].id.clone());
        let members = match snapshot.answer.as_deref() {
            Some(DetailAnswer { detail: Detail::Group(members), query, .. })
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
