//! What the lanes of a warp do together.

use super::DecodeError;
use super::decoder::Decoder;
use super::op::{Match, MatchKind, Op, Redux, ReduxFunction, Shuffle, ShuffleMode, Vote, VoteResult};
use crate::ast::{self, Operand, Type};
use crate::numeric::integer::IntType;

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    let words: Vec<&str> = inst.opcode.iter().map(String::as_str).collect();
    let op = match words.as_slice() {
        ["shfl", "sync", mode, "b32"] => {
            let mode = match *mode {
                "up" => ShuffleMode::Up,
                "down" => ShuffleMode::Down,
                "bfly" => ShuffleMode::Butterfly,
                "idx" => ShuffleMode::Index,
                _ => return Err(decoder.unknown(inst)),
            };
            decoder.shuffle(inst, mode)?
        }
        ["vote", "sync", result, _] => decoder.vote(inst, result)?,
        ["match", kind @ ("any" | "all"), "sync", ty] => decoder.matching(inst, kind, ty)?,
        ["redux", "sync", function @ ..] => decoder.redux(inst, function)?,
        ["elect", "sync"] => {
            let [dst, members] = decoder.operands::<2>(inst)?;
            let Operand::Pair(dst, pred) = dst else {
                return Err(decoder.error("`elect.sync` takes `d|p`"));
            };
            Op::Elect {
                dst: decoder.optional(dst)?,
                pred: decoder.predicate_destination(pred)?,
                members: decoder.source(members, Type::B32)?,
            }
        }
        ["activemask", "b32"] => {
            let [dst] = decoder.operands::<1>(inst)?;
            Op::ActiveMask {
                dst: decoder.destination(dst, Type::B32)?,
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(op))
}

impl Decoder<'_> {
    /// A 32-bit destination, `None` for `_`.
    fn optional(&mut self, operand: &Operand) -> Result<Option<super::Reg>, DecodeError> {
        match operand {
            Operand::Sink => Ok(None),
            operand => self.destination(operand, Type::B32).map(Some),
        }
    }

    fn shuffle(&mut self, inst: &ast::Inst, mode: ShuffleMode) -> Result<Op, DecodeError> {
        let [dst, value, lane, control, members] = self.operands::<5>(inst)?;
        let (dst, in_range) = match dst {
            Operand::Pair(dst, pred) => (dst.as_ref(), Some(self.predicate_destination(pred)?)),
            dst => (dst, None),
        };
        Ok(Op::Shuffle(Shuffle {
            mode,
            dst: self.optional(dst)?,
            in_range,
            value: self.source(value, Type::B32)?,
            lane: self.source(lane, Type::B32)?,
            control: self.source(control, Type::B32)?,
            members: self.source(members, Type::B32)?,
        }))
    }

    fn vote(&mut self, inst: &ast::Inst, result: &str) -> Result<Op, DecodeError> {
        let [dst, source, members] = self.operands::<3>(inst)?;
        let result = match result {
            "all" => VoteResult::All(self.predicate_destination(dst)?),
            "any" => VoteResult::Any(self.predicate_destination(dst)?),
            "uni" => VoteResult::Uniform(self.predicate_destination(dst)?),
            "ballot" => VoteResult::Ballot(self.destination(dst, Type::B32)?),
            _ => return Err(self.unknown(inst)),
        };
        Ok(Op::Vote(Vote {
            result,
            source: self.predicate_source(source)?,
            members: self.source(members, Type::B32)?,
        }))
    }

    fn matching(&mut self, inst: &ast::Inst, kind: &str, ty: &str) -> Result<Op, DecodeError> {
        let [dst, value, members] = self.operands::<3>(inst)?;
        let ty = match ty {
            "b32" => Type::B32,
            "b64" => Type::B64,
            _ => return Err(self.unknown(inst)),
        };
        let (dst, kind) = match (dst, kind) {
            (dst, "any") => (dst, MatchKind::Any),
            (Operand::Pair(dst, pred), _) => (dst.as_ref(), MatchKind::All(Some(self.predicate_destination(pred)?))),
            (dst, _) => (dst, MatchKind::All(None)),
        };
        Ok(Op::Match(Match {
            dst: self.optional(dst)?,
            kind,
            value: self.source(value, ty)?,
            wide: ty == Type::B64,
            members: self.source(members, Type::B32)?,
        }))
    }

    fn redux(&mut self, inst: &ast::Inst, words: &[&str]) -> Result<Op, DecodeError> {
        let [dst, value, members] = self.operands::<3>(inst)?;
        let (abs, nan) = (words.contains(&"abs"), words.contains(&"NaN"));
        let function = match (words.first().copied(), words.last().copied()) {
            (Some("min"), Some("f32")) => ReduxFunction::MinMaxF32 { max: false, abs, nan },
            (Some("max"), Some("f32")) => ReduxFunction::MinMaxF32 { max: true, abs, nan },
            (Some("add"), Some("u32" | "s32")) => ReduxFunction::Add,
            (Some("min"), Some("u32")) => ReduxFunction::Min(IntType::U32),
            (Some("min"), Some("s32")) => ReduxFunction::Min(IntType::S32),
            (Some("max"), Some("u32")) => ReduxFunction::Max(IntType::U32),
            (Some("max"), Some("s32")) => ReduxFunction::Max(IntType::S32),
            (Some("and"), Some("b32")) => ReduxFunction::And,
            (Some("or"), Some("b32")) => ReduxFunction::Or,
            (Some("xor"), Some("b32")) => ReduxFunction::Xor,
            _ => return Err(self.unknown(inst)),
        };
        Ok(Op::Redux(Redux {
            function,
            dst: self.destination(dst, Type::B32)?,
            value: self.source(value, Type::B32)?,
            members: self.source(members, Type::B32)?,
        }))
    }
}
