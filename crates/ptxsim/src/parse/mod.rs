//! Reads PTX text into a [`Module`].
//!
//! Written for what NVRTC 12.9 and 13, and Triton, emit for sm_80 to sm_120, inline assembly included. A construct that
//! is not known is an error, never skipped, except debug sections and optimisation hints. The input is not trusted:
//! nesting, register counts, array sizes and the number of tokens are limited, so time and memory are proportional to
//! the text.

mod body;
mod function;
mod initializer;
mod instruction;
mod module;
mod number;
mod scope;
mod variable;

#[cfg(test)]
mod tests;

use crate::ast::Module;
use crate::lex::{Kind, Lexer, Token};
use scope::Scopes;

/// How deep blocks, vectors or initialisers may nest.
const MAX_DEPTH: u32 = 64;

/// How many registers one function may declare.
const MAX_REGISTERS: u32 = 1 << 20;

/// How many bytes one variable may have.
const MAX_VARIABLE_BYTES: u64 = 1 << 40;

/// How many zeros may be filled into short inner braces of the initialisers of one file.
const MAX_FILL: u64 = 1 << 20;

/// Why a text is not PTX, or not PTX that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What was expected and what was found.
    pub message: String,
}

/// Parses a whole PTX file.
///
/// # Errors
/// At the first token that does not fit, with its place; or when a limit is passed.
///
/// # Example
/// ```
/// let text = ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry nothing() { ret; }";
/// let module = ptxsim::parse::parse(text)?;
/// assert_eq!(module.target, "sm_80");
/// # Ok::<(), ptxsim::parse::ParseError>(())
/// ```
pub fn parse(text: &str) -> Result<Module, ParseError> {
    Parser::new(text)?.module()
}

/// The state of a parse: one token ahead.
struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// Where the token before `token` ended, to tell `%tid.x` from `%tid .x`.
    previous_end: usize,
    depth: u32,
    scopes: Scopes,
    filled: u64,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Parser<'a>, ParseError> {
        let mut lexer = Lexer::new(text)?;
        let token = lexer.next_token()?;
        Ok(Parser {
            lexer,
            token,
            previous_end: 0,
            depth: 0,
            scopes: Scopes::default(),
            filled: 0,
        })
    }

    /// Goes to the next token and returns the one left behind.
    fn advance(&mut self) -> Result<Token<'a>, ParseError> {
        let next = self.lexer.next_token()?;
        let left = std::mem::replace(&mut self.token, next);
        self.previous_end = left.end;
        Ok(left)
    }

    fn error(&self, token: Token<'_>, message: impl Into<String>) -> ParseError {
        self.lexer.error_at(token.line, token.start, message.into())
    }

    /// "expected ..., found ..." at the current token.
    fn expected(&self, what: &str) -> ParseError {
        self.error(
            self.token,
            format!("expected {what}, found {}", describe(self.token.kind)),
        )
    }

    fn at(&self, mark: u8) -> bool {
        self.token.kind == Kind::Mark(mark)
    }

    /// Takes the mark if it is next.
    fn accept(&mut self, mark: u8) -> Result<bool, ParseError> {
        let found = self.at(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, mark: u8) -> Result<(), ParseError> {
        if self.accept(mark)? {
            Ok(())
        } else {
            Err(self.expected(&format!("`{}`", char::from(mark))))
        }
    }

    /// What stands after the dot, if the current token is a dotted one.
    fn dot(&self) -> Option<&'a str> {
        match self.token.kind {
            Kind::Dot(name) => Some(name),
            _ => None,
        }
    }

    fn name(&mut self, what: &str) -> Result<&'a str, ParseError> {
        let Kind::Name(name) = self.token.kind else {
            return Err(self.expected(what));
        };
        self.advance()?;
        Ok(name)
    }

    fn string(&mut self, what: &str) -> Result<&'a str, ParseError> {
        let Kind::Text(text) = self.token.kind else {
            return Err(self.expected(what));
        };
        self.advance()?;
        Ok(text)
    }

    /// Runs `inside` one level deeper, where the nesting limit allows it.
    fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T, ParseError>) -> Result<T, ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(self.token, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        result
    }

    /// Items separated by commas, up to and with the closing mark; there may be none.
    fn list<T>(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = Vec::new();
        if self.accept(close)? {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.accept(close)? {
                return Ok(items);
            }
            if !self.accept(b',')? {
                return Err(self.expected(&format!("`,` or `{}`", char::from(close))));
            }
        }
    }
}

/// The beginning of a text that may be long, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A token as an error message shows it.
fn describe(kind: Kind<'_>) -> String {
    match kind {
        Kind::Name(text) | Kind::Number(text) => format!("`{}`", shorten(text)),
        Kind::Dot(text) => format!("`.{}`", shorten(text)),
        Kind::Text(text) => format!("the string {:?}", shorten(text)),
        Kind::Mark(mark) => format!("`{}`", char::from(mark)),
        Kind::End => "the end of the file".to_owned(),
    }
}
