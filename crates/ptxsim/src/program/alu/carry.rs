//! Arithmetic with a carry: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.

use super::Alu;
use super::modifiers::{Modifiers, number_type};
use super::operands::{register_type, uniform};
use crate::ast;
use crate::numeric::integer::{IntType, Part};
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Pred, Reg};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    Mad(Part),
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    pub op: CarryOp,
    pub ty: IntType,
    pub dst: Reg,
    pub src: [Reg; 3],
    /// The flag, a borrow for differences.
    pub carry: Pred,
    /// Whether the flag is added.
    pub reads: bool,
    /// Whether it is set.
    pub writes: bool,
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (op, ty, reads, writes) = parse(inst).ok_or_else(|| decoder.unknown(inst))?;
    let count = if matches!(op, CarryOp::Mad(_)) { 3 } else { 2 };
    let (dst, src) = uniform(decoder, inst, count, register_type(ty.bits))?;
    Ok(Alu::Carry(Carry {
        op,
        ty,
        dst,
        src,
        carry: decoder.carry()?,
        reads,
        writes,
    }))
}

fn parse(inst: &ast::Inst) -> Option<(CarryOp, IntType, bool, bool)> {
    let mut modifiers = Modifiers::of(inst);
    let ty = number_type(modifiers.last()).filter(|ty| ty.bits >= 32)?;
    let writes = modifiers.flag("cc");
    let name = inst.opcode[0].as_str();
    let op = match name {
        "add" | "addc" => CarryOp::Add,
        "sub" | "subc" => CarryOp::Sub,
        _ => CarryOp::Mad(modifiers.part().filter(|part| *part != Part::Wide)?),
    };
    modifiers.done()?;
    Some((op, ty, name.ends_with('c'), writes))
}
