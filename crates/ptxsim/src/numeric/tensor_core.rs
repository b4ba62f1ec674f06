//! The dot-product-accumulate of the tensor cores, bit for bit.
//!
//! Products are exact. They and the addend are aligned to the largest exponent among them, each is truncated to F fractional
//! bits, the integers are summed exactly and the sum is rounded once. Longer dot products chain groups of this operation.
//! F, the group lengths and the rounding are those of "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores"
//! (arXiv 2511.10909). A product's exponent is the sum of its factors' exponents: it is not normalised first.

use super::soft::{self, Format, Rounding, Value};
use super::{NAN_F32, NAN_HALF};

/// The exponent of a zero addend, the least that takes part in the alignment.
const LEAST_EXPONENT: i32 = -126;
/// The exponent of a zero factor, so low that its products never are the largest.
const ZERO_EXPONENT: i32 = -10_000;
/// Terms that an i32 can add up: each is below 2^27.
const CHUNK: usize = 8;

/// Generations of tensor cores that differ in arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorCore {
    /// sm_80, sm_86, sm_87.
    Ampere,
    /// sm_89.
    Ada,
    /// sm_90.
    Hopper,
    /// sm_100 and later.
    Blackwell,
}

impl TensorCore {
    /// The generation of a compute capability written as in `sm_80`: 80.
    pub fn of_sm(sm: u32) -> TensorCore {
        match sm {
            ..=88 => TensorCore::Ampere,
            89 => TensorCore::Ada,
            90..=99 => TensorCore::Hopper,
            _ => TensorCore::Blackwell,
        }
    }

    /// Parameters of a dot product over operands of `bytes` bytes each.
    pub fn arithmetic(self, bytes: usize, accumulator: Accumulator) -> Arithmetic {
        let group_bytes = match self {
            TensorCore::Ampere | TensorCore::Ada => 16,
            TensorCore::Hopper | TensorCore::Blackwell => 32,
        };
        let narrow = self == TensorCore::Ada && bytes == 1;
        let fraction = match self {
            _ if narrow => 13,
            TensorCore::Ampere | TensorCore::Ada => 24,
            TensorCore::Hopper | TensorCore::Blackwell => 25,
        };
        let result = match accumulator {
            Accumulator::F16 => ResultRounding::F16,
            Accumulator::F32 if narrow => ResultRounding::Fraction13,
            Accumulator::F32 => ResultRounding::F32,
        };
        Arithmetic {
            group: group_bytes / bytes,
            fraction,
            result,
        }
    }
}

/// Type of the addend and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// f16, rounded to nearest after every group.
    F16,
    /// f32, truncated after every group.
    F32,
}

/// How a sum becomes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultRounding {
    /// Toward zero to f32.
    F32,
    /// Toward zero to 13 fraction bits with the exponents of f32.
    Fraction13,
    /// To nearest even, to f16.
    F16,
}

/// Parameters of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Products summed at once.
    pub group: usize,
    /// Fractional bits kept of each term, below the largest exponent.
    pub fraction: u32,
    /// Rounding of each group's sum.
    pub result: ResultRounding,
}

/// A factor `significand` · 2^`exponent`, or an infinity or NaN as the significand.
///
/// Significands have at most 11 bits, so that a product of two is exact in f32, and stay below 2. Subnormals have the least
/// exponent of their format and a significand below 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factor {
    significand: f32,
    exponent: i32,
}

impl Factor {
    /// Takes a value of a format with this least exponent apart. Without branches, so that a loop over lanes vectorises.
    #[inline(always)]
    pub fn new(value: f32, min_exponent: i32) -> Factor {
        let bits = value.to_bits();
        let exponent = (bits >> 23 & 255) as i32 - 127;
        let unit = f32::from_bits(bits & 0x807f_ffff | 0x3f80_0000);
        let subnormal = value * f32::from_bits(((127 - min_exponent) as u32) << 23);
        let small = exponent < min_exponent;
        let finite = if small { subnormal } else { unit };
        let exponent_or_least = if small { min_exponent } else { exponent };
        Factor {
            significand: if exponent == 128 { value } else { finite },
            exponent: if bits & 0x7fff_ffff == 0 {
                ZERO_EXPONENT
            } else {
                exponent_or_least
            },
        }
    }

    /// Whether this is an infinity or a NaN.
    #[inline(always)]
    pub fn is_special(self) -> bool {
        !self.significand.is_finite()
    }
}

/// One factor of each of `L` columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lanes<const L: usize> {
    significand: [f32; L],
    exponent: [i32; L],
}

impl<const L: usize> Lanes<L> {
    /// Zeros.
    pub const ZERO: Lanes<L> = Lanes {
        significand: [0.0; L],
        exponent: [ZERO_EXPONENT; L],
    };

    /// Sets one column's factor.
    #[inline(always)]
    pub fn set(&mut self, column: usize, factor: Factor) {
        self.significand[column] = factor.significand;
        self.exponent[column] = factor.exponent;
    }
}

/// A row of factors times each of `L` columns plus `c`, in groups; `c` and the results in the accumulator's bits. `special`
/// tells whether any factor is an infinity or a NaN.
pub fn dot<const L: usize>(
    arithmetic: Arithmetic,
    a: &[Factor],
    b: &[Lanes<L>],
    c: [u32; L],
    special: bool,
) -> [u32; L] {
    let group = arithmetic.group.max(1);
    a.chunks(group)
        .zip(b.chunks(group))
        .fold(c, |c, (a, b)| dot_group(arithmetic, a, b, c, special))
}

