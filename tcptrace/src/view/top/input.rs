//! Keys in, [`Action`]s out. [`BINDINGS`] is the only list of keys: the help and the hints are made of it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key does.
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
    /// Select the row above.
    Up,
    /// Select the row below.
    Down,
    /// Select one screen further up.
    PageUp,
    /// Select one screen further down.
    PageDown,
    /// Select the first row.
    First,
    /// Select the last row.
    Last,
    /// Sort by the column to the left.
    SortPrevious,
    /// Sort by the column to the right.
    SortNext,
    /// Turn the order round.
    Reverse,
    /// Hold the picture, or let it go on.
    Pause,
    /// Draw everything anew.
    Redraw,
}

/// Keys that do the same.
pub struct Binding {
    /// The keys.
    pub keys: &'static [Key],
    /// The keys as the help shows them.
    pub label: &'static str,
    /// What they do.
    pub action: Action,
    /// The same in words.
    pub help: &'static str,
    /// A word for the line of hints, for the few that are there.
    pub hint: Option<&'static str>,
}

/// A key on the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A key by itself, or a character however it is typed.
    Plain(KeyCode),
    /// With Ctrl held down.
    Ctrl(char),
}

use Key::{Ctrl, Plain};

const fn typed(c: char) -> Key {
    Plain(KeyCode::Char(c))
}

/// Every key that does something.
pub const BINDINGS: [Binding; 15] = [
    Binding {
        keys: &[typed('q'), Ctrl('c')],
        label: "q, Ctrl-C",
        action: Action::Quit,
        help: "quit",
        hint: Some("quit"),
    },
    Binding {
        keys: &[typed('?'), typed('h')],
        label: "?, h",
        action: Action::Help,
        help: "this help",
        hint: Some("help"),
    },
    Binding {
        keys: &[typed(' ')],
        label: "space",
        action: Action::Pause,
        help: "hold the picture; tracing goes on",
        hint: Some("pause"),
    },
    Binding {
        keys: &[typed('<'), Plain(KeyCode::Left)],
        label: "<, left",
        action: Action::SortPrevious,
        help: "sort by the column to the left",
        hint: None,
    },
    Binding {
        keys: &[typed('s'), typed('>'), Plain(KeyCode::Right)],
        label: "s, >, right",
        action: Action::SortNext,
        help: "sort by the column to the right",
        hint: Some("sort"),
    },
    Binding {
        keys: &[typed('r'), typed('S')],
        label: "r, S",
        action: Action::Reverse,
        help: "reverse the order",
        hint: Some("reverse"),
    },
    Binding {
        keys: &[Plain(KeyCode::Up), typed('k')],
        label: "up, k",
        action: Action::Up,
        help: "row above",
        hint: None,
    },
    Binding {
        keys: &[Plain(KeyCode::Down), typed('j')],
        label: "down, j",
        action: Action::Down,
        help: "row below; the selection stays on its group",
        hint: Some("select"),
    },
    Binding {
        keys: &[Plain(KeyCode::PageUp), Ctrl('b')],
        label: "PgUp, Ctrl-B",
        action: Action::PageUp,
        help: "page up",
        hint: None,
    },
    Binding {
        keys: &[Plain(KeyCode::PageDown), Ctrl('f')],
        label: "PgDn, Ctrl-F",
        action: Action::PageDown,
        help: "page down",
        hint: None,
    },
    Binding {
        keys: &[typed('g'), Plain(KeyCode::Home)],
        label: "g, Home",
        action: Action::First,
        help: "first row",
        hint: None,
    },
    Binding {
        keys: &[typed('G'), Plain(KeyCode::End)],
        label: "G, End",
        action: Action::Last,
        help: "last row",
        hint: None,
    },
    Binding {
        keys: &[Plain(KeyCode::Esc)],
        label: "Esc",
        action: Action::Back,
        help: "close the help, drop the selection",
        hint: None,
    },
    Binding {
        keys: &[Ctrl('l')],
        label: "Ctrl-L",
        action: Action::Redraw,
        help: "draw everything anew",
        hint: None,
    },
    Binding {
        keys: &[Ctrl('z')],
        label: "Ctrl-Z",
        action: Action::Suspend,
        help: "stop until fg",
        hint: None,
    },
];

/// What `event` does; `None` for keys without a meaning, and for their release.
pub fn action(event: KeyEvent) -> Option<Action> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let pressed = match event.code {
        KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => Ctrl(c.to_ascii_lowercase()),
        code => Plain(code),
    };
    BINDINGS.iter().find(|binding| binding.keys.contains(&pressed)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(key: Key) -> KeyEvent {
        match key {
            Plain(code) => KeyEvent::new(code, KeyModifiers::NONE),
            Ctrl(c) => KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL),
        }
    }

    #[test]
    fn every_key_does_what_its_row_says() {
        for binding in &BINDINGS {
            for &key in binding.keys {
                assert_eq!(action(press(key)), Some(binding.action), "{key:?} is bound twice");
            }
        }
    }

    #[test]
    fn every_action_has_one_row() {
        for (i, binding) in BINDINGS.iter().enumerate() {
            assert!(BINDINGS[..i].iter().all(|other| other.action != binding.action), "{:?}", binding.action);
        }
    }

    #[test]
    fn shifted_and_released_keys() {
        let shifted = KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT);
        assert_eq!(action(shifted), Some(Action::Last));
        let released = KeyEvent { kind: KeyEventKind::Release, ..press(typed('q')) };
        assert_eq!(action(released), None);
        assert_eq!(action(press(typed('x'))), None);
        assert_eq!(action(press(Ctrl('q'))), None);
    }
}
