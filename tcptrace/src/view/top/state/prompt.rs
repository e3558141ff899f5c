//! Input line: applies [`Edit`]s to its text and cursor.

use ratatui::crossterm::event::KeyCode;

use crate::view::top::key::KeyPress;

/// An edit of the input line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Insert a character at the cursor.
    Insert(char),
    /// Delete the character before the cursor.
    Backspace,
    /// Delete the character at the cursor.
    Delete,
    /// Delete the word before the cursor.
    DeleteWord,
    /// Delete all text.
    Clear,
    /// Move the cursor left.
    Left,
    /// Move the cursor right.
    Right,
    /// Move the cursor to the beginning.
    Home,
    /// Move the cursor to the end.
    End,
    /// Accept the line.
    Accept,
    /// Restore the line as it was before.
    Cancel,
}

/// Editing keys, with their descriptions in the help.
pub const EDITS: [(KeyPress, Edit, &str); 13] = [
    (KeyPress::Plain(KeyCode::Enter), Edit::Accept, "keep the filter"),
    (KeyPress::Plain(KeyCode::Esc), Edit::Cancel, "restore the previous filter"),
    (KeyPress::Plain(KeyCode::Backspace), Edit::Backspace, "delete the previous character"),
    (KeyPress::Ctrl('h'), Edit::Backspace, ""),
    (KeyPress::Plain(KeyCode::Delete), Edit::Delete, "delete the character at the cursor"),
    (KeyPress::Ctrl('w'), Edit::DeleteWord, "delete the previous word"),
    (KeyPress::Ctrl('u'), Edit::Clear, "delete all"),
    (KeyPress::Plain(KeyCode::Left), Edit::Left, "move left"),
    (KeyPress::Plain(KeyCode::Right), Edit::Right, "move right"),
    (KeyPress::Plain(KeyCode::Home), Edit::Home, "move to the beginning"),
    (KeyPress::Ctrl('a'), Edit::Home, ""),
    (KeyPress::Plain(KeyCode::End), Edit::End, "move to the end"),
    (KeyPress::Ctrl('e'), Edit::End, ""),
];

/// The edit bound to `key`.
pub fn edit(key: KeyPress) -> Option<Edit> {
    if let Some((_, edit, _)) = EDITS.iter().find(|(bound, ..)| *bound == key) {
        return Some(*edit);
    }
    match key {
        KeyPress::Plain(KeyCode::Char(c)) if !c.is_control() => Some(Edit::Insert(c)),
        _ => None,
    }
}

/// An input line and its cursor.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    text: String,
    /// Bytes before the cursor.
    cursor: usize,
    /// The line before editing.
    before: String,
}

/// Length limit in bytes: longer filters belong on the command line.
const LONGEST: usize = 1_000;

impl Prompt {
    /// The line `text`, with the cursor at its end.
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), cursor: text.len(), before: text.into() }
    }

    /// The line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Applies an edit.
    pub fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Insert(c) if self.text.len() < LONGEST => {
                self.text.insert(self.cursor, c);
                self.cursor += c.len_utf8();
            }
            Edit::Insert(_) | Edit::Accept => {}
            Edit::Backspace => self.cut(self.left()..self.cursor),
            Edit::Delete => self.cut(self.cursor..self.right()),
            Edit::DeleteWord => self.cut(self.word()..self.cursor),
            Edit::Clear => self.cut(0..self.text.len()),
            Edit::Left => self.cursor = self.left(),
            Edit::Right => self.cursor = self.right(),
            Edit::Home => self.cursor = 0,
            Edit::End => self.cursor = self.text.len(),
            Edit::Cancel => *self = Self::new(&self.before),
        }
    }

    fn cut(&mut self, part: std::ops::Range<usize>) {
        self.cursor = part.start;
        self.text.replace_range(part, "");
    }

    fn left(&self) -> usize {
        self.before_cursor().char_indices().next_back().map_or(0, |(at, _)| at)
    }

    fn right(&self) -> usize {
        self.text[self.cursor..].chars().next().map_or(self.cursor, |c| self.cursor + c.len_utf8())
    }

    /// Start of the word before the cursor.
    fn word(&self) -> usize {
        let before = self.before_cursor().trim_end();
        before.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_apply_to_characters_and_words() {
        let mut prompt = Prompt::new("comm wörker");
        for edit in [Edit::Left; 4] {
            prompt.edit(edit);
        }
        prompt.edit(Edit::Backspace);
        prompt.edit(Edit::Insert('o'));
        assert_eq!((prompt.text(), prompt.before_cursor()), ("comm worker", "comm wo"));
        prompt.edit(Edit::Delete);
        prompt.edit(Edit::End);
        prompt.edit(Edit::DeleteWord);
        assert_eq!(prompt.text(), "comm ");
        prompt.edit(Edit::DeleteWord);
        for edit in [Edit::Backspace, Edit::Delete, Edit::Left, Edit::Right, Edit::DeleteWord] {
            prompt.edit(edit);
        }
        assert_eq!((prompt.text(), prompt.before_cursor()), ("", ""));
        prompt.edit(Edit::Cancel);
        assert_eq!(prompt.text(), "comm wörker");
        prompt.edit(Edit::Clear);
        assert_eq!(prompt.text(), "");
    }

    #[test]
    fn editing_keys_are_bound_once() {
        for (i, (key, bound, _)) in EDITS.iter().enumerate() {
            assert!(EDITS[..i].iter().all(|(other, ..)| other != key), "{key}");
            assert_eq!(edit(*key), Some(*bound));
        }
        assert_eq!(edit(KeyPress::typed('q')), Some(Edit::Insert('q')));
        assert_eq!(edit(KeyPress::Plain(KeyCode::F(1))), None);
    }
}
