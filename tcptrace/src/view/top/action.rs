//! What the user can ask for: [`ACTIONS`] is the only list of it. Keys, help, hints and the names in the
//! configuration are made of its rows.

use ratatui::crossterm::event::KeyCode;

use crate::replay::{Command, Peak};

use super::{
    key::Key,
    state::{Edit, Move, Place},
};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close the screen.
    Quit,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Open or close the help.
    Help,
    /// Back to where one came from: out of the help, the view, the filter, the selection.
    Back,
    /// Look closer at the selected row.
    Open,
    /// Select another row.
    Move(Move),
    /// Sort by the column to the left.
    SortPrevious,
    /// Sort by the column to the right.
    SortNext,
    /// Sort by a column, or, where it is that one already, the other way round.
    SortBy(usize),
    /// Turn the order round.
    Reverse,
    /// Hold the picture, or let it go on.
    Pause,
    /// Group by the next key.
    GroupNext,
    /// Group by the key before.
    GroupPrevious,
    /// Group by the key with this number, from 0.
    GroupBy(u8),
    /// Type a filter.
    Filter,
    /// Change the line that is being typed.
    Edit(Edit),
    /// Count anew.
    Reset,
    /// Select what the line at the bottom is about.
    Insight,
    /// Of a recording: go through its time.
    Time(Command),
    /// Of a recording: type a moment to go to.
    GoTo,
    /// Of a recording: go to the moment that stands in this column of the timeline.
    Click(usize),
    /// Draw everything anew.
    Redraw,
}

/// One thing to ask for with keys.
pub struct Row {
    /// What.
    pub action: Action,
    /// Its name in the configuration.
    pub name: &'static str,
    /// The keys that ask for it, unless the configuration says otherwise; the first is shown in hints.
    pub keys: &'static [Key],
    /// What it does, for the help.
    pub help: &'static str,
    /// A word for the line of hints, for the few that are there, and where.
    pub hint: Option<(&'static str, &'static [Place])>,
}

const ANYWHERE: &[Place] = &[Place::Groups, Place::Sockets, Place::Life];
const TABLES: &[Place] = &[Place::Groups, Place::Sockets];
const GROUPS: &[Place] = &[Place::Groups];
const BELOW: &[Place] = &[Place::Sockets, Place::Life];

const fn row(action: Action, name: &'static str, keys: &'static [Key], help: &'static str) -> Row {
    Row { action, name, keys, help, hint: None }
}

impl Row {
    const fn hinted(self, hint: &'static str, at: &'static [Place]) -> Self {
        Self { hint: Some((hint, at)), ..self }
    }
}

use Key::{Ctrl, Plain};

const fn typed(c: char) -> Key {
    Key::typed(c)
}

/// Everything that keys can ask for, in the order of the help; hints in the same order.
pub const ACTIONS: [Row; 39] = [
    row(Action::Help, "help", &[typed('?'), typed('h')], "this help").hinted("help", ANYWHERE),
    row(Action::GoTo, "go-to", &[typed('t')], "go to a time: 18:03:20, +90s, -10s, 50%")
        .hinted("go to", ANYWHERE),
    row(Action::Time(Command::Peak(Peak::Next)), "next-peak", &[typed('p')], "next peak of TIME_WAIT")
        .hinted("peak", ANYWHERE),
    row(Action::Time(Command::Peak(Peak::Previous)), "previous-peak", &[typed('P')], "peak before"),
    row(Action::Time(Command::Step(-1)), "step-back", &[typed(',')], "picture before"),
    row(Action::Time(Command::Step(1)), "step", &[typed('.')], "next picture").hinted("step", ANYWHERE),
    row(Action::Time(Command::Slower), "slower", &[typed('[')], "slower"),
    row(Action::Time(Command::Faster), "faster", &[typed(']')], "faster").hinted("faster", ANYWHERE),
    row(Action::Time(Command::Start), "start", &[typed('0')], "to the start of the recording"),
    row(Action::Time(Command::End), "end", &[typed('$')], "to its end"),
    row(Action::Open, "open", &[Plain(KeyCode::Enter)], "look closer: a group's sockets, a socket's life")
        .hinted("open", TABLES),
    row(Action::Back, "back", &[Plain(KeyCode::Esc)], "back: out of help, view, filter, selection")
        .hinted("back", BELOW),
    row(Action::Filter, "filter", &[typed('/')], "show only sockets that match, while you type")
        .hinted("filter", TABLES),
    row(Action::GroupNext, "group-next", &[Plain(KeyCode::Tab)], "group by the next key")
        .hinted("group", GROUPS),
    row(Action::GroupPrevious, "group-previous", &[Plain(KeyCode::BackTab)], "group by the key before"),
    row(Action::GroupBy(0), "by-service", &[typed('1')], "group by service: who is connected to"),
    row(Action::GroupBy(1), "by-peer", &[typed('2')], "group by peer: the other end's address"),
    row(Action::GroupBy(2), "by-rport", &[typed('3')], "group by remote port"),
    row(Action::GroupBy(3), "by-lport", &[typed('4')], "group by local port"),
    row(Action::GroupBy(4), "by-process", &[typed('5')], "group by process"),
    row(Action::GroupBy(5), "by-comm", &[typed('6')], "group by process name"),
    row(Action::GroupBy(6), "by-cgroup", &[typed('7')], "group by cgroup: container, service unit"),
    row(Action::GroupBy(7), "by-netns", &[typed('8')], "group by network namespace"),
    row(Action::GroupBy(8), "by-state", &[typed('9')], "group by state"),
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
    row(Action::Pause, "pause", &[typed(' ')], "hold the picture; of a recording: play or stand still")
        .hinted("pause", ANYWHERE),
    row(Action::Insight, "insight", &[typed('i')], "select what the line at the bottom is about")
        .hinted("select it", GROUPS),
    row(Action::Reset, "reset", &[Ctrl('r')], "count anew: rates, ends, dwells").hinted("reset", GROUPS),
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
    row(Action::Redraw, "redraw", &[Ctrl('l')], "draw everything anew"),
    row(Action::Suspend, "suspend", &[Ctrl('z')], "stop until fg"),
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
