//! Functions of registers, lane by lane.

mod bits;
mod carry;
mod compare;
mod convert;
mod double;
mod float;
mod half;
mod integer;
mod modifiers;
mod moves;
mod operands;
mod predicate;
mod select;

use super::DecodeError;
use super::decoder::Decoder;
use super::op::Op;
use crate::ast;

pub(crate) use bits::{Bits, BitsOp, Lop3Test};
pub(crate) use carry::{Carry, CarryOp};
pub(crate) use compare::{ClassTest, Compared, SetPredicate, SetRegister, Test};
pub(crate) use convert::{Convert, PackSaturated};
pub(crate) use double::{Double, DoubleOp};
pub(crate) use float::{Float, FloatOp, Mixed};
pub(crate) use half::{Half, HalfOp};
pub(crate) use integer::{Integer, IntegerOp};
pub(crate) use moves::{Move, Pack, Unpack};
pub(crate) use predicate::{BoolOp, Logic};
pub(crate) use select::{Select, SelectBySign};

/// An instruction that reads and writes registers and nothing else, each lane for itself.
#[derive(Clone, Debug)]
pub(crate) enum Alu {
    Move(Move),
    Pack(Pack),
    Unpack(Unpack),
    Integer(Integer),
    Carry(Carry),
    Bits(Bits),
    Lop3Test(Lop3Test),
    Float(Float),
    /// The same on both halves of 64-bit registers.
    FloatX2(Float),
    Mixed(Mixed),
    Double(Double),
    Half(Half),
    SetPredicate(SetPredicate),
    SetRegister(SetRegister),
    ClassTest(ClassTest),
    Logic(Logic),
    Select(Select),
    SelectBySign(SelectBySign),
    Convert(Convert),
    PackSaturated(PackSaturated),
}

/// Decodes an instruction of this family; `None` where its opcode belongs to no instruction here.
pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    let last = inst.opcode.last().map_or("", String::as_str);
    let alu = match inst.opcode.first().map_or("", String::as_str) {
        "mov" if last == "pred" => predicate::decode(decoder, inst),
        "mov" => return moves::decode(decoder, inst).map(Some),
        "cvta" => return convert::decode_address(decoder, inst).map(Some),
        "cvt" => convert::decode(decoder, inst),
        "and" | "or" | "xor" | "not" if last == "pred" => predicate::decode(decoder, inst),
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "prmt" | "popc" | "clz" | "bfind"
        | "fns" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" => bits::decode(decoder, inst),
        "setp" => compare::decode_setp(decoder, inst),
        "set" => compare::decode_set(decoder, inst),
        "testp" => compare::decode_testp(decoder, inst),
        "selp" => select::decode_selp(decoder, inst),
        "slct" => select::decode_slct(decoder, inst),
        "addc" | "subc" | "madc" => carry::decode(decoder, inst),
        "add" | "sub" | "mad" if inst.opcode.iter().any(|part| part == "cc") => carry::decode(decoder, inst),
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max" | "rcp" | "sqrt"
        | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" | "mul24" | "mad24" | "sad" | "dp4a"
        | "dp2a" => arithmetic(decoder, inst, last),
        _ => return Ok(None),
    };
    alu.map(|alu| Some(Op::Alu(alu)))
}

/// Names that several kinds of numbers share; the type decides.
fn arithmetic(decoder: &mut Decoder<'_>, inst: &ast::Inst, last: &str) -> Result<Alu, DecodeError> {
    let before = inst.opcode.iter().rev().nth(1).map_or("", String::as_str);
    match last {
        "f32" | "f32x2" => float::decode(decoder, inst),
        "f64" => double::decode(decoder, inst),
        "f16" | "bf16" if before == "f32" => float::decode_mixed(decoder, inst),
        "f16" | "bf16" | "f16x2" | "bf16x2" => half::decode(decoder, inst),
        _ => integer::decode(decoder, inst),
    }
}
