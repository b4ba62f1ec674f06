//! Errors counted in units in the last place.

use std::fmt;
use std::ops::RangeInclusive;

use crate::compare::check_shapes;
use crate::convert::{bf16_from_f64, f16_from_f64};
use crate::{DType, HostTensor, Result, TensorError};

/// How many elements of a bf16, f16 or f32 result are 0, 1, 2, 3-4, 5-8, ... units in the last
/// place from the truth, rounded to that type.
///
/// A distance is the number of steps from one value of the type to the other: +0 and -0 are one
/// value, and infinity is one step past the largest finite value. NaN in either tensor is counted
/// apart. `Display` is a table of the counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UlpHistogram {
    dtype: DType,
    /// Bucket 0 holds distance 0, bucket 1 distance 1, bucket i above 2^(i-2) to 2^(i-1).
    counts: Vec<usize>,
    nan: usize,
}

impl UlpHistogram {
    /// Counts the elements of `got` by their distance to `truth` (f64) in steps of `got`'s type.
    ///
    /// # Errors
    /// [`TensorError::ShapeMismatch`]; [`TensorError::DTypeMismatch`] when `got` is no bf16, f16 or
    /// f32 tensor or `truth` is not f64.
    pub fn new(got: &HostTensor, truth: &HostTensor) -> Result<Self> {
        check_shapes(got, truth)?;
        let truth = truth.as_f64()?;
        let places: Vec<Option<u64>> = match got.dtype() {
            DType::BF16 => distances(
                got.as_bf16()?,
                truth,
                |x| place(x.to_bits().into(), 16, x.is_nan()),
                bf16_from_f64,
            ),
            DType::F16 => distances(
                got.as_f16()?,
                truth,
                |x| place(x.to_bits().into(), 16, x.is_nan()),
                f16_from_f64,
            ),
            DType::F32 => distances(
                got.as_f32()?,
                truth,
                |x| place(x.to_bits(), 32, x.is_nan()),
                |x| x as f32,
            ),
            got => {
                return Err(TensorError::DTypeMismatch {
                    expected: "bf16, f16 or f32",
                    got,
                });
            }
        };
        let mut histogram = Self {
            dtype: got.dtype(),
            counts: Vec::new(),
            nan: 0,
        };
        places.into_iter().for_each(|distance| histogram.add(distance));
        Ok(histogram)
    }

    /// The distances, in units in the last place, and how many elements are that far: every range
    /// from 0 to the last that has any.
    pub fn counts(&self) -> impl Iterator<Item = (RangeInclusive<u64>, usize)> {
        self.counts
            .iter()
            .enumerate()
            .map(|(i, &count)| (distances_of(i), count))
    }

    /// Elements where the result or the truth is NaN.
    pub fn nan(&self) -> usize {
        self.nan
    }

    fn add(&mut self, distance: Option<u64>) {
        let Some(distance) = distance else {
            self.nan += 1;
            return;
        };
        let bucket = bucket_of(distance);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
    }
}

impl fmt::Display for UlpHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nan + self.counts.iter().sum::<usize>();
        writeln!(
            f,
            "{:>23}  {:>10}  {:>7}",
            format!("ulp ({})", self.dtype),
            "elements",
            "share"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: String, count: usize| {
            let share = 100.0 * count as f64 / total as f64;
            writeln!(f, "{name:>23}  {count:>10}  {share:>6.2}%")
        };
        for (range, count) in self.counts() {
            let (first, last) = range.into_inner();
            let name = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            row(f, name, count)?;
        }
        if self.nan != 0 {
            row(f, "nan".to_owned(), self.nan)?;
        }
        Ok(())
    }
}

/// The distance of each pair, `None` where either is NaN.
fn distances<T: Copy>(
    got: &[T],
    truth: &[f64],
    place: impl Fn(T) -> Option<i64>,
    round: impl Fn(f64) -> T,
) -> Vec<Option<u64>> {
    let pairs = got.iter().zip(truth);
    pairs
        .map(|(&x, &y)| Some(place(x)?.abs_diff(place(round(y))?)))
        .collect()
}

