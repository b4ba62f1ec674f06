//! Moves of whole registers, and of several to one and back.

use crate::machine::registers::{LANES, Registers};
use crate::program::Reg;
use crate::program::alu::{Move, Pack, Unpack};

pub(super) fn copy(inst: &Move, registers: &mut Registers, mask: u32) {
    words(registers, mask, inst.words, inst.dst, inst.src);
}

fn words(registers: &mut Registers, mask: u32, count: u32, dst: Reg, src: Reg) {
    for word in 0..count {
        registers.map1(mask, dst.word(word), src.word(word), |value: u32| value);
    }
}

pub(super) fn pack(inst: &Pack, registers: &mut Registers, mask: u32) {
    let elements = &inst.elements;
    if inst.bits >= 32 {
        let each = inst.bits / 32;
        for (place, src) in (0..).zip(elements) {
            words(registers, mask, each, inst.dst.word(place * each), *src);
        }
        return;
    }
    let low = (1 << inst.bits) - 1;
    for (word, elements) in (0..).zip(elements.chunks(32 / inst.bits as usize)) {
        let mut values = [0; LANES];
        for (place, src) in (0..).zip(elements) {
            let source = registers.lanes(*src);
            for (value, source) in values.iter_mut().zip(source) {
                *value |= (source & low) << (place * inst.bits);
            }
        }
        registers.set(mask, inst.dst.word(word), &values);
    }
}

pub(super) fn unpack(inst: &Unpack, registers: &mut Registers, mask: u32) {
    for (place, dst) in (0..).zip(&inst.elements) {
        let Some(dst) = *dst else { continue };
        let start = place * inst.bits;
        let src = inst.src.word(start / 32);
        if inst.bits >= 32 {
            words(registers, mask, inst.bits / 32, dst, src);
        } else {
            let (shift, low) = (start % 32, (1u32 << inst.bits) - 1);
            registers.map1(mask, dst, src, |value: u32| value >> shift & low);
        }
    }
}
