//! Conversion between element types.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::DType;
use crate::aligned::AlignedBytes;

/// Nearest bf16, ties to even, rounded once.
///
/// `half`'s own conversion looks at the upper 32 bits of the f64 only, so it takes some values just
/// past a tie for the tie.
pub fn bf16_from_f64(value: f64) -> bf16 {
    bf16::from_f32(f32_round_to_odd(value))
}

/// Nearest f16, ties to even, rounded once (see [`bf16_from_f64`]).
pub fn f16_from_f64(value: f64) -> f16 {
    f16::from_f32(f32_round_to_odd(value))
}

/// Rounds to odd: of the two f32 around an inexact value, the one whose last bit is set.
///
/// f32 has more than two bits beyond f16 and bf16, so rounding the result again to nearest gives
/// what one rounding would (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
/// proved algorithms using rounding to odd", 2008).
fn f32_round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let bits = nearest.to_bits();
    if nearest.is_nan() || f64::from(nearest) == value || bits & 1 == 1 {
        return nearest;
    }
    let overshot = f64::from(nearest.abs()) > value.abs();
    f32::from_bits(if overshot { bits - 1 } else { bits + 1 })
}

/// Elements of `bytes`, which must be aligned for `from`, as elements of `to`.
pub(crate) fn convert(from: DType, bytes: &[u8], to: DType) -> AlignedBytes {
    let mut output = AlignedBytes::zeroed(bytes.len() / from.size_bytes() * to.size_bytes());
    convert_into(from, bytes, to, output.as_mut_slice());
    output
}

/// The same, into `out`, which has as many elements and is aligned for `to`.
pub(crate) fn convert_into(from: DType, bytes: &[u8], to: DType, out: &mut [u8]) {
    match (from, to) {
        (from, to) if from == to => out.copy_from_slice(bytes),
        // The pairs a checkpoint's weights go through, without the detour by f64.
        (DType::BF16, DType::F32) => map(bytes, out, bf16::to_f32),
        (DType::F16, DType::F32) => map(bytes, out, f16::to_f32),
        (DType::F32, DType::BF16) => map(bytes, out, bf16::from_f32),
        (DType::F32, DType::F16) => map(bytes, out, f16::from_f32),
        // Not every i64 is an f64.
        (DType::I64, DType::I32) => map(bytes, out, i32_saturating),
        (DType::F64, _) => narrow(bytes, to, out, |x: f64| x),
        (DType::F32, _) => narrow::<f32>(bytes, to, out, f64::from),
        (DType::F16, _) => narrow(bytes, to, out, f16::to_f64),
        (DType::BF16, _) => narrow(bytes, to, out, bf16::to_f64),
        (DType::I32, _) => narrow::<i32>(bytes, to, out, f64::from),
        (DType::I64, _) => narrow(bytes, to, out, |x: i64| x as f64),
    }
}