/// A float's place in the order of all values of its type, zero's being 0; `None` for NaN.
fn place(bits: u32, width: u32, is_nan: bool) -> Option<i64> {
    let sign = 1 << (width - 1);
    let magnitude = i64::from(bits & !sign);
    (!is_nan).then_some(if bits & sign == 0 { magnitude } else { -magnitude })
}

fn bucket_of(distance: u64) -> usize {
    match distance {
        0 => 0,
        _ => 1 + (u64::BITS - (distance - 1).leading_zeros()) as usize,
    }
}

fn distances_of(bucket: usize) -> RangeInclusive<u64> {
    match bucket {
        0 => 0..=0,
        1 => 1..=1,
        _ => (1 << (bucket - 2)) + 1..=1 << (bucket - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn bf16_tensor(bits: &[u16]) -> HostTensor {
        HostTensor::from_bytes(DType::BF16, &[bits.len()], bytemuck::cast_slice(bits)).unwrap()
    }

    #[test]
    fn buckets_hold_the_distances_they_name() {
        for distance in (0..5000).chain([u64::from(u32::MAX), 1 << 32]) {
            assert!(distances_of(bucket_of(distance)).contains(&distance), "{distance}");
        }
        assert_eq!(distances_of(3), 3..=4);
        assert_eq!(distances_of(4), 5..=8);
    }

    #[test]
    fn counts_steps_of_the_result_s_type() {
        let one = bf16::ONE.to_bits();
        let (tiny, minus_tiny) = (0x0001, 0x8001);
        let got = bf16_tensor(&[
            one,
            one + 1,
            one - 2,
            one + 4,
            0x8000,
            minus_tiny,
            bf16::NAN.to_bits(),
            bf16::INFINITY.to_bits(),
        ]);
        let tiny = bf16::from_bits(tiny).to_f64();
        // The first differs from the truth by less than half a step, so it is right.
        let truth = [1.0 + 2f64.powi(-9), 1.0, 1.0, 1.0, 0.0, tiny, 1.0, bf16::MAX.to_f64()];
        let truth = HostTensor::from_f64(&[8], &truth).unwrap();
        let histogram = UlpHistogram::new(&got, &truth).unwrap();
        let counts: Vec<_> = histogram.counts().collect();
        assert_eq!(counts, [(0..=0, 2), (1..=1, 2), (2..=2, 2), (3..=4, 1)]);
        assert_eq!(histogram.nan(), 1);
        let text = histogram.to_string();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(
            text.contains("ulp (bf16)") && text.contains("3-4") && text.contains("25.00%"),
            "{text}"
        );
    }

    #[test]
    fn types_and_shapes_are_checked() {
        let truth = HostTensor::from_f64(&[1], &[1.0]).unwrap();
        let f32s = truth.to_dtype(DType::F32);
        assert_eq!(UlpHistogram::new(&f32s, &truth).unwrap().counts().count(), 1);
        assert!(UlpHistogram::new(&truth, &truth).is_err());
        assert!(UlpHistogram::new(&f32s, &f32s).is_err());
        assert!(UlpHistogram::new(&f32s, &truth.reshape(&[1, 1]).unwrap()).is_err());
        let empty = HostTensor::zeros(DType::F16, &[0]).unwrap();
        let histogram = UlpHistogram::new(&empty, &empty.to_dtype(DType::F64)).unwrap();
        assert_eq!(histogram.to_string().lines().count(), 1);
    }

    proptest! {
        #[test]
        fn a_rounded_truth_is_zero_steps_away(values in proptest::collection::vec(any::<f64>(), 1..50)) {
            let truth = HostTensor::from_f64(&[values.len()], &values).unwrap();
            for dtype in [DType::BF16, DType::F16, DType::F32] {
                let histogram = UlpHistogram::new(&truth.to_dtype(dtype), &truth).unwrap();
                prop_assert!(histogram.counts().all(|(range, _)| range == (0..=0)));
            }
        }
    }
}
