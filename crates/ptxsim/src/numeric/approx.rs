//! The approximate functions of the special-function unit.
//!
//! By default each result is the f64 one rounded to f32, within the errors that the PTX ISA allows. The hardware's own
//! bits are not public; `Approx::Perturb` moves every result by up to two units in the last place instead, so that a kernel
//! that relies on more than the ISA promises shows it.

use super::float::{canonical_f32, flush_f32};
use super::half_ops::HalfFormat;
use super::soft::Format;
use super::{NAN_F32, NAN_F64};

/// How results of approximate functions are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Approx {
    /// The nearest f32 to the f64 result.
    #[default]
    Rounded,
    /// That moved by -2 to 2 units in the last place, as a function of this seed, the function and the input.
    Perturb(u64),
}

/// Functions of one f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// 2^x.
    Ex2,
    /// log2 x.
    Lg2,
    /// 1 / x.
    Rcp,
    /// 1 / √x.
    Rsqrt,
    /// √x.
    Sqrt,
    /// sin x.
    Sin,
    /// cos x.
    Cos,
    /// tanh x.
    Tanh,
}

impl Function {
    /// Reads an instruction's name.
    pub fn parse(name: &str) -> Option<Function> {
        Some(match name {
            "ex2" => Function::Ex2,
            "lg2" => Function::Lg2,
            "rcp" => Function::Rcp,
            "rsqrt" => Function::Rsqrt,
            "sqrt" => Function::Sqrt,
            "sin" => Function::Sin,
            "cos" => Function::Cos,
            "tanh" => Function::Tanh,
            _ => return None,
        })
    }

    #[inline]
    fn exact(self, x: f64) -> f64 {
        match self {
            Function::Ex2 => x.exp2(),
            Function::Lg2 => x.log2(),
            Function::Rcp => 1.0 / x,
            Function::Rsqrt => 1.0 / x.sqrt(),
            Function::Sqrt => x.sqrt(),
            Function::Sin => x.sin(),
            Function::Cos => x.cos(),
            Function::Tanh => x.tanh(),
        }
    }

    /// Largest magnitude of a result, which a perturbed one keeps to.
    fn bound(self) -> u32 {
        match self {
            Function::Sin | Function::Cos | Function::Tanh => 0x3f80_0000,
            _ => 0x7f7f_ffff,
        }
    }

    /// The function of an f32.
    #[inline]
    pub fn f32(self, x: u32, ftz: bool, approx: Approx) -> u32 {
        let input = if ftz { flush_f32(x) } else { x };
        let rounded = canonical_f32(self.exact(f64::from(f32::from_bits(input))) as f32);
        let flushed = if ftz { flush_f32(rounded) } else { rounded };
        approx.perturb(flushed, self as u64, u64::from(input), self.bound())
    }

    /// The function of an f16 or bf16 (`ex2` and `tanh` have these), correctly rounded.
    pub fn half(self, format: HalfFormat, x: u16, ftz: bool) -> u16 {
        let flush = |bits: u16| {
            if ftz && format.format().is_subnormal(u64::from(bits)) {
                bits & 0x8000
            } else {
                bits
            }
        };
        flush(format.round(self.exact(f64::from(format.value(flush(x))))))
    }

    /// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: the upper 32 bits of the result, the rest zero.
    pub fn f64_upper(self, x: u64) -> u64 {
        let flush = |bits: u64| {
            if Format::F64.is_subnormal(bits) {
                bits & Format::F64.sign_bit()
            } else {
                bits
            }
        };
        let result = self.exact(f64::from_bits(flush(x)));
        if result.is_nan() {
            NAN_F64
        } else {
            flush(result.to_bits()) & !0xffff_ffff
        }
    }
}

/// `div.approx.f32`. Past 2^126 the divisor's reciprocal underflows: the quotient is zero, of an infinity NaN.
pub fn div_approx_f32(a: u32, b: u32, ftz: bool, approx: Approx) -> u32 {
    let magnitude = b & 0x7fff_ffff;
    if (0x7e80_0001..0x7f80_0000).contains(&magnitude) {
        return match a & 0x7fff_ffff {
            0x7f80_0000.. => NAN_F32,
            _ => (a ^ b) & 0x8000_0000,
        };
    }
    div_full_f32(a, b, ftz, approx)
}

/// `div.full.f32`.
pub fn div_full_f32(a: u32, b: u32, ftz: bool, approx: Approx) -> u32 {
    let flush = |bits| if ftz { flush_f32(bits) } else { bits };
    let (a, b) = (flush(a), flush(b));
    let rounded = flush(canonical_f32(f32::from_bits(a) / f32::from_bits(b)));
    approx.perturb(rounded, u64::MAX, u64::from(a) << 32 | u64::from(b), 0x7f7f_ffff)
}

impl Approx {
    /// Moves a normal result; zeros, subnormals, infinities and NaN stay.
    #[inline]
    fn perturb(self, bits: u32, function: u64, input: u64, bound: u32) -> u32 {
        let Approx::Perturb(seed) = self else { return bits };
        let magnitude = bits & 0x7fff_ffff;
        if !(0x0080_0000..0x7f80_0000).contains(&magnitude) {
            return bits;
        }
        let steps = (mix(mix(seed ^ function).wrapping_add(input)) % 5) as u32;
        let moved = (magnitude + steps).saturating_sub(2).clamp(0x0080_0000, bound);
        (bits & 0x8000_0000) | moved
    }
}

/// Scrambles a word: multiplications by odd constants and shifts, each a bijection.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let value = (value ^ value >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ value >> 32
}
