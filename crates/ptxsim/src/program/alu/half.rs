//! Arithmetic on f16 and bf16, single or in pairs.

use super::Alu;
use super::modifiers::Modifiers;
use super::operands::uniform;
use crate::ast::{self, Type};
use crate::numeric::Rounding;
use crate::numeric::approx::Function;
use crate::numeric::compare::MinMax;
use crate::numeric::half_ops::{HalfFormat, HalfMode};
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Reg};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    MinMax(MinMax),
    Abs,
    Neg,
    Approx(Function),
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub op: HalfOp,
    pub format: HalfFormat,
    pub mode: HalfMode,
    /// Two values a word, else one a 16-bit register.
    pub packed: bool,
    pub dst: Reg,
    pub src: [Reg; 3],
}

/// Reads `f16`, `bf16`, `f16x2` or `bf16x2`, and whether it is a pair.
pub(super) fn half_type(modifier: &str) -> Option<(HalfFormat, bool)> {
    Some(match modifier {
        "f16" => (HalfFormat::F16, false),
        "bf16" => (HalfFormat::Bf16, false),
        "f16x2" => (HalfFormat::F16, true),
        "bf16x2" => (HalfFormat::Bf16, true),
        _ => return None,
    })
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (op, format, mode, packed) = parse(inst).ok_or_else(|| decoder.unknown(inst))?;
    let count = match op {
        HalfOp::Fma => 3,
        HalfOp::Abs | HalfOp::Neg | HalfOp::Approx(_) => 1,
        _ => 2,
    };
    let ty = if packed { Type::B32 } else { Type::B16 };
    let (dst, src) = uniform(decoder, inst, count, ty)?;
    Ok(Alu::Half(Half {
        op,
        format,
        mode,
        packed,
        dst,
        src,
    }))
}

fn parse(inst: &ast::Inst) -> Option<(HalfOp, HalfFormat, HalfMode, bool)> {
    let mut modifiers = Modifiers::of(inst);
    let (format, packed) = half_type(modifiers.last())?;
    let name = inst.opcode[0].as_str();
    let op = match name {
        "add" => HalfOp::Add,
        "sub" => HalfOp::Sub,
        "mul" => HalfOp::Mul,
        "fma" => HalfOp::Fma,
        "min" | "max" => HalfOp::MinMax(modifiers.min_max(name)?),
        "abs" => HalfOp::Abs,
        "neg" => HalfOp::Neg,
        "ex2" | "tanh" => {
            let function = Function::parse(name)?;
            modifiers.flag("approx").then_some(HalfOp::Approx(function))?
        }
        _ => return None,
    };
    let mode = mode(&mut modifiers, op, format)?;
    modifiers.done()?;
    Some((op, format, mode, packed))
}

fn mode(modifiers: &mut Modifiers<'_>, op: HalfOp, format: HalfFormat) -> Option<HalfMode> {
    let arithmetic = matches!(op, HalfOp::Add | HalfOp::Sub | HalfOp::Mul | HalfOp::Fma);
    if arithmetic {
        match modifiers.rounding() {
            Some(Rounding::Nearest) => {}
            None if op != HalfOp::Fma => {}
            _ => return None,
        }
    }
    let flushes = match op {
        // Of the two functions only this one has the modifier, which it must have for bf16.
        HalfOp::Approx(Function::Ex2) => format == HalfFormat::Bf16,
        HalfOp::Approx(_) => false,
        _ => format == HalfFormat::F16,
    };
    let ftz = flushes && modifiers.flag("ftz");
    if flushes && !ftz && matches!(op, HalfOp::Approx(_)) {
        return None;
    }
    let relu = op == HalfOp::Fma && modifiers.flag("relu");
    let sat = arithmetic && format == HalfFormat::F16 && !relu && modifiers.flag("sat");
    Some(HalfMode { ftz, sat, relu })
}
