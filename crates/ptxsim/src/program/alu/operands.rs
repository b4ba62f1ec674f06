//! Operands of instructions of the plain form `d, a, b, c`.

use crate::ast::{self, Operand, Type};
use crate::program::decoder::Decoder;
use crate::program::{DecodeError, Reg};

/// The register type of a width.
pub(super) fn register_type(bits: u32) -> Type {
    match bits {
        8 => Type::B8,
        16 => Type::B16,
        32 => Type::B32,
        64 => Type::B64,
        _ => Type::B128,
    }
}

/// The destination and the sources, each of its type. Places past the last source repeat it.
pub(super) fn registers<const N: usize>(
    decoder: &mut Decoder<'_>,
    inst: &ast::Inst,
    to: Type,
    from: &[Type],
) -> Result<(Reg, [Reg; N]), DecodeError> {
    let (destination, operands) = split(decoder, inst, from.len())?;
    let mut src = [decoder.source(&operands[0], from[0])?; N];
    for place in 1..N {
        src[place] = match from.get(place) {
            Some(ty) => decoder.source(&operands[place], *ty)?,
            None => src[place - 1],
        };
    }
    Ok((decoder.destination(destination, to)?, src))
}

/// As `registers`, with `count` sources of the destination's type.
pub(super) fn uniform(
    decoder: &mut Decoder<'_>,
    inst: &ast::Inst,
    count: usize,
    ty: Type,
) -> Result<(Reg, [Reg; 3]), DecodeError> {
    registers(decoder, inst, ty, &[ty; 3][..count])
}

/// The first operand and `sources` further ones.
pub(super) fn split<'i>(
    decoder: &Decoder<'_>,
    inst: &'i ast::Inst,
    sources: usize,
) -> Result<(&'i Operand, &'i [Operand]), DecodeError> {
    match inst.operands.split_first() {
        Some((first, rest)) if rest.len() == sources => Ok((first, rest)),
        _ => {
            let (opcode, expected, found) = (inst.opcode.join("."), sources + 1, inst.operands.len());
            Err(decoder.error(format!("`{opcode}` takes {expected} operands, found {found}")))
        }
    }
}
