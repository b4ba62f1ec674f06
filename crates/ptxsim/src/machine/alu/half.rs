//! Arithmetic on f16 and bf16, single or in pairs.

use crate::machine::registers::Registers;
use crate::numeric::half_ops::{self, HalfFormat, HalfMode};
use crate::program::alu::{Half, HalfOp};

pub(super) fn execute(inst: &Half, registers: &mut Registers, mask: u32) {
    let plain = HalfMode::default();
    match (inst.format, inst.mode == plain) {
        (HalfFormat::F16, true) => of_mode(inst, HalfFormat::F16, HalfMode::default(), registers, mask),
        (HalfFormat::Bf16, true) => of_mode(inst, HalfFormat::Bf16, HalfMode::default(), registers, mask),
        (format, false) => of_mode(inst, format, inst.mode, registers, mask),
    }
}

#[inline(always)]
fn of_mode(inst: &Half, format: HalfFormat, mode: HalfMode, registers: &mut Registers, mask: u32) {
    match inst.op {
        HalfOp::Add => binary(inst, registers, mask, |a, b| format.add(a, b, mode)),
        HalfOp::Sub => binary(inst, registers, mask, |a, b| format.sub(a, b, mode)),
        HalfOp::Mul => binary(inst, registers, mask, |a, b| format.mul(a, b, mode)),
        HalfOp::Fma => ternary(inst, registers, mask, |a, b, c| format.fma(a, b, c, mode)),
        HalfOp::MinMax(which) => binary(inst, registers, mask, |a, b| format.min_max(which, a, b, mode.ftz)),
        HalfOp::Abs => unary(inst, registers, mask, |a| format.abs(a, mode.ftz)),
        HalfOp::Neg => unary(inst, registers, mask, |a| format.neg(a, mode.ftz)),
        HalfOp::Approx(function) => unary(inst, registers, mask, |a| function.half(format, a, mode.ftz)),
    }
}

#[inline(always)]
fn unary(inst: &Half, registers: &mut Registers, mask: u32, f: impl Fn(u16) -> u16) {
    let [a, _, _] = inst.src;
    if inst.packed {
        registers.map1(mask, inst.dst, a, |a| half_ops::map1(a, &f));
    } else {
        registers.map1(mask, inst.dst, a, f);
    }
}

#[inline(always)]
fn binary(inst: &Half, registers: &mut Registers, mask: u32, f: impl Fn(u16, u16) -> u16) {
    let [a, b, _] = inst.src;
    if inst.packed {
        registers.map2(mask, inst.dst, [a, b], |a, b| half_ops::map2(a, b, &f));
    } else {
        registers.map2(mask, inst.dst, [a, b], f);
    }
}

#[inline(always)]
fn ternary(inst: &Half, registers: &mut Registers, mask: u32, f: impl Fn(u16, u16, u16) -> u16) {
    if inst.packed {
        registers.map3(mask, inst.dst, inst.src, |a, b, c| half_ops::map3(a, b, c, &f));
    } else {
        registers.map3(mask, inst.dst, inst.src, f);
    }
}
