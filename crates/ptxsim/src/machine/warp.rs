//! A warp: its registers, and the groups of lanes that are at one place.

use std::rc::Rc;

use super::copies::Copies;
use super::local::LocalMemory;
use super::registers::{Lanes, Registers};
use crate::program::Pred;

/// Lanes of a warp that are at the same instruction.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub pc: u32,
    pub mask: u32,
    pub state: State,
    /// The calls that led here; `None` in the kernel itself.
    pub frame: Option<Rc<Frame>>,
    /// Where the frame's local memory begins.
    pub local_base: u32,
    /// It had its turn: the warp's others come first.
    pub yielded: bool,
    /// The block's progress when a wait last failed. Another try is worth nothing while nothing has happened since.
    pub failed_at: Option<u64>,
}

/// What a fragment waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// A named barrier.
    Barrier(u32),
    /// `bar.warp.sync` of these lanes.
    WarpSync(u32),
    /// These lanes, at the same instruction.
    Converge(u32),
}

/// A call that has not returned.
#[derive(Debug)]
pub(crate) struct Frame {
    pub return_pc: u32,
    pub function: u32,
    pub depth: u32,
    pub caller_base: u32,
    pub parent: Option<Rc<Frame>>,
    /// The function's registers as they were, where it was active already.
    pub saved: Option<Saved>,
}

/// Registers and predicates of a function that calls itself.
#[derive(Debug)]
pub(crate) struct Saved {
    pub words: Vec<Lanes>,
    pub predicates: Vec<u32>,
}

/// One warp of a block.
#[derive(Debug)]
pub(crate) struct Warp {
    pub index: u32,
    pub registers: Registers,
    pub fragments: Vec<Fragment>,
    /// Lanes that have not exited.
    pub live: u32,
    pub local: LocalMemory,
    pub copies: Copies,
}

impl Warp {
    pub(crate) fn new(index: u32, live: u32, registers: Registers, local: LocalMemory) -> Warp {
        let start = Fragment {
            pc: 0,
            mask: live,
            state: State::Ready,
            frame: None,
            local_base: 0,
            yielded: false,
            failed_at: None,
        };
        Warp {
            index,
            registers,
            fragments: vec![start],
            live,
            local,
            copies: Copies::default(),
        }
    }

    /// The fragment to run next: the deepest call's, then the one furthest behind, joined with those at the same place.
    ///
    /// Being behind makes lanes meet again. So that lanes that wait for others of their warp do not keep these from running,
    /// a fragment that has yielded comes after all that have not.
    #[inline(always)]
    pub(crate) fn select(&mut self, progress: u64) -> Option<usize> {
        if let [only] = self.fragments.as_slice() {
            return only.can_run(progress).then_some(0);
        }
        self.select_of_several(progress)
    }

    fn select_of_several(&mut self, progress: u64) -> Option<usize> {
        let chosen = self.furthest_behind(progress).or_else(|| {
            self.fragments.iter_mut().for_each(|fragment| fragment.yielded = false);
            self.furthest_behind(progress)
        })?;
        Some(self.merge_into(chosen))
    }

    fn furthest_behind(&self, progress: u64) -> Option<usize> {
        let ready = |(_, fragment): &(usize, &Fragment)| fragment.can_run(progress) && !fragment.yielded;
        let order = |(_, fragment): &(usize, &Fragment)| (u32::MAX - fragment.depth(), fragment.pc);
        let chosen = self.fragments.iter().enumerate().filter(ready).min_by_key(order);
        chosen.map(|(index, _)| index)
    }

    /// A fragment lets the warp's others run; whether there are any that can.
    pub(crate) fn yield_to_others(&mut self, index: usize, progress: u64) -> bool {
        self.fragments[index].yielded = self.fragments.len() > 1;
        self.furthest_behind(progress).is_some_and(|other| other != index)
    }

    /// Joins fragments that are ready, or wait for others, at the same place; the index of the result.
    fn merge_into(&mut self, chosen: usize) -> usize {
        let (mut chosen, mut other) = (chosen, 0);
        while other < self.fragments.len() {
            if other != chosen && self.fragments[chosen].joins(&self.fragments[other]) {
                self.fragments[chosen].mask |= self.fragments[other].mask;
                self.fragments.remove(other);
                if other < chosen {
                    chosen -= 1;
                }
            } else {
                other += 1;
            }
        }
        chosen
    }

    /// Takes lanes out of a fragment; they are at `pc` then.
    pub(crate) fn split(&mut self, index: usize, mask: u32, pc: u32, state: State) {
        let mut other = self.fragments[index].clone();
        self.fragments[index].mask &= !mask;
        (other.mask, other.pc, other.state) = (mask, pc, state);
        self.fragments.push(other);
    }

    /// The lanes of `mask` end.
    pub(crate) fn exit(&mut self, index: usize, mask: u32) {
        self.live &= !mask;
        self.fragments[index].mask &= !mask;
        if self.fragments[index].mask == 0 {
            self.fragments.remove(index);
        }
    }

    /// The member masks for which fragments wait in `bar.warp.sync`.
    pub(crate) fn waiting_warp_syncs(&self) -> impl Iterator<Item = u32> {
        self.fragments.iter().filter_map(|fragment| match fragment.state {
            State::WarpSync(members) => Some(members),
            _ => None,
        })
    }

    /// Lets fragments look again whether all whom they wait for have come: lanes have exited.
    pub(crate) fn recheck(&mut self) {
        let live = self.live;
        for fragment in &mut self.fragments {
            if let State::Converge(members) = fragment.state
                && members & live & !fragment.mask == 0
            {
                fragment.state = State::Ready;
            }
        }
    }

    /// The lanes of `mask` in which a predicate holds.
    #[inline(always)]
    pub(crate) fn holds(&self, pred: Pred, negated: bool) -> u32 {
        let bits = self.registers.predicate(pred);
        if negated { !bits } else { bits }
    }
}

impl Fragment {
    #[inline(always)]
    fn can_run(&self, progress: u64) -> bool {
        self.state == State::Ready && self.failed_at != Some(progress)
    }

    fn depth(&self) -> u32 {
        self.frame.as_ref().map_or(0, |frame| frame.depth)
    }

    fn joins(&self, other: &Fragment) -> bool {
        let waiting = matches!(other.state, State::Ready | State::Converge(_));
        waiting && self.pc == other.pc && same_frame(self.frame.as_ref(), other.frame.as_ref())
    }

    /// The function that the fragment is in.
    pub(crate) fn function(&self) -> u32 {
        self.frame.as_ref().map_or(0, |frame| frame.function)
    }
}

impl Drop for Frame {
    /// One frame after the other: deep recursion in the kernel must not be deep recursion here.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut frame) = next.and_then(Rc::into_inner) {
            next = frame.parent.take();
        }
    }
}

/// Whether two chains of calls are the same. Frames that hold saved registers are the same only if they are one.
fn same_frame(mut a: Option<&Rc<Frame>>, mut b: Option<&Rc<Frame>>) -> bool {
    loop {
        let (frame, other) = match (a, b) {
            (None, None) => return true,
            (Some(frame), Some(other)) => (frame, other),
            _ => return false,
        };
        if Rc::ptr_eq(frame, other) {
            return true;
        }
        let same = frame.return_pc == other.return_pc
            && frame.function == other.function
            && frame.depth == other.depth
            && frame.caller_base == other.caller_base
            && frame.saved.is_none()
            && other.saved.is_none();
        if !same {
            return false;
        }
        (a, b) = (frame.parent.as_ref(), other.parent.as_ref());
    }
}
