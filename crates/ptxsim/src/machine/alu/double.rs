//! Arithmetic on f64.

use crate::machine::registers::Registers;
use crate::numeric::compare::MinMax;
use crate::numeric::{Format, Rounding, float};
use crate::program::alu::{Double, DoubleOp};

pub(super) fn execute(inst: &Double, registers: &mut Registers, mask: u32) {
    // One loop with the rounding as a constant, one for the others.
    match inst.rounding {
        Rounding::Nearest => rounded(inst, Rounding::Nearest, registers, mask),
        rounding => rounded(inst, rounding, registers, mask),
    }
}

#[inline(always)]
fn rounded(inst: &Double, rounding: Rounding, registers: &mut Registers, mask: u32) {
    let Double { op, dst, src, .. } = *inst;
    let [a, b, _] = src;
    let two = [a, b];
    let sign = Format::F64.sign_bit();
    let min_max = |max| MinMax {
        max,
        nan: false,
        xorsign_abs: false,
    };
    match op {
        DoubleOp::Add => registers.map2(mask, dst, two, |a, b| float::add_f64(a, b, rounding)),
        DoubleOp::Sub => registers.map2(mask, dst, two, |a, b| float::sub_f64(a, b, rounding)),
        DoubleOp::Mul => registers.map2(mask, dst, two, |a, b| float::mul_f64(a, b, rounding)),
        DoubleOp::Fma => registers.map3(mask, dst, src, |a, b, c| float::fma_f64(a, b, c, rounding)),
        DoubleOp::Div => registers.map2(mask, dst, two, |a, b| float::div_f64(a, b, rounding)),
        DoubleOp::Rcp => registers.map1(mask, dst, a, |a| float::rcp_f64(a, rounding)),
        DoubleOp::Sqrt => registers.map1(mask, dst, a, |a| float::sqrt_f64(a, rounding)),
        DoubleOp::Upper(function) => registers.map1(mask, dst, a, |a: u64| function.f64_upper(a)),
        DoubleOp::Rsqrt => registers.map1(mask, dst, a, |a| float::rcp_f64(float::sqrt_f64(a, rounding), rounding)),
        DoubleOp::Min => registers.map2(mask, dst, two, |a, b| min_max(false).f64(a, b)),
        DoubleOp::Max => registers.map2(mask, dst, two, |a, b| min_max(true).f64(a, b)),
        DoubleOp::Abs => registers.map1(mask, dst, a, |a: u64| a & !sign),
        DoubleOp::Neg => registers.map1(mask, dst, a, |a: u64| a ^ sign),
        DoubleOp::Copysign => registers.map2(mask, dst, two, float::copysign_f64),
    }
}
