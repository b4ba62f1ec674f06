//! f16 and bf16 arithmetic, one value or two in a word, with one rounding each.

use super::NAN_HALF;
use super::compare::{Compare, MinMax};
use super::soft::Format;

/// Which 16-bit format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HalfFormat {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

/// Modifiers of half-precision arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfMode {
    /// `.ftz`: subnormal inputs and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes +0.
    pub sat: bool,
    /// `.relu`: negative results become +0, NaN becomes the canonical NaN.
    pub relu: bool,
}

/// An f16's value. Without branches, so that a loop over lanes vectorises.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let shifted = (bits & 0x7fff) << 13;
    let normal = shifted + (112 << 23);
    let subnormal = (f32::from_bits(shifted + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let magnitude = match bits & 0x7c00 {
        0 => subnormal,
        0x7c00 => shifted | 0x7f80_0000,
        _ => normal,
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// An f32 rounded to nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = if magnitude > 0x7f80_0000 {
        return NAN_HALF;
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Between 1/2 and 1 an f32's last bit weighs as much as a subnormal f16's.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    (rounded | bits >> 16 & 0x8000) as u16
}

/// An f32 rounded to nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        NAN_HALF
    } else {
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    }
}

impl HalfFormat {
    /// The format's layout.
    pub fn format(self) -> Format {
        match self {
            HalfFormat::F16 => Format::F16,
            HalfFormat::Bf16 => Format::BF16,
        }
    }

    /// The value, exactly.
    #[inline]
    pub fn value(self, bits: u16) -> f32 {
        match self {
            HalfFormat::F16 => f16_value(bits),
            HalfFormat::Bf16 => f32::from_bits(u32::from(bits) << 16),
        }
    }

    /// An f32 rounded to nearest even.
    #[inline(always)]
    pub fn narrow(self, value: f32) -> u16 {
        match self {
            HalfFormat::F16 => f16_from_f32(value),
            HalfFormat::Bf16 => bf16_from_f32(value),
        }
    }

    /// An f64 rounded to nearest even.
    #[inline(always)]
    pub fn round(self, value: f64) -> u16 {
        self.narrow(to_odd_f32(value))
    }

    /// The pattern of 1.
    pub fn one(self) -> u16 {
        match self {
            HalfFormat::F16 => 0x3c00,
            HalfFormat::Bf16 => 0x3f80,
        }
    }

    fn infinity(self) -> u16 {
        self.format().infinity() as u16
    }

    /// Whether the pattern is a NaN.
    pub fn is_nan(self, bits: u16) -> bool {
        bits & 0x7fff > self.infinity()
    }

    fn flush(self, bits: u16, ftz: bool) -> u16 {
        if ftz && self.format().is_subnormal(u64::from(bits)) {
            bits & 0x8000
        } else {
            bits
        }
    }

    fn finish(self, bits: u16, mode: HalfMode) -> u16 {
        let bits = self.flush(bits, mode.ftz);
        if self.is_nan(bits) {
            return if mode.sat { 0 } else { NAN_HALF };
        }
        if (mode.sat || mode.relu) && bits & 0x8000 != 0 {
            return 0;
        }
        if mode.sat { bits.min(self.one()) } else { bits }
    }

    /// a + b.
    pub fn add(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.fma(a, self.one(), b, mode)
    }

    /// a - b.
    pub fn sub(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.fma(b, self.one() | 0x8000, a, mode)
    }

    /// a · b.
    pub fn mul(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        let (a, b) = (self.flush(a, mode.ftz), self.flush(b, mode.ftz));
        self.finish(self.round(f64::from(self.value(a)) * f64::from(self.value(b))), mode)
    }

    /// a · b + c, rounded once.
    pub fn fma(self, a: u16, b: u16, c: u16, mode: HalfMode) -> u16 {
        let [a, b, c] = [a, b, c].map(|bits| f64::from(self.value(self.flush(bits, mode.ftz))));
        self.finish(self.round(add_to_odd(a * b, c)), mode)
    }

    /// The smaller or the larger of two.
    pub fn min_max(self, which: MinMax, a: u16, b: u16, ftz: bool) -> u16 {
        let (a, b) = (self.flush(a, ftz), self.flush(b, ftz));
        which.select(self.format(), u64::from(a), u64::from(b), u64::from(NAN_HALF)) as u16
    }

    /// -a; a NaN becomes a NaN.
    pub fn neg(self, a: u16, ftz: bool) -> u16 {
        self.flush(a ^ 0x8000, ftz)
    }

    /// |a|.
    pub fn abs(self, a: u16, ftz: bool) -> u16 {
        self.flush(a & 0x7fff, ftz)
    }

    /// Whether the relation holds.
    pub fn compare(self, relation: Compare, a: u16, b: u16, ftz: bool) -> bool {
        relation.holds(self.value(self.flush(a, ftz)), self.value(self.flush(b, ftz)))
    }

    /// `set` with a floating-point result: 1 or 0 in each half.
    pub fn set_x2(self, relation: Compare, a: u32, b: u32, ftz: bool) -> u32 {
        map2(a, b, |a, b| {
            if self.compare(relation, a, b, ftz) {
                self.one()
            } else {
                0
            }
        })
    }
}

/// A sum whose last bit is odd where it is inexact, so that rounding it again to half the precision or less is right.
/// `product` and `c` must be exact.
#[inline(always)]
pub(crate) fn add_to_odd(product: f64, c: f64) -> f64 {
    let sum = product + c;
    let virtual_c = sum - product;
    let error = (product - (sum - virtual_c)) + (c - virtual_c);
    if error == 0.0 || error.is_nan() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // The exact value lies strictly between two neighbours, of which `sum` is the even one.
    let outward = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if outward { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// An f64 rounded to an f32 whose last bit is odd where it is inexact.
#[inline(always)]
fn to_odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    let (bits, back) = (nearest.to_bits(), f64::from(nearest));
    if back == value || value.is_nan() || bits & 1 == 1 {
        return nearest;
    }
    f32::from_bits(if value.abs() > back.abs() { bits + 1 } else { bits - 1 })
}

/// Applies a function to the low and the high half of a word.
#[inline]
pub fn map1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}

/// As `map1`, of two words.
#[inline]
pub fn map2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// As `map1`, of three words.
#[inline]
pub fn map3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    u32::from(f(a as u16, b as u16, c as u16)) | u32::from(high) << 16
}
