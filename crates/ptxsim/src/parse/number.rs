//! Number literals and the integer arguments of directives.

use super::{ParseError, Parser};
use crate::lex::Kind;

/// The value of a literal, its sign applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Literal {
    Int(i128),
    F32(u32),
    F64(u64),
}

impl Literal {
    pub(super) fn negated(self) -> Literal {
        match self {
            Literal::Int(value) => Literal::Int(-value),
            Literal::F32(bits) => Literal::F32(bits ^ (1 << 31)),
            Literal::F64(bits) => Literal::F64(bits ^ (1 << 63)),
        }
    }
}

impl Parser<'_> {
    /// A literal with an optional sign.
    pub(super) fn literal(&mut self, what: &str) -> Result<Literal, ParseError> {
        let negative = self.accept(b'-')?;
        let value = self.unsigned_literal(what)?;
        Ok(if negative { value.negated() } else { value })
    }

    pub(super) fn unsigned_literal(&mut self, what: &str) -> Result<Literal, ParseError> {
        let Kind::Number(text) = self.token.kind else {
            return Err(self.expected(what));
        };
        let value = read(text).map_err(|why| self.error(self.token, format!("`{}` {why}", super::shorten(text))))?;
        self.advance()?;
        Ok(value)
    }

    /// A non-negative integer that fits 64 bits.
    pub(super) fn unsigned(&mut self, what: &str) -> Result<u64, ParseError> {
        let token = self.token;
        match self.unsigned_literal(what)? {
            Literal::Int(value) => {
                u64::try_from(value).map_err(|_| self.error(token, format!("expected {what}, found {value}")))
            }
            _ => Err(self.error(token, format!("expected {what}, found a floating-point number"))),
        }
    }

    /// A non-negative integer that fits 32 bits.
    pub(super) fn unsigned32(&mut self, what: &str) -> Result<u32, ParseError> {
        let token = self.token;
        let value = self.unsigned(what)?;
        u32::try_from(value).map_err(|_| self.error(token, format!("expected {what}, found {value}")))
    }

    /// The signed offsets after a name or register, such as `+8` or `+-8`; zero if there is none.
    pub(super) fn offset(&mut self) -> Result<i64, ParseError> {
        let mut total = 0_i64;
        while self.at(b'+') || self.at(b'-') {
            let token = self.token;
            let subtract = self.at(b'-');
            self.advance()?;
            let Literal::Int(value) = self.literal("an offset in bytes")? else {
                return Err(self.error(token, "expected an integer offset, found a floating-point number"));
            };
            let sum = i128::from(total) + if subtract { -value } else { value };
            total = i64::try_from(sum).map_err(|_| self.error(token, format!("the offset {sum} passes 64 bits")))?;
        }
        Ok(total)
    }
}

/// Reads an unsigned literal: decimal, octal, hexadecimal or binary integer, `0f`/`0d` bits, or a decimal float.
fn read(text: &str) -> Result<Literal, &'static str> {
    if let Some(digits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return bits(digits, 8)
            .map(|bits| Literal::F32(bits as u32))
            .ok_or("needs 8 hexadecimal digits");
    }
    if let Some(digits) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return bits(digits, 16).map(Literal::F64).ok_or("needs 16 hexadecimal digits");
    }
    integer(text).or_else(|why| decimal_float(text).ok_or(why))
}

fn bits(digits: &str, count: usize) -> Option<u64> {
    let plain = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

fn integer(text: &str) -> Result<Literal, &'static str> {
    let text = text.strip_suffix('U').unwrap_or(text);
    let prefix = text.get(..2).unwrap_or("");
    let (radix, digits) = match prefix {
        "0x" | "0X" => (16, &text[2..]),
        "0b" | "0B" => (2, &text[2..]),
        _ if text.len() > 1 && text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("is not a number");
    }
    u64::from_str_radix(digits, radix)
        .map(|value| Literal::Int(i128::from(value)))
        .map_err(|_| "passes 64 bits")
}

fn decimal_float(text: &str) -> Option<Literal> {
    let spelled = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    let float = spelled && text.bytes().any(|byte| b".eE".contains(&byte));
    float
        .then(|| text.parse::<f64>().ok())
        .flatten()
        .map(|value| Literal::F64(value.to_bits()))
}
