//! Selections and functions of predicates.

use crate::machine::registers::{LANES, Registers};
use crate::numeric::float::flush_f32;
use crate::program::Reg;
use crate::program::alu::{Logic, Select, SelectBySign};
use crate::program::op::PredSource;

/// A predicate as a source, one bit a lane.
#[inline(always)]
pub(super) fn value(registers: &Registers, source: PredSource) -> u32 {
    let bits = source.pred.map_or(u32::MAX, |pred| registers.predicate(pred));
    if source.negated { !bits } else { bits }
}

pub(super) fn logic(inst: &Logic, registers: &mut Registers, mask: u32) {
    let [a, b] = inst.src.map(|source| value(registers, source));
    registers.set_predicate(mask, inst.dst, inst.op.apply(a, b));
}

pub(super) fn select(inst: &Select, registers: &mut Registers, mask: u32) {
    let choice = value(registers, inst.pred);
    choose(registers, mask, inst.words, inst.dst, inst.src, choice);
}

pub(super) fn select_by_sign(inst: &SelectBySign, registers: &mut Registers, mask: u32) {
    let [a, b, c] = inst.src;
    let choice = match inst.float {
        None => registers.test1(c, |c: u32| c as i32 >= 0),
        Some(ftz) => registers.test1(c, |c: u32| f32::from_bits(if ftz { flush_f32(c) } else { c }) >= 0.0),
    };
    choose(registers, mask, inst.words, inst.dst, [a, b], choice);
}

/// The first source in the lanes of `choice`, else the second.
fn choose(registers: &mut Registers, mask: u32, words: u32, dst: Reg, [a, b]: [Reg; 2], choice: u32) {
    for word in 0..words {
        let (a, b) = (registers.lanes(a.word(word)), registers.lanes(b.word(word)));
        let values: [u32; LANES] = std::array::from_fn(|lane| if choice >> lane & 1 == 1 { a[lane] } else { b[lane] });
        registers.set(mask, dst.word(word), &values);
    }
}
