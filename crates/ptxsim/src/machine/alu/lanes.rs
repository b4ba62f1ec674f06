//! Loops over lanes for values of a width that only the instruction knows.

use crate::machine::registers::Registers;
use crate::program::Reg;

/// A value that has 64 bits or fewer.
pub(super) trait Widen {
    /// Extended by zeros.
    fn wide(self) -> u64;
}

impl Widen for u16 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self.into()
    }
}

impl Widen for u32 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self.into()
    }
}

impl Widen for u64 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self
    }
}

/// dst = f(a), both of 16, 32 or 64 bits; f gets zero-extended values and its result is cut.
#[inline(always)]
pub(super) fn map1(registers: &mut Registers, mask: u32, bits: u32, dst: Reg, a: Reg, f: impl Fn(u64) -> u64) {
    match bits {
        16 => registers.map1(mask, dst, a, |a: u16| f(u64::from(a)) as u16),
        32 => registers.map1(mask, dst, a, |a: u32| f(u64::from(a)) as u32),
        _ => registers.map1(mask, dst, a, f),
    }
}

/// As `map1`, of two values.
#[inline(always)]
pub(super) fn map2(
    registers: &mut Registers,
    mask: u32,
    bits: u32,
    dst: Reg,
    src: [Reg; 2],
    f: impl Fn(u64, u64) -> u64,
) {
    match bits {
        16 => registers.map2(mask, dst, src, |a: u16, b: u16| f(u64::from(a), u64::from(b)) as u16),
        32 => registers.map2(mask, dst, src, |a: u32, b: u32| f(u64::from(a), u64::from(b)) as u32),
        _ => registers.map2(mask, dst, src, f),
    }
}

/// As `map1`, of three values.
#[inline(always)]
pub(super) fn map3(
    registers: &mut Registers,
    mask: u32,
    bits: u32,
    dst: Reg,
    src: [Reg; 3],
    f: impl Fn(u64, u64, u64) -> u64,
) {
    match bits {
        16 => registers.map3(mask, dst, src, |a: u16, b: u16, c: u16| {
            f(u64::from(a), u64::from(b), u64::from(c)) as u16
        }),
        32 => registers.map3(mask, dst, src, |a: u32, b: u32, c: u32| {
            f(u64::from(a), u64::from(b), u64::from(c)) as u32
        }),
        _ => registers.map3(mask, dst, src, f),
    }
}

/// Evaluates the body with the integer type as a constant and the host's type of that width, one loop for each.
macro_rules! for_type {
    ($ty:expr, $constant:ident, $word:ident => $body:expr) => {
        match ($ty.bits, $ty.signed) {
            (16, false) => for_type!(@of 16, false, u16, $constant, $word => $body),
            (16, true) => for_type!(@of 16, true, u16, $constant, $word => $body),
            (32, false) => for_type!(@of 32, false, u32, $constant, $word => $body),
            (32, true) => for_type!(@of 32, true, u32, $constant, $word => $body),
            (_, false) => for_type!(@of 64, false, u64, $constant, $word => $body),
            (_, true) => for_type!(@of 64, true, u64, $constant, $word => $body),
        }
    };
    (@of $bits:literal, $signed:literal, $host:ty, $constant:ident, $word:ident => $body:expr) => {{
        const $constant: IntType = IntType { bits: $bits, signed: $signed };
        type $word = $host;
        $body
    }};
}

pub(super) use for_type;
