//! Arithmetic on integers.

use super::Alu;
use super::modifiers::{Modifiers, number_type};
use super::operands::{register_type, registers};
use crate::ast::{self, Type};
use crate::numeric::integer::{IntType, Part};
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Reg};

/// What is computed; unsaid operands are of the instruction's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegerOp {
    Add,
    Sub,
    AddSaturated,
    SubSaturated,
    Mul(Part),
    Mad(Part),
    /// `mad.hi.sat.s32`.
    MadHighSaturated,
    /// Products of 24 bits, the low word or bits 16 to 47.
    Mul24 {
        high: bool,
    },
    Mad24 {
        high: bool,
    },
    Sad,
    Div,
    Rem,
    Abs,
    Neg,
    MinMax {
        max: bool,
        relu: bool,
    },
    /// Both halves of words; the type has 16 bits.
    AddX2,
    MinMaxX2 {
        max: bool,
        relu: bool,
    },
    /// The type is a's.
    Dp4a {
        b_signed: bool,
    },
    Dp2a {
        high: bool,
        b_signed: bool,
    },
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer {
    pub op: IntegerOp,
    pub ty: IntType,
    pub dst: Reg,
    pub src: [Reg; 3],
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (op, ty) = parse(inst).ok_or_else(|| decoder.unknown(inst))?;
    let (narrow, wide) = (register_type(ty.bits), register_type(2 * ty.bits));
    let (to, from): (Type, &[Type]) = match op {
        IntegerOp::Abs | IntegerOp::Neg => (narrow, &[narrow]),
        IntegerOp::Mul(Part::Wide) => (wide, &[narrow, narrow]),
        IntegerOp::Mad(Part::Wide) => (wide, &[narrow, narrow, wide]),
        IntegerOp::AddX2 | IntegerOp::MinMaxX2 { .. } => (Type::B32, &[Type::B32; 2]),
        IntegerOp::Mad(_)
        | IntegerOp::MadHighSaturated
        | IntegerOp::Mad24 { .. }
        | IntegerOp::Sad
        | IntegerOp::Dp4a { .. }
        | IntegerOp::Dp2a { .. } => (narrow, &[narrow; 3]),
        _ => (narrow, &[narrow; 2]),
    };
    let (dst, src) = registers(decoder, inst, to, from)?;
    Ok(Alu::Integer(Integer { op, ty, dst, src }))
}

fn parse(inst: &ast::Inst) -> Option<(IntegerOp, IntType)> {
    let mut modifiers = Modifiers::of(inst);
    let name = inst.opcode[0].as_str();
    let last = modifiers.last();
    let found = match name {
        "dp4a" | "dp2a" => dot_product(&mut modifiers, name, last)?,
        "add" | "min" | "max" if last.ends_with("x2") => halves(&mut modifiers, name, last)?,
        _ => {
            let ty = number_type(last)?;
            (single(&mut modifiers, name, ty)?, ty)
        }
    };
    modifiers.done()?;
    Some(found)
}

fn single(modifiers: &mut Modifiers<'_>, name: &str, ty: IntType) -> Option<IntegerOp> {
    let is_s32 = ty == IntType::S32;
    Some(match name {
        "add" if is_s32 && modifiers.flag("sat") => IntegerOp::AddSaturated,
        "sub" if is_s32 && modifiers.flag("sat") => IntegerOp::SubSaturated,
        "add" => IntegerOp::Add,
        "sub" => IntegerOp::Sub,
        "mul" => IntegerOp::Mul(product(modifiers, ty)?),
        "mad" => match product(modifiers, ty)? {
            Part::High if is_s32 && modifiers.flag("sat") => IntegerOp::MadHighSaturated,
            part => IntegerOp::Mad(part),
        },
        "mul24" | "mad24" if ty.bits == 32 => {
            let high = modifiers.part().filter(|part| *part != Part::Wide)? == Part::High;
            if name == "mul24" {
                IntegerOp::Mul24 { high }
            } else {
                IntegerOp::Mad24 { high }
            }
        }
        "sad" => IntegerOp::Sad,
        "div" => IntegerOp::Div,
        "rem" => IntegerOp::Rem,
        "abs" if ty.signed => IntegerOp::Abs,
        "neg" if ty.signed => IntegerOp::Neg,
        "min" | "max" => IntegerOp::MinMax {
            max: name == "max",
            relu: is_s32 && modifiers.flag("relu"),
        },
        _ => return None,
    })
}

fn product(modifiers: &mut Modifiers<'_>, ty: IntType) -> Option<Part> {
    modifiers.part().filter(|part| *part != Part::Wide || ty.bits < 64)
}

fn halves(modifiers: &mut Modifiers<'_>, name: &str, last: &str) -> Option<(IntegerOp, IntType)> {
    let signed = match last {
        "s16x2" => true,
        "u16x2" => false,
        _ => return None,
    };
    let op = match name {
        "add" => IntegerOp::AddX2,
        _ => IntegerOp::MinMaxX2 {
            max: name == "max",
            relu: signed && modifiers.flag("relu"),
        },
    };
    Some((op, IntType { bits: 16, signed }))
}

fn dot_product(modifiers: &mut Modifiers<'_>, name: &str, last: &str) -> Option<(IntegerOp, IntType)> {
    let word = |modifier: &str| number_type(modifier).filter(|ty| ty.bits == 32);
    let b_signed = word(last)?.signed;
    let ty = word(modifiers.last())?;
    let op = match name {
        "dp4a" => IntegerOp::Dp4a { b_signed },
        _ => IntegerOp::Dp2a {
            high: modifiers.part().filter(|part| *part != Part::Wide)? == Part::High,
            b_signed,
        },
    };
    Some((op, ty))
}
