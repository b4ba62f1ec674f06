//! One instruction of a warp.

use super::alu;
use super::block::{Block, Flow, Stop};
use super::counters::Class;
use super::registers::{LANES, lanes_of};
use super::report::Checker;
use super::warp::{State, Warp};
use crate::program::op::{Inst, Op, Space};

impl Block<'_> {
    /// Executes an instruction in the lanes of `mask`, which may be none.
    #[inline(always)]
    pub(crate) fn execute(&mut self, warp: &mut Warp, index: usize, inst: &Inst, mask: u32) -> Result<Flow, Stop> {
        self.counters.instructions += 1;
        if let Op::Alu(op) = &inst.op {
            self.counters.by_class[Class::Alu as usize] += 1;
            if mask != 0 {
                alu::execute(op, &mut warp.registers, mask, self.env.options);
            }
            return Ok(Flow::Next);
        }
        self.counters.by_class[inst.op.class() as usize] += 1;
        if mask == 0 {
            return Ok(Flow::Next);
        }
        self.execute_other(warp, index, inst, mask)
    }

    fn execute_other(&mut self, warp: &mut Warp, index: usize, inst: &Inst, mask: u32) -> Result<Flow, Stop> {
        match &inst.op {
            Op::Alu(_) | Op::Nop => {}
            Op::Branch { target } => return Ok(self.branch(warp, index, *target, mask)),
            Op::BranchIndexed { index: reg, targets } => {
                let choice = warp.registers.lanes(*reg);
                return self.branch_indexed(warp, index, *choice, targets, mask);
            }
            Op::Load(op) => self.load(warp, index, op, mask)?,
            Op::Store(op) => self.store(warp, index, op, mask)?,
            Op::Atomic(op) => self.atomic(warp, index, op, mask)?,
            Op::CpAsync(op) => self.cp_async(warp, index, op, mask)?,
            Op::CpAsyncCommit => warp.copies.commit(mask),
            Op::CpAsyncWait { pending, all } => self.wait_copies(warp, mask, *pending, *all),
            Op::CpAsyncArrive { address, noinc } => self.async_arrive(warp, index, address, *noinc, mask)?,
            Op::Mbarrier(op) => return self.mbarrier(warp, index, op, mask),
            Op::PendingCount { dst, state } => {
                let state = warp.registers.get::<u64>(*state);
                warp.registers.set(mask, *dst, &state.map(|state| state as u32));
            }
            Op::LdMatrix(op) => return self.load_matrix(warp, index, op, mask),
            Op::StMatrix(op) => return self.store_matrix(warp, index, op, mask),
            Op::MoveMatrix { dst, src } => return self.move_matrix(warp, index, *dst, *src, mask),
            Op::Mma(op) => return self.multiply(warp, index, op, mask),
            Op::Shuffle(op) => {
                return self.collective(warp, index, op.members, mask, |block, warp, lanes| {
                    block.shuffle(warp, op, lanes)
                });
            }
            Op::Vote(op) => {
                return self.collective(warp, index, op.members, mask, |_, warp, lanes| {
                    Self::vote(warp, op, lanes);
                    Ok(())
                });
            }
            Op::Match(op) => {
                return self.collective(warp, index, op.members, mask, |_, warp, lanes| {
                    Self::matching(warp, op, lanes);
                    Ok(())
                });
            }
            Op::Redux(op) => {
                return self.collective(warp, index, op.members, mask, |_, warp, lanes| {
                    Self::redux(warp, op, lanes);
                    Ok(())
                });
            }
            Op::Elect { dst, pred, members } => {
                return self.collective(warp, index, *members, mask, |_, warp, lanes| {
                    let leader = lanes.trailing_zeros() & 31;
                    warp.registers.set_predicate(lanes, *pred, 1 << leader);
                    if let Some(dst) = dst {
                        warp.registers.set(lanes, *dst, &[leader; LANES]);
                    }
                    Ok(())
                });
            }
            Op::ActiveMask { dst } => warp.registers.set(mask, *dst, &[mask; LANES]),
            Op::Barrier(op) => return self.barrier(warp, index, op, mask),
            Op::WarpSync { members } => return self.warp_sync(warp, index, *members, mask),
            Op::Fence(op) => {
                if let (true, Some(races)) = (op.orders, &mut self.races) {
                    lanes_of(mask).for_each(|lane| races.fence(warp.index * 32 + lane as u32, op.scope));
                }
            }
            Op::Call(op) => return self.call(warp, index, op, mask),
            Op::Return => return self.return_from(warp, index, mask),
            Op::Exit => return Ok(self.exit(warp, index, mask)),
            Op::Trap => {
                return Err(self.fault(warp, mask, Checker::Fault, "the kernel executed `trap`".to_owned()));
            }
            Op::AssertFail => {
                return Err(self.fault(
                    warp,
                    mask,
                    Checker::Fault,
                    "an assertion of the kernel failed".to_owned(),
                ));
            }
            Op::Print { result } => {
                let base = warp.fragments[index].local_base;
                lanes_of(mask).for_each(|lane| warp.local.write(lane, base + result, &[0; 4]));
            }
            Op::Policy { dst } => warp.registers.set(mask, *dst, &[0_u64; LANES]),
            Op::Clock { dst, words } => match words {
                1 => warp.registers.set(mask, *dst, &[self.steps as u32; LANES]),
                _ => warp.registers.set(mask, *dst, &[self.steps; LANES]),
            },
            Op::FrameAddress { dst, words, offset } => {
                let address = warp.fragments[index].local_base + offset;
                match words {
                    1 => warp.registers.set(mask, *dst, &[address; LANES]),
                    _ => warp.registers.set(mask, *dst, &[u64::from(address); LANES]),
                }
            }
            Op::IsSpace { dst, space, address } => {
                let lanes = self.in_space(&warp.registers.get(*address), *space);
                warp.registers.set_predicate(mask, *dst, lanes);
            }
            Op::Yield => return Ok(Flow::Yield),
        }
        Ok(Flow::Next)
    }

    fn branch(&mut self, warp: &mut Warp, index: usize, target: u32, taken: u32) -> Flow {
        let fragment = &warp.fragments[index];
        let (pc, rest) = (fragment.pc, fragment.mask & !taken);
        if rest != 0 {
            self.counters.divergent_branches += 1;
            warp.split(index, rest, pc + 1, State::Ready);
        }
        Flow::Jump(target)
    }

    fn branch_indexed(
        &mut self,
        warp: &mut Warp,
        index: usize,
        choice: [u32; LANES],
        targets: &[u32],
        mask: u32,
    ) -> Result<Flow, Stop> {
        let pc = warp.fragments[index].pc;
        if let Some(lane) = lanes_of(mask).find(|lane| choice[*lane] as usize >= targets.len()) {
            let message = format!("`brx.idx` with {} of {} targets", choice[lane], targets.len());
            return Err(self.fault(warp, 1 << lane, Checker::Fault, message));
        }
        let first = choice[mask.trailing_zeros() as usize % LANES];
        let together = mask & super::registers::bits(|lane| choice[lane] == first);
        let fragment = &warp.fragments[index];
        let (waiting, skipping) = (mask & !together, fragment.mask & !mask);
        if waiting != 0 {
            self.counters.divergent_branches += 1;
            warp.split(index, waiting, pc, State::Ready);
        }
        if skipping != 0 {
            warp.split(index, skipping, pc + 1, State::Ready);
        }
        Ok(Flow::Jump(targets[first as usize]))
    }

    fn exit(&mut self, warp: &mut Warp, index: usize, mask: u32) -> Flow {
        let fragment = &mut warp.fragments[index];
        if fragment.mask != mask {
            // The lanes whose guard is false go on.
            fragment.pc += 1;
        }
        warp.exit(index, mask);
        self.progress += 1;
        self.release_warp_syncs(warp);
        warp.recheck();
        for id in 0..self.barriers.len() {
            self.release_if_complete(id as u32, Some(warp));
        }
        Flow::Stay
    }
}

