//! Keys on a keyboard: what the terminal reports in, and their names as configuration and help write them.

use std::{fmt, str::FromStr};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A key, with what is held down beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// By itself, or a character however it is typed.
    Plain(KeyCode),
    /// With Ctrl held down; a lower-case letter.
    Ctrl(char),
}

/// The keys that have a name, as it is written.
const NAMED: [(&str, KeyCode); 16] = [
    ("space", KeyCode::Char(' ')),
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("shift-tab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("insert", KeyCode::Insert),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pgup", KeyCode::PageUp),
    ("pgdn", KeyCode::PageDown),
];

impl Key {
    /// A character.
    pub const fn typed(c: char) -> Self {
        Self::Plain(KeyCode::Char(c))
    }

    /// The key that was pressed; `None` when it was let go.
    pub fn pressed(event: KeyEvent) -> Option<Self> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        Some(match event.code {
            KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => {
                Self::Ctrl(c.to_ascii_lowercase())
            }
            code => Self::Plain(code),
        })
    }

    /// The event that pressing it makes.
    #[cfg(test)]
    pub fn press(self) -> KeyEvent {
        match self {
            Self::Plain(code) => KeyEvent::new(code, KeyModifiers::NONE),
            Self::Ctrl(c) => KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ctrl(c) => write!(f, "ctrl-{c}"),
            Self::Plain(code) => match (NAMED.iter().find(|(_, named)| named == code), code) {
                (Some((name, _)), _) => f.write_str(name),
                (None, KeyCode::Char(c)) => write!(f, "{c}"),
                (None, KeyCode::F(n)) => write!(f, "f{n}"),
                (None, other) => write!(f, "{other}"),
            },
        }
    }
}

impl FromStr for Key {
    type Err = String;

    /// `q`, `G`, `space`, `ctrl-c`, `f5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut chars = text.chars();
        if let (Some(c), None) = (chars.next(), chars.next()) {
            return Ok(Self::typed(if c == ' ' { ' ' } else { c }));
        }
        let lower = text.to_ascii_lowercase();
        if let Some((_, code)) = NAMED.iter().find(|(name, _)| *name == lower) {
            return Ok(Self::Plain(*code));
        }
        if let Some(rest) = lower.strip_prefix("ctrl-") {
            let mut chars = rest.chars();
            if let (Some(c @ 'a'..='z'), None) = (chars.next(), chars.next()) {
                return Ok(Self::Ctrl(c));
            }
        }
        if let Some(n) = lower.strip_prefix('f').and_then(|n| n.parse().ok()).filter(|n| (1..=12).contains(n))
        {
            return Ok(Self::Plain(KeyCode::F(n)));
        }
        let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "'{text}' is no key; expected a character, ctrl-a to ctrl-z, f1 to f12, or one of {}",
            names.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let named = NAMED.iter().map(|&(_, code)| Key::Plain(code));
        let others =
            [Key::typed('q'), Key::typed('G'), Key::typed('/'), Key::Ctrl('z'), Key::Plain(KeyCode::F(12))];
        for key in named.chain(others) {
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(Key::pressed(key.press()), Some(key));
        }
        for bad in ["", "ctrl-", "ctrl-1", "f13", "quit"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shifted_and_released_keys() {
        let shifted = KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT);
        assert_eq!(Key::pressed(shifted), Some(Key::typed('G')));
        let released = KeyEvent { kind: KeyEventKind::Release, ..Key::typed('q').press() };
        assert_eq!(Key::pressed(released), None);
    }
}
