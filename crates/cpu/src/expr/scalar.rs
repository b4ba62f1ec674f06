//! Scalar expressions: a typed tree over resolved slots, evaluated once where it stands.
//!
//! Integers are i64 and checked, floats f32, truth values 0 or 1; a value travels as 64 bits. Select and And evaluate no
//! operand that they do not need, as `?:` and `&&` do on a GPU, so a guarded load stays guarded.

use mlafuse_codegen::tile::{Axis, Binary, Expr, TileProgram, Unary};
use mlafuse_tensor::DType;

use crate::error::Fault;
use crate::math;
use crate::memory::Bound;
use crate::scratch::Slot;

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Float,
    Bool,
}

/// What the identifiers of a verified program stand for, while it is compiled.
pub(crate) struct Names<'a> {
    pub(crate) program: &'a TileProgram,
    /// By tile: its place.
    pub(crate) slots: Vec<Slot>,
    /// By parameter: its index among the tensors, or among the scalars.
    pub(crate) indices: Vec<usize>,
    /// By variable: its type, once it is bound.
    pub(crate) vars: Vec<Kind>,
}

/// A compiled scalar expression.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Const(i64),
    Param(usize),
    Var(usize),
    Block(usize),
    Row,
    Col,
    Tile(Slot),
    LoadInt(usize, Box<Scalar>),
    LoadFloat(usize, Box<Scalar>),
    ToFloat(Box<Scalar>),
    FloatUnary(Unary, Box<Scalar>),
    IntBinary(Binary, Box<[Scalar; 2]>),
    FloatBinary(Binary, Box<[Scalar; 2]>),
    And(Box<[Scalar; 2]>),
    Select(Box<[Scalar; 3]>),
}

/// What is the same for a whole block.
pub(crate) struct Env<'a> {
    pub(crate) params: &'a [i64],
    pub(crate) vars: &'a [i64],
    pub(crate) block: [i64; 3],
    pub(crate) tensors: &'a [Bound<'a>],
}

/// The element of a map that is evaluated.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) arena: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl At<'_> {
    /// Outside a map.
    pub(crate) const BLOCK: At<'static> = At {
        arena: &[],
        row: 0,
        col: 0,
    };
}

/// Type of `expr`.
pub(crate) fn kind(expr: &Expr, names: &Names<'_>) -> Kind {
    match expr {
        Expr::Int(_) | Expr::Param(_) | Expr::Block(_) | Expr::Row | Expr::Col | Expr::Unary(Unary::Wide, _) => {
            Kind::Int
        }
        Expr::Float(_) | Expr::Tile(_) | Expr::Unary(Unary::ToFloat | Unary::Exp2 | Unary::Log2 | Unary::Rsqrt, _) => {
            Kind::Float
        }
        Expr::Load(tensor, _) => match names.program.tensor_dtype(*tensor) {
            Some(DType::F32) => Kind::Float,
            _ => Kind::Int,
        },
        Expr::Var(var) => names.vars[var.0],
        Expr::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::And, ..) => Kind::Bool,
        Expr::Binary(_, a, _) | Expr::Select(_, a, _) => kind(a, names),
    }
}

impl Scalar {
    /// `expr`, of a program that has been verified.
    pub(crate) fn compile(expr: &Expr, names: &Names<'_>) -> Scalar {
        let compile = |e: &Expr| Scalar::compile(e, names);
        match expr {
            Expr::Int(n) => Scalar::Const(*n),
            Expr::Float(x) => Scalar::Const(float_bits(*x)),
            Expr::Param(id) => Scalar::Param(names.indices[id.0]),
            Expr::Var(id) => Scalar::Var(id.0),
            Expr::Block(Axis::X) => Scalar::Block(0),
            Expr::Block(Axis::Y) => Scalar::Block(1),
            Expr::Block(Axis::Z) => Scalar::Block(2),
            Expr::Row => Scalar::Row,
            Expr::Col => Scalar::Col,
            Expr::Tile(id) => Scalar::Tile(names.slots[id.0]),
            Expr::Load(id, index) => {
                let (tensor, index) = (names.indices[id.0], Box::new(compile(index)));
                match kind(expr, names) {
                    Kind::Float => Scalar::LoadFloat(tensor, index),
                    _ => Scalar::LoadInt(tensor, index),
                }
            }
            Expr::Unary(Unary::Wide, a) => compile(a),
            Expr::Unary(Unary::ToFloat, a) => Scalar::ToFloat(Box::new(compile(a))),
            Expr::Unary(op, a) => Scalar::FloatUnary(*op, Box::new(compile(a))),
            Expr::Binary(op, a, b) => {
                let operands = Box::new([compile(a), compile(b)]);
                match (op, kind(a, names)) {
                    (Binary::And, _) => Scalar::And(operands),
                    (op, Kind::Float) => Scalar::FloatBinary(*op, operands),
                    (op, _) => Scalar::IntBinary(*op, operands),
                }
            }
            Expr::Select(c, a, b) => Scalar::Select(Box::new([compile(c), compile(a), compile(b)])),
        }
    }

