//! `cvt`: conversions among integers, floats, and packed pairs of narrow floats.

use super::float::{canonical_f32, flush_f32};
use super::fp8::Fp8;
use super::half_ops::{HalfFormat, bf16_from_f32, f16_from_f32, f16_value};
use super::integer::IntType;
use super::soft::{self, Format, Rounding, Value};
use super::{NAN_F32, NAN_F64, NAN_HALF};

/// A type that `cvt` reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// An integer of 8 to 64 bits.
    Int(IntType),
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// An f32 of 10 fraction bits, in a 32-bit register.
    Tf32,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl Scalar {
    /// Reads `s32`, `bf16` and so on.
    pub fn parse(modifier: &str) -> Option<Scalar> {
        Some(match modifier {
            "f16" => Scalar::F16,
            "bf16" => Scalar::Bf16,
            "tf32" => Scalar::Tf32,
            "f32" => Scalar::F32,
            "f64" => Scalar::F64,
            _ => Scalar::Int(IntType::parse(modifier)?),
        })
    }

    /// Width in bits, as registers hold it.
    pub fn bits(self) -> u32 {
        match self {
            Scalar::Int(int) => int.bits,
            Scalar::F16 | Scalar::Bf16 => 16,
            Scalar::Tf32 | Scalar::F32 => 32,
            Scalar::F64 => 64,
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Scalar::Int(_) => None,
            Scalar::F16 => Some(Format::F16),
            Scalar::Bf16 => Some(Format::BF16),
            Scalar::Tf32 => Some(Format::TF32),
            Scalar::F32 => Some(Format::F32),
            Scalar::F64 => Some(Format::F64),
        }
    }

    fn nan(self) -> u64 {
        match self {
            Scalar::F16 | Scalar::Bf16 => u64::from(NAN_HALF),
            Scalar::F64 => NAN_F64,
            _ => u64::from(NAN_F32),
        }
    }
}

/// A conversion of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cvt {
    /// Type of the result.
    pub to: Scalar,
    /// Type of the source.
    pub from: Scalar,
    /// Rounding, of the value or, if `integral`, to an integer.
    pub rounding: Rounding,
    /// `.rni`, `.rzi`, `.rmi`, `.rpi`.
    pub integral: bool,
    /// `.ftz`: f32 sources and results that are subnormal become zeros.
    pub ftz: bool,
    /// `.sat`: integers are clamped to the result's range, floats to [0, 1].
    pub sat: bool,
    /// `.relu`: negative results become +0.
    pub relu: bool,
    /// `.satfinite`: what is too large becomes the largest finite value.
    pub satfinite: bool,
}

impl Cvt {
    /// The converted bits; a signed integer is sign-extended to 64 bits.
    #[inline]
    pub fn apply(&self, bits: u64) -> u64 {
        match self.frequent(bits) {
            Some(result) => result,
            None => self.convert(bits),
        }
    }

    /// The conversions that kernels are full of, by the host's instructions.
    #[inline]
    fn frequent(&self, bits: u64) -> Option<u64> {
        if self.ftz || self.sat || self.relu || self.satfinite {
            return None;
        }
        let word = bits as u32;
        Some(match (self.from, self.to, self.rounding) {
            (Scalar::F32, Scalar::F16, Rounding::Nearest) if !self.integral => {
                u64::from(f16_from_f32(f32::from_bits(word)))
            }
            (Scalar::F32, Scalar::Bf16, Rounding::Nearest) if !self.integral => {
                u64::from(bf16_from_f32(f32::from_bits(word)))
            }
            (Scalar::F16, Scalar::F32, _) if !self.integral => u64::from(canonical_f32(f16_value(word as u16))),
            (Scalar::Bf16, Scalar::F32, _) if !self.integral => u64::from(canonical_f32(f32::from_bits(word << 16))),
            (Scalar::Int(IntType::S32), Scalar::F32, Rounding::Nearest) => u64::from((word as i32 as f32).to_bits()),
            (Scalar::Int(IntType::U32), Scalar::F32, Rounding::Nearest) => u64::from((word as f32).to_bits()),
            (Scalar::F32, Scalar::Int(IntType::S32), Rounding::Zero) => f32::from_bits(word) as i32 as u64,
            (Scalar::F32, Scalar::Int(IntType::U32), Rounding::Zero) => u64::from(f32::from_bits(word) as u32),
            _ => return None,
        })
    }

    fn convert(&self, bits: u64) -> u64 {
        match (self.from, self.to) {
            (Scalar::Int(from), Scalar::Int(to)) => {
                let value = from.decode(bits);
                to.extend(if self.sat { to.clamp(value) } else { value } as u64)
            }
            (Scalar::Int(from), _) => {
                let value = from.decode(bits);
                self.finish(self.round(value < 0, value.unsigned_abs() as u64, 0))
            }
            (_, Scalar::Int(to)) => self.float_to_int(to, bits),
            _ => self.float_to_float(bits),
        }
    }

