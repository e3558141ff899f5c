//! What the screen remembers between two frames: [`Action`]s and snapshots in, the rows to show out.

use std::sync::Arc;

use super::{input::Action, sort::Sort};
use crate::{
    aggregate::{Group, Snapshot},
    lifecycle::Role,
};

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
struct Identity {
    key: String,
    role: Role,
}

impl Identity {
    fn is(&self, group: &Group) -> bool {
        self.role == group.role && self.key == group.key
    }
}

/// The state of the screen.
#[derive(Debug)]
pub struct App {
    shown: Arc<Snapshot>,
    newest: Arc<Snapshot>,
    mode: Mode,
    sort: Sort,
    /// The groups of `shown` in their order, as indices.
    order: Vec<usize>,
    selected: Option<Identity>,
    /// Where the selected group stands in `order`, or stood before it went.
    cursor: usize,
    /// The first row on the screen.
    offset: usize,
    /// Rows on the screen, from the last frame.
    page: usize,
    /// The first line of the help, while it is open.
    help: Option<usize>,
}

impl App {
    /// A screen that shows `snapshot`, with nothing selected.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let sort = Sort::default();
        let order = sort.order(&snapshot);
        Self {
            newest: Arc::clone(&snapshot),
            shown: snapshot,
            mode: Mode::Live,
            sort,
            order,
            selected: None,
            cursor: 0,
            offset: 0,
            page: 1,
            help: None,
        }
    }

    /// The snapshot to show.
    pub fn snapshot(&self) -> &Snapshot {
        &self.shown
    }

    /// Whether the picture moves.
    pub const fn mode(&self) -> Mode {
        self.mode
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
        self.page = height.max(1);
        let last = self.order.len().saturating_sub(self.page);
        self.offset = self.offset.min(last);
        if self.selected.is_some() {
            let lowest = (self.cursor + 1).saturating_sub(self.page);
            self.offset = self.offset.clamp(lowest, self.cursor.max(lowest));
        }
        let end = (self.offset + height).min(self.order.len());
        &self.order[self.offset.min(end)..end]
    }

    /// Where the selected group stands, from 0, and how many groups there are.
    pub fn position(&self) -> (Option<usize>, usize) {
        (self.selected.as_ref().map(|_| self.cursor), self.order.len())
    }

    /// Whether `group` is the selected one.
    pub fn is_selected(&self, group: &Group) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.is(group))
    }

    /// Takes a newer snapshot in.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) {
        self.newest = snapshot;
        if self.mode != Mode::Paused {
            self.show_newest();
        }
    }

    /// There will be no newer snapshot.
    pub fn end(&mut self) {
        self.mode = Mode::Ended;
        self.show_newest();
    }

    /// Does what a key asks for.
    pub fn act(&mut self, action: Action) -> Next {
        if let Some(line) = &mut self.help
            && let Some(moved) = scroll(*line, action)
        {
            *line = moved;
            return Next::Draw;
        }
        match action {
            Action::Quit => return Next::Quit,
            Action::Suspend => return Next::Suspend,
            Action::Redraw => return Next::Redraw,
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Back if self.help.is_some() => self.help = None,
            Action::Back => self.selected = None,
            Action::Up => self.select(self.row_after(|row| row.saturating_sub(1))),
            Action::Down => self.select(self.row_after(|row| row + 1)),
            Action::PageUp => self.select(self.row_after(|row| row).saturating_sub(self.page)),
            Action::PageDown => self.select(self.row_after(|row| row) + self.page),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            Action::SortPrevious => self.sort_by(self.sort.previous()),
            Action::SortNext => self.sort_by(self.sort.next()),
            Action::Reverse => self.sort_by(self.sort.reversed()),
            Action::Pause => self.pause(),
        }
        Next::Draw
    }

    fn show_newest(&mut self) {
        self.shown = Arc::clone(&self.newest);
        self.sort_by(self.sort);
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.order = sort.order(&self.shown);
        let Some(selected) = &self.selected else { return };
        let groups = &self.shown.groups;
        match self.order.iter().position(|&row| selected.is(&groups[row])) {
            Some(row) => self.cursor = row,
            // The group is gone: the one in its place is the next best.
            None => self.select(self.cursor),
        }
    }

    fn pause(&mut self) {
        match self.mode {
            Mode::Live => self.mode = Mode::Paused,
            Mode::Paused => {
                self.mode = Mode::Live;
                self.show_newest();
            }
            Mode::Ended => {}
        }
    }

    /// The row a move ends at: the first on the screen where nothing is selected yet.
    fn row_after(&self, step: impl FnOnce(usize) -> usize) -> usize {
        if self.selected.is_some() { step(self.cursor) } else { self.offset }
    }

    fn select(&mut self, row: usize) {
        self.cursor = row.min(self.order.len().saturating_sub(1));
        self.selected = self
            .order
            .get(self.cursor)
            .map(|&row| &self.shown.groups[row])
            .map(|group| Identity { key: group.key.clone(), role: group.role });
    }
}

