use super::{any_f32, any_f64};
use crate::numeric::compare::{Class, Compare, MinMax};
use crate::numeric::float::*;
use crate::numeric::soft::{self, Format, Rounding};
use crate::numeric::{NAN_F32, NAN_F64};
use proptest::prelude::*;
use std::cmp::Ordering;

fn mode(rounding: Rounding) -> FloatMode {
    FloatMode {
        rounding,
        ..FloatMode::default()
    }
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn same32(soft: u64, host: f32) -> bool {
    if host.is_nan() {
        soft == u64::from(NAN_F32)
    } else {
        soft == u64::from(host.to_bits())
    }
}

fn same64(soft: u64, host: f64) -> bool {
    if host.is_nan() {
        Format::F64.is_nan(soft)
    } else {
        soft == host.to_bits()
    }
}

/// `nearest` moved to where `rounding` puts the exact value, which compares to `nearest` as `exact` says.
fn direct(nearest: f32, exact: Ordering, rounding: Rounding) -> f32 {
    let down = if exact == Ordering::Less {
        nearest.next_down()
    } else {
        nearest
    };
    let up = if exact == Ordering::Greater {
        nearest.next_up()
    } else {
        nearest
    };
    match rounding {
        Rounding::Down => down,
        Rounding::Up => up,
        Rounding::Zero if nearest > 0.0 || (nearest == 0.0 && exact == Ordering::Greater) => down,
        Rounding::Zero => up,
        _ => nearest,
    }
}

fn directed() -> impl Strategy<Value = Rounding> {
    prop::sample::select(vec![Rounding::Zero, Rounding::Down, Rounding::Up])
}

/// How product + c compares with `nearest`, through the sum's rounding error.
fn compare_sum(product: f64, c: f64, nearest: f32) -> Ordering {
    let sum = product + c;
    let part = sum - product;
    let error = (product - (sum - part)) + (c - part);
    sum.total_cmp(&f64::from(nearest))
        .then(error.partial_cmp(&0.0).unwrap_or(Ordering::Equal))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn integer_arithmetic_rounds_to_nearest_as_the_host_does(a in any_f32(), b in any_f32(), c in any_f32()) {
        let [x, y, z] = [a, b, c].map(u64::from);
        let n = Rounding::Nearest;
        prop_assert!(same32(soft::add(Format::F32, n, x, y), f(a) + f(b)));
        prop_assert!(same32(soft::mul(Format::F32, n, x, y), f(a) * f(b)));
        prop_assert!(same32(soft::div(Format::F32, n, x, y), f(a) / f(b)));
        prop_assert!(same32(soft::sqrt(Format::F32, n, x), f(a).sqrt()));
        prop_assert!(same32(soft::fma(Format::F32, n, x, y, z), f(a).mul_add(f(b), f(c))));
        prop_assert!(same32(u64::from(fma_f32(a, b, c, mode(n))), f(a).mul_add(f(b), f(c))));
    }

    #[test]
    fn fma_keeps_what_cancellation_leaves(a in any_f32(), b in any_f32(), ulps in -3i32..3) {
        let near = (-(f(a) * f(b))).to_bits().wrapping_add_signed(ulps);
        let expected = f(a).mul_add(f(b), f(near));
        prop_assert!(same32(u64::from(fma_f32(a, b, near, mode(Rounding::Nearest))), expected));
        let soft = soft::fma(Format::F32, Rounding::Nearest, u64::from(a), u64::from(b), u64::from(near));
        prop_assert!(same32(soft, expected));
    }

    #[test]
    fn integer_arithmetic_matches_in_double_precision(a in any_f64(), b in any_f64(), c in any_f64()) {
        let [x, y, z] = [a, b, c].map(f64::from_bits);
        let n = Rounding::Nearest;
        prop_assert!(same64(soft::add(Format::F64, n, a, b), x + y));
        prop_assert!(same64(soft::mul(Format::F64, n, a, b), x * y));
        prop_assert!(same64(soft::div(Format::F64, n, a, b), x / y));
        prop_assert!(same64(soft::sqrt(Format::F64, n, a), x.sqrt()));
        prop_assert!(same64(soft::fma(Format::F64, n, a, b, c), x.mul_add(y, z)));
        let near = (-(x * y)).to_bits();
        prop_assert!(same64(soft::fma(Format::F64, n, a, b, near), x.mul_add(y, f64::from_bits(near))));
    }

    #[test]
    fn directed_rounding_moves_by_the_exact_error(a in any_f32(), b in any_f32(), c in any_f32(), r in directed()) {
        prop_assume!(f(a).is_finite() && f(b).is_finite() && f(c).is_finite());
        let (x, y, z) = (f64::from(f(a)), f64::from(f(b)), f64::from(f(c)));
        let check = |got: u32, nearest: f32, exact: Ordering| {
            let want = direct(nearest, exact, r);
            // The sign of an exactly zero sum is another test's.
            prop_assert!(got == want.to_bits() || (want == 0.0 && f(got) == 0.0), "{got:08x} {:08x}", want.to_bits());
            Ok(())
        };
        check(add_f32(a, b, mode(r)), f(a) + f(b), compare_sum(x, y, f(a) + f(b)))?;
        check(sub_f32(a, b, mode(r)), f(a) - f(b), compare_sum(x, -y, f(a) - f(b)))?;
        check(mul_f32(a, b, mode(r)), f(a) * f(b), (x * y).total_cmp(&f64::from(f(a) * f(b))))?;
        let fused = f(a).mul_add(f(b), f(c));
        check(fma_f32(a, b, c, mode(r)), fused, compare_sum(x * y, z, fused))?;
        let quotient = f(a) / f(b);
        if quotient.is_finite() && y != 0.0 {
            let exact = x.partial_cmp(&(f64::from(quotient) * y)).unwrap();
            check(div_f32(a, b, mode(r)), quotient, if y < 0.0 { exact.reverse() } else { exact })?;
        }
        if x > 0.0 {
            let root = f(a).sqrt();
            check(sqrt_f32(a, mode(r)), root, x.total_cmp(&(f64::from(root) * f64::from(root))))?;
        }
    }

    #[test]
    fn comparisons_follow_the_host(a in any_f32(), b in any_f32()) {
        let (x, y) = (f(a), f(b));
        let unordered = x.is_nan() || y.is_nan();
        prop_assert_eq!(Compare::Lt.f32(a, b, false), x < y);
        prop_assert_eq!(Compare::Neu.f32(a, b, false), x != y);
        prop_assert_eq!(Compare::Ne.f32(a, b, false), !unordered && x != y);
        prop_assert_eq!(Compare::Geu.f32(a, b, false), unordered || x >= y);
        prop_assert_eq!(Compare::Num.f32(a, b, false), !unordered);
    }

    #[test]
    fn minimum_and_maximum(a in any_f32(), b in any_f32()) {
        let (x, y) = (f(a), f(b));
        let min = f(MinMax::default().f32(a, b, false));
        let max = f(MinMax { max: true, ..MinMax::default() }.f32(a, b, false));
        prop_assert!(min == x.min(y) || (x.is_nan() && y.is_nan() && min.to_bits() == NAN_F32));
        prop_assert!(max == x.max(y) || (x.is_nan() && y.is_nan() && max.to_bits() == NAN_F32));
        let strict = MinMax { nan: true, ..MinMax::default() }.f32(a, b, false);
        prop_assert_eq!(strict == NAN_F32, x.is_nan() || y.is_nan());
    }
}

#[test]
fn zeros_have_the_sign_that_the_rounding_mode_gives_them() {
    let (one, minus) = (1f32.to_bits(), (-1f32).to_bits());
    for (rounding, want) in [
        (Rounding::Nearest, 0),
        (Rounding::Zero, 0),
        (Rounding::Up, 0),
        (Rounding::Down, 1 << 31),
    ] {
        assert_eq!(add_f32(one, minus, mode(rounding)), want);
        assert_eq!(fma_f32(one, minus, one, mode(rounding)), want);
        assert_eq!(add_f32(1 << 31, 1 << 31, mode(rounding)), 1 << 31);
        assert_eq!(mul_f32(1 << 31, one, mode(rounding)), 1 << 31);
    }
}

#[test]
fn overflow_stays_finite_where_the_rounding_mode_says_so() {
    let max = f32::MAX.to_bits();
    let inf = f32::INFINITY.to_bits();
    for (rounding, want) in [
        (Rounding::Nearest, inf),
        (Rounding::Zero, max),
        (Rounding::Down, max),
        (Rounding::Up, inf),
    ] {
        assert_eq!(add_f32(max, max, mode(rounding)), want);
    }
    assert_eq!(rcp_f32(0, mode(Rounding::Zero)), inf);
    assert_eq!(rcp_f32(1 << 31, mode(Rounding::Zero)), inf | 1 << 31);
}

#[test]
fn modifiers() {
    let ftz = FloatMode {
        ftz: true,
        ..FloatMode::default()
    };
    let sat = FloatMode {
        sat: true,
        ..FloatMode::default()
    };
    assert_eq!(add_f32(0x8000_0001, 0x8000_0001, ftz), 1 << 31);
    assert_eq!(mul_f32(0x0080_0000, 0.5f32.to_bits(), ftz), 0);
    assert_eq!(
        mul_f32(0x0080_0000, 0.5f32.to_bits(), mode(Rounding::Nearest)),
        0x0040_0000
    );
    assert_eq!(add_f32(2f32.to_bits(), 0, sat), 1f32.to_bits());
    assert_eq!(add_f32((-2f32).to_bits(), 0, sat), 0);
    assert_eq!(add_f32(0x7fc0_1234, 0, sat), 0);
    assert_eq!(add_f32(0x7fc0_1234, 0, mode(Rounding::Nearest)), NAN_F32);
    assert_eq!(sqrt_f32((-1f32).to_bits(), mode(Rounding::Up)), NAN_F32);
    assert_eq!(sqrt_f32(1 << 31, mode(Rounding::Up)), 1 << 31);
}

#[test]
fn double_precision_keeps_nan_payloads() {
    let nan = 0x7ff0_0000_0000_0123;
    assert_eq!(add_f64(nan, 0, Rounding::Nearest), nan | 1 << 51);
    assert_eq!(fma_f64(0, 0, nan, Rounding::Zero), nan | 1 << 51);
    assert_eq!(
        sub_f64(f64::INFINITY.to_bits(), f64::INFINITY.to_bits(), Rounding::Up),
        NAN_F64
    );
    assert_eq!(mul_f64(f64::INFINITY.to_bits(), 0, Rounding::Nearest), NAN_F64);
}

#[test]
fn minimum_orders_zeros_and_signs() {
    let min = MinMax::default();
    let xorsign = MinMax {
        max: true,
        xorsign_abs: true,
        ..min
    };
    assert_eq!(min.f32(0, 1 << 31, false), 1 << 31);
    assert_eq!(MinMax { max: true, ..min }.f32(1 << 31, 0, false), 0);
    assert_eq!(f(xorsign.f32((-3f32).to_bits(), 2f32.to_bits(), false)), -3.0);
    assert_eq!(f(xorsign.f32((-3f32).to_bits(), (-4f32).to_bits(), false)), 4.0);
    assert_eq!(min.f64(f64::NAN.to_bits(), 1f64.to_bits()), 1f64.to_bits());
    assert_eq!(min.f64((-1f64).to_bits(), (-2f64).to_bits()), (-2f64).to_bits());
}

#[test]
fn classes() {
    let of = |class: Class, value: f32| class.test(Format::F32, u64::from(value.to_bits()));
    assert!(of(Class::Normal, 1.0) && !of(Class::Normal, 0.0) && !of(Class::Normal, 1e-40));
    assert!(of(Class::Subnormal, -1e-40) && !of(Class::Subnormal, 0.0));
    assert!(of(Class::Finite, 0.0) && !of(Class::Finite, f32::INFINITY) && of(Class::Infinite, -f32::INFINITY));
    assert!(of(Class::NotANumber, f32::NAN) && of(Class::Number, f32::INFINITY));
}

/// Stores a root as a float, which lets an optimiser see a choice between floats and drop it.
#[inline(never)]
fn store_roots(input: u32, roots: &mut [f32; 2]) {
    roots[0] = f(canonical_f32(f(input).sqrt()));
    roots[1] = f(sqrt_f32(input, mode(Rounding::Nearest)));
}

#[test]
fn roots_of_negative_numbers_are_the_canonical_nan_when_stored_as_floats() {
    for input in [0x7f80_0001, 0xffc0_0001, 0xff80_0000, (-1f32).to_bits()] {
        let mut roots = [0.0; 2];
        store_roots(std::hint::black_box(input), &mut roots);
        assert_eq!(std::hint::black_box(&roots).map(f32::to_bits), [NAN_F32; 2]);
    }
}
