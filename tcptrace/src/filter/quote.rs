//! When a name needs quotes in an expression, and how they are written and taken off.

use std::fmt::{self, Write};

/// Whether `text` stands for itself without quotes.
pub(super) fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || "-_.:/@+#%".contains(c))
}

/// Whether `word` joins tests: it is never a value unless quoted.
pub(super) fn is_operator(word: &str) -> bool {
    ["and", "or", "not"].iter().any(|operator| word.eq_ignore_ascii_case(operator))
}

/// Writes `text` with a backslash before whatever would not stand for itself between quotes.
pub(super) fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if matches!(c, '*' | '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    Ok(())
}

/// What the text between two quotes stands for: a backslash takes the next character as it is.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}
