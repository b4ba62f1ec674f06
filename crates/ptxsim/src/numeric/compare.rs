//! Comparisons of `setp`, `min` and `max`, and the class tests of `testp`.

use super::soft::{self, Format, Value};
use super::{NAN_F32, NAN_F64};

/// Relations of `setp` and `set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// Equal; false if either is NaN, as for the next five.
    Eq,
    /// Not equal.
    Ne,
    /// Less (`lo` for unsigned integers).
    Lt,
    /// Less or equal (`ls`).
    Le,
    /// Greater (`hi`).
    Gt,
    /// Greater or equal (`hs`).
    Ge,
    /// Equal, or either is NaN.
    Equ,
    /// Not equal, or either is NaN.
    Neu,
    /// Less, or either is NaN.
    Ltu,
    /// Less or equal, or either is NaN.
    Leu,
    /// Greater, or either is NaN.
    Gtu,
    /// Greater or equal, or either is NaN.
    Geu,
    /// Neither is NaN.
    Num,
    /// Either is NaN.
    Nan,
}

impl Compare {
    /// Reads a relation's modifier.
    pub fn parse(modifier: &str) -> Option<Compare> {
        Some(match modifier {
            "eq" => Compare::Eq,
            "ne" => Compare::Ne,
            "lt" | "lo" => Compare::Lt,
            "le" | "ls" => Compare::Le,
            "gt" | "hi" => Compare::Gt,
            "ge" | "hs" => Compare::Ge,
            "equ" => Compare::Equ,
            "neu" => Compare::Neu,
            "ltu" => Compare::Ltu,
            "leu" => Compare::Leu,
            "gtu" => Compare::Gtu,
            "geu" => Compare::Geu,
            "num" => Compare::Num,
            "nan" => Compare::Nan,
            _ => return None,
        })
    }

    /// Whether the relation holds between two integers or floats; those that are not ordered count as NaN.
    #[inline]
    pub fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        let unordered = a.partial_cmp(&b).is_none();
        match self {
            Compare::Eq => a == b,
            Compare::Ne => a != b && !unordered,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
            Compare::Equ => a == b || unordered,
            Compare::Neu => a != b,
            Compare::Ltu => a < b || unordered,
            Compare::Leu => a <= b || unordered,
            Compare::Gtu => a > b || unordered,
            Compare::Geu => a >= b || unordered,
            Compare::Num => !unordered,
            Compare::Nan => unordered,
        }
    }

    /// Whether the relation holds between two f32, subnormals taken as zero with `ftz`.
    #[inline]
    pub fn f32(self, a: u32, b: u32, ftz: bool) -> bool {
        let flush = |bits| f32::from_bits(if ftz { super::float::flush_f32(bits) } else { bits });
        self.holds(flush(a), flush(b))
    }

    /// Whether the relation holds between two f64.
    #[inline]
    pub fn f64(self, a: u64, b: u64) -> bool {
        self.holds(f64::from_bits(a), f64::from_bits(b))
    }
}

/// `min` or `max` with its modifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinMax {
    /// `max`, else `min`.
    pub max: bool,
    /// `.NaN`: a NaN operand gives the canonical NaN, where otherwise the other operand is the result.
    pub nan: bool,
    /// `.xorsign.abs`: of the magnitudes, with the product's sign.
    pub xorsign_abs: bool,
}

impl MinMax {
    /// Of two f32.
    #[inline]
    pub fn f32(self, a: u32, b: u32, ftz: bool) -> u32 {
        let flush = |bits| if ftz { super::float::flush_f32(bits) } else { bits };
        self.select(
            Format::F32,
            u64::from(flush(a)),
            u64::from(flush(b)),
            u64::from(NAN_F32),
        ) as u32
    }

    /// Of two f64.
    pub fn f64(self, a: u64, b: u64) -> u64 {
        self.select(Format::F64, a, b, NAN_F64)
    }

    /// Of two values of any format; `nan` is the canonical NaN. -0 is less than +0.
    #[inline]
    pub(crate) fn select(self, format: Format, a: u64, b: u64, nan: u64) -> u64 {
        let (a_nan, b_nan) = (format.is_nan(a), format.is_nan(b));
        if (a_nan && b_nan) || (self.nan && (a_nan || b_nan)) {
            return nan;
        }
        let sign = if self.xorsign_abs {
            (a ^ b) & format.sign_bit()
        } else {
            0
        };
        let clear = if self.xorsign_abs { !format.sign_bit() } else { !0 };
        let (a, b) = (a & clear, b & clear);
        if a_nan || b_nan {
            return (if a_nan { b } else { a }) | sign;
        }
        // Sign and magnitude order like a signed integer once negative magnitudes are complemented.
        let key = |bits: u64| match bits & format.sign_bit() {
            0 => bits as i64,
            sign => -((bits ^ sign) as i64) - 1,
        };
        let a_wins = if self.max { key(a) >= key(b) } else { key(a) <= key(b) };
        (if a_wins { a } else { b }) | sign
    }
}

/// Classes of `testp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Neither infinite nor NaN.
    Finite,
    /// Positive or negative infinity.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// Finite, not subnormal and, as the PTX ISA says nothing else, not zero.
    Normal,
    /// Non-zero without a leading bit.
    Subnormal,
}

impl Class {
    /// Reads a class's modifier.
    pub fn parse(modifier: &str) -> Option<Class> {
        Some(match modifier {
            "finite" => Class::Finite,
            "infinite" => Class::Infinite,
            "number" => Class::Number,
            "notanumber" => Class::NotANumber,
            "normal" => Class::Normal,
            "subnormal" => Class::Subnormal,
            _ => return None,
        })
    }

    /// Whether a pattern belongs to the class.
    pub fn test(self, format: Format, bits: u64) -> bool {
        let value = soft::unpack(format, bits);
        let finite = matches!(value, Value::Finite { .. });
        match self {
            Class::Finite => finite,
            Class::Infinite => matches!(value, Value::Infinite(_)),
            Class::Number => value != Value::Nan,
            Class::NotANumber => value == Value::Nan,
            Class::Normal => finite && bits & (format.sign_bit() - 1) >= 1 << format.fraction,
            Class::Subnormal => format.is_subnormal(bits),
        }
    }
}
