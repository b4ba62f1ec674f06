//! How far a result is from the truth.

use std::fmt;

use serde::Serialize;

use crate::{HostTensor, Result, TensorError};

/// The distance between a result and a reference of the same shape, in f64.
///
/// A NaN in either tensor makes every metric NaN, so `metric <= limit` is false; never test
/// `metric > limit`. An infinity that the other tensor has too, in the same place with the same
/// sign, is equal and left out of the sums; any other makes every metric infinite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// Largest |got - want|.
    pub max_abs: f64,
    /// ‖got - want‖ / ‖want‖, in the L2 norm; 0 where both are 0.
    pub rel_l2: f64,
    /// 1 - 2·Σxy / Σ(x² + y²), 0 for equal tensors: the measure FlashMLA and DeepGEMM test with.
    pub cosine_diff: f64,
    /// Elements compared, equal infinities included.
    pub count: usize,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            max_abs,
            rel_l2,
            cosine_diff,
            count,
        } = self;
        write!(
            f,
            "max-abs {max_abs:.3e}  rel-L2 {rel_l2:.3e}  cosine-diff {cosine_diff:.3e}  ({count} elements)"
        )
    }
}

/// Compares `got` with the reference `want`. The element types may differ.
///
/// # Errors
/// [`TensorError::ShapeMismatch`].
pub fn compare(got: &HostTensor, want: &HostTensor) -> Result<Comparison> {
    check_shapes(got, want)?;
    let count = want.numel();
    let (got, want) = (got.to_f64_vec(), want.to_f64_vec());
    let pairs = || got.iter().copied().zip(want.iter().copied());
    let all = |metric| Comparison {
        max_abs: metric,
        rel_l2: metric,
        cosine_diff: metric,
        count,
    };
    if pairs().any(|(x, y)| x.is_nan() || y.is_nan()) {
        return Ok(all(f64::NAN));
    }
    // Only equal infinities are equal and not finite.
    if pairs().any(|(x, y)| x != y && !(x.is_finite() && y.is_finite())) {
        return Ok(all(f64::INFINITY));
    }
    let finite = || pairs().filter(|(x, _)| x.is_finite());
    // Squares of values near the ends of f64's range would overflow or vanish: scale them.
    let scale = finite().fold(0.0, |m: f64, (x, y)| m.max(x.abs()).max(y.abs()));
    if scale == 0.0 {
        return Ok(all(0.0));
    }
    let (mut max_abs, mut diff2, mut got2, mut want2) = (0.0f64, 0.0, 0.0, 0.0);
    for (x, y) in finite() {
        max_abs = max_abs.max((x - y).abs());
        diff2 += ((x - y) / scale).powi(2);
        got2 += (x / scale).powi(2);
        want2 += (y / scale).powi(2);
    }
    Ok(Comparison {
        max_abs,
        rel_l2: if diff2 == 0.0 { 0.0 } else { (diff2 / want2).sqrt() },
        // The same as 1 - 2·Σxy / Σ(x² + y²), without the cancellation.
        cosine_diff: diff2 / (got2 + want2),
        count,
    })
}

