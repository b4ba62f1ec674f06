//! Arithmetic on f32, on pairs of them, and on f32 with halves.

use super::Alu;
use super::modifiers::Modifiers;
use super::operands::{registers, uniform};
use crate::ast::{self, Type};
use crate::numeric::Rounding;
use crate::numeric::approx::Function;
use crate::numeric::compare::MinMax;
use crate::numeric::float::FloatMode;
use crate::numeric::half_ops::HalfFormat;
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Reg};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    DivFull,
    DivApprox,
    Rcp,
    Sqrt,
    Approx(Function),
    MinMax(MinMax),
    /// Of three, or of their magnitudes.
    MinMax3 {
        which: MinMax,
        abs: bool,
    },
    Abs,
    Neg,
    Copysign,
}

impl FloatOp {
    fn sources(self) -> usize {
        match self {
            FloatOp::Fma | FloatOp::MinMax3 { .. } => 3,
            FloatOp::Rcp | FloatOp::Sqrt | FloatOp::Approx(_) | FloatOp::Abs | FloatOp::Neg => 1,
            _ => 2,
        }
    }
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Float {
    pub op: FloatOp,
    pub mode: FloatMode,
    pub dst: Reg,
    pub src: [Reg; 3],
}

/// An addition or fused multiplication whose operands are halves, except for the last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixed {
    pub format: HalfFormat,
    pub float: Float,
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let mut modifiers = Modifiers::of(inst);
    let pairs = modifiers.last() == "f32x2";
    let parsed = parse(&mut modifiers, &inst.opcode[0], inst.operands.len());
    let (Some((op, mode)), Some(())) = (parsed, modifiers.done()) else {
        return Err(decoder.unknown(inst));
    };
    if !pairs {
        let (dst, src) = uniform(decoder, inst, op.sources(), Type::F32)?;
        return Ok(Alu::Float(Float { op, mode, dst, src }));
    }
    if mode.sat || !matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Fma) {
        return Err(decoder.unknown(inst));
    }
    let (dst, src) = uniform(decoder, inst, op.sources(), Type::F32x2)?;
    Ok(Alu::FloatX2(Float { op, mode, dst, src }))
}

fn parse(modifiers: &mut Modifiers<'_>, name: &str, operands: usize) -> Option<(FloatOp, FloatMode)> {
    let op = op(modifiers, name, operands)?;
    let ftz = op != FloatOp::Copysign && op != FloatOp::Approx(Function::Tanh) && modifiers.flag("ftz");
    let rounding = match op {
        FloatOp::Add | FloatOp::Sub | FloatOp::Mul => modifiers.rounding().unwrap_or_default(),
        FloatOp::Fma | FloatOp::Div | FloatOp::Rcp | FloatOp::Sqrt => modifiers.rounding()?,
        _ => Rounding::Nearest,
    };
    let saturates = matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Fma);
    let sat = saturates && modifiers.flag("sat");
    Some((op, FloatMode { rounding, ftz, sat }))
}

fn op(modifiers: &mut Modifiers<'_>, name: &str, operands: usize) -> Option<FloatOp> {
    Some(match name {
        "add" => FloatOp::Add,
        "sub" => FloatOp::Sub,
        "mul" => FloatOp::Mul,
        // With a rounding, which `.f32` must have here, `mad` is the same.
        "fma" | "mad" => FloatOp::Fma,
        "div" if modifiers.flag("full") => FloatOp::DivFull,
        "div" if modifiers.flag("approx") => FloatOp::DivApprox,
        "div" => FloatOp::Div,
        "min" | "max" if operands == 4 => {
            let (abs, nan) = (modifiers.flag("abs"), modifiers.flag("NaN"));
            let which = MinMax {
                max: name == "max",
                nan,
                xorsign_abs: false,
            };
            FloatOp::MinMax3 { which, abs }
        }
        "min" | "max" => FloatOp::MinMax(modifiers.min_max(name)?),
        "abs" => FloatOp::Abs,
        "neg" => FloatOp::Neg,
        "copysign" => FloatOp::Copysign,
        "rcp" | "sqrt" if !modifiers.flag("approx") => match name {
            "rcp" => FloatOp::Rcp,
            _ => FloatOp::Sqrt,
        },
        "rcp" | "sqrt" => FloatOp::Approx(Function::parse(name)?),
        _ => {
            let function = Function::parse(name)?;
            modifiers.flag("approx").then_some(FloatOp::Approx(function))?
        }
    })
}

pub(super) fn decode_mixed(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (format, op, mode) = parse_mixed(inst).ok_or_else(|| decoder.unknown(inst))?;
    let from: &[Type] = match op {
        FloatOp::Fma => &[Type::B16, Type::B16, Type::F32],
        _ => &[Type::B16, Type::F32],
    };
    let (dst, src) = registers(decoder, inst, Type::F32, from)?;
    let float = Float { op, mode, dst, src };
    Ok(Alu::Mixed(Mixed { format, float }))
}

fn parse_mixed(inst: &ast::Inst) -> Option<(HalfFormat, FloatOp, FloatMode)> {
    let mut modifiers = Modifiers::of(inst);
    let format = match modifiers.last() {
        "f16" => HalfFormat::F16,
        _ => HalfFormat::Bf16,
    };
    modifiers.last();
    let (op, mode) = parse(&mut modifiers, &inst.opcode[0], inst.operands.len())?;
    modifiers.done()?;
    let known = matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Fma) && !mode.ftz && inst.opcode[0] != "mad";
    known.then_some((format, op, mode))
}
