//! A line that is being typed: [`Edit`]s in, text and the place of the cursor out.

use ratatui::crossterm::event::KeyCode;

use crate::view::top::key::Key;

/// A change of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A character at the cursor.
    Insert(char),
    /// Takes away the character before the cursor.
    Backspace,
    /// Takes away the character at the cursor.
    Delete,
    /// Takes away the word before the cursor.
    DeleteWord,
    /// Takes away all of it.
    Clear,
    /// The cursor goes left.
    Left,
    /// The cursor goes right.
    Right,
    /// The cursor goes to the beginning.
    Home,
    /// The cursor goes to the end.
    End,
    /// The line is done.
    Accept,
    /// The line is as it was before.
    Cancel,
}

/// The keys that edit a line, and how the help calls them.
pub const EDITS: [(Key, Edit, &str); 13] = [
    (Key::Plain(KeyCode::Enter), Edit::Accept, "keep the filter"),
    (Key::Plain(KeyCode::Esc), Edit::Cancel, "the filter as it was"),
    (Key::Plain(KeyCode::Backspace), Edit::Backspace, "take the character before away"),
    (Key::Ctrl('h'), Edit::Backspace, ""),
    (Key::Plain(KeyCode::Delete), Edit::Delete, "take the character away"),
    (Key::Ctrl('w'), Edit::DeleteWord, "take the word before away"),
    (Key::Ctrl('u'), Edit::Clear, "take everything away"),
    (Key::Plain(KeyCode::Left), Edit::Left, "one to the left"),
    (Key::Plain(KeyCode::Right), Edit::Right, "one to the right"),
    (Key::Plain(KeyCode::Home), Edit::Home, "to the beginning"),
    (Key::Ctrl('a'), Edit::Home, ""),
    (Key::Plain(KeyCode::End), Edit::End, "to the end"),
    (Key::Ctrl('e'), Edit::End, ""),
];

/// What `key` does to a line that is being typed.
pub fn edit(key: Key) -> Option<Edit> {
    if let Some((_, edit, _)) = EDITS.iter().find(|(bound, ..)| *bound == key) {
        return Some(*edit);
    }
    match key {
        Key::Plain(KeyCode::Char(c)) if !c.is_control() => Some(Edit::Insert(c)),
        _ => None,
    }
}

/// A line and the cursor in it.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    text: String,
    /// Bytes before the cursor.
    cursor: usize,
    /// The line before it was changed.
    before: String,
}

/// Longer filters are for the command line.
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

    /// What stands before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Changes the line.
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

    /// Where the word before the cursor begins.
    fn word(&self) -> usize {
        let before = self.before_cursor().trim_end();
        before.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_by_characters() {
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
    fn keys_that_edit_are_not_bound_twice() {
        for (i, (key, bound, _)) in EDITS.iter().enumerate() {
            assert!(EDITS[..i].iter().all(|(other, ..)| other != key), "{key}");
            assert_eq!(edit(*key), Some(*bound));
        }
        assert_eq!(edit(Key::typed('q')), Some(Edit::Insert('q')));
        assert_eq!(edit(Key::Plain(KeyCode::F(1))), None);
    }
}