    fn source(&self, bits: u64) -> (Format, u64) {
        match self.from {
            Scalar::F16 => (Format::F32, u64::from(f16_value(bits as u16).to_bits())),
            Scalar::Bf16 => (Format::F32, bits << 16 & 0xffff_ffff),
            Scalar::F64 => (Format::F64, bits),
            _ if self.ftz => (Format::F32, u64::from(flush_f32(bits as u32))),
            _ => (Format::F32, bits & 0xffff_ffff),
        }
    }

    /// NaN becomes 0 where neither 64-bit integers nor f64 take part, else the bit pattern of the least signed value.
    fn float_to_int(&self, to: IntType, bits: u64) -> u64 {
        let (format, bits) = self.source(bits);
        match soft::unpack(format, bits) {
            Value::Nan if self.from != Scalar::F64 && to.bits < 64 => 0,
            Value::Nan => to.extend(1 << (to.bits - 1)),
            Value::Infinite(negative) => to.extend(to.clamp(if negative { i128::MIN } else { i128::MAX }) as u64),
            Value::Finite {
                negative,
                magnitude,
                exponent,
            } => {
                let magnitude = integral(self.rounding, negative, magnitude, exponent) as i128;
                to.extend(to.clamp(if negative { -magnitude } else { magnitude }) as u64)
            }
        }
    }

    fn float_to_float(&self, bits: u64) -> u64 {
        let (format, bits) = self.source(bits);
        match soft::unpack(format, bits) {
            Value::Nan if self.sat => 0,
            Value::Nan if self.to == Scalar::F64 => quiet_f64(format, bits),
            Value::Nan => self.to.nan(),
            Value::Infinite(negative) => self.finish(self.round_infinite(negative)),
            Value::Finite {
                negative,
                magnitude,
                exponent,
            } if self.integral && exponent < 0 => {
                let whole = integral(self.rounding, negative, magnitude, exponent);
                self.finish(self.round(negative, whole as u64, 0))
            }
            Value::Finite {
                negative,
                magnitude,
                exponent,
            } => self.finish(self.round(negative, magnitude, exponent)),
        }
    }

    fn round(&self, negative: bool, magnitude: u64, exponent: i32) -> u64 {
        let format = self.to.format().unwrap_or(Format::F64);
        let bits = soft::round(format, self.rounding, negative, magnitude, exponent);
        if self.satfinite && bits & !format.sign_bit() == format.infinity() {
            bits - 1
        } else {
            bits
        }
    }

    fn round_infinite(&self, negative: bool) -> u64 {
        let format = self.to.format().unwrap_or(Format::F64);
        let sign = if negative { format.sign_bit() } else { 0 };
        sign | if self.satfinite {
            format.max_finite()
        } else {
            format.infinity()
        }
    }

    /// Modifiers of a result that is not NaN.
    fn finish(&self, bits: u64) -> u64 {
        let format = self.to.format().unwrap_or(Format::F64);
        let flushed = self.ftz && self.to == Scalar::F32 && format.is_subnormal(bits);
        let mut bits = if flushed { bits & format.sign_bit() } else { bits };
        if (self.sat || self.relu) && bits & format.sign_bit() != 0 {
            bits = 0;
        }
        if self.sat {
            bits = bits.min(soft::convert(Format::F64, format, Rounding::Nearest, 1f64.to_bits()));
        }
        if self.to == Scalar::Tf32 { bits << 13 } else { bits }
    }
}

/// Widens a NaN, keeping its payload and making it quiet.
fn quiet_f64(format: Format, bits: u64) -> u64 {
    if format == Format::F64 {
        return bits | 1 << 51;
    }
    (bits >> 31 & 1) << 63 | Format::F64.infinity() | (bits & 0x7f_ffff) << 29 | 1 << 51
}

/// A magnitude rounded to an integer; past every integer type's range any larger one does.
fn integral(rounding: Rounding, negative: bool, magnitude: u64, exponent: i32) -> u128 {
    match exponent {
        64.. => u128::from(magnitude) << 64,
        0..64 => u128::from(magnitude) << exponent,
        -63..0 => {
            let (quotient, rest) = (magnitude >> -exponent, magnitude & ((1 << -exponent) - 1));
            let twice = rest.cmp(&(1 << (-exponent - 1)));
            let up = rounding.rounds_up(negative, quotient & 1 == 1, rest != 0, twice);
            u128::from(quotient) + u128::from(up)
        }
        // At most 53 significant bits come here, so this is less than a half.
        _ => u128::from(rounding.rounds_up(negative, false, magnitude != 0, std::cmp::Ordering::Less)),
    }
}

/// A 16-bit pair or FP8 pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pair {
    /// Two f16 or bf16.
    Half(HalfFormat),
    /// Two FP8 values.
    Fp8(Fp8),
}

impl Pair {
    fn parse(modifier: &str) -> Option<Pair> {
        Some(match modifier {
            "f16x2" => Pair::Half(HalfFormat::F16),
            "bf16x2" => Pair::Half(HalfFormat::Bf16),
            "e4m3x2" => Pair::Fp8(Fp8::E4m3),
            "e5m2x2" => Pair::Fp8(Fp8::E5m2),
            _ => return None,
        })
    }

