//! Applies [`Action`]s to the screen state.

use super::{Edit, FollowUp, List, Move, Opened, Prompt, ScreenState, ScreenView, Typing};
use crate::{
    aggregate::{Grouping, detail::Detail},
    filter::parse,
    replay::ReplayCommand,
    view::top::{
        action::Action,
        columns::{ALL_OF_SOCKETS, GROUPS, SOCKETS, TableColumn},
        insight,
        sort::Sort,
    },
};

impl ScreenState {
    /// Applies `action`.
    pub fn act(&mut self, action: Action) -> FollowUp {
        match action {
            _ if !self.offers(action) => {}
            Action::Quit => return FollowUp::Quit,
            Action::Suspend => return FollowUp::Suspend,
            Action::Redraw => return FollowUp::Redraw,
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Back => self.back(),
            Action::Open => self.open(),
            Action::Move(step) => self.go(step),
            Action::SortPrevious | Action::SortNext | Action::SortBy(_) | Action::Reverse => {
                self.change_sort(action);
            }
            Action::Pause if self.replay.is_some() => return FollowUp::Drive(ReplayCommand::Toggle),
            Action::Pause => {
                self.feed.pause();
                self.arrange();
            }
            Action::GroupNext => self.group_by_neighbour(|keys, now| (now + 1) % keys),
            Action::GroupPrevious => self.group_by_neighbour(|keys, now| (now + keys - 1) % keys),
            Action::GroupBy(key) => self.group_by(Grouping::by(key)),
            Action::Filter => {
                self.typing = Typing::Filter;
                self.prompt = Some(Prompt::new(&self.filter));
            }
            Action::GoTo => {
                self.typing = Typing::Time;
                self.prompt = Some(Prompt::default());
            }
            Action::Edit(edit) if self.typing == Typing::Time => return self.edit_time(edit),
            Action::Edit(edit) => self.edit(edit),
            Action::Time(command) => return FollowUp::Drive(command),
            Action::Click(column) => {
                let command = self.replay.as_ref().map(|replay| replay.go_to_column(column));
                return command.map_or(FollowUp::Draw, FollowUp::Drive);
            }
            Action::Reset => self.query.resets += 1,
            Action::Insight => self.select_insight(),
        }
        FollowUp::Draw
    }

    fn back(&mut self) {
        if self.help.take().is_some() {
            return;
        }
        match self.place {
            ScreenView::Life => self.place = ScreenView::Sockets,
            ScreenView::Sockets => self.place = ScreenView::Groups,
            ScreenView::Groups if !self.filter.is_empty() => self.apply_filter(""),
            ScreenView::Groups => self.groups.select(None),
        }
    }

    /// Opens the selected row, else the group of the insight line, else the first row.
    fn open(&mut self) {
        match self.place {
            ScreenView::Groups => {
                if self.groups.selected().is_none() {
                    self.select_insight();
                }
                if self.groups.selected().is_none() {
                    self.go(Move::ToLine(0));
                }
                let selected = self.groups.selected();
                let group = self.snapshot().groups.iter().find(|group| Some(&group.id) == selected);
                let opened = group.map(|group| Opened {
                    id: group.id.clone(),
                    key: group.key.clone(),
                    role: group.role,
                });
                if let Some(opened) = opened {
                    self.opened = Some(opened);
                    self.sockets = List::new();
                    self.place = ScreenView::Sockets;
                }
            }
            ScreenView::Sockets => {
                if self.sockets.selected().is_none() {
                    self.go(Move::ToLine(0));
                }
                if self.sockets.selected().is_some() {
                    self.place = ScreenView::Life;
                }
            }
            ScreenView::Life => {}
        }
    }

    fn select_insight(&mut self) {
        if self.place != ScreenView::Groups {
            return;
        }
        let snapshot = self.feed.shown();
        let about = insight::of(snapshot).group.map(|group| snapshot.groups[group].id.clone());
        if about.is_some() {
            self.groups.select(about);
            self.arrange();
        }
    }

