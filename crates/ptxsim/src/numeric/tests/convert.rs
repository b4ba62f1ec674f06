use super::{any_f32, any_f64};
use crate::numeric::cvt::{Conversion, Cvt};
use crate::numeric::fp8::Fp8;
use crate::numeric::{NAN_F32, NAN_HALF};
use half::{bf16, f16};
use proptest::prelude::*;

fn parse(opcode: &str) -> Conversion {
    Conversion::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap()
}

fn cvt(opcode: &str, bits: u64) -> u64 {
    parse(opcode).apply(bits, 0)
}

fn cvt32(opcode: &str, value: f32) -> u64 {
    cvt(opcode, u64::from(value.to_bits()))
}

fn narrow(opcode: &str, bits: u64) -> u32 {
    cvt(opcode, bits) as u32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn integers_to_floats(value in any::<u64>(), shift in 0u32..64) {
        let value = value >> shift;
        prop_assert_eq!(narrow("cvt.rn.f32.u64", value), (value as f32).to_bits());
        prop_assert_eq!(narrow("cvt.rn.f32.s64", value), (value as i64 as f32).to_bits());
        prop_assert_eq!(cvt("cvt.rn.f64.s64", value), (value as i64 as f64).to_bits());
        prop_assert_eq!(narrow("cvt.rn.f32.s32", value), (value as i32 as f32).to_bits());
        prop_assert_eq!(cvt("cvt.f64.u32", value), f64::from(value as u32).to_bits());
        prop_assert_eq!(narrow("cvt.rn.f32.s8", value), f32::from(value as i8).to_bits());
        let (down, up) = (f32::from_bits(narrow("cvt.rm.f32.s64", value)), f32::from_bits(narrow("cvt.rp.f32.s64", value)));
        let exact = i128::from(value as i64);
        prop_assert!(down as i128 <= exact && exact <= up as i128);
        prop_assert!(down == up || down.next_up() == up);
        prop_assert_eq!(down == up, down as i128 == exact);
    }

    #[test]
    fn floats_to_integers_truncate_and_clamp(bits in any_f32()) {
        let value = f32::from_bits(bits);
        prop_assert_eq!(cvt32("cvt.rzi.s32.f32", value), value as i32 as u64);
        prop_assert_eq!(cvt32("cvt.rzi.u32.f32", value), u64::from(value as u32));
        prop_assert_eq!(cvt32("cvt.rzi.s8.f32", value), value as i8 as u64);
        prop_assert_eq!(cvt32("cvt.rni.s32.f32", value), value.round_ties_even() as i32 as u64);
        prop_assert_eq!(cvt32("cvt.rmi.s16.f32", value), value.floor() as i16 as u64);
        prop_assert_eq!(cvt32("cvt.rpi.u16.f32", value), u64::from(value.ceil() as u16));
        if !value.is_nan() {
            prop_assert_eq!(cvt32("cvt.rzi.s64.f32", value), value as i64 as u64);
            prop_assert_eq!(cvt32("cvt.rpi.u64.f32", value), value.ceil() as u64);
        }
    }

    #[test]
    fn doubles(bits in any_f64()) {
        let value = f64::from_bits(bits);
        prop_assume!(!value.is_nan());
        prop_assert_eq!(cvt("cvt.rni.s64.f64", bits), value.round_ties_even() as i64 as u64);
        prop_assert_eq!(cvt("cvt.rzi.u32.f64", bits), u64::from(value as u32));
        prop_assert_eq!(narrow("cvt.rn.f32.f64", bits), (value as f32).to_bits());
        let (down, up) = (f32::from_bits(narrow("cvt.rm.f32.f64", bits)), f32::from_bits(narrow("cvt.rp.f32.f64", bits)));
        prop_assert!(f64::from(down) <= value && value <= f64::from(up));
        prop_assert!(down == up || down.next_up() == up || (down == 0.0 && up == 0.0));
    }

    #[test]
    fn to_integral_floats(bits in any_f32()) {
        let value = f32::from_bits(bits);
        let want = |host: f32| u64::from(if host.is_nan() { NAN_F32 } else { host.to_bits() });
        prop_assert_eq!(cvt32("cvt.rni.f32.f32", value), want(value.round_ties_even()));
        prop_assert_eq!(cvt32("cvt.rzi.f32.f32", value), want(value.trunc()));
        prop_assert_eq!(cvt32("cvt.rmi.f32.f32", value), want(value.floor()));
        prop_assert_eq!(cvt32("cvt.rpi.f32.f32", value), want(value.ceil()));
    }

    #[test]
    fn narrow_floats(bits in any_f32(), other in any_f32()) {
        let value = f32::from_bits(bits);
        let half = |value: f32| if value.is_nan() { NAN_HALF } else { f16::from_f32(value).to_bits() };
        let brain = |value: f32| if value.is_nan() { NAN_HALF } else { bf16::from_f32(value).to_bits() };
        prop_assert_eq!(cvt32("cvt.rn.f16.f32", value), u64::from(half(value)));
        prop_assert_eq!(cvt32("cvt.rn.bf16.f32", value), u64::from(brain(value)));
        let pair = parse("cvt.rn.bf16x2.f32").apply(u64::from(bits), u64::from(other));
        prop_assert_eq!(pair, u64::from(brain(value)) << 16 | u64::from(brain(f32::from_bits(other))));
        let pair = parse("cvt.rn.relu.f16x2.f32").apply(u64::from(bits), u64::from(other));
        let relu = |value: f32| if value < 0.0 || value.to_bits() == 1 << 31 { 0 } else { half(value) };
        prop_assert_eq!(pair, u64::from(relu(value)) << 16 | u64::from(relu(f32::from_bits(other))));
        if value.is_finite() {
            prop_assert_eq!(cvt32("cvt.rz.bf16.f32", value), u64::from(bits >> 16));
            // Half away from zero: add half of the dropped bits' unit to the magnitude.
            let away = (bits & 0x7fff_ffff) + 0x1000;
            prop_assert_eq!(cvt32("cvt.rna.tf32.f32", value), u64::from(bits & 1 << 31 | (away & !0x1fff).min(0x7f80_0000)));
        }
    }

    #[test]
    fn integers_to_integers(value in any::<u64>()) {
        prop_assert_eq!(cvt("cvt.s64.s8", value), value as i8 as u64);
        prop_assert_eq!(cvt("cvt.u32.s16", value), u64::from(value as i16 as u32));
        prop_assert_eq!(cvt("cvt.s16.u64", value), value as i16 as u64);
        prop_assert_eq!(cvt("cvt.sat.s16.s64", value), (value as i64).clamp(-32768, 32767) as u64);
        prop_assert_eq!(cvt("cvt.sat.u8.s32", value), (value as i32).clamp(0, 255) as u64);
        prop_assert_eq!(cvt("cvt.sat.s32.u64", value), value.min(0x7fff_ffff));
    }

    #[test]
    fn fp8_rounds_to_the_nearest_value(bits in any_f32()) {
        let value = f32::from_bits(bits);
        for fp8 in [Fp8::E4m3, Fp8::E5m2] {
            let got = fp8.from_f32(bits, false);
            let largest = if fp8 == Fp8::E4m3 { 448.0 } else { 57344.0f64 };
            if value.is_nan() {
                prop_assert_eq!(got, 0x7f);
                continue;
            }
            let clamped = f64::from(value).clamp(-largest, largest);
            let error = (f64::from(fp8.value(got)) - clamped).abs();
            let finite = (0..=255u8).filter(|bits| fp8.value(*bits).is_finite());
            for other in finite {
                let other_error = (f64::from(fp8.value(other)) - clamped).abs();
                prop_assert!(error < other_error || (error == other_error && (got == other || got & 1 == 0 || got & 0x7f == 0)));
            }
            prop_assert_eq!(got >> 7 == 1, value.is_sign_negative());
        }
    }
}

