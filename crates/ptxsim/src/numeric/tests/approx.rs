use super::any_f32;
use crate::numeric::NAN_F32;
use crate::numeric::approx::{Approx, Function, div_approx_f32, div_full_f32};
use crate::numeric::half_ops::HalfFormat;
use proptest::prelude::*;

fn functions() -> impl Strategy<Value = Function> {
    use Function::*;
    prop::sample::select(vec![Ex2, Lg2, Rcp, Rsqrt, Sqrt, Sin, Cos, Tanh])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn reciprocals_and_roots_round_correctly(x in any_f32()) {
        let value = f32::from_bits(x);
        // No select between a NaN and a square root here, which an optimiser may drop.
        let rcp = Function::Rcp.f32(x, false, Approx::Rounded);
        let sqrt = Function::Sqrt.f32(x, false, Approx::Rounded);
        if value.is_nan() {
            prop_assert_eq!((rcp, sqrt), (NAN_F32, NAN_F32));
        } else {
            prop_assert_eq!(rcp, (1.0 / value).to_bits());
            prop_assert_eq!(sqrt, if value < 0.0 { NAN_F32 } else { value.sqrt().to_bits() });
        }
    }

    #[test]
    fn perturbation_is_small_and_repeatable(function in functions(), x in any_f32(), seed in any::<u64>()) {
        let rounded = function.f32(x, true, Approx::Rounded);
        let moved = function.f32(x, true, Approx::Perturb(seed));
        prop_assert_eq!(moved, function.f32(x, true, Approx::Perturb(seed)));
        prop_assert!(moved.abs_diff(rounded) <= 2);
        let value = f32::from_bits(rounded);
        prop_assert!(value.is_normal() || moved == rounded);
        prop_assert_eq!(f32::from_bits(moved).is_sign_negative(), value.is_sign_negative());
    }
}

#[test]
fn perturbation_reaches_every_distance_and_depends_on_the_seed() {
    let distances = |seed| -> Vec<i64> {
        let one = |i: u32| {
            let x = (1.0 + i as f32 / 128.0).to_bits();
            let moved = Function::Ex2.f32(x, true, Approx::Perturb(seed));
            i64::from(moved) - i64::from(Function::Ex2.f32(x, true, Approx::Rounded))
        };
        (0..100).map(one).collect()
    };
    for distance in -2..=2 {
        assert!(distances(1).contains(&distance));
    }
    assert_ne!(distances(1), distances(2));
}

#[test]
fn special_values() {
    let f32 = |function: Function, x: f32| f32::from_bits(function.f32(x.to_bits(), true, Approx::Rounded));
    assert_eq!(f32(Function::Ex2, 10.0), 1024.0);
    assert_eq!(f32(Function::Ex2, f32::NEG_INFINITY), 0.0);
    assert_eq!(f32(Function::Ex2, -130.0), 0.0);
    assert_eq!(Function::Ex2.f32((-130f32).to_bits(), false, Approx::Rounded), 1 << 19);
    assert_eq!(f32(Function::Ex2, f32::INFINITY), f32::INFINITY);
    assert_eq!(f32(Function::Lg2, 8.0), 3.0);
    assert_eq!(f32(Function::Lg2, 0.0), f32::NEG_INFINITY);
    assert_eq!(f32(Function::Lg2, 1e-40), f32::NEG_INFINITY);
    assert_eq!(Function::Lg2.f32((-1f32).to_bits(), false, Approx::Rounded), NAN_F32);
    assert_eq!(f32(Function::Rcp, -0.0), f32::NEG_INFINITY);
    assert_eq!(f32(Function::Rsqrt, 4.0), 0.5);
    assert_eq!(f32(Function::Rsqrt, -0.0), f32::NEG_INFINITY);
    assert_eq!(f32(Function::Tanh, f32::INFINITY), 1.0);
    assert_eq!(f32(Function::Cos, 0.0), 1.0);
    assert_eq!(Function::Ex2.half(HalfFormat::F16, 0x4000, false), 0x4400);
    assert_eq!(Function::Tanh.half(HalfFormat::Bf16, 0x7f80, false), 0x3f80);
    assert_eq!(
        Function::Rcp.f64_upper(3f64.to_bits()),
        (1f64 / 3.0).to_bits() & !0xffff_ffff
    );
}

#[test]
fn divisions() {
    let (div, one) = (
        |a: f32, b: f32| div_approx_f32(a.to_bits(), b.to_bits(), false, Approx::Rounded),
        1f32,
    );
    assert_eq!(div(one, 3.0), (one / 3.0).to_bits());
    let huge = 2f32.powi(126) * 1.5;
    assert_eq!(div(-huge, huge), 1 << 31);
    assert_eq!(div(f32::INFINITY, huge), NAN_F32);
    assert_eq!(
        div_full_f32(huge.to_bits(), huge.to_bits(), false, Approx::Rounded),
        one.to_bits()
    );
}