    fn go(&mut self, step: Move) {
        if let Some(line) = &mut self.help {
            *line = scrolled(*line, step);
            return;
        }
        match self.place {
            ScreenView::Groups => {
                let groups = &self.feed.shown().groups;
                self.groups.go(step, |row| groups[row].id.clone());
            }
            ScreenView::Sockets => {
                let answer = self.feed.shown().answer.clone();
                if let Some(Detail::Group(members)) = answer.as_deref().map(|answer| &answer.detail) {
                    self.sockets.go(step, |row| members.sockets[row].id);
                }
            }
            ScreenView::Life => {}
        }
    }

    fn change_sort(&mut self, action: Action) {
        match self.place {
            ScreenView::Groups => self.sort = sorted(self.sort, &GROUPS, &self.columns, action),
            ScreenView::Sockets => {
                self.sockets_sort = sorted(self.sockets_sort, &SOCKETS, &ALL_OF_SOCKETS, action);
            }
            ScreenView::Life => {}
        }
        self.arrange();
    }

    /// `choose` gets the number of keys and the index of the current one.
    fn group_by_neighbour(&mut self, choose: impl Fn(usize, usize) -> usize) {
        let keys: Vec<Grouping> = Grouping::single().collect();
        let now = keys.iter().position(|&key| key == self.query.grouping).unwrap_or(keys.len() - 1);
        self.group_by(keys[choose(keys.len(), now)]);
    }

    fn group_by(&mut self, grouping: Grouping) {
        self.query.grouping = grouping;
        self.place = ScreenView::Groups;
        self.groups.select(None);
    }

    fn edit(&mut self, edit: Edit) {
        let Some(prompt) = &mut self.prompt else { return };
        prompt.edit(edit);
        let text = prompt.text().to_owned();
        match edit {
            // An invalid filter is discarded; the last valid one stays.
            Edit::Accept if self.fault.is_some() => {
                self.prompt = None;
                self.fault = None;
            }
            Edit::Accept | Edit::Cancel => {
                self.prompt = None;
                self.apply_filter(&text);
            }
            _ => self.apply_filter(&text),
        }
    }

    fn edit_time(&mut self, edit: Edit) -> FollowUp {
        let Some(prompt) = &mut self.prompt else { return FollowUp::Draw };
        prompt.edit(edit);
        self.time_error = None;
        match edit {
            Edit::Cancel => self.prompt = None,
            Edit::Accept if prompt.text().trim().is_empty() => self.prompt = None,
            Edit::Accept => match self.replay.as_ref().map(|replay| replay.go_to(prompt.text())) {
                Some(Ok(command)) => {
                    self.prompt = None;
                    return FollowUp::Drive(command);
                }
                Some(Err(fault)) => self.time_error = Some(fault),
                None => {}
            },
            _ => {}
        }
        FollowUp::Draw
    }

    /// Applies `text` as the filter, or keeps its syntax error.
    fn apply_filter(&mut self, text: &str) {
        let expr = if text.trim().is_empty() { Ok(None) } else { parse("filter", text).map(Some) };
        match expr {
            Ok(expr) => {
                self.query.filter = expr;
                text.trim().clone_into(&mut self.filter);
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault),
        }
    }
}

/// The sort order after `action`.
fn sorted<R>(sort: Sort, columns: &[TableColumn<R>], visible: &[usize], action: Action) -> Sort {
    match action {
        Action::SortPrevious => sort.previous(columns, visible),
        Action::SortNext => sort.next(columns, visible),
        Action::SortBy(column) if column != sort.column => Sort::by(columns, column),
        _ => sort.reversed(),
    }
}

/// The help line after a step; `ScreenState::help` later limits it to the length of the help.
const fn scrolled(line: usize, step: Move) -> usize {
    const PAGE: usize = 10;
    match step {
        Move::Up => line.saturating_sub(1),
        Move::Down => line.saturating_add(1),
        Move::PageUp => line.saturating_sub(PAGE),
        Move::PageDown => line.saturating_add(PAGE),
        Move::First => 0,
        Move::Last => usize::MAX,
        Move::ToLine(_) => line,
    }
}