    /// Its value's 64 bits.
    pub(crate) fn eval(&self, env: &Env<'_>, at: At<'_>) -> Result<i64, Fault> {
        Ok(match self {
            Scalar::Const(bits) => *bits,
            Scalar::Param(i) => env.params[*i],
            Scalar::Var(i) => env.vars[*i],
            Scalar::Block(axis) => env.block[*axis],
            Scalar::Row => at.row as i64,
            Scalar::Col => at.col as i64,
            Scalar::Tile(slot) => {
                let col = if slot.stride == 1 { 0 } else { at.col };
                float_bits(at.arena[slot.start + at.row * slot.stride + col])
            }
            Scalar::LoadInt(tensor, index) => load_int(env, *tensor, index.eval(env, at)?)?,
            Scalar::LoadFloat(tensor, index) => {
                let bytes = load(env, *tensor, index.eval(env, at)?)?;
                float_bits(f32::from_ne_bytes(bytes))
            }
            Scalar::ToFloat(a) => float_bits(a.eval(env, at)? as f32),
            Scalar::FloatUnary(op, a) => float_bits(float_unary(*op, bits_float(a.eval(env, at)?))),
            Scalar::IntBinary(op, ab) => int_binary(*op, ab[0].eval(env, at)?, ab[1].eval(env, at)?)?,
            Scalar::FloatBinary(op, ab) => {
                float_binary(*op, bits_float(ab[0].eval(env, at)?), bits_float(ab[1].eval(env, at)?))
            }
            Scalar::And(ab) => i64::from(ab[0].eval(env, at)? != 0 && ab[1].eval(env, at)? != 0),
            Scalar::Select(cab) => match cab[0].eval(env, at)? {
                0 => cab[2].eval(env, at)?,
                _ => cab[1].eval(env, at)?,
            },
        })
    }
}

/// A float as it travels in 64 bits.
pub(crate) fn float_bits(x: f32) -> i64 {
    i64::from(x.to_bits())
}

/// The float that travels in `bits`.
pub(crate) fn bits_float(bits: i64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Element `index` of an i32 tensor.
pub(crate) fn load_int(env: &Env<'_>, tensor: usize, index: i64) -> Result<i64, Fault> {
    load(env, tensor, index).map(|bytes| i64::from(i32::from_ne_bytes(bytes)))
}

/// Element `index` of a tensor of elements of 4 bytes.
fn load(env: &Env<'_>, tensor: usize, index: i64) -> Result<[u8; 4], Fault> {
    let fault = Fault::OutOfBounds { tensor, index };
    let Some(Bound::Read(bytes)) = env.tensors.get(tensor) else {
        return Err(fault);
    };
    let at = usize::try_from(index).map_err(|_| fault)?;
    bytes.as_chunks::<4>().0.get(at).copied().ok_or(fault)
}

fn float_unary(op: Unary, x: f32) -> f32 {
    match op {
        Unary::Exp2 => math::exp2::<false>(x),
        Unary::Log2 => x.log2(),
        Unary::Rsqrt => math::rsqrt(x),
        Unary::Wide | Unary::ToFloat => x,
    }
}

/// An integer function of two operands.
pub(crate) fn int_binary(op: Binary, a: i64, b: i64) -> Result<i64, Fault> {
    let checked = match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b == 0 => return Err(Fault::DivideByZero),
        Binary::Rem if b == 0 => return Err(Fault::DivideByZero),
        Binary::Div => a.checked_div(b),
        Binary::Rem => a.checked_rem(b),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::Lt => Some(i64::from(a < b)),
        Binary::Le => Some(i64::from(a <= b)),
        Binary::Eq => Some(i64::from(a == b)),
        Binary::And => Some(a & b),
    };
    checked.ok_or(Fault::Overflow)
}

fn float_binary(op: Binary, a: f32, b: f32) -> i64 {
    match op {
        Binary::Add => float_bits(a + b),
        Binary::Sub => float_bits(a - b),
        Binary::Mul => float_bits(a * b),
        Binary::Div => float_bits(a / b),
        Binary::Rem => float_bits(a % b),
        Binary::Min => float_bits(a.min(b)),
        Binary::Max => float_bits(a.max(b)),
        Binary::Lt => i64::from(a < b),
        Binary::Le => i64::from(a <= b),
        Binary::Eq => i64::from(a == b),
        Binary::And => 0,
    }
}
