//! Branches, barriers and fences.

use super::DecodeError;
use super::decoder::Decoder;
use super::op::{Barrier, BarrierKind, Fence, Op};
use crate::ast::{self, Operand, Type};
use crate::machine::race::Scope;

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    let words: Vec<&str> = inst.opcode.iter().map(String::as_str).collect();
    let op = match words.as_slice() {
        ["bra"] | ["bra", "uni"] => match inst.operands.as_slice() {
            [Operand::Symbol(label)] => Op::Branch {
                target: decoder.label(label)?,
            },
            _ => return Err(decoder.error("`bra` takes a label")),
        },
        ["brx", "idx"] | ["brx", "idx", "uni"] => {
            let [index, targets] = decoder.operands::<2>(inst)?;
            let Operand::Symbol(targets) = targets else {
                return Err(decoder.error("`brx.idx` takes the name of a `.branchtargets`"));
            };
            Op::BranchIndexed {
                index: decoder.source(index, Type::B32)?,
                targets: decoder.branch_targets(targets)?.into_boxed_slice(),
            }
        }
        ["ret"] | ["ret", "uni"] if decoder.current == 0 => Op::Exit,
        ["ret"] | ["ret", "uni"] => Op::Return,
        ["exit"] => Op::Exit,
        ["trap"] | ["brkpt"] => Op::Trap,
        ["nanosleep", "u32"] => Op::Yield,
        ["griddepcontrol", "wait" | "launch_dependents"] | ["pmevent"] | ["pmevent", "mask"] => Op::Nop,
        ["setmaxnreg", "inc" | "dec", "sync", "aligned", "u32"] => Op::Nop,
        ["bar", "warp", "sync"] => {
            let [members] = decoder.operands::<1>(inst)?;
            Op::WarpSync {
                members: decoder.source(members, Type::B32)?,
            }
        }
        ["bar" | "barrier", rest @ ..] if rest.first() != Some(&"cluster") => decoder.barrier(inst, rest)?,
        ["fence" | "membar", rest @ ..] => decoder.fence(inst, rest)?,
        _ => return Ok(None),
    };
    Ok(Some(op))
}

impl Decoder<'_> {
    fn barrier(&mut self, inst: &ast::Inst, words: &[&str]) -> Result<Op, DecodeError> {
        let words: Vec<&str> = words.iter().copied().filter(|word| *word != "cta").collect();
        // `bar` is `barrier.aligned`.
        let aligned = inst.opcode[0] == "bar" || words.contains(&"aligned");
        let words: Vec<&str> = words.into_iter().filter(|word| *word != "aligned").collect();
        let operands = inst.operands.as_slice();
        let (kind, rest) = match (words.as_slice(), operands) {
            (["sync"], operands) => (BarrierKind::Sync, operands),
            (["arrive"], operands) => (BarrierKind::Arrive, operands),
            (["red", "popc", "u32"], [dst, middle @ .., source]) => {
                let (dst, source) = (self.destination(dst, Type::B32)?, self.predicate_source(source)?);
                (BarrierKind::Popc { dst, source }, middle)
            }
            (["red", "and", "pred"], [dst, middle @ .., source]) => {
                let (dst, source) = (self.predicate_destination(dst)?, self.predicate_source(source)?);
                (BarrierKind::And { dst, source }, middle)
            }
            (["red", "or", "pred"], [dst, middle @ .., source]) => {
                let (dst, source) = (self.predicate_destination(dst)?, self.predicate_source(source)?);
                (BarrierKind::Or { dst, source }, middle)
            }
            _ => return Err(self.unknown(inst)),
        };
        let (id, count) = match rest {
            [id] if kind != BarrierKind::Arrive => (id, None),
            [id, count] => (id, Some(count)),
            _ => return Err(self.error("a barrier takes a number and a count of threads")),
        };
        Ok(Op::Barrier(Barrier {
            kind,
            id: self.source(id, Type::B32)?,
            count: count.map(|count| self.source(count, Type::B32)).transpose()?,
            aligned,
        }))
    }

    fn fence(&mut self, inst: &ast::Inst, words: &[&str]) -> Result<Op, DecodeError> {
        let known = |word: &&str| {
            matches!(
                *word,
                "sc" | "acq_rel" | "acquire" | "release" | "cta" | "cluster" | "gpu" | "sys" | "gl" | "mbarrier_init"
            ) || word.starts_with("sync_restrict::")
        };
        if let ["proxy", ..] = words {
            return Ok(Op::Fence(Fence {
                orders: false,
                scope: Scope::Block,
            }));
        }
        if words.is_empty() || !words.iter().all(known) {
            return Err(self.unknown(inst));
        }
        Ok(Op::Fence(Fence {
            orders: true,
            scope: if words.contains(&"cta") {
                Scope::Block
            } else {
                Scope::Device
            },
        }))
    }
}
