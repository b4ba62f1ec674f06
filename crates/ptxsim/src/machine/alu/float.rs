//! Arithmetic on f32, on pairs of them, and on f32 with halves.

use crate::machine::registers::{LANES, Lanes, Registers};
use crate::numeric::Rounding;
use crate::numeric::approx::{self, Approx};
use crate::numeric::compare::MinMax;
use crate::numeric::float::{self, FloatMode};
use crate::numeric::half_ops::HalfFormat;
use crate::program::Reg;
use crate::program::alu::{Float, FloatOp, Mixed};

const PLAIN: FloatMode = FloatMode {
    rounding: Rounding::Nearest,
    ftz: false,
    sat: false,
};
const FLUSH: FloatMode = FloatMode { ftz: true, ..PLAIN };

/// Evaluates the body with the mode as a constant, one loop each, where it is a frequent one.
macro_rules! for_mode {
    ($mode:expr, $name:ident => $body:expr) => {
        if $mode == PLAIN {
            const $name: FloatMode = PLAIN;
            $body
        } else if $mode == FLUSH {
            const $name: FloatMode = FLUSH;
            $body
        } else {
            #[allow(non_snake_case)]
            let $name = $mode;
            $body
        }
    };
}

pub(super) fn execute(inst: &Float, registers: &mut Registers, mask: u32, approx: Approx) {
    let Float { op, mode, dst, src } = *inst;
    let [a, b, c] = src;
    let (two, ftz) = ([a, b], mode.ftz);
    match op {
        FloatOp::Add => for_mode!(mode, M => registers.map2(mask, dst, two, |a, b| float::add_f32(a, b, M))),
        FloatOp::Sub => for_mode!(mode, M => registers.map2(mask, dst, two, |a, b| float::sub_f32(a, b, M))),
        FloatOp::Mul => for_mode!(mode, M => registers.map2(mask, dst, two, |a, b| float::mul_f32(a, b, M))),
        FloatOp::Fma => multiply_add(registers, mask, mode, dst, src),
        FloatOp::Div => for_mode!(mode, M => registers.map2(mask, dst, two, |a, b| float::div_f32(a, b, M))),
        FloatOp::Rcp => for_mode!(mode, M => registers.map1(mask, dst, a, |a| float::rcp_f32(a, M))),
        FloatOp::Sqrt => for_mode!(mode, M => registers.map1(mask, dst, a, |a| float::sqrt_f32(a, M))),
        FloatOp::DivFull => registers.map2(mask, dst, two, |a, b| approx::div_full_f32(a, b, ftz, approx)),
        FloatOp::DivApprox => registers.map2(mask, dst, two, |a, b| approx::div_approx_f32(a, b, ftz, approx)),
        FloatOp::Approx(function) => registers.map1(mask, dst, a, |a| function.f32(a, ftz, approx)),
        FloatOp::MinMax(which) => min_max(registers, mask, which, ftz, dst, two),
        FloatOp::MinMax3 { which, abs } => {
            let input = |bits| if abs { float::abs_f32(bits, false) } else { bits };
            registers.map3(mask, dst, [a, b, c], |a, b, c| {
                which.f32(which.f32(input(a), input(b), ftz), input(c), ftz)
            });
        }
        FloatOp::Abs => registers.map1(mask, dst, a, |a| float::abs_f32(a, ftz)),
        FloatOp::Neg => registers.map1(mask, dst, a, |a| float::neg_f32(a, ftz)),
        FloatOp::Copysign => registers.map2(mask, dst, two, float::copysign_f32),
    }
}

fn multiply_add(registers: &mut Registers, mask: u32, mode: FloatMode, dst: Reg, src: [Reg; 3]) {
    #[cfg(target_arch = "x86_64")]
    if (mode == PLAIN || mode == FLUSH) && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let [a, b, c] = src.map(|reg| registers.lanes(reg));
        // SAFETY: the processor has what the function needs.
        let values = unsafe { fused(a, b, c, mode.ftz) };
        return registers.set(mask, dst, &values);
    }
    for_mode!(mode, M => registers.map3(mask, dst, src, |a, b, c| float::fma_f32(a, b, c, M)));
}

/// As `float::fma_f32` to nearest, by the processor's own instruction, which the compiler does not use unasked.
///
/// A loop and no closure, for code of other functions is not compiled for these features unless it is inlined first.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused(a: &Lanes, b: &Lanes, c: &Lanes, ftz: bool) -> Lanes {
    let mut values = [0; LANES];
    for lane in 0..LANES {
        let (mut a, mut b, mut c) = (a[lane], b[lane], c[lane]);
        if ftz {
            (a, b, c) = (float::flush_f32(a), float::flush_f32(b), float::flush_f32(c));
        }
        let sum = f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c));
        let bits = float::canonical_f32(sum);
        values[lane] = if ftz { float::flush_f32(bits) } else { bits };
    }
    values
}

fn min_max(registers: &mut Registers, mask: u32, which: MinMax, ftz: bool, dst: Reg, src: [Reg; 2]) {
    const MIN: MinMax = MinMax {
        max: false,
        nan: false,
        xorsign_abs: false,
    };
    const MAX: MinMax = MinMax { max: true, ..MIN };
    match (which, ftz) {
        (MIN, false) => registers.map2(mask, dst, src, |a, b| MIN.f32(a, b, false)),
        (MAX, false) => registers.map2(mask, dst, src, |a, b| MAX.f32(a, b, false)),
        _ => registers.map2(mask, dst, src, |a, b| which.f32(a, b, ftz)),
    }
}

/// The same on both words of 64-bit registers.
pub(super) fn execute_x2(inst: &Float, registers: &mut Registers, mask: u32, approx: Approx) {
    for word in 0..2 {
        let half = Float {
            dst: inst.dst.word(word),
            src: inst.src.map(|reg| reg.word(word)),
            ..*inst
        };
        execute(&half, registers, mask, approx);
    }
}

/// Operands that are halves are f32 to begin with.
pub(super) fn mixed(inst: &Mixed, registers: &mut Registers, mask: u32) {
    match inst.format {
        HalfFormat::F16 => of_format(HalfFormat::F16, &inst.float, registers, mask),
        HalfFormat::Bf16 => of_format(HalfFormat::Bf16, &inst.float, registers, mask),
    }
}

#[inline(always)]
fn of_format(format: HalfFormat, inst: &Float, registers: &mut Registers, mask: u32) {
    let Float { op, mode, dst, src } = *inst;
    let two = [src[0], src[1]];
    let wide = |bits: u16| format.value(bits).to_bits();
    match op {
        FloatOp::Add => registers.map2(mask, dst, two, |a, b| float::add_f32(wide(a), b, mode)),
        FloatOp::Sub => registers.map2(mask, dst, two, |a, b| float::sub_f32(wide(a), b, mode)),
        // The only one left.
        _ => registers.map3(mask, dst, src, |a, b, c| float::fma_f32(wide(a), wide(b), c, mode)),
    }
}
