//! Binary floating point in integer arithmetic: exact operations with one rounding, for any format up to f64.
//!
//! The host's own arithmetic rounds to nearest only; every other rounding mode, and every format narrower than f32, goes
//! through here.

/// A binary format with infinities and NaNs as IEEE 754 lays them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Explicit fraction bits.
    pub fraction: u32,
    /// Exponent bits.
    pub exponent: u32,
}

impl Format {
    /// IEEE binary16.
    pub const F16: Format = Format {
        fraction: 10,
        exponent: 5,
    };
    /// The upper half of an f32.
    pub const BF16: Format = Format {
        fraction: 7,
        exponent: 8,
    };
    /// The 19 leading bits of an f32.
    pub const TF32: Format = Format {
        fraction: 10,
        exponent: 8,
    };
    /// IEEE binary32.
    pub const F32: Format = Format {
        fraction: 23,
        exponent: 8,
    };
    /// IEEE binary64.
    pub const F64: Format = Format {
        fraction: 52,
        exponent: 11,
    };

    const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// Smallest exponent of a normal value.
    pub const fn min_exponent(self) -> i32 {
        1 - self.bias()
    }

    /// Bits of positive infinity.
    pub const fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    /// The sign bit.
    pub const fn sign_bit(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    /// Whether the pattern is a NaN.
    pub const fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign_bit() - 1) > self.infinity()
    }

    /// Whether the pattern is a non-zero value without the implied leading bit.
    pub const fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign_bit() - 1);
        magnitude != 0 && magnitude >> self.fraction == 0
    }

    /// Bits of the largest finite value.
    pub const fn max_finite(self) -> u64 {
        self.infinity() - 1
    }

    /// A quiet NaN with every fraction bit set.
    pub const fn nan(self) -> u64 {
        self.sign_bit() - 1
    }
}

/// Rounding modes of PTX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// `.rn`: nearest, ties to even.
    #[default]
    Nearest,
    /// `.rna`: nearest, ties away from zero.
    NearestAway,
    /// `.rz`: toward zero.
    Zero,
    /// `.rm`: toward negative infinity.
    Down,
    /// `.rp`: toward positive infinity.
    Up,
}

impl Rounding {
    /// Reads `rn`, `rna`, `rz`, `rm` or `rp`.
    pub fn parse(modifier: &str) -> Option<Rounding> {
        Some(match modifier {
            "rn" => Rounding::Nearest,
            "rna" => Rounding::NearestAway,
            "rz" => Rounding::Zero,
            "rm" => Rounding::Down,
            "rp" => Rounding::Up,
            _ => return None,
        })
    }

    /// Whether a magnitude `quotient + remainder / divisor` with `twice` = 2 * remainder compared with divisor rounds up.
    pub(crate) fn rounds_up(self, negative: bool, odd: bool, inexact: bool, twice: std::cmp::Ordering) -> bool {
        match self {
            Rounding::Nearest => twice.is_gt() || (twice.is_eq() && odd),
            Rounding::NearestAway => twice.is_ge(),
            Rounding::Zero => false,
            Rounding::Down => inexact && negative,
            Rounding::Up => inexact && !negative,
        }
    }
}

/// A value taken apart: ±`magnitude` · 2^`exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// Infinity; true when negative.
    Infinite(bool),
    /// Zero or a finite value.
    Finite {
        /// Whether the sign bit is set.
        negative: bool,
        /// Integer significand, zero for zero.
        magnitude: u64,
        /// Weight of the significand's last bit.
        exponent: i32,
    },
}

/// Takes a bit pattern apart.
pub fn unpack(format: Format, bits: u64) -> Value {
    let (negative, magnitude, exponent) = unpack_finite(format, bits);
    match (bits & (format.sign_bit() - 1)).cmp(&format.infinity()) {
        std::cmp::Ordering::Less => Value::Finite {
            negative,
            magnitude,
            exponent,
        },
        std::cmp::Ordering::Equal => Value::Infinite(negative),
        std::cmp::Ordering::Greater => Value::Nan,
    }
}

/// Sign, significand and the weight of its last bit, the largest exponent taken for an ordinary one.
pub fn unpack_finite(format: Format, bits: u64) -> (bool, u64, i32) {
    let biased = (bits >> format.fraction) & ((1 << format.exponent) - 1);
    let hidden = u64::from(biased != 0) << format.fraction;
    let fraction = bits & ((1 << format.fraction) - 1);
    let exponent = biased.max(1) as i32 - format.bias() - format.fraction as i32;
    (bits & format.sign_bit() != 0, fraction | hidden, exponent)
}

