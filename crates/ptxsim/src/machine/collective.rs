//! What the lanes of a warp do together: shuffles, votes, matches, reductions.

use super::barrier::predicate;
use super::block::{Block, Flow, Stop};
use super::registers::{LANES, bits, lanes_of};
use super::report::Checker;
use super::warp::{State, Warp};
use crate::numeric::compare::MinMax;
use crate::numeric::integer::min_max;
use crate::program::Reg;
use crate::program::op::{Match, MatchKind, Redux, ReduxFunction, Shuffle, ShuffleMode, Vote, VoteResult};

impl Block<'_> {
    /// Executes a collective instruction for each group of lanes that names the same members, where all of these are here. The
    /// other lanes wait for theirs.
    pub(crate) fn collective(
        &mut self,
        warp: &mut Warp,
        index: usize,
        members: Reg,
        mask: u32,
        mut execute: impl FnMut(&mut Self, &mut Warp, u32) -> Result<(), Stop>,
    ) -> Result<Flow, Stop> {
        let (pc, here) = (warp.fragments[index].pc, warp.fragments[index].mask);
        let masks = *warp.registers.lanes(members);
        let (mut rest, mut going) = (mask, here);
        while rest != 0 {
            let members = masks[rest.trailing_zeros() as usize];
            let lanes = rest & bits(|lane| masks[lane] == members);
            rest &= !lanes;
            let needed = members & warp.live;
            if needed & !here != 0 {
                going &= !lanes;
                if going == 0 {
                    return Ok(Flow::Wait(State::Converge(needed)));
                }
                warp.split(index, lanes, pc, State::Converge(needed));
                continue;
            }
            if lanes & !members != 0 || needed & !lanes != 0 {
                let message = format!("lanes {lanes:#010x} execute this, its member mask is {members:#010x}");
                self.report(warp, lanes, Checker::Synccheck, message)?;
            }
            execute(self, warp, lanes)?;
        }
        Ok(Flow::Next)
    }

    pub(crate) fn shuffle(&mut self, warp: &mut Warp, op: &Shuffle, mask: u32) -> Result<(), Stop> {
        let registers = &warp.registers;
        let (values, amounts, controls) = (
            *registers.lanes(op.value),
            *registers.lanes(op.lane),
            *registers.lanes(op.control),
        );
        let sources: [(usize, bool); LANES] =
            std::array::from_fn(|lane| source_lane(op.mode, lane as u32, amounts[lane], controls[lane]));
        let from_absent = lanes_of(mask).find(|lane| mask >> sources[*lane].0 & 1 == 0);
        if let Some(lane) = from_absent {
            let message = format!("lane {lane} reads lane {}, which does not take part", sources[lane].0);
            self.report(warp, 1 << lane, Checker::Synccheck, message)?;
        }
        if let Some(dst) = op.dst {
            warp.registers.set(mask, dst, &sources.map(|(lane, _)| values[lane]));
        }
        if let Some(pred) = op.in_range {
            warp.registers.set_predicate(mask, pred, bits(|lane| sources[lane].1));
        }
        Ok(())
    }

    pub(crate) fn vote(warp: &mut Warp, op: &Vote, mask: u32) {
        let ballot = predicate(warp, op.source) & mask;
        let all = |holds: bool| if holds { u32::MAX } else { 0 };
        let registers = &mut warp.registers;
        match op.result {
            VoteResult::All(dst) => registers.set_predicate(mask, dst, all(ballot == mask)),
            VoteResult::Any(dst) => registers.set_predicate(mask, dst, all(ballot != 0)),
            VoteResult::Uniform(dst) => registers.set_predicate(mask, dst, all(ballot == 0 || ballot == mask)),
            VoteResult::Ballot(dst) => registers.set(mask, dst, &[ballot; LANES]),
        }
    }

    pub(crate) fn matching(warp: &mut Warp, op: &Match, mask: u32) {
        let values: [u64; LANES] = match op.wide {
            true => warp.registers.get(op.value),
            false => warp.registers.lanes(op.value).map(u64::from),
        };
        let equal: [u32; LANES] =
            std::array::from_fn(|lane| bits(|other| mask >> other & 1 == 1 && values[other] == values[lane]));
        let result = match op.kind {
            MatchKind::Any => equal,
            MatchKind::All(pred) => {
                let all = lanes_of(mask).all(|lane| equal[lane] == mask);
                if let Some(pred) = pred {
                    warp.registers.set_predicate(mask, pred, if all { u32::MAX } else { 0 });
                }
                [if all { mask } else { 0 }; LANES]
            }
        };
        if let Some(dst) = op.dst {
            warp.registers.set(mask, dst, &result);
        }
    }

    pub(crate) fn redux(warp: &mut Warp, op: &Redux, mask: u32) {
        let lanes = warp.registers.lanes(op.value);
        let step = |a: u32, b: u32| match op.function {
            ReduxFunction::Add => a.wrapping_add(b),
            ReduxFunction::And => a & b,
            ReduxFunction::Or => a | b,
            ReduxFunction::Xor => a ^ b,
            ReduxFunction::Min(ty) => min_max(ty, false, false, a.into(), b.into()) as u32,
            ReduxFunction::Max(ty) => min_max(ty, true, false, a.into(), b.into()) as u32,
            ReduxFunction::MinMaxF32 { max, nan, .. } => MinMax {
                max,
                nan,
                xorsign_abs: false,
            }
            .f32(a, b, false),
        };
        let strip = match op.function {
            ReduxFunction::MinMaxF32 { abs: true, .. } => 0x7fff_ffff,
            _ => u32::MAX,
        };
        let result = lanes_of(mask).map(|lane| lanes[lane] & strip).reduce(step).unwrap_or(0);
        warp.registers.set(mask, op.dst, &[result; LANES]);
    }
}