pub(crate) fn check_shapes(got: &HostTensor, want: &HostTensor) -> Result<()> {
    if got.shape() != want.shape() {
        return Err(TensorError::ShapeMismatch {
            expected: want.shape().to_vec(),
            got: got.shape().to_vec(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use proptest::prelude::*;

    fn of(got: &[f64], want: &[f64]) -> Comparison {
        let tensor = |x: &[f64]| HostTensor::from_f64(&[x.len()], x).unwrap();
        compare(&tensor(got), &tensor(want)).unwrap()
    }

    fn metrics(c: Comparison) -> [f64; 3] {
        [c.max_abs, c.rel_l2, c.cosine_diff]
    }

    #[test]
    fn known_values() {
        let c = of(&[3.0, 4.0], &[3.0, 0.0]);
        assert_eq!((c.max_abs, c.count), (4.0, 2));
        assert!((c.rel_l2 - 4.0 / 3.0).abs() < 1e-15);
        assert!((c.cosine_diff - (1.0 - 18.0 / 34.0)).abs() < 1e-15);
        assert_eq!(metrics(of(&[1.0], &[0.0])), [1.0, f64::INFINITY, 1.0]);
        assert_eq!(metrics(of(&[0.0], &[-0.0])), [0.0; 3]);
        assert_eq!(metrics(of(&[], &[])), [0.0; 3]);
    }

    #[test]
    fn nan_never_passes() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for (got, want) in [
            ([nan, 1.0], [0.0, 1.0]),
            ([0.0, 1.0], [nan, 1.0]),
            ([nan, 1.0], [nan, 1.0]),
            ([nan, inf], [0.0, 1.0]),
        ] {
            assert!(metrics(of(&got, &want)).iter().all(|m| m.is_nan()), "{got:?} {want:?}");
        }
    }

    #[test]
    fn infinities() {
        let inf = f64::INFINITY;
        let c = of(&[-inf, 1.0, inf], &[-inf, 1.0, inf]);
        assert_eq!((metrics(c), c.count), ([0.0; 3], 3));
        assert_eq!(metrics(of(&[-inf, 3.0], &[-inf, 2.0]))[0], 1.0);
        for (got, want) in [
            ([inf, 1.0], [-inf, 1.0]),
            ([inf, 1.0], [5.0, 1.0]),
            ([5.0, 1.0], [inf, 1.0]),
        ] {
            assert_eq!(metrics(of(&got, &want)), [inf; 3], "{got:?} {want:?}");
        }
    }

    #[test]
    fn extreme_magnitudes_do_not_overflow_or_vanish() {
        for size in [1e300, 1e-300, 5e-324] {
            let c = of(&[2.0 * size, 0.0], &[size, 0.0]);
            assert_eq!(c.rel_l2, 1.0, "{size}");
            assert!((c.cosine_diff - 0.2).abs() < 1e-15, "{size}");
        }
    }

    #[test]
    fn shapes_must_match_and_types_need_not() {
        let a = HostTensor::from_f32(&[1, 2], &[1.0, 2.0]).unwrap();
        assert_eq!(compare(&a.to_dtype(DType::BF16), &a).unwrap().max_abs, 0.0);
        let error = compare(&a, &a.reshape(&[2, 1]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("expected [2, 1], got [1, 2]"), "{error}");
    }

    proptest! {
        #[test]
        fn identities(pairs in proptest::collection::vec((-1e3f64..1e3, -1e3f64..1e3), 1..40), k in -8i32..8) {
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            prop_assert_eq!(metrics(of(&x, &x)), [0.0; 3]);

            let (c, back) = (of(&x, &y), of(&y, &x));
            prop_assert_eq!(c.max_abs, back.max_abs);
            prop_assert!((c.cosine_diff - back.cosine_diff).abs() < 1e-12);
            prop_assert!((0.0..=2.0 + 1e-12).contains(&c.cosine_diff));

            let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(&y).map(|(&x, &y)| f(x, y)).sum::<f64>();
            let by_definition = 1.0 - 2.0 * sum(&|x, y| x * y) / sum(&|x, y| x * x + y * y);
            prop_assert!((c.cosine_diff - by_definition).abs() < 1e-12);
            let norm = sum(&|x, y| (x - y) * (x - y)).sqrt() / sum(&|_, y| y * y).sqrt();
            prop_assert!((c.rel_l2 - norm).abs() <= 1e-12 * norm);

            // A power of two changes no rounding.
            let scaled = |v: &[f64]| v.iter().map(|a| a * 2f64.powi(k)).collect::<Vec<_>>();
            let s = of(&scaled(&x), &scaled(&y));
            prop_assert_eq!((s.rel_l2, s.cosine_diff), (c.rel_l2, c.cosine_diff));
            prop_assert_eq!(s.max_abs, c.max_abs * 2f64.powi(k));
        }

        #[test]
        fn one_nan_anywhere_is_seen(mut x in proptest::collection::vec(-1.0f64..1.0, 1..40), at: prop::sample::Index) {
            let y = x.clone();
            let at = at.index(x.len());
            x[at] = f64::NAN;
            prop_assert!(metrics(of(&x, &y)).iter().all(|m| m.is_nan()));
        }
    }
}
