//! Scalar and elementwise expressions of a tile program.
//!
//! Integers are exact (64 bits on the CPU; on a GPU 32 bits unless [`Expr::wide`] or a stride parameter widens them),
//! floats are f32. There is no thread index: an expression speaks of blocks, loops and logical rows and columns.

use std::ops::Range;

use super::{ParamId, TileId, VarId};

/// A block index of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Fastest varying.
    X,
    /// Second.
    Y,
    /// Slowest.
    Z,
}

/// One-operand functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// An integer in 64 bits from here on.
    Wide,
    /// Integer to float.
    ToFloat,
    /// 2^x, x float.
    Exp2,
    /// log2(x), x float.
    Log2,
    /// 1 / sqrt(x), x float.
    Rsqrt,
}

/// Two-operand functions. Comparisons give a truth value; division and remainder are of non-negative integers or floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Min,
    Max,
    Lt,
    Le,
    Eq,
    And,
}

impl Binary {
    /// The operation on integers; `None` on overflow and division by zero.
    fn integer(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Binary::Add => a.checked_add(b),
            Binary::Sub => a.checked_sub(b),
            Binary::Mul => a.checked_mul(b),
            Binary::Div => a.checked_div(b),
            Binary::Rem => a.checked_rem(b),
            Binary::Min => Some(a.min(b)),
            Binary::Max => Some(a.max(b)),
            Binary::Lt => Some((a < b).into()),
            Binary::Le => Some((a <= b).into()),
            Binary::Eq => Some((a == b).into()),
            Binary::And => Some((a != 0 && b != 0).into()),
        }
    }
}

/// An expression. In [`super::Stmt::Map`] it is evaluated once per element, as the index of [`super::Rows::Gathered`] once per
/// row, elsewhere once per block.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A scalar parameter.
    Param(ParamId),
    /// A value bound by `let`, or a loop's variable.
    Var(VarId),
    /// The block's index.
    Block(Axis),
    /// In a map: the operand's element at this row and column (a row vector's at this row).
    Tile(TileId),
    /// In a map, and where rows are gathered: the logical row.
    Row,
    /// In a map: the logical column.
    Col,
    /// One i32 or f32 from device memory, at an element index.
    Load(ParamId, Box<Expr>),
    /// A function of one operand.
    Unary(Unary, Box<Expr>),
    /// A function of two operands.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `if cond { a } else { b }`.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
}

impl Expr {
    fn binary(op: Binary, a: Expr, b: Expr) -> Expr {
        Expr::Binary(op, Box::new(a), Box::new(b))
    }

    /// self, in 64 bits from here on.
    pub fn wide(self) -> Expr {
        match self {
            Expr::Int(_) | Expr::Unary(Unary::Wide, _) => self,
            other => Expr::Unary(Unary::Wide, Box::new(other)),
        }
    }

    /// The integer self as a float.
    pub fn to_float(self) -> Expr {
        Expr::Unary(Unary::ToFloat, Box::new(self))
    }

    /// 2^self.
    pub fn exp2(self) -> Expr {
        Expr::Unary(Unary::Exp2, Box::new(self))
    }

    /// log2(self).
    pub fn log2(self) -> Expr {
        Expr::Unary(Unary::Log2, Box::new(self))
    }

    /// 1 / sqrt(self).
    pub fn rsqrt(self) -> Expr {
        Expr::Unary(Unary::Rsqrt, Box::new(self))
    }