/// The lane that a lane reads, itself where that is out of range, and whether it is in range (PTX ISA, `shfl.sync`).
fn source_lane(mode: ShuffleMode, lane: u32, amount: u32, control: u32) -> (usize, bool) {
    let (amount, clamp, segment) = (amount & 31, control & 31, control >> 8 & 31);
    let most = (lane & segment) | (clamp & !segment);
    let least = lane & segment;
    let (source, in_range) = match mode {
        ShuffleMode::Up => {
            let source = lane as i32 - amount as i32;
            (source, source >= most as i32)
        }
        ShuffleMode::Down => ((lane + amount) as i32, lane + amount <= most),
        ShuffleMode::Butterfly => ((lane ^ amount) as i32, lane ^ amount <= most),
        ShuffleMode::Index => {
            let source = least | (amount & !segment);
            (source as i32, source <= most)
        }
    };
    (if in_range { source as usize & 31 } else { lane as usize }, in_range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_out_of_range_read_themselves() {
        assert_eq!(source_lane(ShuffleMode::Butterfly, 5, 1, 0x1f), (4, true));
        assert_eq!(source_lane(ShuffleMode::Down, 30, 4, 0x1f), (30, false));
        assert_eq!(source_lane(ShuffleMode::Down, 3, 4, 0x1f), (7, true));
        assert_eq!(source_lane(ShuffleMode::Up, 3, 4, 0), (3, false));
        assert_eq!(source_lane(ShuffleMode::Up, 4, 4, 0), (0, true));
        assert_eq!(source_lane(ShuffleMode::Index, 17, 3, 0x1f), (3, true));
        // Segments of eight lanes: c = (32 - 8) << 8 | 31.
        assert_eq!(source_lane(ShuffleMode::Index, 17, 3, 0x181f), (19, true));
        assert_eq!(source_lane(ShuffleMode::Down, 7, 1, 0x181f), (7, false));
        assert_eq!(source_lane(ShuffleMode::Up, 8, 1, 0x1800), (8, false));
    }
}
