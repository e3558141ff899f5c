//! User actions of the screen. Key bindings, help, hints and configuration names come from the rows of [`ACTIONS`].

use ratatui::crossterm::event::KeyCode;

use crate::{
    aggregate::Key,
    replay::{Direction, ReplayCommand},
};

use super::{
    key::KeyPress,
    state::{list::Move, prompt::Edit},
};

/// View on the screen, from overview to detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenView {
    /// The groups.
    Groups,
    /// The sockets of one group.
    Sockets,
    /// The life of one socket.
    Life,
}

/// A user action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close the screen.
    Quit,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Open or close the help.
    Help,
    /// Close help or findings, else leave the view, else clear the filter, else clear the selection.
    Back,
    /// Open the selected row: a group's sockets, a socket's life.
    Open,
    /// Select another row.
    Move(Move),
    /// Sort by the column to the left.
    SortPrevious,
    /// Sort by the column to the right.
    SortNext,
    /// Sort by a column; reverse the order if it is the sort column already.
    SortBy(usize),
    /// Reverse the sort order.
    Reverse,
    /// Pause or resume the screen, or a replay.
    Pause,
    /// Group by the next key.
    GroupNext,
    /// Group by the previous key.
    GroupPrevious,
    /// Group by this key.
    GroupBy(Key),
    /// Start to type a filter.
    Filter,
    /// Edit the input line.
    Edit(Edit),
    /// Reset rates, ends and dwells.
    Reset,
    /// Open or close the findings.
    Findings,
    /// Replay only: a time command.
    Time(ReplayCommand),
    /// Replay only: start to type a time to go to.
    GoTo,
    /// Replay only: go to the time at this column of the timeline.
    Click(usize),
    /// Redraw the full screen.
    Redraw,
}

/// An action with its name, keys and help.
pub struct ActionRow {
    /// The action.
    pub action: Action,
    /// Its name in the configuration.
    pub name: &'static str,
    /// Default keys; the configuration can override them. Hints show the first.
    pub keys: &'static [KeyPress],
    /// Description in the help.
    pub help: &'static str,
    /// Label in the hint line and the views that show it; `None` for most actions.
    pub hint: Option<(&'static str, &'static [ScreenView])>,
}

const ANYWHERE: &[ScreenView] = &[ScreenView::Groups, ScreenView::Sockets, ScreenView::Life];
const TABLES: &[ScreenView] = &[ScreenView::Groups, ScreenView::Sockets];
const GROUPS: &[ScreenView] = &[ScreenView::Groups];
const BELOW: &[ScreenView] = &[ScreenView::Sockets, ScreenView::Life];

const fn row(action: Action, name: &'static str, keys: &'static [KeyPress], help: &'static str) -> ActionRow {
    ActionRow { action, name, keys, help, hint: None }
}

impl ActionRow {
    const fn hinted(self, hint: &'static str, at: &'static [ScreenView]) -> Self {
        Self { hint: Some((hint, at)), ..self }
    }
}

use KeyPress::{Ctrl, Plain};

const fn typed(c: char) -> KeyPress {
    KeyPress::typed(c)
}

