//! `cvt`, `cvt.pack` and `cvta`.

use super::Alu;
use super::integer::{Integer, IntegerOp};
use super::modifiers::Modifiers;
use super::moves::{copy, frame_offset};
use super::operands::{register_type, split};
use crate::ast::{self, Type};
use crate::machine::address::{LOCAL, PARAM, SHARED};
use crate::numeric::cvt::Conversion;
use crate::numeric::integer::IntType;
use crate::program::decoder::Decoder;
use crate::program::op::Op;
use crate::program::scope::words;
use crate::program::{DecodeError, Reg};

/// `cvt`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convert {
    pub conversion: Conversion,
    pub dst: Reg,
    /// The destination's own width, to which the result is extended.
    pub bits: u32,
    pub src: [Reg; 2],
}

/// `cvt.pack.sat`: a and b clamped to a narrow type, side by side, above them the low bits of c.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackSaturated {
    pub to: IntType,
    pub dst: Reg,
    pub src: [Reg; 3],
    /// Whether there is a c.
    pub above: bool,
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    if inst.opcode.get(1).is_some_and(|modifier| modifier == "pack") {
        return decode_pack(decoder, inst);
    }
    let conversion = Conversion::parse(&inst.opcode).map_err(|_| decoder.unknown(inst))?;
    let (to, from) = conversion.widths();
    let (destination, operands) = split(decoder, inst, conversion.sources())?;
    let from = register_type(from);
    let a = decoder.wide_source(&operands[0], from)?.0;
    let b = match operands.get(1) {
        Some(operand) => decoder.wide_source(operand, from)?.0,
        None => a,
    };
    let (dst, found) = decoder.wide_destination(destination, register_type(to))?;
    let bits = 8 * found.bytes();
    if bits > 64 {
        return Err(decoder.error("a conversion's result has at most 64 bits"));
    }
    Ok(Alu::Convert(Convert {
        conversion,
        dst,
        bits,
        src: [a, b],
    }))
}

fn decode_pack(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (to, above) = parse_pack(inst).ok_or_else(|| decoder.unknown(inst))?;
    let from: &[Type] = if above { &[Type::B32; 3] } else { &[Type::B32; 2] };
    let (dst, src) = super::operands::registers(decoder, inst, Type::B32, from)?;
    Ok(Alu::PackSaturated(PackSaturated { to, dst, src, above }))
}

/// `cvt.pack.sat.TO.s32` and `cvt.pack.sat.TO.s32.b32`.
fn parse_pack(inst: &ast::Inst) -> Option<(IntType, bool)> {
    let mut modifiers = Modifiers::of(inst);
    let mut last = modifiers.last();
    let above = last == "b32";
    if above {
        last = modifiers.last();
    }
    let to = modifiers.last();
    let known = last == "s32" && modifiers.flag("pack") && modifiers.flag("sat");
    modifiers.done().filter(|()| known)?;
    let bits = match (to.get(1..)?, above) {
        ("16", false) => 16,
        ("8", true) => 8,
        ("4", true) => 4,
        ("2", true) => 2,
        _ => return None,
    };
    let signed = match &to[..1] {
        "s" => true,
        "u" => false,
        _ => return None,
    };
    Some((IntType { bits, signed }, above))
}

/// `cvta` adds where a space begins, `cvta.to` takes it off.
pub(super) fn decode_address(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Op, DecodeError> {
    let (base, ty) = parse_address(inst).ok_or_else(|| decoder.unknown(inst))?;
    let [destination, source] = decoder.operands(inst)?;
    let src = match frame_offset(decoder, source) {
        Some(offset) => {
            let (dst, words) = (decoder.new_slots(words(ty))?, words(ty));
            // A slot of its own: it may be written whatever guards this instruction.
            decoder.push(Op::FrameAddress { dst, words, offset }, None)?;
            dst
        }
        None => decoder.source(source, ty)?,
    };
    let dst = decoder.destination(destination, ty)?;
    // The spaces begin at multiples of 2^32, so 32-bit addresses are the same in all.
    Ok(Op::Alu(if base == 0 || ty == Type::U32 {
        copy(dst, src, words(ty))
    } else {
        let base = decoder.constant(base, 2)?;
        Alu::Integer(Integer {
            op: IntegerOp::Add,
            ty: IntType {
                bits: 64,
                signed: false,
            },
            dst,
            src: [src, base, base],
        })
    }))
}

fn parse_address(inst: &ast::Inst) -> Option<(u64, Type)> {
    let mut modifiers = Modifiers::of(inst);
    let ty = match modifiers.last() {
        "u64" => Type::U64,
        "u32" => Type::U32,
        _ => return None,
    };
    let base = match modifiers.last() {
        "shared" | "shared::cta" | "shared::cluster" => SHARED,
        "local" => LOCAL,
        "param" | "param::entry" => PARAM,
        "global" | "const" => 0,
        _ => return None,
    };
    let to = modifiers.flag("to");
    modifiers.done()?;
    Some((if to { base.wrapping_neg() } else { base }, ty))
}
