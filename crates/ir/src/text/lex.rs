//! Cuts the text form into tokens, each with its place.

use super::ParseError;
use std::fmt;

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A run of letters, digits, `_`, `.`, `+` and `-`: a word or a number.
    Word(&'a str),
    /// `%name`.
    Value(&'a str),
    /// `"text"`, without the quotes.
    Quoted(&'a str),
    /// One of `{ } [ ] : , =`.
    Mark(char),
    /// The end of the text.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "`{word}`"),
            Token::Value(name) => write!(f, "`%{name}`"),
            Token::Quoted(text) => write!(f, "\"{text}\""),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => write!(f, "the end of the text"),
        }
    }
}

/// The text that is left, and where it begins.
struct Cursor<'a> {
    rest: &'a str,
    place: Place,
}

impl<'a> Cursor<'a> {
    /// Takes the characters up to the first that `ends`.
    fn take_until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let (taken, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        for c in taken.chars() {
            self.place = match c {
                '\n' => Place {
                    line: self.place.line + 1,
                    column: 1,
                },
                _ => Place {
                    column: self.place.column + 1,
                    ..self.place
                },
            };
        }
        self.rest = rest;
        taken
    }

    /// Takes one character.
    fn take(&mut self, c: char) {
        self.rest = &self.rest[c.len_utf8()..];
        self.place.column += 1;
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')
}

/// All tokens, the last of them [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<(Token<'_>, Place)>, ParseError> {
    let mut cursor = Cursor {
        rest: text,
        place: Place { line: 1, column: 1 },
    };
    let mut tokens = Vec::new();
    loop {
        cursor.take_until(|c| !c.is_whitespace());
        let place = cursor.place;
        let Some(c) = cursor.rest.chars().next() else {
            tokens.push((Token::End, place));
            return Ok(tokens);
        };
        let token = match c {
            '#' => {
                cursor.take_until(|c| c == '\n');
                continue;
            }
            '{' | '}' | '[' | ']' | ':' | ',' | '=' => {
                cursor.take(c);
                Token::Mark(c)
            }
            '%' => {
                cursor.take(c);
                Token::Value(cursor.take_until(|c| !is_word(c)))
            }
            '"' => Token::Quoted(quoted(&mut cursor)?),
            _ if is_word(c) => Token::Word(cursor.take_until(|c| !is_word(c))),
            _ => {
                return Err(ParseError::syntax(
                    place,
                    format!("`{}`", c.escape_debug()),
                    "a word, `%name` or \"text\"",
                ));
            }
        };
        tokens.push((token, place));
    }
}

fn quoted<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, ParseError> {
    cursor.take('"');
    let text = cursor.take_until(|c| c == '"' || c == '\n');
    if !cursor.rest.starts_with('"') {
        return Err(ParseError::syntax(
            cursor.place,
            "the end of the line",
            "a closing `\"`",
        ));
    }
    cursor.take('"');
    Ok(text)
}
