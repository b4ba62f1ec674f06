//! Calls of device functions, and returns.

use std::rc::Rc;

use super::address::FUNCTIONS;
use super::block::{Block, Flow, Stop};
use super::registers::{LANES, Lanes, lanes_of};
use super::report::Checker;
use super::warp::{Frame, Saved, State, Warp};
use crate::program::op::{Call, CallTarget};
use crate::program::{Function, Place, Pred, Reg};

/// Where frames begin.
const FRAME_ALIGN: u32 = 16;

impl Block<'_> {
    pub(crate) fn call(&mut self, warp: &mut Warp, index: usize, call: &Call, mask: u32) -> Result<Flow, Stop> {
        let fragment = &warp.fragments[index];
        let (pc, all) = (fragment.pc, fragment.mask);
        let (function, callers) = match call.target {
            CallTarget::Direct(function) => (function, mask),
            CallTarget::Indirect(reg) => self.indirect(warp, reg, mask)?,
        };
        if callers != all {
            // The others call another function later, or none: a lane whose guard is false goes on.
            let rest = all & !callers;
            let others = mask & !callers;
            if others != 0 {
                warp.split(index, others, pc, State::Ready);
            }
            if rest & !others != 0 {
                warp.split(index, rest & !others, pc + 1, State::Ready);
            }
        }
        let kernel = self.env.kernel;
        let callee = &kernel.functions[function as usize];
        let fits = |formal: &[Place], actual: &[Place]| {
            formal.len() == actual.len() && formal.iter().zip(actual).all(|(a, b)| a.accepts(*b))
        };
        if !fits(&callee.params, &call.arguments) || !fits(&callee.returns, &call.returns) {
            let message = format!("`{}` is called with other parameters than it has", callee.name);
            return Err(self.fault(warp, callers, Checker::Fault, message));
        }
        let fragment = &warp.fragments[index];
        let caller_base = fragment.local_base;
        let size = kernel.functions[fragment.function() as usize].frame_bytes;
        let active = is_active(warp.fragments[index].frame.as_ref(), function);
        let saved = active.then(|| warp.registers.save(callee));
        // As on the hardware, registers that are kept lie on the stack. That bounds the depth of calls too.
        let kept = saved
            .as_ref()
            .map_or(0, |saved| 4 * (saved.words.len() + saved.predicates.len()) as u32);
        let base = (caller_base + size + kept + 1).next_multiple_of(FRAME_ALIGN);
        if !warp.local.grow(base + callee.frame_bytes) {
            let message = format!(
                "the stack of calls, in `{}`, takes more local memory than a thread has",
                callee.name
            );
            return Err(self.fault(warp, callers, Checker::Fault, message));
        }
        for lane in lanes_of(callers) {
            warp.local.forget(lane, base, callee.frame_bytes);
        }
        // All arguments are read before any parameter is written: where a function calls itself they may be the same registers.
        let given: Vec<Option<Vec<Lanes>>> = call.arguments.iter().map(|place| in_registers(warp, *place)).collect();
        for ((formal, actual), words) in callee.params.iter().zip(&call.arguments).zip(given) {
            pass(warp, callers, words, (*actual, caller_base), (*formal, base));
        }
        let fragment = &mut warp.fragments[index];
        let parent = fragment.frame.take();
        fragment.frame = Some(Rc::new(Frame {
            return_pc: pc + 1,
            function,
            depth: parent.as_ref().map_or(0, |frame| frame.depth) + 1,
            caller_base,
            parent,
            saved,
        }));
        fragment.local_base = base;
        Ok(Flow::Jump(callee.entry))
    }

    /// The function that the first lane calls, and the lanes that call it.
    fn indirect(&mut self, warp: &Warp, reg: Reg, mask: u32) -> Result<(u32, u32), Stop> {
        let addresses = warp.registers.get::<u64>(reg);
        let first = addresses[mask.trailing_zeros() as usize % LANES];
        let number = first.wrapping_sub(FUNCTIONS);
        if number == 0 || number >= self.env.kernel.functions.len() as u64 {
            let message = format!("a call of {first:#x}, which is no function's address");
            return Err(self.fault(warp, mask, Checker::Fault, message));
        }
        let callers = super::registers::bits(|lane| mask >> lane & 1 == 1 && addresses[lane] == first);
        Ok((number as u32, callers))
    }

    pub(crate) fn return_from(&mut self, warp: &mut Warp, index: usize, mask: u32) -> Result<Flow, Stop> {
        let fragment = &warp.fragments[index];
        let (pc, rest, base) = (fragment.pc, fragment.mask & !mask, fragment.local_base);
        let Some(frame) = fragment.frame.clone() else {
            return Err(self.fault(warp, mask, Checker::Fault, "a return from no call".to_owned()));
        };
        if rest != 0 {
            warp.split(index, rest, pc + 1, State::Ready);
        }
        let kernel = self.env.kernel;
        let callee = &kernel.functions[frame.function as usize];
        let crate::program::op::Op::Call(call) = &kernel.code[frame.return_pc as usize - 1].op else {
            return Err(self.fault(warp, mask, Checker::Fault, "a return to no call".to_owned()));
        };
        // A result in a register may be one that is about to be restored.
        let results: Vec<Option<Vec<Lanes>>> = callee.returns.iter().map(|place| in_registers(warp, *place)).collect();
        if let Some(saved) = &frame.saved {
            warp.registers.restore(mask, callee, saved);
        }
        for ((formal, actual), words) in callee.returns.iter().zip(&call.returns).zip(results) {
            pass(warp, mask, words, (*formal, base), (*actual, frame.caller_base));
        }
        let fragment = &mut warp.fragments[index];
        fragment.local_base = frame.caller_base;
        fragment.frame = frame.parent.clone();
        Ok(Flow::Jump(frame.return_pc))
    }
}

