//! Integer arithmetic of 8 to 64 bits. Values travel in the low bits of a u64; results are extended to 64 bits by their type.

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntType {
    /// Width: 8, 16, 32 or 64.
    pub bits: u32,
    /// Two's complement, else unsigned.
    pub signed: bool,
}

impl IntType {
    /// Unsigned 32 bits.
    pub const U32: IntType = IntType {
        bits: 32,
        signed: false,
    };
    /// Signed 32 bits.
    pub const S32: IntType = IntType { bits: 32, signed: true };

    /// Reads `u8` to `s64`, and `b8` to `b64` as unsigned.
    pub fn parse(modifier: &str) -> Option<IntType> {
        let signed = modifier.starts_with('s');
        let width = modifier.strip_prefix(['s', 'u', 'b'])?;
        let bits = match width {
            "8" => 8,
            "16" => 16,
            "32" => 32,
            "64" => 64,
            _ => return None,
        };
        Some(IntType { bits, signed })
    }

    /// The low bits extended to 64.
    #[inline(always)]
    pub fn extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits;
        if self.signed {
            ((value << unused) as i64 >> unused) as u64
        } else {
            value << unused >> unused
        }
    }

    /// The number that the low bits stand for.
    #[inline(always)]
    pub fn decode(self, value: u64) -> i128 {
        if self.signed {
            i128::from(self.extend(value) as i64)
        } else {
            i128::from(self.extend(value))
        }
    }

    /// The nearest number of this type.
    pub fn clamp(self, value: i128) -> i128 {
        let span = 1i128 << (self.bits - u32::from(self.signed));
        value.clamp(if self.signed { -span } else { 0 }, span - 1)
    }

    fn encode(self, value: i128) -> u64 {
        self.extend(value as u64)
    }
}

/// Which part of a product `mul` and `mad` keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The low half.
    Low,
    /// The high half.
    High,
    /// All of it, in twice the width.
    Wide,
}

/// `mul`.
#[inline]
pub fn mul(ty: IntType, part: Part, a: u64, b: u64) -> u64 {
    mad(ty, part, a, b, 0)
}

/// `mad`: `c` has the result's width.
#[inline]
pub fn mad(ty: IntType, part: Part, a: u64, b: u64, c: u64) -> u64 {
    match part {
        Part::Low => ty.extend(a.wrapping_mul(b).wrapping_add(c)),
        Part::Wide if ty.bits < 64 => {
            let product = ty.extend(a).wrapping_mul(ty.extend(b));
            IntType {
                bits: 2 * ty.bits,
                ..ty
            }
            .extend(product.wrapping_add(c))
        }
        Part::Wide => a.wrapping_mul(b).wrapping_add(c),
        Part::High => ty.extend(high(ty, a, b).wrapping_add(c)),
    }
}

fn high(ty: IntType, a: u64, b: u64) -> u64 {
    // Two unsigned 64-bit numbers overflow an i128; as u128 the bits are right for both signs.
    let product = (ty.decode(a) as u128).wrapping_mul(ty.decode(b) as u128);
    (product >> ty.bits) as u64
}

/// `mad.hi.sat.s32`: the high half plus c, clamped.
pub fn mad_hi_sat_s32(a: u32, b: u32, c: u32) -> u32 {
    let high = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
    (high as i32).saturating_add(c as i32) as u32
}

/// `mul24` and `mad24`: the product of the low 24 bits, its low 32 bits or, if `high`, bits 16 to 47; plus c.
pub fn mad24(signed: bool, high: bool, a: u32, b: u32, c: u32) -> u32 {
    let low = |value: u32| {
        if signed {
            i64::from((value << 8) as i32 >> 8)
        } else {
            i64::from(value & 0xff_ffff)
        }
    };
    let product = low(a) * low(b);
    (if high { product >> 16 } else { product } as u32).wrapping_add(c)
}

/// `sad`: |a - b| + c.
pub fn sad(ty: IntType, a: u64, b: u64, c: u64) -> u64 {
    ty.encode((ty.decode(a) - ty.decode(b)).abs() + ty.decode(c))
}

/// `add.sat.s32` of any type: the clamped sum.
pub fn add_sat(ty: IntType, a: u64, b: u64) -> u64 {
    ty.encode(ty.clamp(ty.decode(a) + ty.decode(b)))
}

