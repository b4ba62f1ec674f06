//! `atom` and `red`.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::access::{Direction, Places, space_name};
use super::block::{Block, Stop};
use super::memory::Allocation;
use super::observe::Effect;
use super::race::Kind;
use super::registers::{LANES, lanes_of};
use super::report::Checker;
use super::warp::Warp;
use crate::ast::Type;
use crate::numeric::compare::MinMax;
use crate::numeric::float::{FloatMode, add_f32, add_f64};
use crate::numeric::half_ops::{HalfFormat, HalfMode, map2};
use crate::numeric::integer::{IntType, min_max};
use crate::numeric::soft::Rounding;
use crate::program::Reg;
use crate::program::op::{Atomic, AtomicFunction, Space};

impl Block<'_> {
    pub(crate) fn atomic(&mut self, warp: &mut Warp, index: usize, op: &Atomic, mask: u32) -> Result<(), Stop> {
        let width = op.ty.bytes();
        let bytes = width * op.operand.len() as u32;
        let mut old = vec![[0_u64; LANES]; op.operand.len()];
        let addresses = self.addresses(warp, index, &op.address);
        let mut rest = mask;
        while rest != 0 {
            let space = (op.address.space, &addresses);
            let places = self.places(warp, space, &mut rest, bytes, Direction::Write)?;
            if !matches!(places.space, Space::Global | Space::Shared) {
                let message = format!(
                    "an atomic in {} memory: only global and shared memory have them",
                    space_name(places.space)
                );
                return Err(self.fault(warp, places.mask, Checker::Memcheck, message));
            }
            let mut changed = false;
            self.count(&places, Direction::Read);
            self.count(&places, Direction::Write);
            for lane in lanes_of(places.mask) {
                if !self.written(&places, lane) {
                    self.uninitialised(warp, lane, &places)?;
                }
                self.observe(warp, lane, &places, Kind::of(true, op.order), false)?;
                let lock = self.lock_place(&places, lane);
                for (element, operand) in op.operand.iter().enumerate() {
                    let at = places.offsets[lane] + u64::from(width) * element as u64;
                    let swap = op.swap.map(|swap| value(warp, swap, width, lane));
                    let operand = value(warp, *operand, width, lane);
                    let f = |old: u64| new_value(op.function, op.ty, old, operand, swap);
                    old[element][lane] = match places.space {
                        Space::Shared => self.update_shared(at as u32, width, f),
                        _ => self.update_global(places.allocations[lane], at, width, f),
                    };
                    changed |= f(old[element][lane]) != old[element][lane];
                }
                let effect = Effect {
                    reads: op.dst.is_some(),
                    writes: true,
                    atomic: true,
                };
                self.strong(warp, lane, &places, op.order, effect, lock);
            }
            // One that changes nothing ends nobody's wait: it may be how a thread spins.
            self.progress += u64::from(changed);
            self.polls += 1;
        }
        for (dst, values) in op.dst.iter().flatten().zip(&old) {
            match width {
                8 => warp.registers.set(mask, *dst, values),
                _ => warp.registers.set(mask, *dst, &values.map(|value| value as u32)),
            }
        }
        Ok(())
    }

    fn written(&self, places: &Places, lane: usize) -> bool {
        let (offset, bytes) = (places.offsets[lane], places.bytes);
        match places.space {
            Space::Shared => self.shared.is_written(offset as u32, bytes),
            _ => {
                let allocation = self.env.memory.allocation(places.allocations[lane]);
                allocation.is_written(offset, u64::from(bytes))
            }
        }
    }

    fn update_shared(&mut self, offset: u32, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
        let unit = bytes.min(4);
        let words = (0..bytes).step_by(unit as usize);
        let old = words
            .clone()
            .rev()
            .fold(0, |old, at| old << 32 | u64::from(self.shared.load(offset + at, unit)));
        let new = f(old);
        for at in words {
            self.shared.store(offset + at, unit, (new >> (8 * at)) as u32);
        }
        old
    }

    fn update_global(&self, allocation: usize, offset: u64, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
        let allocation = self.env.memory.allocation(allocation);
        if bytes == 8 {
            // Two words: nothing else may come between them. Blocks run at once.
            let _guard = self.env.wide_atomics.lock().unwrap_or_else(PoisonError::into_inner);
            let old = u64::from(allocation.load(offset + 4, 4)) << 32 | u64::from(allocation.load(offset, 4));
            let new = f(old);
            allocation.store(offset, 4, new as u32);
            allocation.store(offset + 4, 4, (new >> 32) as u32);
            return old;
        }
        update_word(allocation, offset, bytes, f)
    }
}

/// An atomic update of two or four bytes.
fn update_word(allocation: &Allocation, offset: u64, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
    let shift = 8 * (offset % 4) as u32;
    let mask = if bytes == 4 { u32::MAX } else { 0xffff << shift };
    let replace = |word: u32| {
        let new = f(u64::from((word & mask) >> shift)) as u32;
        Some((word & !mask) | (new << shift & mask))
    };
    let word = allocation.word(offset);
    let old = word
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace)
        .unwrap_or_default();
    // Marks the bytes as written.
    allocation.mark(offset, u64::from(bytes));
    u64::from((old & mask) >> shift)
}

/// A lane's value in a register.
fn value(warp: &Warp, reg: Reg, bytes: u32, lane: usize) -> u64 {
    let low = u64::from(warp.registers.lanes(reg)[lane]);
    match bytes {
        8 => u64::from(warp.registers.lanes(reg.word(1))[lane]) << 32 | low,
        _ => low,
    }
}

fn new_value(function: AtomicFunction, ty: Type, old: u64, operand: u64, swap: Option<u64>) -> u64 {
    use AtomicFunction as F;
    let int = IntType {
        bits: 8 * ty.bytes(),
        signed: matches!(ty, Type::S32 | Type::S64),
    };
    match function {
        F::Exchange => operand,
        F::CompareAndSwap if old == operand => swap.unwrap_or(old),
        F::CompareAndSwap => old,
        F::And => old & operand,
        F::Or => old | operand,
        F::Xor => old ^ operand,
        F::Increment if old >= operand => 0,
        F::Increment => old + 1,
        F::Decrement if old == 0 || old > operand => operand,
        F::Decrement => old - 1,
        F::Add => add(ty, old, operand),
        F::Min | F::Max => match half(ty) {
            Some(format) => {
                let which = MinMax {
                    max: function == F::Max,
                    nan: false,
                    xorsign_abs: false,
                };
                u64::from(map2(old as u32, operand as u32, |a, b| {
                    format.min_max(which, a, b, false)
                }))
            }
            None => min_max(int, function == F::Max, false, old, operand),
        },
    }
}

fn add(ty: Type, old: u64, operand: u64) -> u64 {
    match ty {
        // Atomic additions of f32 flush subnormals in global memory on the hardware, or not; the PTX ISA lets both be.
        Type::F32 => u64::from(add_f32(old as u32, operand as u32, FloatMode::default())),
        Type::F64 => add_f64(old, operand, Rounding::Nearest),
        _ => match half(ty) {
            Some(format) => {
                let sum = |a, b| format.add(a, b, HalfMode::default());
                u64::from(map2(old as u32, operand as u32, sum))
            }
            None => old.wrapping_add(operand),
        },
    }
}

fn half(ty: Type) -> Option<HalfFormat> {
    match ty {
        Type::F16 | Type::F16x2 => Some(HalfFormat::F16),
        Type::BF16 | Type::BF16x2 => Some(HalfFormat::Bf16),
        _ => None,
    }
}