fn dot_group<const L: usize>(
    arithmetic: Arithmetic,
    a: &[Factor],
    b: &[Lanes<L>],
    c: [u32; L],
    special: bool,
) -> [u32; L] {
    let addends = c.map(|bits| soft::unpack(arithmetic.result.format(), u64::from(bits)));
    let mut totals = [0i64; L];
    let mut largest = [LEAST_EXPONENT; L];
    for (addend, largest) in addends.iter().zip(&mut largest) {
        *largest = addend_exponent(arithmetic, *addend).max(LEAST_EXPONENT);
    }
    for (x, y) in a.iter().zip(b) {
        for (largest, exponent) in largest.iter_mut().zip(y.exponent) {
            *largest = (*largest).max(x.exponent + exponent);
        }
    }
    for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
        let sums = sum_chunk(arithmetic.fraction as i32, a, b, &largest);
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += i64::from(sum);
        }
    }
    std::array::from_fn(|n| {
        if special || !matches!(addends[n], Value::Finite { .. }) {
            let products = a.iter().zip(b).map(|(x, y)| x.significand * y.significand[n]);
            if let Some(bits) = special_sum(arithmetic.result, addends[n], products) {
                return bits;
            }
        }
        let total = totals[n] + aligned_addend(arithmetic, addends[n], largest[n]);
        finish(arithmetic.result, total, largest[n] - arithmetic.fraction as i32)
    })
}

/// Products in units of 2^(`largest` - `fraction`), each truncated toward zero, summed.
#[inline(always)]
fn sum_chunk<const L: usize>(fraction: i32, a: &[Factor], b: &[Lanes<L>], largest: &[i32; L]) -> [i32; L] {
    let mut sums = [0i32; L];
    for (x, y) in a.iter().zip(b) {
        for n in 0..L {
            // Past 63 nothing is left of a product, and the scale stays a normal number.
            let below = (largest[n] - x.exponent - y.exponent[n]).min(63);
            let scale = f32::from_bits(((127 + fraction - below) as u32) << 23);
            sums[n] = sums[n].wrapping_add((x.significand * y.significand[n] * scale) as i32);
        }
    }
    sums
}

fn addend_exponent(arithmetic: Arithmetic, addend: Value) -> i32 {
    match addend {
        Value::Finite {
            magnitude: 1..,
            exponent,
            ..
        } => exponent + arithmetic.result.format().fraction as i32,
        _ => LEAST_EXPONENT,
    }
}

fn aligned_addend(arithmetic: Arithmetic, addend: Value, largest: i32) -> i64 {
    let Value::Finite {
        negative,
        magnitude,
        exponent,
    } = addend
    else {
        return 0;
    };
    let magnitude = match largest - arithmetic.fraction as i32 - exponent {
        left @ ..=0 => magnitude << left.unsigned_abs().min(39),
        right => magnitude >> right.min(63),
    };
    if negative {
        -(magnitude as i64)
    } else {
        magnitude as i64
    }
}

impl ResultRounding {
    fn format(self) -> Format {
        match self {
            ResultRounding::F16 => Format::F16,
            ResultRounding::F32 | ResultRounding::Fraction13 => Format::F32,
        }
    }
}

fn finish(result: ResultRounding, total: i64, exponent: i32) -> u32 {
    let (negative, magnitude) = (total < 0, total.unsigned_abs());
    match result {
        ResultRounding::F16 => soft::round(Format::F16, Rounding::Nearest, negative, magnitude, exponent) as u32,
        ResultRounding::F32 => truncate(negative, magnitude, exponent),
        ResultRounding::Fraction13 => truncate(negative, magnitude, exponent) & !0x3ff,
    }
}

/// Toward zero to f32, except that what is too large becomes an infinity: the significand is truncated before its exponent
/// is looked at.
fn truncate(negative: bool, magnitude: u64, exponent: i32) -> u32 {
    let sign = u32::from(negative) << 31;
    if magnitude == 0 {
        return 0;
    }
    let leading = 63 - magnitude.leading_zeros() as i32 + exponent;
    if leading > 127 {
        return sign | 0x7f80_0000;
    }
    let scale = leading.max(LEAST_EXPONENT);
    let significand = match scale - 23 - exponent {
        left @ ..=0 => magnitude << left.unsigned_abs(),
        right => magnitude.checked_shr(right.unsigned_abs()).unwrap_or(0),
    };
    sign | ((((scale - LEAST_EXPONENT) as u32) << 23) + significand as u32)
}

/// The result where an infinity or a NaN takes part, else none.
fn special_sum(result: ResultRounding, addend: Value, products: impl Iterator<Item = f32>) -> Option<u32> {
    let start = match addend {
        Value::Nan => f32::NAN,
        Value::Infinite(true) => f32::NEG_INFINITY,
        Value::Infinite(false) => f32::INFINITY,
        Value::Finite { .. } => 0.0,
    };
    let total: f32 = products.fold(start, |sum, product| sum + product);
    let half = result == ResultRounding::F16;
    if total.is_nan() {
        Some(if half { u32::from(NAN_HALF) } else { NAN_F32 })
    } else if total.is_infinite() {
        let sign = u32::from(total < 0.0);
        Some(if half {
            sign << 15 | 0x7c00
        } else {
            sign << 31 | 0x7f80_0000
        })
    } else {
        None
    }
}