    fn element_bits(self) -> u32 {
        match self {
            Pair::Half(_) => 16,
            Pair::Fp8(_) => 8,
        }
    }
}

/// Any `cvt` instruction that is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// One value.
    Scalar(Cvt),
    /// Two f32 to a pair: the first operand goes to the high half.
    Pack {
        /// The pair.
        to: Pair,
        /// The conversion of each, if to f16 or bf16.
        each: Cvt,
    },
    /// A pair to a pair.
    Repack {
        /// The result.
        to: Pair,
        /// The source.
        from: Pair,
        /// `.relu`.
        relu: bool,
    },
}

/// A `cvt` that is not modelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{opcode} is not modelled")]
pub struct CvtError {
    /// The instruction's opcode.
    pub opcode: String,
}

impl Conversion {
    /// Reads an opcode split at its dots: `cvt rn f16x2 f32`.
    pub fn parse<S: AsRef<str>>(opcode: &[S]) -> Result<Conversion, CvtError> {
        Self::parse_parts(opcode).ok_or_else(|| CvtError {
            opcode: opcode.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("."),
        })
    }

    fn parse_parts<S: AsRef<str>>(opcode: &[S]) -> Option<Conversion> {
        let parts: Vec<&str> = opcode.iter().map(AsRef::as_ref).collect();
        let [_, modifiers @ .., to, from] = &parts[..] else {
            return None;
        };
        let mut each = Cvt {
            to: Scalar::F32,
            from: Scalar::F32,
            rounding: Rounding::Nearest,
            integral: false,
            ftz: false,
            sat: false,
            relu: false,
            satfinite: false,
        };
        for modifier in modifiers {
            match *modifier {
                "ftz" => each.ftz = true,
                "sat" => each.sat = true,
                "relu" => each.relu = true,
                "satfinite" => each.satfinite = true,
                "rni" | "rzi" | "rmi" | "rpi" => {
                    each.integral = true;
                    each.rounding = Rounding::parse(&modifier[..2])?;
                }
                _ => each.rounding = Rounding::parse(modifier)?,
            }
        }
        match (Pair::parse(to), Pair::parse(from)) {
            (None, None) => {
                let (to, from) = (Scalar::parse(to)?, Scalar::parse(from)?);
                (from != Scalar::Tf32).then_some(Conversion::Scalar(Cvt { to, from, ..each }))
            }
            (Some(to), None) if *from == "f32" => {
                let scalar = if to == Pair::Half(HalfFormat::Bf16) {
                    Scalar::Bf16
                } else {
                    Scalar::F16
                };
                Some(Conversion::Pack {
                    to,
                    each: Cvt { to: scalar, ..each },
                })
            }
            (Some(to), Some(from)) if to.element_bits() != from.element_bits() => Some(Conversion::Repack {
                to,
                from,
                relu: each.relu,
            }),
            _ => None,
        }
    }

    /// Number of source operands.
    pub fn sources(&self) -> usize {
        if matches!(self, Conversion::Pack { .. }) { 2 } else { 1 }
    }

    /// Width of the result and of a source in bits.
    pub fn widths(&self) -> (u32, u32) {
        match self {
            Conversion::Scalar(cvt) => (cvt.to.bits(), cvt.from.bits()),
            Conversion::Pack { to, .. } => (2 * to.element_bits(), 32),
            Conversion::Repack { to, from, .. } => (2 * to.element_bits(), 2 * from.element_bits()),
        }
    }

    /// The result's bits; `b` is the second operand, if there is one.
    #[inline]
    pub fn apply(&self, a: u64, b: u64) -> u64 {
        match self {
            Conversion::Scalar(cvt) => cvt.apply(a),
            Conversion::Pack { to, each } => {
                let narrow = |bits: u64| match to {
                    Pair::Half(_) => each.apply(bits),
                    Pair::Fp8(fp8) => u64::from(fp8.from_f32(bits as u32, each.relu)),
                };
                narrow(a) << to.element_bits() | narrow(b)
            }
            Conversion::Repack { to, from, relu } => repack(*to, *from, *relu, a),
        }
    }
}

fn repack(to: Pair, from: Pair, relu: bool, bits: u64) -> u64 {
    let (wide, narrow) = (from.element_bits(), to.element_bits());
    (0..2).fold(0, |packed, i| {
        let element = bits >> (i * wide) & ((1 << wide) - 1);
        let value = match from {
            Pair::Half(half) => half.value(element as u16),
            Pair::Fp8(fp8) => fp8.value(element as u8),
        };
        let converted = match to {
            Pair::Fp8(fp8) => u64::from(fp8.from_f32(value.to_bits(), relu)),
            Pair::Half(_) if relu && value < 0.0 => 0,
            Pair::Half(half) => u64::from(half.round(f64::from(value))),
        };
        packed | converted << (i * narrow)
    })
}
