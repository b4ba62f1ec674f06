//! `selp` and `slct`.

use super::Alu;
use super::modifiers::Modifiers;
use super::moves::movable;
use super::operands::{registers, split};
use crate::ast::{self, Type};
use crate::program::decoder::Decoder;
use crate::program::op::PredSource;
use crate::program::scope::words;
use crate::program::{DecodeError, Reg};

/// `selp`: the first source where the predicate holds, else the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Select {
    pub words: u32,
    pub dst: Reg,
    pub src: [Reg; 2],
    pub pred: PredSource,
}

/// `slct`: the first source where the third is not less than 0 (-0 is not, NaN is), else the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SelectBySign {
    pub words: u32,
    pub dst: Reg,
    pub src: [Reg; 3],
    /// Whether the third is an f32, and subnormals count as 0; else it is an s32.
    pub float: Option<bool>,
}

pub(super) fn decode_selp(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let mut modifiers = Modifiers::of(inst);
    let ty = movable(modifiers.last()).filter(|ty| *ty != Type::B128);
    let (Some(ty), Some(())) = (ty, modifiers.done()) else {
        return Err(decoder.unknown(inst));
    };
    let (destination, operands) = split(decoder, inst, 3)?;
    Ok(Alu::Select(Select {
        words: words(ty),
        src: [decoder.source(&operands[0], ty)?, decoder.source(&operands[1], ty)?],
        pred: decoder.predicate_source(&operands[2])?,
        dst: decoder.destination(destination, ty)?,
    }))
}

pub(super) fn decode_slct(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (ty, float) = parse_slct(inst).ok_or_else(|| decoder.unknown(inst))?;
    let third = if float.is_some() { Type::F32 } else { Type::S32 };
    let (dst, src) = registers(decoder, inst, ty, &[ty, ty, third])?;
    Ok(Alu::SelectBySign(SelectBySign {
        words: words(ty),
        dst,
        src,
        float,
    }))
}

fn parse_slct(inst: &ast::Inst) -> Option<(Type, Option<bool>)> {
    let mut modifiers = Modifiers::of(inst);
    let third = modifiers.last();
    let ty = movable(modifiers.last()).filter(|ty| *ty != Type::B128)?;
    let float = match third {
        "s32" => None,
        "f32" => Some(modifiers.flag("ftz")),
        _ => return None,
    };
    modifiers.done()?;
    Some((ty, float))
}
