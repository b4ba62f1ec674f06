//! `cp.async` and mbarriers.

use super::DecodeError;
use super::decoder::Decoder;
use super::memory::space;
use super::op::{CpAsync, Mbarrier, MbarrierFunction, MbarrierPhase, Op, Order, Space};
use crate::ast::{self, Operand, Type};
use crate::machine::race::Scope;

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    let words: Vec<&str> = inst.opcode.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cp", "async", "commit_group"] => Ok(Some(Op::CpAsyncCommit)),
        ["cp", "async", "wait_group"] => {
            let [pending] = decoder.operands::<1>(inst)?;
            let pending = decoder.int(pending)?;
            Ok(Some(Op::CpAsyncWait { pending, all: false }))
        }
        ["cp", "async", "wait_all"] => Ok(Some(Op::CpAsyncWait { pending: 0, all: true })),
        ["cp", "async", "mbarrier", "arrive", rest @ ..] => {
            let [address] = decoder.operands::<1>(inst)?;
            Ok(Some(Op::CpAsyncArrive {
                address: decoder.address(address, mbarrier_space(rest))?,
                noinc: rest.contains(&"noinc"),
            }))
        }
        ["cp", "async", "ca" | "cg", ..] => decoder.cp_async(inst).map(Some),
        ["mbarrier", function, rest @ ..] => decoder.mbarrier(inst, function, rest).map(Some),
        _ => Ok(None),
    }
}

fn mbarrier_space(words: &[&str]) -> Space {
    words.iter().find_map(|word| space(word)).unwrap_or(Space::Generic)
}

impl Decoder<'_> {
    fn cp_async(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        for word in &inst.opcode[3..] {
            if !matches!(word.as_str(), "shared" | "shared::cta" | "global") && !word.starts_with("L2::") {
                return Err(self.unknown(inst));
            }
        }
        let [dst, src, bytes, rest @ ..] = inst.operands.as_slice() else {
            return Err(self.error("`cp.async` takes two addresses and a size"));
        };
        let bytes = self.int(bytes)?;
        let allowed: &[u32] = if inst.opcode[2] == "cg" { &[16] } else { &[4, 8, 16] };
        if !allowed.contains(&bytes) {
            return Err(self.error(format!("a copy of {bytes} bytes, allowed are {allowed:?}")));
        }
        let mut copy = CpAsync {
            dst: self.address(dst, Space::Shared)?,
            src: self.address(src, Space::Global)?,
            bytes,
            src_bytes: None,
            ignore: None,
        };
        for operand in rest {
            match self.register_type(operand)? {
                Some(Type::Pred) => copy.ignore = Some(self.predicate_source(operand)?),
                Some(ty) if ty.bytes() == 8 => {} // The cache policy.
                _ if matches!(operand, Operand::Negated(_)) => copy.ignore = Some(self.predicate_source(operand)?),
                _ => copy.src_bytes = Some(self.source(operand, Type::B32)?),
            }
        }
        Ok(Op::CpAsync(copy))
    }

    fn mbarrier(&mut self, inst: &ast::Inst, function: &str, words: &[&str]) -> Result<Op, DecodeError> {
        let mut order = Order {
            strong: true,
            acquire: matches!(function, "test_wait" | "try_wait"),
            release: matches!(function, "arrive" | "arrive_drop"),
            scope: Scope::Block,
        };
        for word in words {
            match *word {
                "relaxed" => (order.acquire, order.release) = (false, false),
                "b64" | "cta" | "cluster" | "acquire" | "release" | "parity" | "noComplete" => {}
                word if matches!(space(word), Some(Space::Shared | Space::Generic)) => {}
                // `expect_tx` and the like count bytes of bulk copies, which come with Hopper's asynchronous units.
                _ => return Err(self.unknown(inst)),
            }
        }
        let space = mbarrier_space(words);
        let operands = inst.operands.as_slice();
        let (address, function) = match (function, operands) {
            ("init", [address, count]) => {
                let count = self.source(count, Type::B32)?;
                (address, MbarrierFunction::Init { count })
            }
            ("inval", [address]) => (address, MbarrierFunction::Invalidate),
            ("arrive" | "arrive_drop", [state, address, count @ ..]) if count.len() <= 1 => {
                let arrive = MbarrierFunction::Arrive {
                    state: match state {
                        Operand::Sink => None,
                        state => Some(self.destination(state, Type::B64)?),
                    },
                    count: count.first().map(|count| self.source(count, Type::B32)).transpose()?,
                    drop: function == "arrive_drop",
                    complete: !words.contains(&"noComplete"),
                };
                (address, arrive)
            }
            ("test_wait" | "try_wait", [done, address, phase, hint @ ..]) if hint.len() <= 1 => {
                let parity = words.contains(&"parity");
                let phase = match parity {
                    true => MbarrierPhase::Parity(self.source(phase, Type::B32)?),
                    false => MbarrierPhase::State(self.source(phase, Type::B64)?),
                };
                let test = MbarrierFunction::Test {
                    done: self.predicate_destination(done)?,
                    phase,
                    blocking: function == "try_wait",
                };
                (address, test)
            }
            ("pending_count", [dst, state]) => {
                return Ok(Op::PendingCount {
                    dst: self.destination(dst, Type::B32)?,
                    state: self.source(state, Type::B64)?,
                });
            }
            _ => return Err(self.unknown(inst)),
        };
        Ok(Op::Mbarrier(Mbarrier {
            address: self.address(address, space)?,
            function,
            order,
        }))
    }
}
