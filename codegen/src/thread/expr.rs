//! Expressions of a thread program.

use super::Intrinsic;
use crate::tile::Axis;

/// The type of a variable or register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit word: a shared address, or packed elements.
    U32,
    /// 32-bit float.
    F32,
    /// Truth value.
    Bool,
}

/// Two-operand operators. Shifts, xor and bit-and are of non-negative integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Shl,
    Shr,
    Xor,
    BitAnd,
    /// Integer minimum.
    Min,
    /// Integer maximum.
    Max,
    /// Float minimum.
    FMin,
    /// Float maximum.
    FMax,
    Lt,
    Le,
    Eq,
    And,
}

impl Binary {
    /// The infix operator and how tightly it binds (more is tighter), as in C; `None` for functions.
    pub fn infix(self) -> Option<(&'static str, u8)> {
        Some(match self {
            Binary::Mul => ("*", 10),
            Binary::Div => ("/", 10),
            Binary::Rem => ("%", 10),
            Binary::Add => ("+", 9),
            Binary::Sub => ("-", 9),
            Binary::Shl => ("<<", 8),
            Binary::Shr => (">>", 8),
            Binary::Lt => ("<", 7),
            Binary::Le => ("<=", 7),
            Binary::Eq => ("==", 6),
            Binary::BitAnd => ("&", 5),
            Binary::Xor => ("^", 4),
            Binary::And => ("&&", 3),
            Binary::Min | Binary::Max | Binary::FMin | Binary::FMax => return None,
        })
    }
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A parameter or a name bound by `let` or a loop.
    Name(String),
    /// The thread's index in the block.
    Thread,
    /// The block's index.
    Block(Axis),
    /// Address of the block's shared memory.
    Shared,
    /// One register of an array.
    Register(String, Box<Expr>),
    /// A register array as a whole, as an intrinsic's operand.
    Array(String),
    /// One element of device memory, as it lies there.
    Global(String, Box<Expr>),
    /// Conversion between integer types, or of an integer to f32.
    Cast(Ty, Box<Expr>),
    /// An operator.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `cond ? a : b`, evaluating only one of them.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    /// An intrinsic that gives a value.
    Call(Intrinsic, Vec<Expr>),
}

impl Expr {
    /// The name `name`.
    pub fn name(name: impl Into<String>) -> Expr {
        Expr::Name(name.into())
    }

    /// Register `at` of `array`.
    pub fn register(array: &str, at: Expr) -> Expr {
        Expr::Register(array.to_string(), Box::new(at))
    }

    /// `op` of two operands, folded where both are known integers or one is neutral.
    pub fn binary(op: Binary, a: Expr, b: Expr) -> Expr {
        use Binary::*;
        use Expr::Int;
        match (op, a, b) {
            (Add, Int(a), Int(b)) => Int(a + b),
            (Sub, Int(a), Int(b)) => Int(a - b),
            (Mul, Int(a), Int(b)) => Int(a * b),
            (Div, Int(a), Int(b)) if b != 0 => Int(a / b),
            (Rem, Int(a), Int(b)) if b != 0 => Int(a % b),
            (Shl, Int(a), Int(b)) => Int(a << b),
            (Shr, Int(a), Int(b)) => Int(a >> b),
            (Xor, Int(a), Int(b)) => Int(a ^ b),
            (BitAnd, Int(a), Int(b)) => Int(a & b),
            (Lt, Int(a), Int(b)) => Int((a < b) as i64),
            (Le, Int(a), Int(b)) => Int((a <= b) as i64),
            (And, Int(0), _) | (And, _, Int(0)) => Int(0),
            (And, Int(_), e) | (And, e, Int(_)) => e,
            (Add | Xor, Int(0), e) | (Add | Sub | Shl | Shr | Xor, e, Int(0)) => e,
            (Mul, Int(1), e) | (Mul | Div, e, Int(1)) => e,
            (Mul, Int(0), _) | (Mul | BitAnd, _, Int(0)) | (Rem, _, Int(1)) => Int(0),
            (Shr, Expr::Binary(Shr, e, inner), Int(b)) if matches!(*inner, Int(_)) => e.shifted_right(*inner, b),
            (BitAnd, Expr::Binary(BitAnd, e, inner), Int(b)) if matches!(*inner, Int(_)) => e.masked(*inner, b),
            (Div, a, Int(b)) if b > 0 && a.divided(b).is_some() => a.divided(b).unwrap_or(a),
            (Rem, a, Int(b)) if b > 0 && a.divided(b).is_some() => Int(0),
            (op, a, b) => Expr::Binary(op, Box::new(a), Box::new(b)),
        }
    }

