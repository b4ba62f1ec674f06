//! Shifts, bit fields, permutations and counts.

use super::integer::IntType;

/// `shl`: amounts past the width give 0.
#[inline]
pub fn shl(bits: u32, a: u64, amount: u32) -> u64 {
    let ty = IntType { bits, signed: false };
    if amount >= bits { 0 } else { ty.extend(a << amount) }
}

/// `shr`: amounts past the width give 0, or copies of a signed number's sign.
#[inline]
pub fn shr(ty: IntType, a: u64, amount: u32) -> u64 {
    let value = ty.extend(a);
    match (amount >= ty.bits, ty.signed) {
        (true, false) => 0,
        (true, true) => ((value as i64) >> 63) as u64,
        (false, false) => value >> amount,
        (false, true) => ((value as i64) >> amount) as u64,
    }
}

/// `shf.l` and `shf.r`: the 64 bits b:a shifted, and the high word (left) or the low word (right) kept. The amount wraps
/// at 32, or is clamped to 32.
#[inline]
pub fn funnel_shift(left: bool, wrap: bool, a: u32, b: u32, amount: u32) -> u32 {
    let amount = if wrap { amount & 31 } else { amount.min(32) };
    let joined = u64::from(b) << 32 | u64::from(a);
    if left {
        (joined << amount >> 32) as u32
    } else {
        (joined >> amount) as u32
    }
}

/// `bfe`: `length` bits from `position`, extended by the type; a signed field past the top has the number's sign.
pub fn bfe(ty: IntType, a: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let shifted = shr(ty, a, position);
    if position.saturating_add(length) >= ty.bits {
        return shifted;
    }
    let unused = 64 - length;
    if ty.signed {
        ((shifted << unused) as i64 >> unused) as u64
    } else {
        shifted << unused >> unused
    }
}

/// `bfi`: b with `length` bits from `position` replaced by the low bits of a.
pub fn bfi(bits: u32, a: u64, b: u64, position: u32, length: u32) -> u64 {
    let ty = IntType { bits, signed: false };
    let (position, length) = (position & 0xff, (length & 0xff).min(64));
    if position >= bits || length == 0 {
        return ty.extend(b);
    }
    let mask = (u64::MAX >> (64 - length)) << position;
    ty.extend((b & !mask) | (a << position & mask))
}

/// `bfind`: the most significant bit that is not a copy of the sign, all ones if there is none; with `shift_amount` the
/// left shift that would bring it to the top.
pub fn bfind(ty: IntType, shift_amount: bool, a: u64) -> u32 {
    let value = ty.extend(a);
    let magnitude = if ty.signed && (value as i64) < 0 { !value } else { value };
    match magnitude.checked_ilog2() {
        None => u32::MAX,
        Some(bit) if shift_amount => ty.bits - 1 - bit,
        Some(bit) => bit,
    }
}

/// `fns`: the position of the n-th set bit from `base` (upward for a positive n, downward for a negative one, at `base`
/// itself for 0), or all ones.
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    let set = |bit: &u32| mask >> bit & 1 == 1;
    let found = match offset {
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth(offset as usize - 1),
        _ => (0..=base).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
    };
    found.unwrap_or(u32::MAX)
}

/// `brev`.
#[inline]
pub fn brev(bits: u32, a: u64) -> u64 {
    a.reverse_bits() >> (64 - bits)
}

/// `clz`.
#[inline]
pub fn clz(bits: u32, a: u64) -> u32 {
    IntType { bits, signed: false }.extend(a).leading_zeros() - (64 - bits)
}

/// `popc`.
#[inline]
pub fn popc(bits: u32, a: u64) -> u32 {
    IntType { bits, signed: false }.extend(a).count_ones()
}

/// `bmsk`: `length` ones from `position`; both wrap at 32, or are clamped to it.
pub fn bmsk(wrap: bool, position: u32, length: u32) -> u32 {
    let limit = |value: u32| if wrap { value & 31 } else { value.min(32) };
    let ones = (1u64 << limit(length)) - 1;
    (ones << limit(position)) as u32
}

/// `szext`: the low `length` bits extended by the type; the length wraps at 32, or is clamped to it.
pub fn szext(signed: bool, wrap: bool, a: u32, length: u32) -> u32 {
    let length = if wrap { length & 31 } else { length.min(32) };
    if length == 0 {
        return 0;
    }
    let unused = 32 - length;
    if signed {
        ((a << unused) as i32 >> unused) as u32
    } else {
        a << unused >> unused
    }
}

/// `lop3`: the table's bit at each position's (a, b, c).
#[inline]
pub fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    (0..8u32).filter(|row| table >> row & 1 == 1).fold(0, |result, row| {
        let pick = |word: u32, bit: u32| if row >> bit & 1 == 1 { word } else { !word };
        result | (pick(a, 2) & pick(b, 1) & pick(c, 0))
    })
}

/// Modes of `prmt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Permute {
    /// Each nibble of the selector picks a byte, its top bit replicates that byte's sign.
    #[default]
    Default,
    /// `.f4e`: four bytes upward from the selected one.
    Forward4,
    /// `.b4e`: four bytes downward.
    Backward4,
    /// `.rc8`: one byte four times.
    Replicate8,
    /// `.ecl`: bytes below the selected one are it.
    EdgeLeft,
    /// `.ecr`: bytes above the selected one are it.
    EdgeRight,
    /// `.rc16`: one half twice.
    Replicate16,
}

impl Permute {
    /// Reads a mode's modifier.
    pub fn parse(modifier: &str) -> Option<Permute> {
        Some(match modifier {
            "f4e" => Permute::Forward4,
            "b4e" => Permute::Backward4,
            "rc8" => Permute::Replicate8,
            "ecl" => Permute::EdgeLeft,
            "ecr" => Permute::EdgeRight,
            "rc16" => Permute::Replicate16,
            _ => return None,
        })
    }
}

/// `prmt`: bytes of b:a picked by the selector.
#[inline]
pub fn prmt(mode: Permute, a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let control = selector & 3;
    (0..4u32).fold(0, |result, i| {
        let nibble = match mode {
            Permute::Default => selector >> (4 * i) & 15,
            Permute::Forward4 => (control + i) & 7,
            Permute::Backward4 => control.wrapping_sub(i) & 7,
            Permute::Replicate8 => control,
            Permute::EdgeLeft => control.max(i),
            Permute::EdgeRight => control.min(i),
            Permute::Replicate16 => (control & 1) * 2 + (i & 1),
        };
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let picked = if nibble & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        result | u32::from(picked) << (8 * i)
    })
}
