//! Mbarriers: barriers that are objects in shared memory.
//!
//! Their state is kept beside the memory, by address; the eight bytes hold nothing that a program may look at.

use std::collections::BTreeMap;

use super::access::Direction;
use super::block::{Block, Flow, Stop};
use super::copies::Arrival;
use super::registers::{LANES, lanes_of};
use super::report::Checker;
use super::warp::Warp;
use crate::program::Reg;
use crate::program::op::{Address, Mbarrier, MbarrierFunction, MbarrierPhase};

/// Bytes of an mbarrier.
const BYTES: u32 = 8;
/// Largest count of arrivals (PTX ISA, "Contents of the mbarrier object").
const MOST: u32 = (1 << 20) - 1;

/// One mbarrier.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Arrivals of each phase.
    expected: u32,
    /// Arrivals that this phase still lacks.
    pending: u32,
    /// Phases completed.
    phase: u32,
}

/// The mbarriers of a block by their offset in shared memory.
#[derive(Debug, Default)]
pub(crate) struct Mbarriers(BTreeMap<u32, State>);

impl Block<'_> {
    pub(crate) fn mbarrier(&mut self, warp: &mut Warp, index: usize, op: &Mbarrier, mask: u32) -> Result<Flow, Stop> {
        let offsets = self.mbarrier_offsets(warp, index, &op.address, mask)?;
        match op.function {
            MbarrierFunction::Test { done, phase, blocking } => {
                let complete = self.test(warp, &offsets, op, phase, mask)?;
                warp.registers.set_predicate(mask, done, complete);
                if blocking && mask & !complete != 0 {
                    warp.fragments[index].failed_at = Some(self.progress);
                    return Ok(Flow::Yield);
                }
            }
            MbarrierFunction::Init { count } => self.init(warp, &offsets, count, mask)?,
            MbarrierFunction::Invalidate => {
                for lane in lanes_of(mask) {
                    self.mbarriers.0.remove(&offsets[lane]);
                }
            }
            MbarrierFunction::Arrive { state, count, drop, .. } => {
                self.arrive_all(warp, &offsets, op, (state, count, drop), mask)?;
            }
        }
        Ok(Flow::Next)
    }

    /// The lanes' mbarriers.
    fn mbarrier_offsets(
        &mut self,
        warp: &Warp,
        index: usize,
        address: &Address,
        mask: u32,
    ) -> Result<[u32; LANES], Stop> {
        let places = self.shared_places(warp, index, address, mask, BYTES, Direction::Write)?;
        Ok(places.offsets.map(|offset| offset as u32))
    }

    fn init(&mut self, warp: &Warp, offsets: &[u32; LANES], count: Reg, mask: u32) -> Result<(), Stop> {
        for lane in lanes_of(mask) {
            let count = warp.registers.lanes(count)[lane];
            if count == 0 || count > MOST {
                let message = format!("an mbarrier for {count} arrivals: expected 1 to {MOST}");
                return Err(self.fault(warp, 1 << lane, Checker::Synccheck, message));
            }
            let state = State {
                expected: count,
                pending: count,
                phase: 0,
            };
            self.mbarriers.0.insert(offsets[lane], state);
            if let Some(races) = &mut self.races {
                races.mbarrier_init(offsets[lane]);
            }
            for word in [0, 4] {
                self.shared.store(offsets[lane] + word, 4, count);
            }
            self.observe_mbarrier(warp, lane, offsets[lane], true)?;
        }
        self.progress += 1;
        Ok(())
    }

    fn arrive_all(
        &mut self,
        warp: &mut Warp,
        offsets: &[u32; LANES],
        op: &Mbarrier,
        (state, count, drop): (Option<Reg>, Option<Reg>, bool),
        mask: u32,
    ) -> Result<(), Stop> {
        let mut tokens = [0; LANES];
        for lane in lanes_of(mask) {
            let count = count.map_or(1, |count| warp.registers.lanes(count)[lane]);
            let before = self.existing(warp, lane, offsets[lane])?;
            tokens[lane] = u64::from(before.phase) << 32 | u64::from(before.pending);
            if op.order.release
                && let Some(races) = &mut self.races
            {
                races.mbarrier_arrive(offsets[lane], warp.index * 32 + lane as u32);
            }
            self.arrive_at(warp, lane, offsets[lane], count, drop)?;
        }
        if let Some(state) = state {
            warp.registers.set(mask, state, &tokens);
        }
        Ok(())
    }

    /// The mbarrier at an offset.
    fn existing(&mut self, warp: &Warp, lane: usize, offset: u32) -> Result<State, Stop> {
        if let Some(state) = self.mbarriers.0.get(&offset) {
            let state = *state;
            self.observe_mbarrier(warp, lane, offset, false)?;
            return Ok(state);
        }
        let message = format!("no mbarrier was initialised at offset {offset:#x} of shared memory");
        Err(self.fault(warp, 1 << lane, Checker::Synccheck, message))
    }

    fn arrive_at(&mut self, warp: &Warp, lane: usize, offset: u32, count: u32, drop: bool) -> Result<(), Stop> {
        let mut state = self.existing(warp, lane, offset)?;
        if count == 0 || count > state.pending {
            let message = format!("{count} arrivals at an mbarrier whose phase lacks {}", state.pending);
            return Err(self.fault(warp, 1 << lane, Checker::Synccheck, message));
        }
        state.pending -= count;
        state.expected -= if drop { count } else { 0 };
        self.finish_arrival(offset, state);
        Ok(())
    }

    /// Stores a state; where nothing is pending the phase is complete.
    fn finish_arrival(&mut self, offset: u32, mut state: State) {
        if state.pending == 0 {
            state.phase = state.phase.wrapping_add(1);
            state.pending = state.expected;
            if let Some(races) = &mut self.races {
                races.mbarrier_phase_done(offset);
            }
        }
        self.mbarriers.0.insert(offset, state);
        self.progress += 1;
    }

    /// The lanes whose phase is complete.
    fn test(
        &mut self,
        warp: &mut Warp,
        offsets: &[u32; LANES],
        op: &Mbarrier,
        phase: MbarrierPhase,
        mask: u32,
    ) -> Result<u32, Stop> {
        let mut complete = 0;
        for lane in lanes_of(mask) {
            let waited = match phase {
                MbarrierPhase::State(reg) => (warp.registers.get::<u64>(reg)[lane] >> 32) as u32,
                MbarrierPhase::Parity(reg) => warp.registers.lanes(reg)[lane],
            };
            let is_complete = |state: State| match phase {
                MbarrierPhase::State(_) => state.phase != waited,
                MbarrierPhase::Parity(_) => state.phase & 1 != waited & 1,
            };
            let mut state = self.existing(warp, lane, offsets[lane])?;
            if !is_complete(state) {
                self.settle(warp, offsets[lane])?;
                state = self.existing(warp, lane, offsets[lane])?;
            }
            if is_complete(state) {
                complete |= 1 << lane;
                if op.order.acquire
                    && let Some(races) = &mut self.races
                {
                    races.mbarrier_wait(offsets[lane], warp.index * 32 + lane as u32);
                }
            }
        }
        Ok(complete)
    }

    /// `cp.async.mbarrier.arrive`: now where copies land at issue, else once they have landed.
    pub(crate) fn async_arrive(
        &mut self,
        warp: &mut Warp,
        index: usize,
        address: &Address,
        noinc: bool,
        mask: u32,
    ) -> Result<(), Stop> {
        let offsets = self.mbarrier_offsets(warp, index, address, mask)?;
        for lane in lanes_of(mask) {
            let mut state = self.existing(warp, lane, offsets[lane])?;
            if !noinc {
                state.pending += 1;
                self.mbarriers.0.insert(offsets[lane], state);
            }
            let arrival = Arrival {
                lane: lane as u32,
                barrier: offsets[lane],
                up_to: warp.copies.issued(lane),
                told: self
                    .races
                    .as_ref()
                    .map(|races| races.async_arrival(warp.index * 32 + lane as u32)),
            };
            match self.env.options.asynchrony {
                super::options::Asynchrony::Eager => self.copies_arrive(&arrival),
                super::options::Asynchrony::Lazy => warp.copies.defer_arrival(arrival),
            }
        }
        Ok(())
    }

    /// An arrival whose copies have landed.
    pub(crate) fn copies_arrive(&mut self, arrival: &Arrival) {
        let Some(state) = self.mbarriers.0.get(&arrival.barrier) else {
            return;
        };
        let state = State {
            pending: state.pending.saturating_sub(1),
            ..*state
        };
        if let (Some(races), Some(told)) = (&mut self.races, &arrival.told) {
            races.mbarrier_arrive_async(arrival.barrier, told);
        }
        self.finish_arrival(arrival.barrier, state);
    }

    /// Lands the copies that an mbarrier waits for, where nothing else is missing: no later time is allowed.
    fn settle(&mut self, warp: &mut Warp, offset: u32) -> Result<(), Stop> {
        let Some(state) = self.mbarriers.0.get(&offset) else {
            return Ok(());
        };
        let deferred = |warp: &Warp| warp.copies.arrivals_at(offset).count() as u32;
        let total = deferred(warp) + self.warps.iter().flatten().map(deferred).sum::<u32>();
        if total == 0 || total < state.pending {
            return Ok(());
        }
        self.land_arrivals(warp, offset);
        for other in 0..self.warps.len() {
            if let Some(mut warp) = self.warps[other].take() {
                self.land_arrivals(&mut warp, offset);
                self.warps[other] = Some(warp);
            }
        }
        Ok(())
    }

    fn land_arrivals(&mut self, warp: &mut Warp, offset: u32) {
        let mut up_to = [0; LANES];
        for arrival in warp.copies.arrivals_at(offset) {
            let lane = &mut up_to[arrival.lane as usize];
            *lane = arrival.up_to.max(*lane);
        }
        let lanes: u32 = warp
            .copies
            .arrivals_at(offset)
            .fold(0, |mask, arrival| mask | 1 << arrival.lane);
        self.land(warp, lanes, &up_to);
    }
}
