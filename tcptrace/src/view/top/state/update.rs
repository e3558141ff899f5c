//! Applies [`Action`]s to the screen state.

use super::{Edit, FollowUp, List, Move, Opened, Popup, Prompt, ScreenState, ScreenView, Typing};
use crate::{
    aggregate::{Group, GroupKey, Grouping, detail::Detail},
    filter::parse,
    replay::ReplayCommand,
    view::{
        doctor::{Finding, Who},
        top::{
            action::Action,
            columns::{ALL_OF_SOCKETS, GROUPS, SOCKETS, TableColumn},
            sort::Sort,
        },
    },
};

impl ScreenState {
    /// Applies `action`.
    pub fn act(&mut self, action: Action) -> FollowUp {
        match action {
            _ if !self.offers(action) => {}
            _ if self.acts_on_popup(action) => {}
            Action::Quit => return FollowUp::Quit,
            Action::Suspend => return FollowUp::Suspend,
            Action::Redraw => return FollowUp::Redraw,
            Action::Help => self.open_popup(Popup::Help),
            Action::Back => self.back(),
            Action::Open => self.open(),
            Action::Move(step) => self.go(step),
            Action::SortPrevious | Action::SortNext | Action::SortBy(_) | Action::Reverse => {
                self.change_sort(action);
            }
            Action::Pause if self.replay.is_some() => return FollowUp::Drive(ReplayCommand::Toggle),
            Action::Pause => {
                self.feed.pause();
                self.show();
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
            Action::Findings => self.open_popup(Popup::Finding(0)),
        }
        FollowUp::Draw
    }

    /// Opens `popup`.
    fn open_popup(&mut self, popup: Popup) {
        (self.popup, self.popup_line) = (Some(popup), 0);
    }

    /// Applies `action` to the popup, if one is open and the action is about it.
    fn acts_on_popup(&mut self, action: Action) -> bool {
        let Some(popup) = self.popup else { return false };
        let findings = self.findings.all().len().max(1);
        match (popup, action) {
            (Popup::Help, Action::Help) | (Popup::Finding(_), Action::Findings) | (_, Action::Back) => {
                self.popup = None;
            }
            (_, Action::Move(step)) => self.popup_line = scrolled(self.popup_line, step),
            (Popup::Finding(n), Action::SortNext) => self.open_popup(Popup::Finding((n + 1) % findings)),
            (Popup::Finding(n), Action::SortPrevious) => {
                self.open_popup(Popup::Finding((n + findings - 1) % findings));
            }
            (Popup::Finding(n), Action::Open) => {
                self.popup = None;
                let about = self.findings.all().get(n).and_then(|finding| self.group_of(finding));
                if let Some(group) = about {
                    self.place = ScreenView::Groups;
                    self.groups.select(Some(group));
                    self.arrange();
                    self.open();
                }
            }
            _ => return false,
        }
        true
    }

    /// The group with the sockets of a finding: of its first process or service that has one.
    fn group_of(&self, finding: &Finding) -> Option<GroupKey> {
        let groups = &self.snapshot().groups;
        let of = |who: &Who| {
            let is_service = |group: &&Group| {
                let service = group.service.map(|(_, service)| service.to_string());
                service.as_ref().unwrap_or(&group.key) == &who.service
            };
            let is_process =
                |group: &&Group| group.process.as_ref().is_some_and(|process| Some(process.pid) == who.pid);
            let by_both = groups.iter().find(|group| is_service(group) && is_process(group));
            by_both.or_else(|| groups.iter().find(is_service)).or_else(|| groups.iter().find(is_process))
        };
        finding.who.iter().find_map(of).map(|group| group.id.clone())
    }

    fn back(&mut self) {
        match self.place {
            ScreenView::Life => self.place = ScreenView::Sockets,
            ScreenView::Sockets => self.place = ScreenView::Groups,
            ScreenView::Groups if !self.filter.is_empty() => self.apply_filter(""),
            ScreenView::Groups => self.groups.select(None),
        }
    }

    /// Opens the selected row, else the group of the worst finding, else the first row.
    fn open(&mut self) {
        match self.place {
            ScreenView::Groups => {
                if self.groups.selected().is_none() {
                    let worst = self.findings.serious().next();
                    let about = worst.and_then(|finding| self.group_of(finding));
                    self.groups.select(about);
                    self.arrange();
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

    fn go(&mut self, step: Move) {
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

/// The line of a popup after a step; `ScreenState::popup_line` later limits it to its length.
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
