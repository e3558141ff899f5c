//! Parses tokens into a tree by recursive descent, with one function per rule.
//!
//! ```text
//! expr   = term { ("or" | "||") term }
//! term   = factor { ("and" | "&&") factor }
//! factor = ("not" | "!") factor | "(" expr ")" | test
//! test   = "ipv4" | "ipv6" | word value { "," value }
//! ```

use super::{
    ast::{Expr, Family, Test},
    error::{Fault, SyntaxError},
    lexer::{LexMode, Lexer, Token},
    suggest::nearest,
    word::Word,
};

/// Longest text, bytes.
const LONGEST: usize = 16 << 10;
/// Deepest nesting of parentheses and `not`.
const DEEPEST: usize = 64;

/// Parses an expression. `flag` is the flag with the text, for errors: `--filter`.
pub fn parse(flag: &'static str, text: &str) -> Result<Expr, SyntaxError> {
    Parser::new(text, LexMode::Expression)
        .and_then(|mut parser| parser.whole_expression())
        .map_err(|fault| SyntaxError::new(flag, text, &fault))
}

/// Parses the values of one flag, such as `80,443` for `--port`, as a test of `word`.
pub fn parse_values(flag: &'static str, word: Word, text: &str) -> Result<Test, SyntaxError> {
    Parser::new(text, LexMode::Values)
        .and_then(|mut parser| parser.whole_values(word))
        .map_err(|fault| SyntaxError::new(flag, text, &fault))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next token.
    token: Token<'a>,
    /// Its start.
    start: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, mode: LexMode) -> Result<Self, Fault> {
        if text.len() > LONGEST {
            return Err(Fault::new(0, format!("longer than {LONGEST} bytes")));
        }
        let mut lexer = Lexer::new(text, mode);
        let (token, start) = lexer.next()?;
        Ok(Self { lexer, token, start, depth: 0 })
    }

    fn advance(&mut self) -> Result<(), Fault> {
        (self.token, self.start) = self.lexer.next()?;
        Ok(())
    }

    fn whole_expression(&mut self) -> Result<Expr, Fault> {
        let expr = self.expr()?;
        match self.token {
            Token::End => Ok(expr),
            Token::Close => Err(self.fault("this `)` closes nothing")),
            _ => Err(self.expected("`and`, `or` or the end")),
        }
    }

    fn whole_values(&mut self, word: Word) -> Result<Test, Fault> {
        let test = self.values(word)?;
        match self.token {
            Token::End => Ok(test),
            _ => Err(self.expected("`,` or the end")),
        }
    }

    fn expr(&mut self) -> Result<Expr, Fault> {
        let first = self.term()?;
        let mut operands = Vec::new();
        while self.token == Token::Or {
            self.advance()?;
            operands.push(self.term()?);
        }
        Ok(if operands.is_empty() { first } else { Expr::Or(with_first(first, operands)) })
    }

    fn term(&mut self) -> Result<Expr, Fault> {
        let first = self.factor()?;
        let mut operands = Vec::new();
        while self.token == Token::And {
            self.advance()?;
            operands.push(self.factor()?);
        }
        Ok(if operands.is_empty() { first } else { Expr::And(with_first(first, operands)) })
    }

    fn factor(&mut self) -> Result<Expr, Fault> {
        match self.token {
            Token::Not => {
                self.descend()?;
                let operand = self.factor()?;
                self.depth -= 1;
                Ok(Expr::Not(Box::new(operand)))
            }
            Token::Open => {
                let opened = self.start;
                self.descend()?;
                let expr = self.expr()?;
                match self.token {
                    Token::Close => {}
                    Token::End => return Err(Fault::new(opened, "this `(` is never closed")),
                    _ => return Err(self.expected("`and`, `or` or `)`")),
                }
                self.depth -= 1;
                self.advance()?;
                Ok(expr)
            }
            Token::Word(name) => self.test(name).map(Expr::Test),
            _ => Err(self.expected("a test such as `rport 5432`, `not` or `(`")),
        }
    }

    /// Consumes a token that opens a deeper level.
    fn descend(&mut self) -> Result<(), Fault> {
        if self.depth == DEEPEST {
            return Err(self.fault(&format!("nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        self.advance()
    }

    fn test(&mut self, name: &str) -> Result<Test, Fault> {
        let family = match name.to_ascii_lowercase().as_str() {
            "ipv4" => Some(Family::Ipv4),
            "ipv6" => Some(Family::Ipv6),
            _ => None,
        };
        if let Some(family) = family {
            self.advance()?;
            return Ok(Test::Family(family));
        }
        let Some(word) = Word::from_name(name) else {
            return Err(self.fault(&unknown_word(name)));
        };
        self.advance()?;
        if let Token::Stray('=') = self.token {
            return Err(self.fault(&format!("no `=` here, write `{} {}`", word.name(), word.example())));
        }
        self.values(word)
    }

    fn values(&mut self, word: Word) -> Result<Test, Fault> {
        let mut read = Test::without_values(word);
        loop {
            let (text, is_quoted) = match self.token {
                Token::Word(text) => (text, false),
                Token::Quoted(text) => (text, true),
                _ => return Err(self.expected(word.expects())),
            };
            let added = if is_quoted { read.add_quoted(text) } else { read.add(text) };
            added.map_err(|message| Fault::new(self.start, message))?;
            self.advance()?;
            if self.token != Token::Comma {
                return Ok(read);
            }
            self.advance()?;
        }
    }

    fn expected(&self, what: &str) -> Fault {
        let found = self.token.describe();
        self.fault(&format!("expected {what}, found {found}"))
    }

    fn fault(&self, message: &str) -> Fault {
        Fault::new(self.start, message)
    }
}

fn with_first(first: Expr, mut operands: Vec<Expr>) -> Vec<Expr> {
    operands.insert(0, first);
    operands
}

fn unknown_word(name: &str) -> String {
    let found = super::error::excerpt(name);
    if let Some(near) = Word::from_foreign_name(name).or_else(|| nearest(name, Word::names())) {
        return format!("unknown word {found}, did you mean `{near}`?");
    }
    // A value without its word, as search fields of other programs take it.
    let is_value = |word: &Word| parse_values("", *word, name).is_ok();
    if let Some(word) = [Word::Port, Word::State, Word::Peer].iter().find(|word| is_value(word)) {
        return format!("unknown word {found}, did you mean `{} {name}`?", word.name());
    }
    let names: Vec<_> = Word::names().collect();
    format!("unknown word {found}, for a process name `comm {name}`; the words are {}", names.join(", "))
}
