//! Functions of predicates.

use super::Alu;
use super::operands::split;
use crate::ast;
use crate::program::decoder::Decoder;
use crate::program::op::PredSource;
use crate::program::{DecodeError, Pred};

/// Functions of two predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

impl BoolOp {
    /// Reads `and`, `or` or `xor`.
    pub(super) fn parse(modifier: &str) -> Option<BoolOp> {
        Some(match modifier {
            "and" => BoolOp::And,
            "or" => BoolOp::Or,
            "xor" => BoolOp::Xor,
            _ => return None,
        })
    }

    /// Of every lane's bit.
    #[inline(always)]
    pub(crate) fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            BoolOp::And => a & b,
            BoolOp::Or => a | b,
            BoolOp::Xor => a ^ b,
        }
    }
}

/// `and.pred`, `or.pred`, `xor.pred`; `mov.pred` and `not.pred` as `and` with true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logic {
    pub op: BoolOp,
    pub dst: Pred,
    pub src: [PredSource; 2],
}

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    if inst.opcode.len() != 2 {
        return Err(decoder.unknown(inst));
    }
    let (op, unary) = match BoolOp::parse(&inst.opcode[0]) {
        Some(op) => (op, false),
        None => (BoolOp::And, true),
    };
    let (destination, operands) = split(decoder, inst, if unary { 1 } else { 2 })?;
    let mut a = decoder.predicate_source(&operands[0])?;
    a.negated ^= inst.opcode[0] == "not";
    let b = match operands.get(1) {
        Some(operand) => decoder.predicate_source(operand)?,
        None => PredSource {
            pred: None,
            negated: false,
        },
    };
    Ok(Alu::Logic(Logic {
        op,
        dst: decoder.predicate_destination(destination)?,
        src: [a, b],
    }))
}