fn is_active(frame: Option<&Rc<Frame>>, function: u32) -> bool {
    let mut frame = frame;
    while let Some(current) = frame {
        if current.function == function {
            return true;
        }
        frame = current.parent.as_ref();
    }
    false
}

fn in_registers(warp: &Warp, place: Place) -> Option<Vec<Lanes>> {
    match place {
        Place::Register { reg, words } => Some((0..words).map(|word| *warp.registers.lanes(reg.word(word))).collect()),
        Place::Memory { .. } => None,
    }
}

/// Copies a parameter between two frames. Decoding, or an indirect call, has checked that both are of one size; `words` is
/// what was in `from` if that is a register.
fn pass(warp: &mut Warp, mask: u32, words: Option<Vec<Lanes>>, from: (Place, u32), to: (Place, u32)) {
    match (words, from, to) {
        (Some(words), _, (Place::Register { reg, .. }, _)) => {
            for (word, lanes) in words.iter().enumerate() {
                warp.registers.set(mask, reg.word(word as u32), lanes);
            }
        }
        (Some(words), _, (Place::Memory { offset, bytes }, base)) => {
            for lane in lanes_of(mask) {
                let data: Vec<u8> = words.iter().flat_map(|word| word[lane].to_le_bytes()).collect();
                warp.local.write(lane, base + offset, &data[..bytes as usize]);
            }
        }
        (None, (Place::Memory { offset, bytes }, base), (Place::Memory { offset: to, .. }, to_base)) => {
            for lane in lanes_of(mask) {
                warp.local.copy(lane, base + offset, to_base + to, bytes);
            }
        }
        (None, (Place::Memory { offset, bytes }, base), (Place::Register { reg, words }, _)) => {
            let mut values = vec![[0; LANES]; words as usize];
            for lane in lanes_of(mask) {
                let mut data = [0; 16];
                warp.local.read(lane, base + offset, &mut data[..bytes as usize]);
                for (value, word) in values.iter_mut().zip(data.as_chunks().0) {
                    value[lane] = u32::from_le_bytes(*word);
                }
            }
            for (word, lanes) in values.iter().enumerate() {
                warp.registers.set(mask, reg.word(word as u32), lanes);
            }
        }
        (None, ..) => {}
    }
}

impl super::registers::Registers {
    /// Copies of a function's slots and of its predicates.
    fn save(&self, function: &Function) -> Saved {
        let predicates = function.predicates.0..function.predicates.1;
        Saved {
            words: function.slots().map(|reg| *self.lanes(reg)).collect(),
            predicates: predicates.map(|pred| self.predicate(Pred::at(pred))).collect(),
        }
    }

    /// Puts them back in the lanes of `mask`.
    fn restore(&mut self, mask: u32, function: &Function, saved: &Saved) {
        for (reg, lanes) in function.slots().zip(&saved.words) {
            self.set(mask, reg, lanes);
        }
        for (pred, lanes) in (function.predicates.0..).zip(&saved.predicates) {
            self.set_predicate(mask, Pred::at(pred), *lanes);
        }
    }
}
