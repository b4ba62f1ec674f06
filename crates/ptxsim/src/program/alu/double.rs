//! Arithmetic on f64.

use super::Alu;
use super::modifiers::Modifiers;
use super::operands::uniform;
use crate::ast::{self, Type};
use crate::numeric::Rounding;
use crate::numeric::approx::Function;
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Reg};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoubleOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    /// `rcp.approx.ftz` and `rsqrt.approx.ftz`: the upper word.
    Upper(Function),
    /// `rsqrt.approx`.
    Rsqrt,
    Min,
    Max,
    Abs,
    Neg,
    Copysign,
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Double {
    pub op: DoubleOp,
    pub rounding: Rounding,
    pub dst: Reg,
    pub src: [Reg; 3],
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (op, rounding) = parse(inst).ok_or_else(|| decoder.unknown(inst))?;
    let count = match op {
        DoubleOp::Fma => 3,
        DoubleOp::Rcp | DoubleOp::Sqrt | DoubleOp::Upper(_) | DoubleOp::Rsqrt | DoubleOp::Abs | DoubleOp::Neg => 1,
        _ => 2,
    };
    let (dst, src) = uniform(decoder, inst, count, Type::F64)?;
    Ok(Alu::Double(Double { op, rounding, dst, src }))
}

fn parse(inst: &ast::Inst) -> Option<(DoubleOp, Rounding)> {
    let mut modifiers = Modifiers::of(inst);
    modifiers.last();
    let op = match inst.opcode[0].as_str() {
        "add" => DoubleOp::Add,
        "sub" => DoubleOp::Sub,
        "mul" => DoubleOp::Mul,
        "fma" | "mad" => DoubleOp::Fma,
        "div" => DoubleOp::Div,
        "min" => DoubleOp::Min,
        "max" => DoubleOp::Max,
        "abs" => DoubleOp::Abs,
        "neg" => DoubleOp::Neg,
        "copysign" => DoubleOp::Copysign,
        "sqrt" => DoubleOp::Sqrt,
        "rcp" if !modifiers.flag("approx") => DoubleOp::Rcp,
        "rcp" => modifiers.flag("ftz").then_some(DoubleOp::Upper(Function::Rcp))?,
        "rsqrt" if modifiers.flag("approx") => match modifiers.flag("ftz") {
            true => DoubleOp::Upper(Function::Rsqrt),
            false => DoubleOp::Rsqrt,
        },
        _ => return None,
    };
    let rounding = match op {
        DoubleOp::Add | DoubleOp::Sub | DoubleOp::Mul => modifiers.rounding().unwrap_or_default(),
        DoubleOp::Fma | DoubleOp::Div | DoubleOp::Rcp | DoubleOp::Sqrt => modifiers.rounding()?,
        _ => Rounding::Nearest,
    };
    modifiers.done()?;
    Some((op, rounding))
}
