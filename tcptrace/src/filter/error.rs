//! Errors in filters: one line for the user, and the position in the text.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use crate::model::text::sanitise;

/// A filter that can't be parsed. Its message is one line:
/// `--filter: column 12: expected a port (0-65535), found "70000"`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: column {column}: {message}")]
pub struct SyntaxError {
    /// The command line flag with the text: `--filter`.
    pub flag: &'static str,
    /// The position in the text, in characters from 1.
    pub column: usize,
    /// What was expected, and what was found.
    pub message: String,
    /// The original text.
    text: String,
}

impl SyntaxError {
    pub(super) fn new(flag: &'static str, text: &str, fault: &Fault) -> Self {
        let before = text.get(..fault.offset).unwrap_or(text);
        Self {
            flag,
            column: before.chars().count() + 1,
            message: sanitise(&fault.message).into_owned(),
            text: text.to_owned(),
        }
    }

    /// Two lines to print below the message: the text around the fault, and a caret under it. `None` for a text
    /// of at most one word.
    pub fn pointer(&self) -> Option<String> {
        const BEFORE: usize = 50;
        const AFTER: usize = 20;
        if !self.text.trim().contains(char::is_whitespace) {
            return None;
        }
        let text = sanitise(&self.text);
        let skipped = (self.column - 1).saturating_sub(BEFORE);
        let mut excerpt = String::new();
        excerpt.extend((skipped > 0).then_some("..."));
        excerpt.extend(text.chars().skip(skipped).take(self.column - 1 - skipped));
        let indent = excerpt.width();
        let after: Vec<char> = text.chars().skip(self.column - 1).take(AFTER + 1).collect();
        excerpt.extend(after.iter().take(AFTER));
        excerpt.extend((after.len() > AFTER).then_some("..."));
        let mut out = String::new();
        let _ = write!(out, "  {excerpt}\n  {:indent$}^", "");
        Some(out)
    }
}

/// A network namespace name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no network namespace is called \"{name}\"; {}", known_names(.known))]
pub struct UnknownNetns {
    /// The requested name, sanitised.
    pub name: String,
    /// The existing names, sanitised.
    pub known: Vec<String>,
}

fn known_names(known: &[String]) -> String {
    match known {
        [] => "none has a name here, give its inode number (readlink /proc/PID/ns/net)".into(),
        _ => format!("there are: {}", known.join(", ")),
    }
}

/// An error at a byte of the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }
}

/// `text` in quotes for a message, truncated if it is long.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}...\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}
