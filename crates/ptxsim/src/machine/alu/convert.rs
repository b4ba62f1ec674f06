//! `cvt` and `cvt.pack`.

use crate::machine::registers::Registers;
use crate::numeric::Rounding;
use crate::numeric::cvt::{Conversion, Cvt, Pair, Scalar};
use crate::numeric::float::canonical_f32;
use crate::numeric::half_ops::{HalfFormat, bf16_from_f32, f16_from_f32, f16_value};
use crate::numeric::integer::IntType;
use crate::program::Reg;
use crate::program::alu::{Convert, PackSaturated};

pub(super) fn execute(inst: &Convert, registers: &mut Registers, mask: u32) {
    match inst.conversion {
        Conversion::Scalar(cvt) => match (cvt.from, cvt.to) {
            (Scalar::Int(from), Scalar::Int(to)) if !cvt.sat => resize(inst, from, to, registers, mask),
            _ => scalar(inst, &cvt, registers, mask),
        },
        Conversion::Pack { to, each } if each == plain(each.from, each.to, Rounding::Nearest) => match to {
            Pair::Half(HalfFormat::Bf16) => halves(inst, registers, mask, bf16_from_f32),
            Pair::Half(HalfFormat::F16) => halves(inst, registers, mask, f16_from_f32),
            Pair::Fp8(_) => general(inst, registers, mask),
        },
        _ => general(inst, registers, mask),
    }
}

/// A conversion without modifiers.
const fn plain(from: Scalar, to: Scalar, rounding: Rounding) -> Cvt {
    Cvt {
        to,
        from,
        rounding,
        integral: false,
        ftz: false,
        sat: false,
        relu: false,
        satfinite: false,
    }
}

/// Integers to integers: the low bits extended by both types.
fn resize(inst: &Convert, from: IntType, to: IntType, registers: &mut Registers, mask: u32) {
    let Convert { dst, bits, src, .. } = *inst;
    match (from, to, bits) {
        (IntType::U32, IntType { bits: 64, .. }, 64) => registers.map1(mask, dst, src[0], |a: u32| u64::from(a)),
        (IntType::S32, IntType { bits: 64, .. }, 64) => registers.map1(mask, dst, src[0], |a: u32| a as i32 as u64),
        (IntType { bits: 64, .. }, IntType { bits: 32, .. }, 32) => {
            registers.map1(mask, dst, src[0], |a: u32| a);
        }
        _ => values(inst, registers, mask, |a, _| to.extend(from.extend(a))),
    }
}

fn scalar(inst: &Convert, cvt: &Cvt, registers: &mut Registers, mask: u32) {
    let natural = inst.bits == cvt.to.bits() && *cvt == plain(cvt.from, cvt.to, cvt.rounding);
    if !(natural && frequent(inst, cvt, registers, mask)) {
        values(inst, registers, mask, |a, _| cvt.apply(a));
    }
}

/// The frequent conversions get loops of their own; whether this is one.
fn frequent(inst: &Convert, cvt: &Cvt, registers: &mut Registers, mask: u32) -> bool {
    const S32: Scalar = Scalar::Int(IntType::S32);
    const U32: Scalar = Scalar::Int(IntType::U32);
    let Convert { dst, src: [a, _], .. } = *inst;
    match (cvt.from, cvt.to, cvt.rounding) {
        (Scalar::Bf16, Scalar::F32, _) => {
            registers.map1(mask, dst, a, |a: u32| canonical_f32(f32::from_bits(a << 16)));
        }
        (Scalar::F16, Scalar::F32, _) => registers.map1(mask, dst, a, |a: u32| canonical_f32(f16_value(a as u16))),
        (Scalar::F32, Scalar::Bf16, Rounding::Nearest) => {
            registers.map1(mask, dst, a, |a: u32| bf16_from_f32(f32::from_bits(a)));
        }
        (Scalar::F32, Scalar::F16, Rounding::Nearest) => {
            registers.map1(mask, dst, a, |a: u32| f16_from_f32(f32::from_bits(a)));
        }
        (S32, Scalar::F32, Rounding::Nearest) => registers.map1(mask, dst, a, |a: u32| (a as i32 as f32).to_bits()),
        (U32, Scalar::F32, Rounding::Nearest) => registers.map1(mask, dst, a, |a: u32| (a as f32).to_bits()),
        _ => return false,
    }
    true
}

/// Two f32 to a pair of halves, the first to the high one.
#[inline(always)]
fn halves(inst: &Convert, registers: &mut Registers, mask: u32, narrow: impl Fn(f32) -> u16) {
    if inst.bits == 32 {
        registers.map2(mask, inst.dst, inst.src, |a: u32, b: u32| {
            let [high, low] = [a, b].map(|bits| u32::from(narrow(f32::from_bits(bits))));
            high << 16 | low
        });
    } else {
        general(inst, registers, mask);
    }
}

fn general(inst: &Convert, registers: &mut Registers, mask: u32) {
    values(inst, registers, mask, |a, b| inst.conversion.apply(a, b));
}

/// dst = f(a, b), where f gets the sources' low bits and its result is cut to the destination.
#[inline(always)]
fn values(inst: &Convert, registers: &mut Registers, mask: u32, f: impl Fn(u64, u64) -> u64) {
    let Convert { dst, bits, src, .. } = *inst;
    let wide = inst.conversion.widths().1 == 64;
    match (bits, wide) {
        (64, true) => registers.map2(mask, dst, src, f),
        (64, false) => registers.map2(mask, dst, src, |a: u32, b: u32| f(a.into(), b.into())),
        (32, true) => registers.map2(mask, dst, src, |a, b| f(a, b) as u32),
        (32, false) => registers.map2(mask, dst, src, |a: u32, b: u32| f(a.into(), b.into()) as u32),
        (_, true) => narrow(registers, mask, bits, dst, src, f),
        (_, false) => narrow(registers, mask, bits, dst, src, |a: u32, b: u32| f(a.into(), b.into())),
    }
}

/// To registers of 8 or 16 bits.
#[inline(always)]
fn narrow<T: crate::machine::registers::Word>(
    registers: &mut Registers,
    mask: u32,
    bits: u32,
    dst: Reg,
    src: [Reg; 2],
    f: impl Fn(T, T) -> u64,
) {
    let low = (1u64 << bits) - 1;
    registers.map2(mask, dst, src, |a, b| (f(a, b) & low) as u32);
}

pub(super) fn pack_saturated(inst: &PackSaturated, registers: &mut Registers, mask: u32) {
    let PackSaturated { to, dst, src, above } = *inst;
    let low = (1u64 << to.bits) - 1;
    let clamp = |bits: u32| to.clamp(i128::from(bits as i32)) as u64 & low;
    registers.map3(mask, dst, src, |a, b, c: u32| {
        let pair = clamp(a) << to.bits | clamp(b);
        let rest = if above { u64::from(c) << (2 * to.bits) } else { 0 };
        (rest | pair) as u32
    });
}
