//! f32 functions that a compiler can vectorise.

/// a · b + c, fused where FMA says that this is one instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The Taylor series of 2^f = exp(f ln 2), from the constant on; its remainder on |f| <= 1/2 is 6e-9.
pub(crate) const EXP2: [f32; 8] = [
    1.0,
    std::f32::consts::LN_2,
    2.402_265e-1,
    5.550_411e-2,
    9.618_129e-3,
    1.333_355_8e-3,
    1.540_353e-4,
    1.525_273_4e-5,
];

/// 2^x to about 1 ulp, subnormal results included; 2^-inf is 0, 2^NaN is NaN.
///
/// x = n + f with n the nearest integer; the factor 2^n is applied in two halves so that neither over- nor underflows alone.
#[inline(always)]
pub(crate) fn exp2<const FMA: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to an integer, and leaves that integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-152.0, 129.0);
    let shifted = clamped + ROUND;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let f = clamped - (shifted - ROUND);
    let [.., mut p] = EXP2;
    for term in EXP2.into_iter().rev().skip(1) {
        p = mul_add::<FMA>(p, f, term);
    }
    let half = n >> 1;
    let result = p * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if x.is_nan() { x } else { result }
}

/// 2^n for n within the exponents of normal numbers.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// 1 / sqrt(x).
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Level, Loop};

    struct Exp2<'a>(&'a mut [f32]);
    impl Loop for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            self.0.iter_mut().for_each(|x| *x = exp2::<FMA>(*x));
        }
    }

    fn levels() -> impl Iterator<Item = Level> {
        [Level::Portable, Level::Avx2].into_iter().filter(|l| l.is_available())
    }

    #[test]
    fn exp2_is_within_two_ulp() {
        let inputs: Vec<f32> = (0..400_000).map(|i| -149.5 + i as f32 * (277.0 / 400_000.0)).collect();
        for level in levels() {
            let mut outputs = inputs.clone();
            level.run(Exp2(&mut outputs));
            for (&x, &y) in inputs.iter().zip(&outputs) {
                let exact = f64::from(x).exp2();
                let ulp = (exact * 2f64.powi(-23)).max(2f64.powi(-149));
                assert!(
                    (f64::from(y) - exact).abs() <= 2.0 * ulp,
                    "{level:?}: 2^{x} = {exact}, got {y}"
                );
            }
        }
    }

    #[test]
    fn exp2_of_special_values() {
        for level in levels() {
            let mut x = [
                f32::NEG_INFINITY,
                f32::INFINITY,
                f32::NAN,
                0.0,
                -0.0,
                -1e30,
                1e30,
                128.0,
                -149.0,
                10.0,
            ];
            level.run(Exp2(&mut x));
            assert!(x[2].is_nan());
            x[2] = 0.0;
            let tiny = f32::from_bits(1);
            assert_eq!(
                x,
                [
                    0.0,
                    f32::INFINITY,
                    0.0,
                    1.0,
                    1.0,
                    0.0,
                    f32::INFINITY,
                    f32::INFINITY,
                    tiny,
                    1024.0
                ]
            );
        }
    }
}