fn i32_saturating(value: i64) -> i32 {
    value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

fn narrow<A: Pod>(bytes: &[u8], to: DType, out: &mut [u8], widen: fn(A) -> f64) {
    match to {
        DType::F64 => map(bytes, out, widen),
        DType::F32 => map(bytes, out, |x| widen(x) as f32),
        DType::F16 => map(bytes, out, |x| f16_from_f64(widen(x))),
        DType::BF16 => map(bytes, out, |x| bf16_from_f64(widen(x))),
        DType::I32 => map(bytes, out, |x| widen(x) as i32),
        DType::I64 => map(bytes, out, |x| widen(x) as i64),
    }
}

fn map<A: Pod, B: Pod>(bytes: &[u8], out: &mut [u8], f: impl Fn(A) -> B) {
    let input: &[A] = bytemuck::cast_slice(bytes);
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (to, &from) in out.iter_mut().zip(input) {
        *to = f(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Nearest finite 16-bit value to `x` by exact comparison with both neighbours, ties to even.
    fn is_nearest(x: f64, bits: u16, value: fn(u16) -> f64) -> bool {
        let error = (value(bits) - x).abs();
        let neighbours = [bits.checked_sub(1), bits.checked_add(1)];
        neighbours.into_iter().flatten().all(|other| {
            let other_error = (value(other) - x).abs();
            !value(other).is_finite()
                || (value(other) < 0.0) != (value(bits) < 0.0)
                || error < other_error
                || error == other_error && bits & 1 == 0
        })
    }

    #[test]
    fn a_value_just_past_a_tie_rounds_away_from_it() {
        // 1 + 2^-8 is the tie between 1 and the next bf16; 2^-50 is below f32's and half's sight.
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(bf16_from_f64(tie + 2f64.powi(-50)).to_f64(), 1.0 + 2f64.powi(-7));
        assert_eq!(bf16_from_f64(tie - 2f64.powi(-50)).to_f64(), 1.0);
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(f16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(f16_from_f64(tie + 2f64.powi(-50)).to_f64(), 1.0 + 2f64.powi(-10));
    }

    #[test]
    fn extremes() {
        for (x, bf, fp) in [
            (f64::INFINITY, f64::INFINITY, f64::INFINITY),
            (-1e300, f64::NEG_INFINITY, f64::NEG_INFINITY),
            (1e-300, 0.0, 0.0),
            (65519.999, 65536.0, 65504.0),
            (65520.0, 65536.0, f64::INFINITY),
        ] {
            assert_eq!(bf16_from_f64(x).to_f64(), bf, "{x}");
            assert_eq!(f16_from_f64(x).to_f64(), fp, "{x}");
        }
        assert!(bf16_from_f64(f64::NAN).is_nan() && f16_from_f64(f64::NAN).is_nan());
        assert!(bf16_from_f64(-1e-300).is_sign_negative());
    }

    #[test]
    fn integers_saturate_and_keep_every_bit() {
        let ints = [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX];
        let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(&ints));
        let narrow = convert(DType::I64, bytes.as_slice(), DType::I32);
        assert_eq!(
            bytemuck::cast_slice::<u8, i32>(narrow.as_slice()),
            [i32::MIN, -1, 0, i32::MAX, i32::MAX]
        );
        let floats = [1.9f32, -1.9, f32::NAN, 1e30];
        let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(&floats));
        let ints = convert(DType::F32, bytes.as_slice(), DType::I32);
        assert_eq!(bytemuck::cast_slice::<u8, i32>(ints.as_slice()), [1, -1, 0, i32::MAX]);
    }

    proptest! {
        #[test]
        fn f64_rounds_to_nearest_even(mantissa in 1.0f64..2.0, exponent in -140i32..16, sign: bool) {
            let x = mantissa * 2f64.powi(exponent) * if sign { -1.0 } else { 1.0 };
            let (b, f) = (bf16_from_f64(x), f16_from_f64(x));
            prop_assert!(is_nearest(x, b.to_bits(), |bits| bf16::from_bits(bits).to_f64()), "{x:e} -> {b}");
            if f.is_finite() {
                prop_assert!(is_nearest(x, f.to_bits(), |bits| f16::from_bits(bits).to_f64()), "{x:e} -> {f}");
            } else {
                prop_assert!(x.abs() >= 65520.0);
            }
        }

        #[test]
        fn f32_agrees_with_half(x in any::<f32>()) {
            // The two ways there, by f32 and by f64, round alike.
            prop_assert_eq!(bf16_from_f64(x.into()).to_bits(), bf16::from_f32(x).to_bits());
            prop_assert_eq!(f16_from_f64(x.into()).to_bits(), f16::from_f32(x).to_bits());
        }

        #[test]
        fn sixteen_bits_survive_any_wider_type(bits: u16) {
            let bytes = AlignedBytes::copy_of(&bits.to_le_bytes());
            for (narrow, nan) in [
                (DType::BF16, bf16::from_bits(bits).is_nan()),
                (DType::F16, f16::from_bits(bits).is_nan()),
            ] {
                for wide in [DType::F32, DType::F64] {
                    let there = convert(narrow, bytes.as_slice(), wide);
                    let back = convert(wide, there.as_slice(), narrow);
                    if nan {
                        let value = convert(narrow, back.as_slice(), DType::F64);
                        prop_assert!(bytemuck::cast_slice::<u8, f64>(value.as_slice())[0].is_nan());
                    } else {
                        prop_assert_eq!(back.as_slice(), bytes.as_slice());
                    }
                }
            }
        }
    }
}
