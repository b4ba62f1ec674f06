//! Logic, shifts, bit fields, permutations and counts.

use super::Alu;
use super::modifiers::{Modifiers, bits_type, number_type};
use super::operands::{register_type, registers, split};
use super::predicate::BoolOp;
use crate::ast::{self, Operand, Type};
use crate::numeric::bits::Permute;
use crate::program::decoder::Decoder;
use crate::program::op::PredSource;
use crate::program::{DecodeError, Pred, Reg};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitsOp {
    And,
    Or,
    Xor,
    Not,
    /// 1 of zero, 0 of all else.
    Cnot,
    Lop3(u8),
    Shl,
    Shr {
        signed: bool,
    },
    Funnel {
        left: bool,
        wrap: bool,
    },
    Permute(Permute),
    /// `prmt` with a constant selector that replicates no sign.
    Bytes(u16),
    Popc,
    Clz,
    Bfind {
        signed: bool,
        shift_amount: bool,
    },
    Fns,
    Brev,
    Bfe {
        signed: bool,
    },
    Bfi,
    Bmsk {
        wrap: bool,
    },
    Szext {
        signed: bool,
        wrap: bool,
    },
}

/// An instruction on values of `bits` bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    pub op: BitsOp,
    pub bits: u32,
    pub dst: Reg,
    pub src: [Reg; 4],
}

/// `lop3` with a predicate: whether the result is not zero, combined with another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lop3Test {
    pub table: u8,
    pub combine: BoolOp,
    pub with: PredSource,
    pub dst: Reg,
    pub pred: Pred,
    pub src: [Reg; 3],
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    if inst.opcode[0] == "lop3" {
        return decode_lop3(decoder, inst);
    }
    let (mut op, bits) = parse(inst).ok_or_else(|| decoder.unknown(inst))?;
    let (value, word) = (register_type(bits), Type::B32);
    let (to, from): (Type, &[Type]) = match op {
        BitsOp::Not | BitsOp::Cnot | BitsOp::Brev => (value, &[value]),
        BitsOp::Popc | BitsOp::Clz | BitsOp::Bfind { .. } => (word, &[value]),
        BitsOp::Shl | BitsOp::Shr { .. } => (value, &[value, word]),
        BitsOp::Bfe { .. } => (value, &[value, word, word]),
        BitsOp::Bfi => (value, &[value, value, word, word]),
        BitsOp::Funnel { .. } | BitsOp::Permute(_) | BitsOp::Fns => (word, &[word; 3]),
        _ => (value, &[value; 2]),
    };
    let (dst, src) = registers(decoder, inst, to, from)?;
    if let (BitsOp::Permute(Permute::Default), Some(Operand::Int(selector))) = (op, inst.operands.last()) {
        let selector = *selector as u16;
        if selector & 0x8888 == 0 {
            op = BitsOp::Bytes(selector);
        }
    }
    Ok(Alu::Bits(Bits { op, bits, dst, src }))
}

fn parse(inst: &ast::Inst) -> Option<(BitsOp, u32)> {
    let mut modifiers = Modifiers::of(inst);
    let name = inst.opcode[0].as_str();
    if name == "prmt" {
        let mode = modifiers.pick(Permute::parse).unwrap_or_default();
        modifiers.pick(|modifier| (modifier == "b32").then_some(()))?;
        modifiers.done()?;
        return Some((BitsOp::Permute(mode), 32));
    }
    let last = modifiers.last();
    let (op, bits) = match name {
        "shr" => {
            let bits = bits_type(last).or_else(|| number_type(last).map(|ty| ty.bits))?;
            let signed = last.starts_with('s');
            (BitsOp::Shr { signed }, bits)
        }
        "bfe" | "bfind" | "szext" => {
            let ty = number_type(last).filter(|ty| ty.bits >= 32)?;
            (typed(&mut modifiers, name, ty.signed)?, ty.bits)
        }
        _ => {
            let bits = bits_type(last)?;
            (untyped(&mut modifiers, name, bits)?, bits)
        }
    };
    modifiers.done()?;
    let only_word = matches!(
        op,
        BitsOp::Funnel { .. } | BitsOp::Fns | BitsOp::Bmsk { .. } | BitsOp::Szext { .. }
    );
    (!only_word || bits == 32).then_some((op, bits))
}

fn typed(modifiers: &mut Modifiers<'_>, name: &str, signed: bool) -> Option<BitsOp> {
    Some(match name {
        "bfe" => BitsOp::Bfe { signed },
        "bfind" => BitsOp::Bfind {
            signed,
            shift_amount: modifiers.flag("shiftamt"),
        },
        _ => BitsOp::Szext {
            signed,
            wrap: wraps(modifiers)?,
        },
    })
}

fn untyped(modifiers: &mut Modifiers<'_>, name: &str, bits: u32) -> Option<BitsOp> {
    Some(match name {
        "and" => BitsOp::And,
        "or" => BitsOp::Or,
        "xor" => BitsOp::Xor,
        "not" => BitsOp::Not,
        "cnot" => BitsOp::Cnot,
        "shl" => BitsOp::Shl,
        "shf" => BitsOp::Funnel {
            left: modifiers.pick(|modifier| match modifier {
                "l" => Some(true),
                "r" => Some(false),
                _ => None,
            })?,
            wrap: wraps(modifiers)?,
        },
        "fns" => BitsOp::Fns,
        "bmsk" => BitsOp::Bmsk {
            wrap: wraps(modifiers)?,
        },
        _ if bits < 32 => return None,
        "popc" => BitsOp::Popc,
        "clz" => BitsOp::Clz,
        "brev" => BitsOp::Brev,
        "bfi" => BitsOp::Bfi,
        _ => return None,
    })
}

fn wraps(modifiers: &mut Modifiers<'_>) -> Option<bool> {
    modifiers.pick(|modifier| match modifier {
        "wrap" => Some(true),
        "clamp" => Some(false),
        _ => None,
    })
}

fn decode_lop3(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let mut modifiers = Modifiers::of(inst);
    let is_word = modifiers.last() == "b32";
    let combine = modifiers.pick(BoolOp::parse);
    if !is_word || combine == Some(BoolOp::Xor) || modifiers.done().is_none() {
        return Err(decoder.unknown(inst));
    }
    let (destination, operands) = split(decoder, inst, if combine.is_some() { 5 } else { 4 })?;
    let table = decoder.int(&operands[3])?;
    let table = u8::try_from(table).map_err(|_| decoder.error(format!("the table {table} has more than 8 bits")))?;
    let mut src = [decoder.source(&operands[0], Type::B32)?; 4];
    for (place, operand) in src.iter_mut().zip(&operands[..3]).skip(1) {
        *place = decoder.source(operand, Type::B32)?;
    }
    let Some(combine) = combine else {
        let (op, bits, dst) = (BitsOp::Lop3(table), 32, decoder.destination(destination, Type::B32)?);
        return Ok(Alu::Bits(Bits { op, bits, dst, src }));
    };
    let Operand::Pair(dst, pred) = destination else {
        return Err(decoder.error("expected a register and a predicate, `d|p`"));
    };
    Ok(Alu::Lop3Test(Lop3Test {
        table,
        combine,
        with: decoder.predicate_source(&operands[4])?,
        dst: decoder.destination(dst, Type::B32)?,
        pred: decoder.predicate_destination(pred)?,
        src: [src[0], src[1], src[2]],
    }))
}
