//! `setp`, `set` and `testp`.

use super::lanes::{Widen, for_type};
use super::select::value;
use crate::machine::registers::{LANES, Registers};
use crate::numeric::Format;
use crate::numeric::compare::Compare;
use crate::numeric::integer::IntType;
use crate::program::Reg;
use crate::program::alu::{ClassTest, Compared, SetPredicate, SetRegister, Test};

/// Evaluates the body with the relation as a constant, one loop for each that `Test` has.
macro_rules! for_relation {
    ($relation:expr, $name:ident => $body:expr) => {
        match $relation {
            Compare::Eq => for_relation!(@of Eq, $name => $body),
            Compare::Lt => for_relation!(@of Lt, $name => $body),
            Compare::Le => for_relation!(@of Le, $name => $body),
            Compare::Equ => for_relation!(@of Equ, $name => $body),
            _ => for_relation!(@of Num, $name => $body),
        }
    };
    (@of $relation:ident, $name:ident => $body:expr) => {{
        const $name: Compare = Compare::$relation;
        $body
    }};
}

pub(super) fn set_predicate(inst: &SetPredicate, registers: &mut Registers, mask: u32) {
    let (first, second) = evaluate(&inst.test, registers);
    registers.set_predicate(mask, inst.dst, first);
    if let Some(dst) = inst.second {
        registers.set_predicate(mask, dst, second);
    }
}

pub(super) fn set_register(inst: &SetRegister, registers: &mut Registers, mask: u32) {
    let (first, second) = evaluate(&inst.test, registers);
    let pick = |bits: u32, lane: usize| 0u32.wrapping_sub(bits >> lane & 1) & inst.value;
    let values: [u32; LANES] = match inst.test.compared {
        Compared::HalfX2 { .. } => std::array::from_fn(|lane| pick(second, lane) << 16 | pick(first, lane)),
        _ => std::array::from_fn(|lane| pick(first, lane)),
    };
    registers.set(mask, inst.dst, &values);
}

/// The results: of one value the test and its contrary, of a pair the low half's and the high half's.
fn evaluate(test: &Test, registers: &Registers) -> (u32, u32) {
    let (first, second) = match test.compared {
        Compared::HalfX2 { format, ftz } => {
            let [low, high] = [0, 16].map(|shift| {
                registers.test2(test.src, |a: u32, b: u32| {
                    format.compare(test.relation, (a >> shift) as u16, (b >> shift) as u16, ftz)
                })
            });
            if test.negated { (!low, !high) } else { (low, high) }
        }
        _ => {
            let bits = compare(test, registers);
            if test.negated { (!bits, bits) } else { (bits, !bits) }
        }
    };
    match test.combine {
        None => (first, second),
        Some((op, with)) => {
            let with = value(registers, with);
            (op.apply(first, with), op.apply(second, with))
        }
    }
}

fn compare(test: &Test, registers: &Registers) -> u32 {
    let src = test.src;
    match test.compared {
        Compared::Int(ty) => integers(test.relation, ty, src, registers),
        Compared::F32 { ftz: false } => {
            for_relation!(test.relation, R => registers.test2(src, |a, b| R.f32(a, b, false)))
        }
        Compared::F32 { ftz: true } => registers.test2(src, |a, b| test.relation.f32(a, b, true)),
        Compared::F64 => registers.test2(src, |a, b| test.relation.f64(a, b)),
        Compared::Half { format, ftz } => registers.test2(src, |a, b| format.compare(test.relation, a, b, ftz)),
        // Handled by the caller, which needs both halves.
        Compared::HalfX2 { .. } => 0,
    }
}

fn integers(relation: Compare, ty: IntType, src: [Reg; 2], registers: &Registers) -> u32 {
    let less = |or_equal: bool| match or_equal {
        false => for_type!(ty, TY, W => registers.test2(src, |a: W, b: W| order(TY, a.wide()) < order(TY, b.wide()))),
        true => for_type!(ty, TY, W => registers.test2(src, |a: W, b: W| order(TY, a.wide()) <= order(TY, b.wide()))),
    };
    match (relation, ty.bits) {
        (Compare::Eq, 16) => registers.test2(src, |a: u16, b: u16| a == b),
        (Compare::Eq, 32) => registers.test2(src, |a: u32, b: u32| a == b),
        (Compare::Eq, _) => registers.test2(src, |a: u64, b: u64| a == b),
        (relation, _) => less(relation == Compare::Le),
    }
}

/// Orders as the type does, compared as unsigned numbers.
#[inline(always)]
fn order(ty: IntType, value: u64) -> u64 {
    if ty.signed { value ^ 1 << (ty.bits - 1) } else { value }
}

pub(super) fn class_test(inst: &ClassTest, registers: &mut Registers, mask: u32) {
    let bits = if inst.double {
        registers.test1(inst.src, |a: u64| inst.class.test(Format::F64, a))
    } else {
        registers.test1(inst.src, |a: u32| inst.class.test(Format::F32, a.into()))
    };
    registers.set_predicate(mask, inst.dst, bits);
}
