//! Key presses: conversion from terminal events, and their names in configuration and help.

use std::{fmt, str::FromStr};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A key press with its modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyPress {
    /// Without Ctrl; other modifiers are ignored.
    Plain(KeyCode),
    /// With Ctrl; a lower-case letter.
    Ctrl(char),
}

/// Keys that have a name.
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

impl KeyPress {
    /// A character.
    pub const fn typed(c: char) -> Self {
        Self::Plain(KeyCode::Char(c))
    }

    /// The pressed key; `None` for a release event.
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

    /// The event of pressing it.
    #[cfg(test)]
    pub fn press(self) -> KeyEvent {
        match self {
            Self::Plain(code) => KeyEvent::new(code, KeyModifiers::NONE),
            Self::Ctrl(c) => KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL),
        }
    }
}

impl fmt::Display for KeyPress {
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

impl FromStr for KeyPress {
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
    fn key_names_parse_back_to_the_same_key() {
        let named = NAMED.iter().map(|&(_, code)| KeyPress::Plain(code));
        let others = [
            KeyPress::typed('q'),
            KeyPress::typed('G'),
            KeyPress::typed('/'),
            KeyPress::Ctrl('z'),
            KeyPress::Plain(KeyCode::F(12)),
        ];
        for key in named.chain(others) {
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(KeyPress::pressed(key.press()), Some(key));
        }
        for bad in ["", "ctrl-", "ctrl-1", "f13", "quit"] {
            assert!(bad.parse::<KeyPress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shifted_keys_are_plain_and_releases_are_ignored() {
        let shifted = KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT);
        assert_eq!(KeyPress::pressed(shifted), Some(KeyPress::typed('G')));
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyPress::typed('q').press() };
        assert_eq!(KeyPress::pressed(released), None);
    }
}
