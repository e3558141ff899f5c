//! Splits text into tokens, each with its start byte.

use super::error::Fault;

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    Comma,
    And,
    Or,
    Not,
    /// A word or a value.
    Word(&'a str),
    /// The text between two quotes, with its backslashes.
    Quoted(&'a str),
    /// A character without a meaning here.
    Stray(char),
    /// End of the text.
    End,
}

impl Token<'_> {
    /// Text for "found ...".
    pub(super) fn describe(self) -> String {
        match self {
            Self::Open => "`(`".into(),
            Self::Close => "`)`".into(),
            Self::Comma => "`,`".into(),
            Self::And => "`and`".into(),
            Self::Or => "`or`".into(),
            Self::Not => "`not`".into(),
            Self::Word(text) | Self::Quoted(text) => super::error::excerpt(text),
            Self::Stray(c) => format!("`{c}`"),
            Self::End => "the end".into(),
        }
    }
}

/// Which characters end a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LexMode {
    /// An expression: at blanks, parentheses, operators, commas and quotes.
    Expression,
    /// The values of a flag, which the shell has separated: at commas only.
    Values,
}

/// Reads one token after the other.
pub(super) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    mode: LexMode,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str, mode: LexMode) -> Self {
        Self { text, offset: 0, mode }
    }

    /// The next token and its start. At the end of the text, always [`Token::End`].
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), Fault> {
        let rest = &self.text[self.offset..];
        let trimmed = rest.trim_start();
        let start = self.offset + rest.len() - trimmed.len();
        let Some(first) = trimmed.chars().next() else {
            self.offset = self.text.len();
            return Ok((Token::End, self.text.trim_end().len()));
        };
        let (token, length) = match first {
            ',' => (Token::Comma, 1),
            '"' | '\'' => self.quoted(trimmed, first, start)?,
            _ if self.mode == LexMode::Values => {
                let end = trimmed.find(',').unwrap_or(trimmed.len());
                (Token::Word(trimmed[..end].trim_end()), end)
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '!' => (Token::Not, 1),
            '&' if trimmed.starts_with("&&") => (Token::And, 2),
            '|' if trimmed.starts_with("||") => (Token::Or, 2),
            _ if ends_word(first) => (Token::Stray(first), first.len_utf8()),
            _ => {
                let end = trimmed.find(ends_word).unwrap_or(trimmed.len());
                (operator_or_word(&trimmed[..end]), end)
            }
        };
        self.offset = start + length;
        Ok((token, start))
    }

    fn quoted(&self, trimmed: &'a str, quote: char, start: usize) -> Result<(Token<'a>, usize), Fault> {
        let mut escaped = false;
        for (i, c) in trimmed.char_indices().skip(1) {
            if c == quote && !escaped {
                return Ok((Token::Quoted(&trimmed[1..i]), i + 1));
            }
            escaped = c == '\\' && !escaped;
        }
        if self.mode == LexMode::Values {
            // The shell has removed its quotes: this one is part of a name.
            let end = trimmed.find(',').unwrap_or(trimmed.len());
            return Ok((Token::Word(trimmed[..end].trim_end()), end));
        }
        Err(Fault::new(start, "this quote is never closed"))
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "()!&|,\"'=<>".contains(c)
}

fn operator_or_word(word: &str) -> Token<'_> {
    match word {
        _ if word.eq_ignore_ascii_case("and") => Token::And,
        _ if word.eq_ignore_ascii_case("or") => Token::Or,
        _ if word.eq_ignore_ascii_case("not") => Token::Not,
        _ => Token::Word(word),
    }
}
