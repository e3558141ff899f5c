//! Text into tokens, each with the byte it starts at.

use super::error::Fault;

/// A piece of the text.
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
    /// What stands between two quotes, backslashes still in it.
    Quoted(&'a str),
    /// A character that means nothing here.
    Stray(char),
    /// There is no more text.
    End,
}

impl Token<'_> {
    /// For "found ...".
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

/// Where words end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// An expression: at blanks, parentheses, operators, commas and quotes.
    Expression,
    /// The values of a flag, which the shell has already set apart: at commas only.
    Values,
}

/// Reads one token after the other.
pub(super) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    mode: Mode,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str, mode: Mode) -> Self {
        Self { text, offset: 0, mode }
    }

    /// The next token and where it starts. At the end of the text [`Token::End`], again and again.
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
            _ if self.mode == Mode::Values => {
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
        if self.mode == Mode::Values {
            // The shell took the quotes off already: this one is part of a name.
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