/// Where a move in the help ends, before the end of the help is known; `None` for other actions.
const fn scroll(line: usize, action: Action) -> Option<usize> {
    const PAGE: usize = 10;
    Some(match action {
        Action::Up => line.saturating_sub(1),
        Action::Down => line.saturating_add(1),
        Action::PageUp => line.saturating_sub(PAGE),
        Action::PageDown => line.saturating_add(PAGE),
        Action::First => 0,
        Action::Last => usize::MAX,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    fn app() -> App {
        let mut app = App::new(Arc::new(fixture::busy()));
        app.rows(2);
        app
    }

    fn selected(app: &App) -> Option<String> {
        app.selected.as_ref().map(|selected| selected.key.clone())
    }

    #[test]
    fn the_selection_stays_on_its_group() {
        let mut app = app();
        app.act(Action::Down);
        app.act(Action::Down);
        assert_eq!(selected(&app).as_deref(), Some("*:443"));
        let mut newer = fixture::busy();
        newer.groups[1].time_wait.now = 1_000_000;
        app.take(Arc::new(newer));
        assert_eq!((selected(&app).as_deref(), app.position()), (Some("*:443"), (Some(0), 4)));
        app.act(Action::Reverse);
        assert_eq!((selected(&app).as_deref(), app.position()), (Some("*:443"), (Some(3), 4)));
        let rows = app.rows(2).to_vec();
        assert!(rows.iter().any(|&row| app.is_selected(&app.snapshot().groups[row])));
    }

    #[test]
    fn a_group_that_goes_hands_the_selection_to_its_neighbour() {
        let mut app = app();
        app.act(Action::Last);
        app.take(Arc::new(fixture::empty()));
        assert_eq!((selected(&app), app.position()), (None, (None, 0)));
        assert!(app.rows(5).is_empty());
        app.act(Action::Down);
        app.take(Arc::new(fixture::busy()));
        assert_eq!(app.rows(5).len(), 4);
    }

    #[test]
    fn moves_end_at_the_ends() {
        let mut app = app();
        app.act(Action::Up);
        assert_eq!(app.position().0, Some(0));
        app.act(Action::Up);
        assert_eq!(app.position().0, Some(0));
        app.act(Action::PageDown);
        assert_eq!(app.position().0, Some(2));
        app.act(Action::PageDown);
        assert_eq!(app.position().0, Some(3));
        assert_eq!(app.rows(2).len(), 2);
        app.act(Action::First);
        assert_eq!(app.position().0, Some(0));
        app.act(Action::Back);
        assert_eq!(app.position().0, None);
    }

    #[test]
    fn a_pause_holds_the_picture_and_goes_on_with_the_newest() {
        let mut app = app();
        app.act(Action::Pause);
        app.take(Arc::new(fixture::empty()));
        assert_eq!((app.mode(), app.snapshot().groups.len()), (Mode::Paused, 4));
        app.act(Action::Pause);
        assert_eq!((app.mode(), app.snapshot().groups.len()), (Mode::Live, 0));
        app.end();
        app.act(Action::Pause);
        assert_eq!(app.mode(), Mode::Ended);
    }

    #[test]
    fn escape_closes_the_help_first() {
        let mut app = app();
        app.act(Action::Down);
        app.act(Action::Help);
        app.act(Action::Last);
        assert_eq!((app.help(30, 20), app.position().0), (Some(10), Some(0)));
        app.act(Action::Back);
        assert!(!app.is_help_open() && app.position().0.is_some());
    }

    #[test]
    fn sorting_goes_round() {
        let mut app = app();
        for _ in 0..super::super::columns::COLUMNS.len() {
            app.act(Action::SortNext);
        }
        assert_eq!(app.sort(), Sort::default());
        app.act(Action::SortNext);
        app.act(Action::SortPrevious);
        assert_eq!(app.sort(), Sort::default());
    }
}
