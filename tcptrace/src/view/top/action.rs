//! What the user can ask for: [`ACTIONS`] is the only list of it. Keys, help, hints and the names in the
//! configuration are made of its rows.

use ratatui::crossterm::event::KeyCode;

use super::{key::Key, state::Move};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close the screen.
    Quit,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Open or close the help.
    Help,
    /// Close the help, else drop the selection.
    Back,
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
    /// Draw everything anew.
    Redraw,
}

/// One thing to ask for with keys.
pub struct Row {
    /// What.
    pub action: Action,
    /// Its name.
    #[cfg_attr(not(test), expect(dead_code, reason = "what a configuration will call it"))]
    pub name: &'static str,
    /// The keys that ask for it, unless the configuration says otherwise; the first is shown in hints.
    pub keys: &'static [Key],
    /// What it does, for the help.
    pub help: &'static str,
    /// A word for the line of hints, for the few that are there.
    pub hint: Option<&'static str>,
}

const fn row(action: Action, name: &'static str, keys: &'static [Key], help: &'static str) -> Row {
    Row { action, name, keys, help, hint: None }
}

impl Row {
    const fn hinted(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

use Key::{Ctrl, Plain};

const fn typed(c: char) -> Key {
    Key::typed(c)
}

/// Everything that keys can ask for, in the order of help and hints.
pub const ACTIONS: [Row; 15] = [
    row(Action::Quit, "quit", &[typed('q'), Ctrl('c')], "quit").hinted("quit"),
    row(Action::Help, "help", &[typed('?'), typed('h')], "this help").hinted("help"),
    row(Action::Pause, "pause", &[typed(' ')], "hold the picture; tracing goes on").hinted("pause"),
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
    .hinted("sort"),
    row(Action::Reverse, "reverse", &[typed('r'), typed('S')], "reverse the order").hinted("reverse"),
    row(Action::Move(Move::Up), "up", &[Plain(KeyCode::Up), typed('k')], "row above"),
    row(
        Action::Move(Move::Down),
        "down",
        &[Plain(KeyCode::Down), typed('j')],
        "row below; the selection stays on its row",
    )
    .hinted("select"),
    row(Action::Move(Move::PageUp), "page-up", &[Plain(KeyCode::PageUp), Ctrl('b')], "page up"),
    row(Action::Move(Move::PageDown), "page-down", &[Plain(KeyCode::PageDown), Ctrl('f')], "page down"),
    row(Action::Move(Move::First), "first", &[typed('g'), Plain(KeyCode::Home)], "first row"),
    row(Action::Move(Move::Last), "last", &[typed('G'), Plain(KeyCode::End)], "last row"),
    row(Action::Back, "back", &[Plain(KeyCode::Esc)], "close the help, drop the selection"),
    row(Action::Redraw, "redraw", &[Ctrl('l')], "draw everything anew"),
    row(Action::Suspend, "suspend", &[Ctrl('z')], "stop until fg"),
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