/// Rounds ±`magnitude` · 2^`exponent` to `format`. The last bit of an inexact magnitude of 63 bits or more may stand for
/// everything below it.
pub fn round(format: Format, rounding: Rounding, negative: bool, magnitude: u64, exponent: i32) -> u64 {
    let sign = if negative { format.sign_bit() } else { 0 };
    let bits = round_unbounded(format, rounding, negative, magnitude, exponent);
    if bits < format.infinity() {
        return sign | bits;
    }
    let stays_finite = match rounding {
        Rounding::Nearest | Rounding::NearestAway => false,
        Rounding::Zero => true,
        Rounding::Down => !negative,
        Rounding::Up => negative,
    };
    sign | if stays_finite {
        format.max_finite()
    } else {
        format.infinity()
    }
}

/// `round` without a largest exponent: the magnitude's bits, with as wide an exponent field as it takes.
pub fn round_unbounded(format: Format, rounding: Rounding, negative: bool, magnitude: u64, exponent: i32) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    let leading = 63 - magnitude.leading_zeros() as i32 + exponent;
    let scale = leading.max(format.min_exponent());
    let shift = scale - format.fraction as i32 - exponent;
    let (mut significand, inexact, twice) = match shift {
        ..=0 => (magnitude << -shift, false, std::cmp::Ordering::Less),
        1..64 => {
            let rest = magnitude & ((1 << shift) - 1);
            (magnitude >> shift, rest != 0, rest.cmp(&(1 << (shift - 1))))
        }
        64 => (0, true, magnitude.cmp(&(1 << 63))),
        _ => (0, true, std::cmp::Ordering::Less),
    };
    significand += u64::from(rounding.rounds_up(negative, significand & 1 == 1, inexact, twice));
    // The implied bit, where there is one, adds one to the exponent field; so does a carry out of the fraction.
    (((scale - format.min_exponent()) as u64) << format.fraction) + significand
}

/// `round` for a wide magnitude: bits below the upper 64 are folded into the last one.
fn round_wide(format: Format, rounding: Rounding, negative: bool, magnitude: u128, exponent: i32) -> u64 {
    let shift = 64u32.saturating_sub(magnitude.leading_zeros());
    round(
        format,
        rounding,
        negative,
        shift_right_sticky(magnitude, shift) as u64,
        exponent + shift as i32,
    )
}

fn shift_right_sticky(magnitude: u128, shift: u32) -> u128 {
    if shift == 0 {
        magnitude
    } else if shift >= 128 {
        u128::from(magnitude != 0)
    } else {
        (magnitude >> shift) | u128::from(magnitude & ((1 << shift) - 1) != 0)
    }
}

fn zero(format: Format, negative: bool) -> u64 {
    if negative { format.sign_bit() } else { 0 }
}

fn infinity(format: Format, negative: bool) -> u64 {
    zero(format, negative) | format.infinity()
}

/// The rounded value of a number given as bits of another format; NaN becomes the format's NaN.
pub fn convert(from: Format, to: Format, rounding: Rounding, bits: u64) -> u64 {
    match unpack(from, bits) {
        Value::Nan => to.nan(),
        Value::Infinite(negative) => infinity(to, negative),
        Value::Finite {
            negative,
            magnitude,
            exponent,
        } => round(to, rounding, negative, magnitude, exponent),
    }
}

/// A sum of two finite terms, exactly, rounded once.
fn sum(format: Format, rounding: Rounding, x: (bool, u128, i32), y: (bool, u128, i32)) -> u64 {
    let top = |(_, magnitude, exponent): (bool, u128, i32)| 127 - magnitude.leading_zeros() as i32 + exponent;
    if x.1 == 0 && y.1 == 0 {
        let negative = if x.0 == y.0 { x.0 } else { rounding == Rounding::Down };
        return zero(format, negative);
    }
    if x.1 == 0 || y.1 == 0 {
        let (negative, magnitude, exponent) = if x.1 == 0 { y } else { x };
        return round_wide(format, rounding, negative, magnitude, exponent);
    }
    // The larger term's leading bit goes to bit 124, so a sum has room; what the smaller one loses is folded into its
    // last bit, far below the rounding position (at most 106 + 53 bits take part).
    let base = top(x).max(top(y)) - 124;
    let align = |(_, magnitude, exponent): (bool, u128, i32)| match exponent - base {
        shift @ 0.. => magnitude << shift,
        shift => shift_right_sticky(magnitude, shift.unsigned_abs()),
    };
    let (mx, my) = (align(x), align(y));
    if x.0 == y.0 {
        return round_wide(format, rounding, x.0, mx + my, base);
    }
    match mx.cmp(&my) {
        std::cmp::Ordering::Equal => zero(format, rounding == Rounding::Down),
        std::cmp::Ordering::Greater => round_wide(format, rounding, x.0, mx - my, base),
        std::cmp::Ordering::Less => round_wide(format, rounding, y.0, my - mx, base),
    }
}

