//! Arithmetic on integers.

use super::lanes::{self, Widen, for_type};
use crate::machine::registers::{Lanes, Registers};
use crate::numeric::half_ops;
use crate::numeric::integer::{self, IntType, Part};
use crate::program::Reg;
use crate::program::alu::{Integer, IntegerOp};

pub(super) fn execute(inst: &Integer, registers: &mut Registers, mask: u32) {
    let Integer { op, ty, dst, src } = *inst;
    let [a, b, _] = src;
    let two = [a, b];
    match op {
        IntegerOp::Add if ty.bits == 64 => add_wide(registers, mask, dst, two),
        IntegerOp::Add => lanes::map2(registers, mask, ty.bits, dst, two, u64::wrapping_add),
        IntegerOp::Sub => lanes::map2(registers, mask, ty.bits, dst, two, u64::wrapping_sub),
        IntegerOp::Neg => lanes::map1(registers, mask, ty.bits, dst, a, u64::wrapping_neg),
        IntegerOp::Abs => lanes::map1(registers, mask, ty.bits, dst, a, |a| integer::abs(ty, a)),
        IntegerOp::Mul(part) => product(registers, mask, ty, part, dst, two),
        IntegerOp::Mad(part) => product_sum(registers, mask, ty, part, dst, src),
        IntegerOp::MinMax { max, relu } => min_max(registers, mask, ty, [max, relu], dst, two),
        IntegerOp::Div => {
            for_type!(ty, TY, W => registers.map2(mask, dst, two, |a: W, b: W| integer::div(TY, a.wide(), b.wide()) as W));
        }
        IntegerOp::Rem => {
            for_type!(ty, TY, W => registers.map2(mask, dst, two, |a: W, b: W| integer::rem(TY, a.wide(), b.wide()) as W));
        }
        IntegerOp::Sad => lanes::map3(registers, mask, ty.bits, dst, src, |a, b, c| integer::sad(ty, a, b, c)),
        IntegerOp::AddSaturated => lanes::map2(registers, mask, 32, dst, two, |a, b| integer::add_sat(ty, a, b)),
        IntegerOp::SubSaturated => lanes::map2(registers, mask, 32, dst, two, |a, b| integer::sub_sat(ty, a, b)),
        _ => of_words(registers, mask, inst),
    }
}

/// The sum of 64 bits, which most addresses are, word by word: slots hold words, and putting them together takes longer
/// than the sum.
fn add_wide(registers: &mut Registers, mask: u32, dst: Reg, [a, b]: [Reg; 2]) {
    let [a_low, a_high, b_low, b_high] = [a, a.word(1), b, b.word(1)].map(|reg| registers.lanes(reg));
    let low: Lanes = std::array::from_fn(|lane| a_low[lane].wrapping_add(b_low[lane]));
    let high: Lanes = std::array::from_fn(|lane| {
        let carry = u32::from(low[lane] < a_low[lane]);
        a_high[lane].wrapping_add(b_high[lane]).wrapping_add(carry)
    });
    registers.set(mask, dst, &low);
    registers.set(mask, dst.word(1), &high);
}

/// Operations of 32 bits only.
fn of_words(registers: &mut Registers, mask: u32, inst: &Integer) {
    let Integer { op, ty, dst, src } = *inst;
    let two = [src[0], src[1]];
    let signed = ty.signed;
    match op {
        IntegerOp::Mul24 { high } => {
            registers.map2(mask, dst, two, |a, b| integer::mad24(signed, high, a, b, 0));
        }
        IntegerOp::Mad24 { high } => {
            registers.map3(mask, dst, src, |a, b, c| integer::mad24(signed, high, a, b, c));
        }
        IntegerOp::AddX2 => registers.map2(mask, dst, two, |a, b| half_ops::map2(a, b, u16::wrapping_add)),
        IntegerOp::MinMaxX2 { max, relu } => {
            registers.map2(mask, dst, two, |a, b| integer::min_max_x2(signed, max, relu, a, b));
        }
        IntegerOp::Dp4a { b_signed } => {
            registers.map3(mask, dst, src, |a, b, c| integer::dp4a(signed, b_signed, a, b, c));
        }
        IntegerOp::Dp2a { high, b_signed } => {
            registers.map3(mask, dst, src, |a, b, c| integer::dp2a(signed, b_signed, high, a, b, c));
        }
        // The only one left.
        _ => registers.map3(mask, dst, src, integer::mad_hi_sat_s32),
    }
}

fn product(registers: &mut Registers, mask: u32, ty: IntType, part: Part, dst: Reg, src: [Reg; 2]) {
    match (part, ty.bits, ty.signed) {
        (Part::Low, ..) => lanes::map2(registers, mask, ty.bits, dst, src, u64::wrapping_mul),
        (Part::Wide, 32, true) => {
            registers.map2(mask, dst, src, |a: u32, b: u32| {
                (i64::from(a as i32) * i64::from(b as i32)) as u64
            });
        }
        (Part::Wide, 32, false) => registers.map2(mask, dst, src, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        (Part::Wide, ..) => registers.map2(mask, dst, src, |a: u16, b: u16| {
            integer::mul(ty, Part::Wide, a.into(), b.into()) as u32
        }),
        (Part::High, ..) => for_type!(ty, TY, W => registers.map2(mask, dst, src, |a: W, b: W| {
            integer::mul(TY, Part::High, a.wide(), b.wide()) as W
        })),
    }
}

fn product_sum(registers: &mut Registers, mask: u32, ty: IntType, part: Part, dst: Reg, src: [Reg; 3]) {
    match (part, ty.bits, ty.signed) {
        (Part::Low, ..) => lanes::map3(registers, mask, ty.bits, dst, src, |a, b, c| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        (Part::Wide, 32, true) => registers.map3(mask, dst, src, |a: u32, b: u32, c: u64| {
            integer::mad(IntType::S32, Part::Wide, a.into(), b.into(), c)
        }),
        (Part::Wide, 32, false) => registers.map3(mask, dst, src, |a: u32, b: u32, c: u64| {
            integer::mad(IntType::U32, Part::Wide, a.into(), b.into(), c)
        }),
        (Part::Wide, ..) => registers.map3(mask, dst, src, |a: u16, b: u16, c: u32| {
            integer::mad(ty, Part::Wide, a.into(), b.into(), c.into()) as u32
        }),
        (Part::High, ..) => for_type!(ty, TY, W => registers.map3(mask, dst, src, |a: W, b: W, c: W| {
            integer::mad(TY, Part::High, a.wide(), b.wide(), c.wide()) as W
        })),
    }
}

fn min_max(registers: &mut Registers, mask: u32, ty: IntType, [max, relu]: [bool; 2], dst: Reg, src: [Reg; 2]) {
    match (max, relu) {
        (true, false) => for_type!(ty, TY, W => registers.map2(mask, dst, src, |a: W, b: W| {
            integer::min_max(TY, true, false, a.wide(), b.wide()) as W
        })),
        (false, false) => for_type!(ty, TY, W => registers.map2(mask, dst, src, |a: W, b: W| {
            integer::min_max(TY, false, false, a.wide(), b.wide()) as W
        })),
        _ => lanes::map2(registers, mask, ty.bits, dst, src, |a, b| {
            integer::min_max(ty, max, relu, a, b)
        }),
    }
}
