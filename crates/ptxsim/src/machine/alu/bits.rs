//! Logic, shifts, bit fields, permutations and counts.

use super::lanes::{self, Widen, for_type};
use crate::machine::registers::{LANES, Registers};
use crate::numeric::bits;
use crate::numeric::integer::IntType;
use crate::program::Reg;
use crate::program::alu::{Bits, BitsOp, Lop3Test};

pub(super) fn execute(inst: &Bits, registers: &mut Registers, mask: u32) {
    let Bits { op, bits, dst, src } = *inst;
    let [a, b, c, _] = src;
    match op {
        BitsOp::And => logic(registers, mask, bits, dst, [a, b], |a, b| a & b),
        BitsOp::Or => logic(registers, mask, bits, dst, [a, b], |a, b| a | b),
        BitsOp::Xor => logic(registers, mask, bits, dst, [a, b], |a, b| a ^ b),
        BitsOp::Not => lanes::map1(registers, mask, bits, dst, a, |a| !a),
        BitsOp::Cnot => lanes::map1(registers, mask, bits, dst, a, |a| u64::from(a == 0)),
        BitsOp::Lop3(table) => {
            let lop3 = Lop3::new(table);
            registers.map3(mask, dst, [a, b, c], |a, b, c| lop3.apply(a, b, c));
        }
        BitsOp::Shl => shift_left(registers, mask, bits, dst, [a, b]),
        BitsOp::Shr { signed } => {
            let ty = IntType { bits, signed };
            for_type!(ty, TY, W => registers.map2(mask, dst, [a, b], |a: W, b: u32| bits::shr(TY, a.wide(), b) as W));
        }
        BitsOp::Brev => lanes::map1(registers, mask, bits, dst, a, |a| bits::brev(bits, a)),
        BitsOp::Bfe { signed } => field(registers, mask, IntType { bits, signed }, dst, [a, b, c]),
        BitsOp::Bfi => insert(registers, mask, bits, dst, src),
        BitsOp::Popc => count(registers, mask, bits, dst, a, |a| bits::popc(bits, a)),
        BitsOp::Clz => count(registers, mask, bits, dst, a, |a| bits::clz(bits, a)),
        BitsOp::Bfind { signed, shift_amount } => {
            let ty = IntType { bits, signed };
            count(registers, mask, bits, dst, a, |a| bits::bfind(ty, shift_amount, a));
        }
        _ => of_words(op, registers, mask, dst, [a, b, c]),
    }
}

/// Logic is the same for every word of a value, and of a 16-bit one leaves the upper zeros of a slot as they are.
fn logic(registers: &mut Registers, mask: u32, bits: u32, dst: Reg, [a, b]: [Reg; 2], f: impl Fn(u32, u32) -> u32) {
    for word in 0..bits.div_ceil(32) {
        registers.map2(mask, dst.word(word), [a.word(word), b.word(word)], &f);
    }
}

/// Operations of 32 bits only.
fn of_words(op: BitsOp, registers: &mut Registers, mask: u32, dst: Reg, src: [Reg; 3]) {
    let two = [src[0], src[1]];
    match op {
        BitsOp::Funnel { left: true, wrap: true } => {
            registers.map3(mask, dst, src, |a, b, c| bits::funnel_shift(true, true, a, b, c));
        }
        BitsOp::Funnel { left, wrap } => {
            registers.map3(mask, dst, src, |a, b, c| bits::funnel_shift(left, wrap, a, b, c));
        }
        BitsOp::Bytes(selector) => bytes(registers, mask, selector, dst, two),
        BitsOp::Permute(mode) => registers.map3(mask, dst, src, |a, b, c| bits::prmt(mode, a, b, c)),
        BitsOp::Bmsk { wrap } => registers.map2(mask, dst, two, |a, b| bits::bmsk(wrap, a, b)),
        BitsOp::Szext { signed, wrap } => registers.map2(mask, dst, two, |a, b| bits::szext(signed, wrap, a, b)),
        // The only one left.
        _ => registers.map3(mask, dst, src, |a, b, c: u32| bits::fns(a, b, c as i32)),
    }
}

