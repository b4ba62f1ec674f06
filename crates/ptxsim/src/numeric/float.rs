//! f32 and f64 arithmetic: add, sub, mul, fma, div, sqrt, rcp with every rounding mode, `.ftz` and `.sat`.
//!
//! Round-to-nearest uses the host's operations, which IEEE 754 defines to the bit; the other modes are computed with integers.

use super::soft::{self, Format, Rounding};
use super::{NAN_F32, NAN_F64};

/// Modifiers of an f32 operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloatMode {
    /// Rounding; `.rn` where the instruction says nothing.
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes +0.
    pub sat: bool,
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub fn flush_f32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// Clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub fn saturate_f32(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// Clamps to [0, 1]; NaN becomes +0.
pub fn saturate_f64(bits: u64) -> u64 {
    let value = f64::from_bits(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// A NaN of any payload becomes the canonical one.
///
/// The bits are looked at as an integer on purpose: optimisers take `isnan(y) ? NaN : y` for y, payload or not, where y is a
/// square root.
#[inline(always)]
pub fn canonical_f32(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN_F32
    } else {
        bits
    }
}

impl FloatMode {
    #[inline(always)]
    fn input(self, bits: u32) -> u32 {
        if self.ftz { flush_f32(bits) } else { bits }
    }

    #[inline(always)]
    fn output(self, bits: u32) -> u32 {
        let bits = if self.ftz { flush_f32(bits) } else { bits };
        if self.sat { saturate_f32(bits) } else { bits }
    }

    #[inline(always)]
    fn unary(self, a: u32, nearest: impl Fn(f32) -> f32, exact: impl Fn(u64) -> u64) -> u32 {
        let a = self.input(a);
        self.output(match self.rounding {
            Rounding::Nearest => canonical_f32(nearest(f32::from_bits(a))),
            _ => exact(u64::from(a)) as u32,
        })
    }

    #[inline(always)]
    fn binary(self, a: u32, b: u32, nearest: impl Fn(f32, f32) -> f32, exact: impl Fn(u64, u64) -> u64) -> u32 {
        let (a, b) = (self.input(a), self.input(b));
        self.output(match self.rounding {
            Rounding::Nearest => canonical_f32(nearest(f32::from_bits(a), f32::from_bits(b))),
            _ => exact(u64::from(a), u64::from(b)) as u32,
        })
    }
}

/// a + b.
#[inline]
pub fn add_f32(a: u32, b: u32, mode: FloatMode) -> u32 {
    mode.binary(a, b, |a, b| a + b, |a, b| soft::add(Format::F32, mode.rounding, a, b))
}

/// a - b.
#[inline]
pub fn sub_f32(a: u32, b: u32, mode: FloatMode) -> u32 {
    add_f32(a, b ^ 0x8000_0000, mode)
}

/// a · b.
#[inline]
pub fn mul_f32(a: u32, b: u32, mode: FloatMode) -> u32 {
    mode.binary(a, b, |a, b| a * b, |a, b| soft::mul(Format::F32, mode.rounding, a, b))
}

/// a · b + c, rounded once.
#[inline]
pub fn fma_f32(a: u32, b: u32, c: u32, mode: FloatMode) -> u32 {
    let [a, b, c] = [a, b, c].map(|bits| mode.input(bits));
    mode.output(match mode.rounding {
        Rounding::Nearest => canonical_f32(fused(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c))),
        rounding => soft::fma(Format::F32, rounding, u64::from(a), u64::from(b), u64::from(c)) as u32,
    })
}

/// a / b.
#[inline]
pub fn div_f32(a: u32, b: u32, mode: FloatMode) -> u32 {
    mode.binary(a, b, |a, b| a / b, |a, b| soft::div(Format::F32, mode.rounding, a, b))
}

/// 1 / a.
#[inline]
pub fn rcp_f32(a: u32, mode: FloatMode) -> u32 {
    div_f32(1f32.to_bits(), a, mode)
}