#[test]
fn nan_to_integer_depends_on_the_types() {
    assert_eq!(cvt32("cvt.rzi.s32.f32", f32::NAN), 0);
    assert_eq!(cvt32("cvt.rzi.s64.f32", f32::NAN), 1 << 63);
    assert_eq!(cvt("cvt.rzi.u32.f64", f64::NAN.to_bits()), 0x8000_0000);
    assert_eq!(cvt("cvt.rzi.s32.f16", 0x7e00), 0);
}

#[test]
fn saturation_and_flushing() {
    assert_eq!(cvt32("cvt.sat.f32.f32", 1.5), u64::from(1f32.to_bits()));
    assert_eq!(cvt32("cvt.sat.f32.f32", f32::NAN), 0);
    assert_eq!(cvt32("cvt.ftz.f32.f32", -1e-40), 1 << 31);
    assert_eq!(cvt("cvt.rn.ftz.f32.f64", 1e-40f64.to_bits()), 0);
    assert_eq!(cvt32("cvt.rn.sat.f16.f32", 7.0), 0x3c00);
    assert_eq!(cvt32("cvt.rn.satfinite.f16.f32", 1e9), 0x7bff);
    assert_eq!(cvt32("cvt.rn.satfinite.f16.f32", f32::NEG_INFINITY), 0xfbff);
    assert_eq!(cvt32("cvt.rn.relu.satfinite.tf32.f32", f32::INFINITY), 0x7f7f_e000);
    assert_eq!(cvt32("cvt.f64.f32", 1.5), 1.5f64.to_bits());
    assert_eq!(cvt("cvt.f32.bf16", 0x3fc0), u64::from(1.5f32.to_bits()));
}

#[test]
fn every_fp8_survives_the_round_trip() {
    for (name, fp8) in [("e4m3x2", Fp8::E4m3), ("e5m2x2", Fp8::E5m2)] {
        for bits in 0..=255u8 {
            let value = fp8.value(bits);
            let wide = cvt(&format!("cvt.rn.f16x2.{name}"), u64::from(bits) << 8);
            let half = f16::from_bits((wide >> 16) as u16).to_f32();
            assert!(half == value || (half.is_nan() && value.is_nan()));
            if value.is_finite() {
                assert_eq!(fp8.from_f32(value.to_bits(), false), bits);
                assert_eq!(
                    cvt(&format!("cvt.rn.satfinite.{name}.f16x2"), wide),
                    u64::from(bits) << 8
                );
            }
        }
    }
    let pair = parse("cvt.rn.satfinite.e4m3x2.f32");
    assert_eq!((pair.sources(), pair.widths()), (2, (16, 32)));
    assert_eq!(
        pair.apply(u64::from(1e9f32.to_bits()), u64::from((-0.5f32).to_bits())),
        0x7eb0
    );
    let relu = parse("cvt.rn.satfinite.relu.e5m2x2.f32");
    assert_eq!(
        relu.apply(u64::from((-1f32).to_bits()), u64::from(1f32.to_bits())),
        0x003c
    );
}

#[test]
fn opcodes_that_are_not_conversions_are_errors() {
    for opcode in [
        "cvt",
        "cvt.f32",
        "cvt.rn.f32.q7",
        "cvt.wild.f32.s32",
        "cvt.rn.e4m3x2.e5m2x2",
        "cvt.rn.f16x2.s32",
    ] {
        let error = Conversion::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap_err();
        assert!(error.to_string().contains(opcode));
    }
    assert!(matches!(
        parse("cvt.rn.f32.s32"),
        Conversion::Scalar(Cvt { integral: false, .. })
    ));
}