    /// min(self, other).
    pub fn min(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::Min, self, other.into())
    }

    /// max(self, other).
    pub fn max(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::Max, self, other.into())
    }

    /// self < other.
    pub fn lt(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::Lt, self, other.into())
    }

    /// self <= other.
    pub fn le(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::Le, self, other.into())
    }

    /// self == other.
    pub fn equals(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::Eq, self, other.into())
    }

    /// self && other.
    pub fn and(self, other: impl Into<Expr>) -> Expr {
        Expr::binary(Binary::And, self, other.into())
    }

    /// The smallest integer at least self / other, both non-negative.
    pub fn ceil_div(self, other: impl Into<Expr>) -> Expr {
        let other = other.into();
        (self + (other.clone() - 1)) / other
    }

    /// `if self { then } else { otherwise }`.
    pub fn select(self, then: impl Into<Expr>, otherwise: impl Into<Expr>) -> Expr {
        Expr::Select(Box::new(self), Box::new(then.into()), Box::new(otherwise.into()))
    }

    /// The value of an integer expression (truth is 1), where `leaf` says what parameters, variables, blocks and loads are;
    /// `None` where it does not, where the expression is no integer's, and on overflow or division by zero.
    pub fn integer(&self, leaf: &dyn Fn(&Expr) -> Option<i64>) -> Option<i64> {
        match self {
            Expr::Int(n) => Some(*n),
            Expr::Unary(Unary::Wide, a) => a.integer(leaf),
            Expr::Binary(op, a, b) => op.integer(a.integer(leaf)?, b.integer(leaf)?),
            Expr::Select(cond, a, b) => match cond.integer(leaf)? {
                0 => b.integer(leaf),
                _ => a.integer(leaf),
            },
            leaf_expr => leaf(leaf_expr),
        }
    }

    /// Calls `visit` on this expression and everything in it.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        match self {
            Expr::Load(_, a) | Expr::Unary(_, a) => a.walk(visit),
            Expr::Binary(_, a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Expr::Select(a, b, c) => {
                a.walk(visit);
                b.walk(visit);
                c.walk(visit);
            }
            _ => {}
        }
    }
}

/// So that a bare literal is an expression: it falls back to i32 where several integer types would do.
impl From<i32> for Expr {
    fn from(n: i32) -> Expr {
        Expr::Int(i64::from(n))
    }
}

impl From<i64> for Expr {
    fn from(n: i64) -> Expr {
        Expr::Int(n)
    }
}

impl From<usize> for Expr {
    fn from(n: usize) -> Expr {
        Expr::Int(n as i64)
    }
}

impl From<f32> for Expr {
    fn from(x: f32) -> Expr {
        Expr::Float(x)
    }
}

impl From<VarId> for Expr {
    fn from(v: VarId) -> Expr {
        Expr::Var(v)
    }
}

impl From<TileId> for Expr {
    fn from(t: TileId) -> Expr {
        Expr::Tile(t)
    }
}

impl From<ParamId> for Expr {
    fn from(p: ParamId) -> Expr {
        Expr::Param(p)
    }
}

// The operators fold what is known, so that programs (and the source made of them) show only what is computed at run
// time.
impl<E: Into<Expr>> std::ops::Add<E> for Expr {
    type Output = Expr;
    fn add(self, other: E) -> Expr {
        match (self, other.into()) {
            (Expr::Int(0), e) | (e, Expr::Int(0)) => e,
            (Expr::Int(a), Expr::Int(b)) => Expr::Int(a + b),
            (a, b) => Expr::binary(Binary::Add, a, b),
        }
    }
}

impl<E: Into<Expr>> std::ops::Sub<E> for Expr {
    type Output = Expr;
    fn sub(self, other: E) -> Expr {
        match (self, other.into()) {
            (e, Expr::Int(0)) => e,
            (Expr::Int(a), Expr::Int(b)) => Expr::Int(a - b),
            (a, b) => Expr::binary(Binary::Sub, a, b),
        }
    }
}

impl<E: Into<Expr>> std::ops::Mul<E> for Expr {
    type Output = Expr;
    fn mul(self, other: E) -> Expr {
        match (self, other.into()) {
            (Expr::Int(0), _) | (_, Expr::Int(0)) => Expr::Int(0),
            (Expr::Int(1), e) | (e, Expr::Int(1)) => e,
            (Expr::Int(a), Expr::Int(b)) => Expr::Int(a * b),
            (a, b) => Expr::binary(Binary::Mul, a, b),
        }
    }
}

impl<E: Into<Expr>> std::ops::Div<E> for Expr {
    type Output = Expr;
    fn div(self, other: E) -> Expr {
        match (self, other.into()) {
            (e, Expr::Int(1)) => e,
            (Expr::Int(a), Expr::Int(b)) if b != 0 => Expr::Int(a / b),
            (a, b) => Expr::binary(Binary::Div, a, b),
        }
    }
}

impl<E: Into<Expr>> std::ops::Rem<E> for Expr {
    type Output = Expr;
    fn rem(self, other: E) -> Expr {
        match (self, other.into()) {
            (_, Expr::Int(1)) => Expr::Int(0),
            (Expr::Int(a), Expr::Int(b)) if b != 0 => Expr::Int(a % b),
            (a, b) => Expr::binary(Binary::Rem, a, b),
        }
    }
}

/// A range of a tile's columns.
pub type Columns = Range<usize>;
