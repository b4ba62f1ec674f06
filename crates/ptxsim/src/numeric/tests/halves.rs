use crate::numeric::compare::{Compare, MinMax};
use crate::numeric::half_ops::*;
use crate::numeric::soft::{self, Rounding};
use half::{bf16, f16};
use proptest::prelude::*;

fn formats() -> impl Strategy<Value = HalfFormat> {
    prop::sample::select(vec![HalfFormat::F16, HalfFormat::Bf16])
}

#[test]
fn every_f16_and_bf16_widens_exactly() {
    for bits in 0..=u16::MAX {
        let (x, y) = (f16::from_bits(bits).to_f32(), f16_value(bits));
        assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()), "{bits:04x}");
        assert_eq!(HalfFormat::Bf16.value(bits).is_nan(), bf16::from_bits(bits).is_nan());
        let back = f16_from_f32(y);
        assert!(back == bits || (y.is_nan() && back == 0x7fff), "{bits:04x} {back:04x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arithmetic_rounds_once(h in formats(), a in any::<u16>(), b in any::<u16>(), c in any::<u16>()) {
        let none = HalfMode::default();
        let [x, y, z] = [a, b, c].map(u64::from);
        let n = Rounding::Nearest;
        let one = u64::from(h.one());
        prop_assert_eq!(u64::from(h.add(a, b, none)), soft::add(h.format(), n, x, y));
        prop_assert_eq!(u64::from(h.sub(a, b, none)), soft::fma(h.format(), n, y, one | 0x8000, x));
        prop_assert_eq!(u64::from(h.mul(a, b, none)), soft::mul(h.format(), n, x, y));
        prop_assert_eq!(u64::from(h.fma(a, b, c, none)), soft::fma(h.format(), n, x, y, z));
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate(value in super::any_f32()) {
        let value = f32::from_bits(value);
        prop_assume!(!value.is_nan());
        prop_assert_eq!(f16_from_f32(value), f16::from_f32(value).to_bits());
        prop_assert_eq!(HalfFormat::Bf16.round(f64::from(value)), bf16::from_f32(value).to_bits());
    }

    #[test]
    fn relu_and_sat_clamp(h in formats(), a in any::<u16>(), b in any::<u16>()) {
        let relu = h.add(a, b, HalfMode { relu: true, ..HalfMode::default() });
        let plain = h.add(a, b, HalfMode::default());
        let want = if h.value(plain) < 0.0 || plain == 0x8000 { 0 } else { plain };
        prop_assert_eq!(relu, want);
        let sat = h.value(h.mul(a, b, HalfMode { sat: true, ..HalfMode::default() }));
        prop_assert!((0.0..=1.0).contains(&sat) && sat.is_sign_positive());
    }
}

#[test]
fn a_sum_just_off_a_tie_is_not_rounded_twice() {
    let none = HalfMode::default();
    // 7 · 37/256 = 259/256 lies halfway between two bf16; -2^-126 is far below an f64's last bit of it.
    assert_eq!(HalfFormat::Bf16.fma(0x40e0, 0x3e14, 0, none), 0x3f82);
    assert_eq!(HalfFormat::Bf16.fma(0x40e0, 0x3e14, 0x8080, none), 0x3f81);
    // 7 · 293/2048 = 2051/2048 lies halfway between two f16; -2^-24 is below an f32's last bit of it.
    assert_eq!(HalfFormat::F16.fma(0x4700, 0x3094, 0, none), 0x3c02);
    assert_eq!(HalfFormat::F16.fma(0x4700, 0x3094, 0x8001, none), 0x3c01);
}

#[test]
fn pairs() {
    let half = HalfFormat::F16;
    let (a, b) = (0x3c00_4000, 0x4000_3c00);
    assert_eq!(map2(a, b, |x, y| half.add(x, y, HalfMode::default())), 0x4200_4200);
    assert_eq!(half.set_x2(Compare::Lt, a, b, false), 0x3c00_0000);
    assert_eq!(
        map2(a, b, |x, y| half.min_max(MinMax::default(), x, y, false)),
        0x3c00_3c00
    );
    assert_eq!(map1(a, |x| half.neg(x, false)), 0xbc00_c000);
    assert_eq!(
        map3(a, b, a, |x, y, z| half.fma(x, y, z, HalfMode::default())),
        0x4200_4400
    );
    assert_eq!(half.abs(0x8001, true), 0);
}