/// `prmt` by a constant: where each byte lies is known before the loop.
fn bytes(registers: &mut Registers, mask: u32, selector: u16, dst: Reg, src: [Reg; 2]) {
    let shifts: [u32; 4] = std::array::from_fn(|i| u32::from(selector >> (4 * i) & 3) * 8);
    let from_b: [u32; 4] = std::array::from_fn(|i| 0u32.wrapping_sub(u32::from(selector >> (4 * i + 2) & 1)));
    registers.map2(mask, dst, src, |a: u32, b: u32| {
        let byte = |i: usize| ((a & !from_b[i] | b & from_b[i]) >> shifts[i] & 0xff) << (8 * i);
        byte(0) | byte(1) | byte(2) | byte(3)
    });
}

fn shift_left(registers: &mut Registers, mask: u32, bits: u32, dst: Reg, src: [Reg; 2]) {
    match bits {
        16 => registers.map2(mask, dst, src, |a: u16, b| bits::shl(16, a.into(), b) as u16),
        32 => registers.map2(mask, dst, src, |a: u32, b| bits::shl(32, a.into(), b) as u32),
        _ => registers.map2(mask, dst, src, |a: u64, b| bits::shl(64, a, b)),
    }
}

fn field(registers: &mut Registers, mask: u32, ty: IntType, dst: Reg, src: [Reg; 3]) {
    if ty.bits == 64 {
        registers.map3(mask, dst, src, |a: u64, b, c| bits::bfe(ty, a, b, c));
    } else {
        registers.map3(mask, dst, src, |a: u32, b, c| bits::bfe(ty, a.into(), b, c) as u32);
    }
}

/// The only instruction with four sources.
fn insert(registers: &mut Registers, mask: u32, width: u32, dst: Reg, [a, b, c, d]: [Reg; 4]) {
    let (position, length) = (registers.get::<u32>(c), registers.get::<u32>(d));
    if width == 64 {
        let (a, b) = (registers.get::<u64>(a), registers.get::<u64>(b));
        let value = |lane: usize| bits::bfi(64, a[lane], b[lane], position[lane], length[lane]);
        let values: [u64; LANES] = std::array::from_fn(value);
        registers.set(mask, dst, &values);
    } else {
        let (a, b) = (registers.get::<u32>(a), registers.get::<u32>(b));
        let value = |lane: usize| bits::bfi(32, a[lane].into(), b[lane].into(), position[lane], length[lane]) as u32;
        let values: [u32; LANES] = std::array::from_fn(value);
        registers.set(mask, dst, &values);
    }
}

/// A word of a value of 32 or 64 bits.
#[inline(always)]
fn count(registers: &mut Registers, mask: u32, bits: u32, dst: Reg, a: Reg, f: impl Fn(u64) -> u32) {
    if bits == 64 {
        registers.map1(mask, dst, a, f);
    } else {
        registers.map1(mask, dst, a, |a: u32| f(a.into()));
    }
}

/// `lop3` with a predicate.
pub(super) fn lop3_test(inst: &Lop3Test, registers: &mut Registers, mask: u32) {
    let lop3 = Lop3::new(inst.table);
    let [a, b, c] = inst.src.map(|reg| registers.get::<u32>(reg));
    let values: [u32; LANES] = std::array::from_fn(|lane| lop3.apply(a[lane], b[lane], c[lane]));
    let nonzero = crate::machine::registers::bits(|lane| values[lane] != 0);
    let result = inst.combine.apply(nonzero, super::select::value(registers, inst.with));
    registers.set(mask, inst.dst, &values);
    registers.set_predicate(mask, inst.pred, result);
}

/// A table of `lop3` as choices by c, then b, then a: three levels whatever the table, each entry all ones or zeros.
struct Lop3 {
    /// The entry where c is 0, and what c changes, by a and b.
    rows: [[u32; 2]; 4],
}

impl Lop3 {
    fn new(table: u8) -> Lop3 {
        let entry = |row: usize| 0u32.wrapping_sub(u32::from(table >> row & 1));
        Lop3 {
            rows: std::array::from_fn(|row| [entry(2 * row), entry(2 * row) ^ entry(2 * row + 1)]),
        }
    }

    #[inline(always)]
    fn apply(&self, a: u32, b: u32, c: u32) -> u32 {
        let [w, x, y, z] = self.rows.map(|[zero, change]| zero ^ (change & c));
        let (low, high) = (w ^ ((w ^ x) & b), y ^ ((y ^ z) & b));
        low ^ ((low ^ high) & a)
    }
}
