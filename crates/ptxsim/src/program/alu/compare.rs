//! `setp`, `set` and `testp`.

use super::Alu;
use super::half::half_type;
use super::modifiers::Modifiers;
use super::operands::{register_type, split};
use super::predicate::BoolOp;
use crate::ast::{self, Operand, Type};
use crate::numeric::compare::{Class, Compare};
use crate::numeric::half_ops::HalfFormat;
use crate::numeric::integer::IntType;
use crate::program::decoder::Decoder;
use crate::program::op::PredSource;
use crate::program::{DecodeError, Pred, Reg};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Int(IntType),
    F32 { ftz: bool },
    F64,
    Half { format: HalfFormat, ftz: bool },
    HalfX2 { format: HalfFormat, ftz: bool },
}

impl Compared {
    fn ty(self) -> Type {
        match self {
            Compared::Int(ty) => register_type(ty.bits),
            Compared::F32 { .. } => Type::F32,
            Compared::F64 => Type::F64,
            Compared::Half { .. } => Type::B16,
            Compared::HalfX2 { .. } => Type::B32,
        }
    }

    fn is_pair(self) -> bool {
        matches!(self, Compared::HalfX2 { .. })
    }
}

/// A comparison, and what its result is combined with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub compared: Compared,
    /// `Eq`, `Lt`, `Le`, `Equ` or `Num`: the others are these with operands swapped, negated, or both.
    pub relation: Compare,
    pub negated: bool,
    pub src: [Reg; 2],
    pub combine: Option<(BoolOp, PredSource)>,
}

/// `setp`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetPredicate {
    pub test: Test,
    pub dst: Pred,
    /// The negated comparison combined, or of a pair the high half's.
    pub second: Option<Pred>,
}

/// `set`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetRegister {
    pub test: Test,
    /// The word where the test holds, else 0; of a pair 16 bits for each half.
    pub value: u32,
    pub dst: Reg,
}

/// `testp`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassTest {
    pub class: Class,
    /// f64, else f32.
    pub double: bool,
    pub dst: Pred,
    pub src: Reg,
}

/// The relation as one of the few that `Test` has, whether operands are swapped, whether it is negated.
fn reduce(relation: Compare) -> (Compare, bool, bool) {
    match relation {
        Compare::Eq | Compare::Lt | Compare::Le | Compare::Equ | Compare::Num => (relation, false, false),
        Compare::Gt => (Compare::Lt, true, false),
        Compare::Ge => (Compare::Le, true, false),
        Compare::Ne => (Compare::Equ, false, true),
        Compare::Neu => (Compare::Eq, false, true),
        Compare::Ltu => (Compare::Le, true, true),
        Compare::Leu => (Compare::Lt, true, true),
        Compare::Gtu => (Compare::Le, false, true),
        Compare::Geu => (Compare::Lt, false, true),
        Compare::Nan => (Compare::Num, false, true),
    }
}

struct Parsed {
    relation: Compare,
    combine: Option<BoolOp>,
    compared: Compared,
}

fn parse(modifiers: &mut Modifiers<'_>) -> Option<Parsed> {
    let ty = modifiers.last();
    let relation = modifiers.pick(|modifier| Some((Compare::parse(modifier)?, relations_of(modifier))))?;
    let combine = modifiers.pick(BoolOp::parse);
    let compared = match (ty, half_type(ty)) {
        ("f32", _) => Compared::F32 {
            ftz: modifiers.flag("ftz"),
        },
        ("f64", _) => Compared::F64,
        (_, Some((format, packed))) => {
            let ftz = format == HalfFormat::F16 && modifiers.flag("ftz");
            if packed {
                Compared::HalfX2 { format, ftz }
            } else {
                Compared::Half { format, ftz }
            }
        }
        _ => Compared::Int(IntType::parse(ty).filter(|ty| ty.bits >= 16)?),
    };
    let (relation, kinds) = relation;
    let kind = match compared {
        Compared::Int(_) => &ty[..1],
        _ => "f",
    };
    kinds.contains(&kind).then_some(())?;
    // Integers are always ordered, so the cheaper relation does.
    let relation = match (relation, compared) {
        (Compare::Ne, Compared::Int(_)) => Compare::Neu,
        _ => relation,
    };
    Some(Parsed {
        relation,
        combine,
        compared,
    })
}

