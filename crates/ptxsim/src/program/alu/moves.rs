//! `mov`: of registers, constants, addresses, and of several registers to one and back.

use super::Alu;
use super::operands::register_type;
use crate::ast::{self, Operand, Type};
use crate::program::decoder::Decoder;
use crate::program::op::{Op, Space};
use crate::program::scope::words;
use crate::program::{DecodeError, Reg};

/// A register to another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub words: u32,
    pub dst: Reg,
    pub src: Reg,
}

/// Several registers to one, the first to the lowest bits.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub dst: Reg,
    /// Bits of each element.
    pub bits: u32,
    pub elements: Box<[Reg]>,
}

/// One register to several.
#[derive(Clone, Debug)]
pub(crate) struct Unpack {
    pub src: Reg,
    /// Bits of each element.
    pub bits: u32,
    /// `None` drops it.
    pub elements: Box<[Option<Reg>]>,
}

/// The types of `mov` and `selp`.
pub(super) fn movable(modifier: &str) -> Option<Type> {
    let ty: Type = modifier.parse().ok()?;
    let number = matches!(
        ty,
        Type::U16 | Type::U32 | Type::U64 | Type::S16 | Type::S32 | Type::S64 | Type::F32 | Type::F64
    );
    (number || matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128)).then_some(ty)
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Op, DecodeError> {
    let ty = match inst.opcode.as_slice() {
        [_, ty] => movable(ty),
        _ => None,
    };
    let ty = ty.ok_or_else(|| decoder.unknown(inst))?;
    let [destination, source] = decoder.operands(inst)?;
    match (destination, source) {
        (Operand::Vector(elements), source) => unpack(decoder, elements, source, ty),
        (destination, Operand::Vector(elements)) => pack(decoder, destination, elements, ty),
        (destination, Operand::Register(name)) if is_clock(name) => Ok(Op::Clock {
            dst: decoder.destination(destination, ty)?,
            words: words(ty),
        }),
        (destination, Operand::Register(name)) if name == "%gridid" && ty.bytes() == 8 => {
            let elements = Box::new([decoder.source(source, Type::B32)?, decoder.constant(0, 1)?]);
            let (dst, bits) = (decoder.destination(destination, ty)?, 32);
            Ok(Op::Alu(Alu::Pack(Pack { dst, bits, elements })))
        }
        (destination, source) => {
            let dst = decoder.destination(destination, ty)?;
            if let Some(offset) = frame_offset(decoder, source) {
                let words = words(ty);
                return Ok(Op::FrameAddress { dst, words, offset });
            }
            Ok(Op::Alu(copy(dst, decoder.source(source, ty)?, words(ty))))
        }
    }
}

/// A move of whole slots.
pub(super) fn copy(dst: Reg, src: Reg, words: u32) -> Alu {
    Alu::Move(Move { words, dst, src })
}

/// Registers that differ at each read.
fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi"
    )
}

/// Where in the frame a symbol's variable lies; `None` of what lies elsewhere.
pub(super) fn frame_offset(decoder: &Decoder<'_>, operand: &Operand) -> Option<u32> {
    let (name, offset) = match operand {
        Operand::Symbol(name) => (name, 0),
        Operand::SymbolOffset { name, offset } => (name, *offset),
        _ => return None,
    };
    let variable = decoder
        .variable(name)
        .filter(|variable| variable.space == Space::Local)?;
    Some(variable.address.wrapping_add_signed(offset) as u32)
}

fn element_type(decoder: &Decoder<'_>, ty: Type, count: usize) -> Result<Type, DecodeError> {
    let bits = 8 * ty.bytes();
    if !matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128) || !matches!(count, 2 | 4) {
        return Err(decoder.error(format!("`mov.{ty}` of {count} registers is not implemented")));
    }
    Ok(register_type(bits / count as u32))
}

fn pack(decoder: &mut Decoder<'_>, destination: &Operand, elements: &[Operand], ty: Type) -> Result<Op, DecodeError> {
    let element = element_type(decoder, ty, elements.len())?;
    let source = |operand| match element {
        // Bytes may lie in wider registers.
        Type::B8 => Ok(decoder.wide_source(operand, element)?.0),
        _ => decoder.source(operand, element),
    };
    let elements = elements.iter().map(source).collect::<Result<Box<[_]>, _>>()?;
    Ok(Op::Alu(Alu::Pack(Pack {
        dst: decoder.destination(destination, ty)?,
        bits: 8 * element.bytes(),
        elements,
    })))
}

fn unpack(decoder: &mut Decoder<'_>, elements: &[Operand], source: &Operand, ty: Type) -> Result<Op, DecodeError> {
    let element = element_type(decoder, ty, elements.len())?;
    let destination = |operand: &Operand| match (operand, element) {
        (Operand::Sink, _) => Ok(None),
        (_, Type::B8) => Ok(Some(decoder.wide_destination(operand, element)?.0)),
        _ => Ok(Some(decoder.destination(operand, element)?)),
    };
    let elements = elements.iter().map(destination).collect::<Result<Box<[_]>, _>>()?;
    Ok(Op::Alu(Alu::Unpack(Unpack {
        src: decoder.source(source, ty)?,
        bits: 8 * element.bytes(),
        elements,
    })))
}
