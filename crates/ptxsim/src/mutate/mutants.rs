//! The mutants of a kernel: one synchronising instruction changed in each.

use crate::machine::SourceLine;
use crate::program::alu::{Alu, BoolOp, Logic};
use crate::program::op::{Barrier, BarrierKind, Inst, Mbarrier, MbarrierFunction, Op, PredSource, Vote, VoteResult};
use crate::program::{Kernel, Pred, Reg};

/// A change of one instruction.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// The instruction's line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The CUDA source line, where the PTX says.
    pub source: Option<SourceLine>,
    /// What is changed, as in `removed`.
    pub change: String,
    /// The instruction's place in the code.
    index: usize,
    op: Op,
}

/// A kernel with what its mutants need besides.
pub(super) struct Stock {
    kernel: Kernel,
    pub(super) mutants: Vec<Mutant>,
}

impl Stock {
    pub(super) fn new(kernel: &Kernel) -> Stock {
        let mut kernel = kernel.clone();
        let every_lane = kernel.add_constant(u32::MAX);
        let mutants = kernel
            .code
            .iter()
            .enumerate()
            .filter(|(_, inst)| inst.op.synchronises())
            .flat_map(|(index, inst)| {
                let source = kernel.source(inst).cloned();
                let mutant = move |(change, op): (String, Op)| Mutant {
                    ptx_line: inst.line,
                    source: source.clone(),
                    change,
                    index,
                    op,
                };
                changes(inst, every_lane).into_iter().map(mutant)
            });
        let mutants = mutants.collect();
        Stock { kernel, mutants }
    }

    /// The kernel with a mutant's change.
    pub(super) fn kernel(&self, mutant: &Mutant) -> Kernel {
        let mut kernel = self.kernel.clone();
        kernel.code[mutant.index].op = mutant.op.clone();
        kernel
    }
}

/// The ways in which an instruction is changed, with a name each.
fn changes(inst: &Inst, every_lane: Reg) -> Vec<(String, Op)> {
    match &inst.op {
        Op::CpAsyncWait { pending, all } => weaker_waits(*pending, *all),
        Op::Barrier(barrier) => weaker_barriers(barrier, every_lane),
        Op::Mbarrier(Mbarrier {
            function: MbarrierFunction::Test { done, .. },
            ..
        }) => vec![("made to find its phase complete".to_owned(), set(*done))],
        _ => vec![removed()],
    }
}

fn removed() -> (String, Op) {
    ("removed".to_owned(), Op::Nop)
}

/// Sets a predicate.
fn set(dst: Pred) -> Op {
    let yes = PredSource {
        pred: None,
        negated: false,
    };
    Op::Alu(Alu::Logic(Logic {
        op: BoolOp::And,
        dst,
        src: [yes, yes],
    }))
}

fn weaker_waits(pending: u32, all: bool) -> Vec<(String, Op)> {
    let (pending, what) = if all {
        (1, "cp.async.wait_all".to_owned())
    } else {
        (pending.saturating_add(1), format!("cp.async.wait_group {pending}"))
    };
    let weaker = format!("weakened from {what} to cp.async.wait_group {pending}");
    vec![removed(), (weaker, Op::CpAsyncWait { pending, all: false })]
}

/// A barrier that gives a result is not removed, which would leave a register unset: each warp computes its own. A smaller
/// count of threads only makes the last of them wait for ever.
fn weaker_barriers(barrier: &Barrier, every_lane: Reg) -> Vec<(String, Op)> {
    let warp = |change: &str, op| (format!("weakened to {change}"), op);
    let vote = |result, source| {
        let members = every_lane;
        Op::Vote(Vote {
            result,
            source,
            members,
        })
    };
    match barrier.kind {
        BarrierKind::Sync => vec![removed(), warp("bar.warp.sync", Op::WarpSync { members: every_lane })],
        BarrierKind::Arrive => vec![removed()],
        BarrierKind::And { dst, source } => vec![warp("vote.sync.all", vote(VoteResult::All(dst), source))],
        BarrierKind::Or { dst, source } => vec![warp("vote.sync.any", vote(VoteResult::Any(dst), source))],
        BarrierKind::Popc { .. } => Vec::new(),
    }
}