impl Op {
    /// The class that the instruction counts as.
    fn class(&self) -> Class {
        match self {
            Op::Alu(_) | Op::Nop | Op::Clock { .. } | Op::FrameAddress { .. } | Op::IsSpace { .. } => Class::Alu,
            Op::Policy { .. } | Op::PendingCount { .. } => Class::Alu,
            Op::Load(load) => space_class(load.address.space),
            Op::Store(store) => space_class(store.address.space),
            Op::Atomic(atomic) => space_class(atomic.address.space),
            Op::LdMatrix(_) | Op::StMatrix(_) => Class::Shared,
            Op::CpAsync(_) | Op::CpAsyncCommit | Op::CpAsyncWait { .. } | Op::CpAsyncArrive { .. } => Class::Async,
            Op::Mma(_) => Class::Tensor,
            Op::Shuffle(_) | Op::Vote(_) | Op::Match(_) | Op::Redux(_) | Op::Elect { .. } => Class::Warp,
            Op::MoveMatrix { .. } | Op::ActiveMask { .. } => Class::Warp,
            Op::Barrier(_) | Op::WarpSync { .. } | Op::Fence(_) | Op::Mbarrier(_) => Class::Barrier,
            Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Call(_) | Op::Return | Op::Exit => Class::Control,
            Op::Trap | Op::AssertFail | Op::Print { .. } | Op::Yield => Class::Control,
        }
    }
}

/// Generic addresses count as global ones.
fn space_class(space: Space) -> Class {
    match space {
        Space::Global | Space::Generic => Class::Global,
        Space::Shared => Class::Shared,
        Space::Local | Space::Const | Space::Param => Class::OtherMemory,
    }
}