/// All actions with keys, in the order of the help and of the hints.
pub const ACTIONS: [ActionRow; 41] = [
    row(Action::Help, "help", &[typed('?'), typed('h')], "this help").hinted("help", ANYWHERE),
    row(
        Action::Findings,
        "findings",
        &[typed('i')],
        "what is wrong: evidence and fix; left and right: the others",
    )
    .hinted("findings", ANYWHERE),
    row(Action::GoTo, "go-to", &[typed('t')], "go to a time: 18:03:20, +90s, -10s, 50%")
        .hinted("go to", ANYWHERE),
    row(
        Action::Time(ReplayCommand::Peak(Direction::Next)),
        "next-peak",
        &[typed('p')],
        "next peak of TIME_WAIT",
    )
    .hinted("peak", ANYWHERE),
    row(
        Action::Time(ReplayCommand::Peak(Direction::Previous)),
        "previous-peak",
        &[typed('P')],
        "previous peak of TIME_WAIT",
    ),
    row(
        Action::Time(ReplayCommand::Incident(Direction::Next)),
        "next-incident",
        &[typed('n')],
        "next incident, where a finding began",
    ),
    row(
        Action::Time(ReplayCommand::Incident(Direction::Previous)),
        "previous-incident",
        &[typed('N')],
        "previous incident",
    ),
    row(Action::Time(ReplayCommand::Step(-1)), "step-back", &[typed(',')], "previous snapshot"),
    row(Action::Time(ReplayCommand::Step(1)), "step", &[typed('.')], "next snapshot")
        .hinted("step", ANYWHERE),
    row(Action::Time(ReplayCommand::Slower), "slower", &[typed('[')], "slower"),
    row(Action::Time(ReplayCommand::Faster), "faster", &[typed(']')], "faster").hinted("faster", ANYWHERE),
    row(Action::Time(ReplayCommand::Start), "start", &[typed('0')], "go to the start of the recording"),
    row(Action::Time(ReplayCommand::End), "end", &[typed('$')], "go to the end of the recording"),
    row(Action::Open, "open", &[Plain(KeyCode::Enter)], "open details: a group's sockets, a socket's life")
        .hinted("open", TABLES),
    row(Action::Back, "back", &[Plain(KeyCode::Esc)], "back: out of help, view, filter, selection")
        .hinted("back", BELOW),
    row(Action::Filter, "filter", &[typed('/')], "show only sockets that match, while you type")
        .hinted("filter", TABLES),
    row(Action::GroupNext, "group-next", &[Plain(KeyCode::Tab)], "group by the next key")
        .hinted("group", GROUPS),
    row(Action::GroupPrevious, "group-previous", &[Plain(KeyCode::BackTab)], "group by the previous key"),
    row(
        Action::GroupBy(Key::Service),
        "by-service",
        &[typed('1')],
        "group by service: local listener or remote address",
    ),
    row(Action::GroupBy(Key::Peer), "by-peer", &[typed('2')], "group by peer: the other end's address"),
    row(Action::GroupBy(Key::Rport), "by-rport", &[typed('3')], "group by remote port"),
    row(Action::GroupBy(Key::Lport), "by-lport", &[typed('4')], "group by local port"),
    row(Action::GroupBy(Key::Process), "by-process", &[typed('5')], "group by process"),
    row(Action::GroupBy(Key::Comm), "by-comm", &[typed('6')], "group by process name"),
    row(Action::GroupBy(Key::Cgroup), "by-cgroup", &[typed('7')], "group by cgroup: container, service unit"),
    row(Action::GroupBy(Key::Netns), "by-netns", &[typed('8')], "group by network namespace"),
    row(Action::GroupBy(Key::State), "by-state", &[typed('9')], "group by state"),
    row(
        Action::SortPrevious,
        "sort-previous",
        &[typed('<'), Plain(KeyCode::Left)],
        "sort by the column to the left",
    ),
    row(
        Action::SortNext,
        "sort-next",
        &[typed('s'), typed('>'), Plain(KeyCode::Right)],
        "sort by the column to the right",
    )
    .hinted("sort", TABLES),
    row(Action::Reverse, "reverse", &[typed('r'), typed('S')], "reverse the order").hinted("reverse", TABLES),
    row(Action::Pause, "pause", &[typed(' ')], "pause or resume the screen, or a replay")
        .hinted("pause", ANYWHERE),
    row(Action::Reset, "reset", &[Ctrl('r')], "reset counts: rates, ends, dwells").hinted("reset", GROUPS),
    row(Action::Move(Move::Up), "up", &[Plain(KeyCode::Up), typed('k')], "row above"),
    row(
        Action::Move(Move::Down),
        "down",
        &[Plain(KeyCode::Down), typed('j')],
        "row below; the selection stays on its row",
    ),
    row(Action::Move(Move::PageUp), "page-up", &[Plain(KeyCode::PageUp), Ctrl('b')], "page up"),
    row(Action::Move(Move::PageDown), "page-down", &[Plain(KeyCode::PageDown), Ctrl('f')], "page down"),
    row(Action::Move(Move::First), "first", &[typed('g'), Plain(KeyCode::Home)], "first row"),
    row(Action::Move(Move::Last), "last", &[typed('G'), Plain(KeyCode::End)], "last row"),
    row(Action::Redraw, "redraw", &[Ctrl('l')], "redraw the screen"),
    row(Action::Suspend, "suspend", &[Ctrl('z')], "suspend; fg resumes"),
    row(Action::Quit, "quit", &[typed('q'), Ctrl('c')], "quit").hinted("quit", ANYWHERE),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_one_row_and_one_name() {
        for (i, row) in ACTIONS.iter().enumerate() {
            assert!(ACTIONS[..i].iter().all(|other| other.action != row.action), "{:?}", row.action);
            assert!(ACTIONS[..i].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }
}