/// First letters of the types that a relation's spelling goes with.
fn relations_of(modifier: &str) -> &'static [&'static str] {
    match modifier {
        "eq" | "ne" => &["b", "u", "s", "f"],
        "lt" | "le" | "gt" | "ge" => &["u", "s", "f"],
        "lo" | "ls" | "hi" | "hs" => &["u"],
        _ => &["f"],
    }
}

fn test(decoder: &mut Decoder<'_>, parsed: &Parsed, operands: &[Operand]) -> Result<Test, DecodeError> {
    let ty = parsed.compared.ty();
    let (relation, swapped, negated) = reduce(parsed.relation);
    let (a, b) = (decoder.source(&operands[0], ty)?, decoder.source(&operands[1], ty)?);
    let combine = match parsed.combine {
        Some(op) => Some((op, decoder.predicate_source(&operands[2])?)),
        None => None,
    };
    Ok(Test {
        compared: parsed.compared,
        relation,
        negated,
        src: if swapped { [b, a] } else { [a, b] },
        combine,
    })
}

pub(super) fn decode_setp(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let mut modifiers = Modifiers::of(inst);
    let (Some(parsed), Some(())) = (parse(&mut modifiers), modifiers.done()) else {
        return Err(decoder.unknown(inst));
    };
    let (destination, operands) = split(decoder, inst, if parsed.combine.is_some() { 3 } else { 2 })?;
    let test = test(decoder, &parsed, operands)?;
    let (dst, second) = match destination {
        Operand::Pair(first, second) => (
            decoder.predicate_destination(first)?,
            Some(decoder.predicate_destination(second)?),
        ),
        single => (decoder.predicate_destination(single)?, None),
    };
    if second.is_none() && parsed.compared.is_pair() {
        return Err(decoder.error("a comparison of pairs has two results, `p|q`"));
    }
    Ok(Alu::SetPredicate(SetPredicate { test, dst, second }))
}

pub(super) fn decode_set(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let (parsed, to, value) = parse_set(inst).ok_or_else(|| decoder.unknown(inst))?;
    let (destination, operands) = split(decoder, inst, if parsed.combine.is_some() { 3 } else { 2 })?;
    Ok(Alu::SetRegister(SetRegister {
        test: test(decoder, &parsed, operands)?,
        value,
        dst: decoder.destination(destination, to)?,
    }))
}

/// With the destination's type and what stands for true.
fn parse_set(inst: &ast::Inst) -> Option<(Parsed, Type, u32)> {
    let mut modifiers = Modifiers::of(inst);
    let from = modifiers.last();
    let to = modifiers.last();
    // `parse` takes the compared type from the end.
    modifiers.push(from);
    let parsed = parse(&mut modifiers)?;
    modifiers.done()?;
    let (ty, value) = match (to, parsed.compared.is_pair()) {
        ("u32" | "s32", true) => (Type::B32, 0xffff),
        ("f16x2" | "bf16x2", true) if to == from => (Type::B32, u32::from(half_type(to)?.0.one())),
        ("u32" | "s32", false) => (Type::B32, u32::MAX),
        ("f32", false) => (Type::B32, 1f32.to_bits()),
        ("u16" | "s16", false) if half_type(from).is_some() => (Type::B16, 0xffff),
        ("f16" | "bf16", false) => (Type::B16, u32::from(half_type(to)?.0.one())),
        _ => return None,
    };
    Some((parsed, ty, value))
}

pub(super) fn decode_testp(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Alu, DecodeError> {
    let mut modifiers = Modifiers::of(inst);
    let ty = match modifiers.last() {
        "f32" => Some(Type::F32),
        "f64" => Some(Type::F64),
        _ => None,
    };
    let class = modifiers.pick(Class::parse);
    let (Some(ty), Some(class), Some(())) = (ty, class, modifiers.done()) else {
        return Err(decoder.unknown(inst));
    };
    let [destination, source] = decoder.operands(inst)?;
    Ok(Alu::ClassTest(ClassTest {
        class,
        double: ty == Type::F64,
        src: decoder.source(source, ty)?,
        dst: decoder.predicate_destination(destination)?,
    }))
}
