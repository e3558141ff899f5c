//! Matches names against patterns with `*`, such as `redis*`.

use std::fmt;

use super::quote::{is_operator, is_plain, write_escaped};

/// A name, exact or with `*` for any run of characters. Case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The parts between the stars; a single one without a star.
    pieces: Vec<String>,
}

impl Pattern {
    /// Parses an unquoted pattern: `*` is any run of characters.
    pub(super) fn plain(text: &str) -> Self {
        Self { pieces: text.split('*').map(str::to_owned).collect() }
    }

    /// Parses the text between quotes: a backslash makes the next character literal.
    pub(super) fn quoted(text: &str) -> Self {
        let mut pieces = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, pieces.last_mut()) {
                ('*', _) => pieces.push(String::new()),
                ('\\', Some(piece)) => piece.extend(chars.next()),
                (c, Some(piece)) => piece.push(c),
                (_, None) => {}
            }
        }
        Self { pieces }
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let [first, between @ .., last] = self.pieces.as_slice() else {
            return self.pieces.first().is_some_and(|exact| exact == name);
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()).and_then(|r| r.strip_suffix(last.as_str()))
        else {
            return false;
        };
        between.iter().all(|piece| match rest.split_once(piece.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }

    /// The name, if there is no star.
    pub fn exact(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [exact] => Some(exact),
            _ => None,
        }
    }

    /// The minimum length of a matching name, in characters.
    pub(super) fn shortest(&self) -> usize {
        self.pieces.iter().map(|piece| piece.chars().count()).sum()
    }
}

/// Its text parses back into the same pattern: quoted if necessary.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.exact().is_some_and(|exact| exact.is_empty() || is_operator(exact));
        if !taken && self.pieces.iter().all(|piece| is_plain(piece)) {
            return f.write_str(&self.pieces.join("*"));
        }
        f.write_str("\"")?;
        for (i, piece) in self.pieces.iter().enumerate() {
            f.write_str(if i > 0 { "*" } else { "" })?;
            write_escaped(f, piece)?;
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        let cases = [
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
            ("redis*", "redis-server", true),
            ("*server", "redis-server", true),
            ("*", "", true),
            ("*dis*ser*", "redis-server", true),
            ("*ser*dis*", "redis-server", false),
            ("re*redis", "redis", false),
            ("a*a", "a", false),
            ("Nginx", "nginx", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "ab", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::plain(pattern).matches(name), expected, "{name} like {pattern}");
        }
    }

    #[test]
    fn a_star_can_be_escaped_in_quotes() {
        let pattern = Pattern::quoted(r#"a\*b*\"\\"#);
        assert!(pattern.matches(r#"a*b - "\"#));
        assert!(!pattern.matches(r#"axb"\"#));
        assert_eq!(pattern.to_string(), r#""a\*b*\"\\""#);
    }

    #[test]
    fn operator_names_are_quoted() {
        assert_eq!(Pattern::plain("AND").to_string(), "\"AND\"");
        assert_eq!(Pattern::plain("").to_string(), "\"\"");
        assert_eq!(Pattern::plain("kworker/0:1*").to_string(), "kworker/0:1*");
    }
}