/// √a.
#[inline]
pub fn sqrt_f32(a: u32, mode: FloatMode) -> u32 {
    mode.unary(a, f32::sqrt, |a| soft::sqrt(Format::F32, mode.rounding, a))
}

/// -a; the sign of a NaN changes too.
#[inline]
pub fn neg_f32(a: u32, ftz: bool) -> u32 {
    if ftz {
        flush_f32(a ^ 0x8000_0000)
    } else {
        a ^ 0x8000_0000
    }
}

/// |a|.
#[inline]
pub fn abs_f32(a: u32, ftz: bool) -> u32 {
    if ftz {
        flush_f32(a & 0x7fff_ffff)
    } else {
        a & 0x7fff_ffff
    }
}

/// `copysign d, a, b`: b with a's sign.
#[inline]
pub fn copysign_f32(a: u32, b: u32) -> u32 {
    (a & 0x8000_0000) | (b & 0x7fff_ffff)
}

/// `copysign d, a, b`: b with a's sign.
#[inline]
pub fn copysign_f64(a: u64, b: u64) -> u64 {
    (a & Format::F64.sign_bit()) | (b & !Format::F64.sign_bit())
}

/// A correctly rounded f32 fma from f64 operations: the product is exact there, and a sum rounded to odd can be rounded
/// again. A host without fused operations would take a library call a hundred times slower.
#[inline]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_feature = "fma") {
        return a.mul_add(b, c);
    }
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    super::half_ops::add_to_odd(product, c) as f32
}

/// The first NaN among the operands, made quiet, else the result; an invalid operation's NaN is the default one.
#[inline]
fn finish_f64(operands: &[u64], result: u64) -> u64 {
    match operands.iter().find(|bits| Format::F64.is_nan(**bits)) {
        Some(nan) => nan | 1 << 51,
        None if Format::F64.is_nan(result) => NAN_F64,
        None => result,
    }
}

/// a + b.
#[inline]
pub fn add_f64(a: u64, b: u64, rounding: Rounding) -> u64 {
    let result = match rounding {
        Rounding::Nearest => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        _ => soft::add(Format::F64, rounding, a, b),
    };
    finish_f64(&[a, b], result)
}

/// a - b.
#[inline]
pub fn sub_f64(a: u64, b: u64, rounding: Rounding) -> u64 {
    if Format::F64.is_nan(b) {
        return finish_f64(&[a, b], b);
    }
    add_f64(a, b ^ Format::F64.sign_bit(), rounding)
}

/// a · b.
#[inline]
pub fn mul_f64(a: u64, b: u64, rounding: Rounding) -> u64 {
    let result = match rounding {
        Rounding::Nearest => (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        _ => soft::mul(Format::F64, rounding, a, b),
    };
    finish_f64(&[a, b], result)
}

/// a · b + c, rounded once.
#[inline]
pub fn fma_f64(a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let result = match rounding {
        Rounding::Nearest => f64::from_bits(a)
            .mul_add(f64::from_bits(b), f64::from_bits(c))
            .to_bits(),
        _ => soft::fma(Format::F64, rounding, a, b, c),
    };
    finish_f64(&[a, b, c], result)
}

/// a / b.
#[inline]
pub fn div_f64(a: u64, b: u64, rounding: Rounding) -> u64 {
    let result = match rounding {
        Rounding::Nearest => (f64::from_bits(a) / f64::from_bits(b)).to_bits(),
        _ => soft::div(Format::F64, rounding, a, b),
    };
    finish_f64(&[a, b], result)
}

/// 1 / a.
#[inline]
pub fn rcp_f64(a: u64, rounding: Rounding) -> u64 {
    div_f64(1f64.to_bits(), a, rounding)
}

/// √a.
#[inline]
pub fn sqrt_f64(a: u64, rounding: Rounding) -> u64 {
    let result = match rounding {
        Rounding::Nearest => f64::from_bits(a).sqrt().to_bits(),
        _ => soft::sqrt(Format::F64, rounding, a),
    };
    finish_f64(&[a], result)
}
