//! What can be wrong with a tile program.

use std::fmt;

use super::super::text::access_text;
use super::super::{Access, Columns, Space};
use mlafuse_tensor::DType;

/// A tile program that [`super::verify`] refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("tile program {program}, at `{at}`: {fault}")]
pub struct TileError {
    /// The program's name.
    pub program: String,
    /// The statement's text, or what part of the declarations.
    pub at: String,
    /// What is wrong there.
    pub fault: Box<Fault>,
}

/// The type of a scalar expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// An integer.
    Int,
    /// An f32.
    Float,
    /// A truth value.
    Bool,
}

impl ScalarKind {
    /// As messages say it.
    pub(super) fn words(self) -> &'static str {
        match self {
            ScalarKind::Int => "an integer",
            ScalarKind::Float => "a float",
            ScalarKind::Bool => "a truth value",
        }
    }
}

impl fmt::Display for ScalarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What is wrong at one place of a tile program.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// An id names nothing.
    #[error("there is no {what} {index}: the program has {count}")]
    Unknown {
        /// `tile`, `parameter` or `variable`.
        what: &'static str,
        /// The id's index.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// Two parameters, tiles or variables share a name.
    #[error("the name `{name}` stands for two things")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name that text and source cannot carry.
    #[error("`{name}` is no name: expected letters, digits and `_`, no digit first, and none of block, row, col")]
    BadName {
        /// The name.
        name: String,
    },
    /// A size of zero.
    #[error("{what} is 0, expected at least 1")]
    NotPositive {
        /// Which size.
        what: &'static str,
    },
    /// A fragment that is not f32.
    #[error("fragment `{tile}` has elements of {got}, expected f32")]
    FragmentType {
        /// The tile.
        tile: String,
        /// Its element type.
        got: DType,
    },
    /// A row vector or row partial that is not a fragment of one column.
    #[error("vector `{tile}` has {cols} columns in {space:?}, expected 1 in Fragment")]
    VectorForm {
        /// The tile.
        tile: String,
        /// Where it is declared to live.
        space: Space,
        /// Its columns.
        cols: usize,
    },
    /// A matrix partial that is not a fragment.
    #[error("partial `{tile}` lives in {space:?}, expected Fragment")]
    PartialSpace {
        /// The tile.
        tile: String,
        /// Where it is declared to live.
        space: Space,
    },
    /// A variable used outside the scope of its binding.
    #[error("variable `{var}` is not bound here")]
    Unbound {
        /// The variable.
        var: String,
    },
    /// A variable bound by two statements.
    #[error("variable `{var}` is bound a second time")]
    Rebound {
        /// The variable.
        var: String,
    },
    /// An expression of the wrong type.
    #[error("`{expr}` is {got}, expected {expected}")]
    Type {
        /// Its text.
        expr: String,
        /// The type it needs to have.
        expected: &'static str,
        /// The type it has.
        got: ScalarKind,
    },
    /// Something an expression may not use where it stands.
    #[error("`{expr}` stands in {place}, where only {allowed} may")]
    Misplaced {
        /// Its text.
        expr: String,
        /// Where it stands.
        place: &'static str,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A tensor where a scalar belongs, or a scalar where a tensor does.
    #[error("parameter `{param}` is a {got}, expected a {expected}")]
    ParamKind {
        /// The parameter.
        param: String,
        /// `tensor` or `scalar`.
        expected: &'static str,
        /// The other.
        got: &'static str,
    },
    /// A tensor of the wrong element type.
    #[error("tensor `{param}` has elements of {got}, expected {expected}")]
    TensorType {
        /// The parameter.
        param: String,
        /// The types that are allowed.
        expected: &'static str,
        /// Its type.
        got: DType,
    },
    /// A tensor written that is declared to be read, or the reverse.
    #[error("tensor `{param}` is declared {}, used to {}", access_text(*got), access_text(*expected))]
    Access {
        /// The parameter.
        param: String,
        /// What the statement does with it.
        expected: Access,
        /// What its declaration says.
        got: Access,
    },
    /// A tile whose space, form, element type or shape does not fit its use.
    #[error("{role} `{tile}` is {got}, expected {expected}")]
    Operand {
        /// The use: `acc`, `source`, and so on.
        role: &'static str,
        /// The tile.
        tile: String,
        /// What the statement needs; `_` is open.
        expected: String,
        /// Its declaration.
        got: String,
    },
    /// A tile with two parts in one op.
    #[error("`{tile}` is given twice, expected different tiles")]
    Repeated {
        /// The tile.
        tile: String,
    },
    /// Columns that are empty or beyond the tile.
    #[error("columns {}..{} of `{tile}`, expected a non-empty range within 0..{cols}", got.start, got.end)]
    Columns {
        /// The tile.
        tile: String,
        /// The columns.
        got: Columns,
        /// How many it has.
        cols: usize,
    },
    /// A gemm that uses another number of b's columns than acc has (Kn).
    #[error("b's columns are {}..{}, expected {expected} of them", got.start, got.end)]
    GemmColumns {
        /// Columns of acc.
        expected: usize,
        /// The columns named.
        got: Columns,
    },
    /// A gemm whose columns of a start before the first.
    #[error("a's columns start at {start}, expected at least 0")]
    GemmStart {
        /// The first column.
        start: i64,
    },
    /// A number of rotated columns that is odd, zero or more than the tile has.
    #[error("{d} columns are rotated, expected an even number in 2..={cols}")]
    RotatedColumns {
        /// The number.
        d: usize,
        /// Columns of the tile.
        cols: usize,
    },
    /// A map that does more than scale a row partial.
    #[error("row partial `{tile}` becomes `{value}`, expected `{tile}*factor`")]
    PartialScale {
        /// The row partial.
        tile: String,
        /// The map's expression.
        value: String,
    },
    /// A partial filled with something other than zero.
    #[error("partial `{tile}` is filled with {value}, expected 0.0")]
    PartialFill {
        /// The partial.
        tile: String,
        /// The value.
        value: String,
    },
    /// Columns of a tile that are not written on every way here.
    #[error("columns {}..{} of `{tile}` may be read before they are written", cols.start, cols.end)]
    Unwritten {
        /// The tile.
        tile: String,
        /// The columns that are read.
        cols: Columns,
    },
    /// Statements after a return.
    #[error("return is followed by {followers} statement(s) of its body, expected none")]
    ReturnNotLast {
        /// How many.
        followers: usize,
    },
}
