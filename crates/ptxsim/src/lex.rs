//! Splits PTX text into tokens, one at a time, so that memory stays proportional to the syntax tree.

use crate::parse::ParseError;

/// The most tokens a file may have: bounds the memory of the syntax tree to about a gigabyte.
pub(crate) const MAX_TOKENS: u32 = 1 << 23;

/// The longest file in bytes: lines and offsets then fit 32 bits with room.
pub(crate) const MAX_TEXT: usize = 256 << 20;

/// What a token is. Text borrows from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A name: letters, digits, `_`, `$`, and `%` in front.
    Name(&'a str),
    /// What stands after a dot, up to the next: a directive, type or qualifier (`shared::cta` is one).
    Dot(&'a str),
    /// A number as spelled, not yet checked.
    Number(&'a str),
    /// The inside of a string.
    Text(&'a str),
    /// One of `, ; : ( ) { } [ ] < > | + - ! @ =`.
    Mark(u8),
    /// The end of the file.
    End,
}

/// A token and its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    /// What it is.
    pub(crate) kind: Kind<'a>,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Byte offset of its first byte.
    pub(crate) start: usize,
    /// Byte offset after its last byte.
    pub(crate) end: usize,
}

/// Reads tokens from a text.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: u32,
    tokens: u32,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`.
    pub(crate) fn new(text: &'a str) -> Result<Lexer<'a>, ParseError> {
        if text.len() > MAX_TEXT {
            let message = format!("the file has {} bytes, more than the {MAX_TEXT} allowed", text.len());
            return Err(ParseError {
                line: 1,
                column: 1,
                message,
            });
        }
        Ok(Lexer {
            text,
            position: 0,
            line: 1,
            tokens: 0,
        })
    }

    /// An error at byte `start`, which lies on `line`.
    pub(crate) fn error_at(&self, line: u32, start: usize, message: String) -> ParseError {
        let before = &self.text.as_bytes()[..start.min(self.text.len())];
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        // Continuation bytes of UTF-8 do not start a character.
        let characters = before[line_start..]
            .iter()
            .filter(|byte| (**byte & 0xC0) != 0x80)
            .count();
        ParseError {
            line,
            column: u32::try_from(characters + 1).unwrap_or(u32::MAX),
            message,
        }
    }

    /// The next token; [`Kind::End`] again and again at the end.
    pub(crate) fn next_token(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blank()?;
        let (start, line) = (self.position, self.line);
        self.tokens += 1;
        if self.tokens > MAX_TOKENS {
            return Err(self.error_at(line, start, format!("the file has more than {MAX_TOKENS} tokens")));
        }
        let kind = match self.byte(0) {
            None => Kind::End,
            Some(b'"') => self.string()?,
            Some(b'.') => self.dotted()?,
            Some(b'0'..=b'9') => self.number(),
            Some(byte) if starts_name(byte) => self.name(),
            Some(byte) if b",;:(){}[]<>|+-!@=".contains(&byte) => {
                self.position += 1;
                Kind::Mark(byte)
            }
            Some(_) => {
                let found = self.text[start..].chars().next().unwrap_or('?');
                return Err(self.error_at(line, start, format!("expected PTX, found the character {found:?}")));
            }
        };
        Ok(Token {
            kind,
            line,
            start,
            end: self.position,
        })
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.position + ahead).copied()
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&keep) {
            self.position += 1;
        }
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'\n'), _) => {
                    self.line += 1;
                    self.position += 1;
                }
                (Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c), _) => self.position += 1,
                (Some(b'/'), Some(b'/')) => self.take_while(|byte| byte != b'\n'),
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                // A C string handed over whole ends in a zero byte.
                (Some(0), None) => self.position += 1,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), ParseError> {
        let (start, line) = (self.position, self.line);
        let Some(length) = self.text[start + 2..].find("*/") else {
            return Err(self.error_at(
                line,
                start,
                "expected `*/` to end this comment, found the end of the file".into(),
            ));
        };
        let comment = &self.text[start..start + 2 + length];
        self.line += comment.bytes().filter(|byte| *byte == b'\n').count() as u32;
        self.position = start + length + 4;
        Ok(())
    }

    fn string(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.position;
        self.position += 1;
        loop {
            match self.byte(0) {
                Some(b'"') => break,
                // The byte after a backslash is looked at only if it is a quote or a backslash, so that the position
                // never lands inside a character or past a newline.
                Some(b'\\') if matches!(self.byte(1), Some(b'"' | b'\\')) => self.position += 2,
                None | Some(b'\n') => {
                    let message = "expected `\"` to end this string before the end of the line".into();
                    return Err(self.error_at(self.line, start, message));
                }
                Some(_) => self.position += 1,
            }
        }
        self.position += 1;
        Ok(Kind::Text(&self.text[start + 1..self.position - 1]))
    }

    fn dotted(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.position;
        self.position += 1;
        loop {
            self.take_while(continues_name);
            if self.byte(0) == Some(b':') && self.byte(1) == Some(b':') && self.byte(2).is_some_and(continues_name) {
                self.position += 2;
            } else {
                break;
            }
        }
        if self.position == start + 1 {
            return Err(self.error_at(self.line, start, "expected a name after `.`".into()));
        }
        Ok(Kind::Dot(&self.text[start + 1..self.position]))
    }

    fn name(&mut self) -> Kind<'a> {
        let start = self.position;
        self.position += 1;
        self.take_while(continues_name);
        Kind::Name(&self.text[start..self.position])
    }

    fn number(&mut self) -> Kind<'a> {
        let start = self.position;
        self.take_while(continues_name);
        if self.byte(0) == Some(b'.') && self.byte(1).is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
            self.take_while(continues_name);
        }
        let spelled = &self.text.as_bytes()[start..self.position];
        let (last, mantissa) = (spelled[spelled.len() - 1], &spelled[..spelled.len() - 1]);
        let exponent =
            matches!(last, b'e' | b'E') && mantissa.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
        let signed =
            matches!(self.byte(0), Some(b'+' | b'-')) && self.byte(1).is_some_and(|byte| byte.is_ascii_digit());
        if exponent && signed {
            self.position += 1;
            self.take_while(continues_name);
        }
        Kind::Number(&self.text[start..self.position])
    }
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

fn continues_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}