    fn shifted_right(self, by: Expr, more: i64) -> Expr {
        Expr::binary(Binary::Shr, self, by + Expr::Int(more))
    }

    fn masked(self, by: Expr, more: i64) -> Expr {
        Expr::binary(Binary::BitAnd, self, by.bit_and(more))
    }

    /// self / n where self is a sum of products that n divides without looking at any value.
    pub(crate) fn divided(&self, n: i64) -> Option<Expr> {
        match self {
            Expr::Int(a) if a % n == 0 => Some(Expr::Int(a / n)),
            Expr::Binary(Binary::Mul, a, b) => match (a.as_ref(), b.as_ref()) {
                (a, Expr::Int(b)) if b % n == 0 => Some(a.clone() * Expr::Int(b / n)),
                _ => None,
            },
            Expr::Binary(Binary::Add, a, b) => Some(a.divided(n)? + b.divided(n)?),
            _ => None,
        }
    }

    /// self << bits.
    pub fn shift_left(self, bits: i64) -> Expr {
        Expr::binary(Binary::Shl, self, Expr::Int(bits))
    }

    /// self >> bits.
    pub fn shift_right(self, bits: i64) -> Expr {
        Expr::binary(Binary::Shr, self, Expr::Int(bits))
    }

    /// self & mask.
    pub fn bit_and(self, mask: i64) -> Expr {
        Expr::binary(Binary::BitAnd, self, Expr::Int(mask))
    }

    /// self ^ other.
    pub fn xor(self, other: Expr) -> Expr {
        Expr::binary(Binary::Xor, self, other)
    }

    /// self < other.
    pub fn lt(self, other: Expr) -> Expr {
        Expr::binary(Binary::Lt, self, other)
    }

    /// self == other.
    pub fn equals(self, other: Expr) -> Expr {
        Expr::binary(Binary::Eq, self, other)
    }

    /// self && other.
    pub fn and(self, other: Expr) -> Expr {
        Expr::binary(Binary::And, self, other)
    }

    /// self ? then : otherwise; decided here where self is known.
    pub fn select(self, then: Expr, otherwise: Expr) -> Expr {
        match self {
            Expr::Int(0) => otherwise,
            Expr::Int(_) => then,
            cond => Expr::Select(Box::new(cond), Box::new(then), Box::new(otherwise)),
        }
    }

    /// self in another type.
    pub fn cast(self, ty: Ty) -> Expr {
        match self {
            Expr::Cast(t, inner) if t == ty => Expr::Cast(t, inner),
            e => Expr::Cast(ty, Box::new(e)),
        }
    }

    /// An intrinsic of `args`.
    pub fn call(intrinsic: Intrinsic, args: impl Into<Vec<Expr>>) -> Expr {
        Expr::Call(intrinsic, args.into())
    }

    /// Calls `visit` on this expression and everything in it.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        match self {
            Expr::Register(_, a) | Expr::Global(_, a) | Expr::Cast(_, a) => a.walk(visit),
            Expr::Binary(_, a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Expr::Select(a, b, c) => {
                a.walk(visit);
                b.walk(visit);
                c.walk(visit);
            }
            Expr::Call(_, args) => args.iter().for_each(|a| a.walk(visit)),
            _ => {}
        }
    }
}

impl From<i32> for Expr {
    fn from(n: i32) -> Expr {
        Expr::Int(n.into())
    }
}

impl From<usize> for Expr {
    fn from(n: usize) -> Expr {
        Expr::Int(n as i64)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<E: Into<Expr>> std::ops::$trait<E> for Expr {
            type Output = Expr;
            fn $method(self, other: E) -> Expr {
                Expr::binary(Binary::$trait, self, other.into())
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);
operator!(Rem, rem);
