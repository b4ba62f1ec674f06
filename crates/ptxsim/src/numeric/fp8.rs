//! The two 8-bit formats of the OCP FP8 specification: E4M3 (no infinities, one NaN pattern) and E5M2 (IEEE-like).

use super::half_ops::f16_value;
use super::soft::{self, Format, Rounding, Value};

/// The layout of E5M2.
pub(crate) const E5M2: Format = Format {
    fraction: 2,
    exponent: 5,
};
/// The layout of E4M3; its largest exponent is an ordinary one but for the pattern 0x7f, which is the NaN.
pub(crate) const E4M3: Format = Format {
    fraction: 3,
    exponent: 4,
};
/// The NaN that conversions to either format produce.
const NAN: u8 = 0x7f;

/// An 8-bit format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// Four exponent and three fraction bits, up to ±448.
    E4m3,
    /// Five exponent and two fraction bits, up to ±57344.
    E5m2,
}

impl Fp8 {
    fn layout(self) -> (Format, u64) {
        match self {
            Fp8::E4m3 => (E4M3, 0x7e),
            Fp8::E5m2 => (E5M2, E5M2.max_finite()),
        }
    }

    /// The value as f32, exactly.
    pub fn value(self, bits: u8) -> f32 {
        match self {
            // The upper half of an f16.
            Fp8::E5m2 => f16_value(u16::from(bits) << 8),
            Fp8::E4m3 if bits & 0x7f == NAN => f32::from_bits(super::NAN_F32),
            Fp8::E4m3 => {
                let (negative, magnitude, exponent) = soft::unpack_finite(E4M3, u64::from(bits));
                let value = magnitude as f32 * f32::from_bits(((exponent + 127) as u32) << 23);
                if negative { -value } else { value }
            }
        }
    }

    /// An f32 rounded to nearest even as `.satfinite` does it: what is too large, infinities too, becomes the largest finite
    /// value, NaN becomes 0x7f. With `relu`, what is negative becomes zero.
    pub fn from_f32(self, bits: u32, relu: bool) -> u8 {
        let (format, largest) = self.layout();
        let negative = bits >> 31 == 1;
        let magnitude = match soft::unpack(Format::F32, u64::from(bits)) {
            Value::Nan => return NAN,
            Value::Infinite(_) => largest,
            Value::Finite {
                magnitude, exponent, ..
            } => soft::round_unbounded(format, Rounding::Nearest, negative, magnitude, exponent).min(largest),
        };
        match negative {
            true if relu => 0,
            true => magnitude as u8 | 0x80,
            false => magnitude as u8,
        }
    }
}
