//! Named barriers of a block.

use super::block::{Block, Flow, Stop};
use super::registers::{bits, lanes_of};
use super::report::Checker;
use super::warp::{State, Warp};
use crate::program::Reg;
use crate::program::op::{Barrier, BarrierKind, PredSource};

/// Barriers that a block has.
pub(crate) const BARRIERS: usize = 16;

/// One named barrier.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamedBarrier {
    /// Threads that arrived, as the barrier counts them.
    arrived: u32,
    /// Threads that it waits for; every one of the block where `None`.
    expected: Option<u32>,
    /// Instruction of the first arrival, for reports.
    first_pc: u32,
    /// Threads that arrived and wait.
    waiting: Vec<u32>,
    /// Results of a reduction.
    popc: u32,
    all: bool,
    any: bool,
}

impl Block<'_> {
    /// A fragment arrives at a barrier.
    pub(crate) fn barrier(
        &mut self,
        warp: &mut Warp,
        index: usize,
        barrier: &Barrier,
        mask: u32,
    ) -> Result<Flow, Stop> {
        let pc = warp.fragments[index].pc;
        if barrier.aligned && mask != warp.live {
            if warp.fragments[index].mask != warp.live {
                return Ok(Flow::Wait(State::Converge(warp.live)));
            }
            let message = format!(
                "an aligned barrier that only lanes {mask:#010x} of {:#010x} execute",
                warp.live
            );
            self.report(warp, mask, Checker::Synccheck, message)?;
        }
        if !barrier.aligned && warp.fragments[index].mask != mask {
            // The lanes whose guard is false go on alone.
            let rest = warp.fragments[index].mask & !mask;
            warp.split(index, rest, pc + 1, State::Ready);
        }
        let id = self.uniform(warp, mask, barrier.id, "the barrier's number")?;
        let count = match barrier.count {
            None => None,
            Some(count) => Some(self.uniform(warp, mask, count, "the barrier's count of threads")?),
        };
        if id as usize >= BARRIERS {
            let message = format!("barrier {id}: there are {BARRIERS}, from 0");
            return Err(self.fault(warp, mask, Checker::Synccheck, message));
        }
        let threads = self.threads();
        if let Some(count) = count
            && (count == 0 || count % 32 != 0 || count > threads.next_multiple_of(32))
        {
            let message = format!("barrier {id} for {count} threads: expected a multiple of 32 of at most {threads}");
            return Err(self.fault(warp, mask, Checker::Synccheck, message));
        }
        self.arrive(warp, barrier, id, count, mask)?;
        if barrier.kind == BarrierKind::Arrive {
            self.release_if_complete(id, Some(warp));
            return Ok(Flow::Next);
        }
        warp.fragments[index].state = State::Barrier(id);
        self.release_if_complete(id, Some(warp));
        Ok(Flow::Stay)
    }

    fn arrive(&mut self, warp: &Warp, barrier: &Barrier, id: u32, count: Option<u32>, mask: u32) -> Result<(), Stop> {
        let state = &self.barriers[id as usize];
        if state.arrived > 0 && state.expected != count {
            let spell =
                |count: Option<u32>| count.map_or("every thread".to_owned(), |count| format!("{count} threads"));
            let message = format!(
                "barrier {id} for {}, while threads at PTX line {} wait there for {}",
                spell(count),
                self.env.kernel.code[state.first_pc as usize].line,
                spell(state.expected)
            );
            self.report(warp, mask, Checker::Synccheck, message)?;
        }
        let source = match barrier.kind {
            BarrierKind::Popc { source, .. } | BarrierKind::And { source, .. } | BarrierKind::Or { source, .. } => {
                predicate(warp, source)
            }
            _ => 0,
        };
        let state = &mut self.barriers[id as usize];
        if state.arrived == 0 {
            *state = NamedBarrier {
                expected: count,
                first_pc: self.pc,
                all: true,
                ..NamedBarrier::default()
            };
        }
        // With a count, a warp that arrives together counts as a whole, its missing lanes too.
        state.arrived += if count.is_some() && barrier.aligned {
            32
        } else {
            mask.count_ones()
        };
        state.popc += (source & mask).count_ones();
        state.all &= source & mask == mask;
        state.any |= source & mask != 0;
        let threads = lanes_of(mask).map(|lane| warp.index * 32 + lane as u32);
        if let Some(races) = &mut self.races {
            threads.clone().for_each(|thread| races.barrier_arrive(id, thread));
        }
        if barrier.kind != BarrierKind::Arrive {
            state.waiting.extend(threads);
        }
        self.progress += 1;
        self.counters.barriers += 1;
        if let (Some(expected), arrived) = (state.expected, state.arrived)
            && arrived > expected
        {
            let message = format!("{arrived} threads arrived at barrier {id}, which is for {expected}");
            self.report(warp, mask, Checker::Synccheck, message)?;
        }
        Ok(())
    }

    /// Lets the waiting go where all have arrived. `current` is the warp that runs, which is not among the block's.
    pub(crate) fn release_if_complete(&mut self, id: u32, current: Option<&mut Warp>) {
        let live: u32 = self.live_threads(current.as_deref());
        let state = &self.barriers[id as usize];
        if state.arrived == 0 || state.arrived < state.expected.unwrap_or(live) {
            return;
        }
        let state = std::mem::take(&mut self.barriers[id as usize]);
        if let Some(races) = &mut self.races {
            races.barrier_complete(id, state.waiting.iter().copied());
        }
        let code = &self.env.kernel.code;
        let release = |warp: &mut Warp| {
            let Warp {
                fragments, registers, ..
            } = warp;
            for fragment in fragments
                .iter_mut()
                .filter(|fragment| fragment.state == State::Barrier(id))
            {
                if let crate::program::op::Op::Barrier(barrier) = &code[fragment.pc as usize].op {
                    match barrier.kind {
                        BarrierKind::Popc { dst, .. } => registers.set(fragment.mask, dst, &[state.popc; 32]),
                        BarrierKind::And { dst, .. } => {
                            registers.set_predicate(fragment.mask, dst, if state.all { u32::MAX } else { 0 });
                        }
                        BarrierKind::Or { dst, .. } => {
                            registers.set_predicate(fragment.mask, dst, if state.any { u32::MAX } else { 0 });
                        }
                        _ => {}
                    }
                }
                fragment.state = State::Ready;
                fragment.pc += 1;
            }
        };
        self.warps.iter_mut().flatten().for_each(release);
        current.into_iter().for_each(release);
        self.progress += 1;
    }

    /// `bar.warp.sync`: the lanes wait until every live one of the members that they name waits for the same members.
    pub(crate) fn warp_sync(&mut self, warp: &mut Warp, index: usize, members: Reg, mask: u32) -> Result<Flow, Stop> {
        let pc = warp.fragments[index].pc;
        if mask != warp.fragments[index].mask {
            // The lanes whose guard is false go on alone.
            let rest = warp.fragments[index].mask & !mask;
            warp.split(index, rest, pc + 1, State::Ready);
        }
        let masks = *warp.registers.lanes(members);
        let mut rest = mask;
        while rest != 0 {
            let members = masks[rest.trailing_zeros() as usize];
            let lanes = rest & bits(|lane| masks[lane] == members);
            rest &= !lanes;
            if lanes & !members != 0 {
                let message = format!("lanes {lanes:#010x} execute this for the members {members:#010x} only");
                self.report(warp, lanes, Checker::Synccheck, message)?;
            }
            match rest {
                0 => warp.fragments[index].state = State::WarpSync(members),
                _ => warp.split(index, lanes, pc, State::WarpSync(members)),
            }
        }
        self.release_warp_syncs(warp);
        Ok(Flow::Stay)
    }

    /// Lets lanes that wait in `bar.warp.sync` go, where none of their members is missing any more.
    pub(crate) fn release_warp_syncs(&mut self, warp: &mut Warp) {
        let waiting: Vec<u32> = warp.waiting_warp_syncs().collect();
        for members in waiting {
            self.release_warp_sync(warp, members);
        }
    }

    /// Lets the lanes that wait in `bar.warp.sync` for `members` go, where none is missing.
    fn release_warp_sync(&mut self, warp: &mut Warp, members: u32) {
        let waits = |state: State| state == State::WarpSync(members);
        let waiting = warp.fragments.iter().filter(|fragment| waits(fragment.state));
        let arrived = waiting.fold(0, |mask, fragment| mask | fragment.mask);
        if arrived == 0 || arrived & members != members & warp.live {
            return;
        }
        if let Some(races) = &mut self.races {
            let threads: Vec<u32> = lanes_of(arrived).map(|lane| warp.index * 32 + lane as u32).collect();
            races.warp_sync(threads.iter().copied());
        }
        for fragment in &mut warp.fragments {
            if waits(fragment.state) {
                fragment.state = State::Ready;
                fragment.pc += 1;
            }
        }
    }
}

/// The lanes in which a predicate source holds.
pub(crate) fn predicate(warp: &Warp, source: PredSource) -> u32 {
    match source.pred {
        Some(pred) => warp.holds(pred, source.negated),
        None if source.negated => 0,
        None => u32::MAX,
    }
}