/// `sub.sat.s32` of any type: the clamped difference.
pub fn sub_sat(ty: IntType, a: u64, b: u64) -> u64 {
    ty.encode(ty.clamp(ty.decode(a) - ty.decode(b)))
}

/// `add.cc` and `addc.cc`: the sum with a carry in, and the carry out.
#[inline]
pub fn add_carry(bits: u32, a: u64, b: u64, carry: bool) -> (u64, bool) {
    let ty = IntType { bits, signed: false };
    let sum = u128::from(ty.extend(a)) + u128::from(ty.extend(b)) + u128::from(carry);
    (ty.extend(sum as u64), sum >> bits != 0)
}

/// `sub.cc` and `subc.cc`: the difference less a borrow in, and the borrow out.
#[inline]
pub fn sub_borrow(bits: u32, a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let ty = IntType { bits, signed: false };
    let difference = i128::from(ty.extend(a)) - i128::from(ty.extend(b)) - i128::from(borrow);
    (ty.extend(difference as u64), difference < 0)
}

/// `mad.cc` and `madc.cc`: a part of the product plus c and a carry in, and the carry out.
pub fn mad_carry(ty: IntType, part: Part, a: u64, b: u64, c: u64, carry: bool) -> (u64, bool) {
    let product = mul(ty, part, a, b);
    let (sum, out) = add_carry(ty.bits, product, c, carry);
    (ty.extend(sum), out)
}

/// `div`. The PTX ISA leaves division by zero open; it gives all ones.
#[inline]
pub fn div(ty: IntType, a: u64, b: u64) -> u64 {
    let (x, y) = (ty.extend(a), ty.extend(b));
    ty.extend(match (y, ty.signed) {
        (0, _) => u64::MAX,
        (_, true) => (x as i64).wrapping_div(y as i64) as u64,
        (_, false) => x / y,
    })
}

/// `rem`. The PTX ISA leaves division by zero open; it gives the dividend.
#[inline]
pub fn rem(ty: IntType, a: u64, b: u64) -> u64 {
    let (x, y) = (ty.extend(a), ty.extend(b));
    ty.extend(match (y, ty.signed) {
        (0, _) => x,
        (_, true) => (x as i64).wrapping_rem(y as i64) as u64,
        (_, false) => x % y,
    })
}

/// `min`, or `max`; with `relu` negative results become 0.
#[inline]
pub fn min_max(ty: IntType, max: bool, relu: bool, a: u64, b: u64) -> u64 {
    let (x, y) = (ty.extend(a), ty.extend(b));
    let a_less = if ty.signed { (x as i64) < (y as i64) } else { x < y };
    let result = if a_less == max { y } else { x };
    if relu && ty.signed && (result as i64) < 0 {
        0
    } else {
        result
    }
}

/// `min` or `max` of the two 16-bit halves of words.
pub fn min_max_x2(signed: bool, max: bool, relu: bool, a: u32, b: u32) -> u32 {
    let ty = IntType { bits: 16, signed };
    super::half_ops::map2(a, b, |x, y| min_max(ty, max, relu, u64::from(x), u64::from(y)) as u16)
}

/// `abs`; the least value is its own.
pub fn abs(ty: IntType, a: u64) -> u64 {
    ty.extend((ty.extend(a) as i64).wrapping_abs() as u64)
}

/// `dp4a`: the products of four bytes each, and c. Signedness of a's and of b's bytes.
pub fn dp4a(a_signed: bool, b_signed: bool, a: u32, b: u32, c: u32) -> u32 {
    (0..4).fold(c, |sum, i| {
        let product = element(8, a_signed, a, i) * element(8, b_signed, b, i);
        sum.wrapping_add(product as u32)
    })
}

/// `dp2a`: the products of a's two halves with b's two low bytes, or with `high` its two high ones, and c.
pub fn dp2a(a_signed: bool, b_signed: bool, high: bool, a: u32, b: u32, c: u32) -> u32 {
    (0..2).fold(c, |sum, i| {
        let product = element(16, a_signed, a, i) * element(8, b_signed, b, i + if high { 2 } else { 0 });
        sum.wrapping_add(product as u32)
    })
}

fn element(bits: u32, signed: bool, word: u32, index: u32) -> i64 {
    IntType { bits, signed }.extend(u64::from(word >> (bits * index))) as i64
}
