//! Arithmetic with a carry.

use crate::machine::registers::{LANES, Registers, Word};
use crate::numeric::integer;
use crate::program::alu::{Carry, CarryOp};

pub(super) fn execute(inst: &Carry, registers: &mut Registers, mask: u32) {
    if inst.ty.bits == 64 {
        of_width::<u64>(inst, registers, mask, |value| value, |value| value);
    } else {
        of_width::<u32>(inst, registers, mask, u64::from, |value| value as u32);
    }
}

fn of_width<T: Word>(
    inst: &Carry,
    registers: &mut Registers,
    mask: u32,
    widen: impl Fn(T) -> u64,
    narrow: impl Fn(u64) -> T,
) {
    let [a, b, c] = inst.src.map(|reg| registers.get::<T>(reg));
    let carries = if inst.reads { registers.predicate(inst.carry) } else { 0 };
    let mut out = 0;
    let values: [T; LANES] = std::array::from_fn(|lane| {
        let [a, b, c] = [widen(a[lane]), widen(b[lane]), widen(c[lane])];
        let carry = carries >> lane & 1 == 1;
        let (value, carry) = match inst.op {
            CarryOp::Add => integer::add_carry(inst.ty.bits, a, b, carry),
            CarryOp::Sub => integer::sub_borrow(inst.ty.bits, a, b, carry),
            CarryOp::Mad(part) => integer::mad_carry(inst.ty, part, a, b, c, carry),
        };
        out |= u32::from(carry) << lane;
        narrow(value)
    });
    registers.set(mask, inst.dst, &values);
    if inst.writes {
        registers.set_predicate(mask, inst.carry, out);
    }
}