/// a + b with one rounding.
pub fn add(format: Format, rounding: Rounding, a: u64, b: u64) -> u64 {
    match (unpack(format, a), unpack(format, b)) {
        (Value::Nan, _) | (_, Value::Nan) => format.nan(),
        (Value::Infinite(x), Value::Infinite(y)) if x != y => format.nan(),
        (Value::Infinite(x), _) | (_, Value::Infinite(x)) => infinity(format, x),
        (
            Value::Finite {
                negative: na,
                magnitude: ma,
                exponent: ea,
            },
            Value::Finite {
                negative: nb,
                magnitude: mb,
                exponent: eb,
            },
        ) => sum(format, rounding, (na, u128::from(ma), ea), (nb, u128::from(mb), eb)),
    }
}

/// The exact product of two numbers: a finite one as sign, magnitude and exponent, else the result's bits.
fn product(format: Format, a: u64, b: u64) -> Result<(bool, u128, i32), u64> {
    match (unpack(format, a), unpack(format, b)) {
        (Value::Nan, _) | (_, Value::Nan) => Err(format.nan()),
        (Value::Infinite(x), Value::Infinite(y)) => Err(infinity(format, x != y)),
        (
            Value::Infinite(x),
            Value::Finite {
                negative, magnitude, ..
            },
        )
        | (
            Value::Finite {
                negative, magnitude, ..
            },
            Value::Infinite(x),
        ) => Err(if magnitude == 0 {
            format.nan()
        } else {
            infinity(format, x != negative)
        }),
        (
            Value::Finite {
                negative: na,
                magnitude: ma,
                exponent: ea,
            },
            Value::Finite {
                negative: nb,
                magnitude: mb,
                exponent: eb,
            },
        ) => Ok((na != nb, u128::from(ma) * u128::from(mb), ea + eb)),
    }
}

/// a · b with one rounding.
pub fn mul(format: Format, rounding: Rounding, a: u64, b: u64) -> u64 {
    match product(format, a, b) {
        Ok((negative, magnitude, exponent)) => round_wide(format, rounding, negative, magnitude, exponent),
        Err(special) => special,
    }
}

/// a · b + c with one rounding.
pub fn fma(format: Format, rounding: Rounding, a: u64, b: u64, c: u64) -> u64 {
    match (product(format, a, b), unpack(format, c)) {
        (_, Value::Nan) => format.nan(),
        (Err(special), _) if format.is_nan(special) => special,
        (Err(special), Value::Infinite(negative)) if special != infinity(format, negative) => format.nan(),
        (Err(special), _) => special,
        (Ok(_), Value::Infinite(negative)) => infinity(format, negative),
        (
            Ok(ab),
            Value::Finite {
                negative,
                magnitude,
                exponent,
            },
        ) => sum(format, rounding, ab, (negative, u128::from(magnitude), exponent)),
    }
}

/// a / b with one rounding.
pub fn div(format: Format, rounding: Rounding, a: u64, b: u64) -> u64 {
    match (unpack(format, a), unpack(format, b)) {
        (Value::Nan, _) | (_, Value::Nan) | (Value::Infinite(_), Value::Infinite(_)) => format.nan(),
        (Value::Infinite(x), Value::Finite { negative, .. }) => infinity(format, x != negative),
        (Value::Finite { negative, .. }, Value::Infinite(y)) => zero(format, negative != y),
        (Value::Finite { magnitude: 0, .. }, Value::Finite { magnitude: 0, .. }) => format.nan(),
        (
            Value::Finite {
                negative: na,
                magnitude: ma,
                exponent: ea,
            },
            Value::Finite {
                negative: nb,
                magnitude: mb,
                exponent: eb,
            },
        ) => {
            if mb == 0 {
                return infinity(format, na != nb);
            }
            // Both significands at bit 62: the quotient then has 63 or 64 bits.
            let (sa, sb) = (ma.leading_zeros().min(63) as i32 - 1, mb.leading_zeros() as i32 - 1);
            let (numerator, divisor) = (u128::from(ma << sa) << 63, u128::from(mb << sb));
            let quotient = (numerator / divisor) as u64 | u64::from(numerator % divisor != 0);
            round(format, rounding, na != nb, quotient, (ea - sa) - (eb - sb) - 63)
        }
    }
}

/// The square root with one rounding; of a negative number NaN, of a negative zero itself.
pub fn sqrt(format: Format, rounding: Rounding, a: u64) -> u64 {
    match unpack(format, a) {
        Value::Finite { magnitude: 0, .. } => a,
        Value::Infinite(false) => a,
        Value::Finite {
            negative: false,
            magnitude,
            exponent,
        } => {
            // An even exponent, and a radicand of 125 or 126 bits for a root of 63 bits.
            let mut shift = magnitude.leading_zeros() as i32 + 62;
            shift -= (exponent - shift) & 1;
            let radicand = u128::from(magnitude) << shift;
            let root = radicand.isqrt();
            let sticky = u64::from(root * root != radicand);
            round(format, rounding, false, root as u64 | sticky, (exponent - shift) / 2)
        }
        _ => format.nan(),
    }
}
