//! Functions of registers, lane by lane.
//!
//! What an instruction does is decided before the loop over lanes, so that each frequent one is a loop of its own that the
//! compiler turns into vector instructions. The arithmetic is that of [`crate::numeric`].

mod bits;
mod carry;
mod compare;
mod convert;
mod double;
mod float;
mod half;
mod integer;
mod lanes;
mod moves;
mod select;

#[cfg(test)]
mod tests;

use super::options::Options;
use super::registers::Registers;
use crate::program::alu::Alu;

/// Executes an instruction in the lanes of `mask`.
pub(crate) fn execute(alu: &Alu, registers: &mut Registers, mask: u32, options: &Options) {
    match alu {
        Alu::Move(inst) => moves::copy(inst, registers, mask),
        Alu::Pack(inst) => moves::pack(inst, registers, mask),
        Alu::Unpack(inst) => moves::unpack(inst, registers, mask),
        Alu::Integer(inst) => integer::execute(inst, registers, mask),
        Alu::Carry(inst) => carry::execute(inst, registers, mask),
        Alu::Bits(inst) => bits::execute(inst, registers, mask),
        Alu::Lop3Test(inst) => bits::lop3_test(inst, registers, mask),
        Alu::Float(inst) => float::execute(inst, registers, mask, options.approx),
        Alu::FloatX2(inst) => float::execute_x2(inst, registers, mask, options.approx),
        Alu::Mixed(inst) => float::mixed(inst, registers, mask),
        Alu::Double(inst) => double::execute(inst, registers, mask),
        Alu::Half(inst) => half::execute(inst, registers, mask),
        Alu::SetPredicate(inst) => compare::set_predicate(inst, registers, mask),
        Alu::SetRegister(inst) => compare::set_register(inst, registers, mask),
        Alu::ClassTest(inst) => compare::class_test(inst, registers, mask),
        Alu::Logic(inst) => select::logic(inst, registers, mask),
        Alu::Select(inst) => select::select(inst, registers, mask),
        Alu::SelectBySign(inst) => select::select_by_sign(inst, registers, mask),
        Alu::Convert(inst) => convert::execute(inst, registers, mask),
        Alu::PackSaturated(inst) => convert::pack_saturated(inst, registers, mask),
    }
}
