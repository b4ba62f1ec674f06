//! What one run of an executable leaves to the next.

use mlafuse_ir::plan::{Arena, BufferRole, Plan, SizeError};
use mlafuse_ir::size::Dims;

use crate::{Buffer, Statistics};

/// Bindings and memory of an executable's runs, kept from one to the next. Of runs at the same time each needs its own.
#[derive(Default)]
pub struct Frame {
    /// By the plan's buffers: what is bound to them.
    pub(crate) bound: Vec<Option<Buffer>>,
    /// Where the buffers between kernels lie, in launches of the sizes of the last run.
    pub(crate) arena: Option<Arena>,
    /// What they are parts of; `None` before the first run, and where each is an allocation of its own.
    pub(crate) memory: Option<Buffer>,
    /// Of each launch of the last run, milliseconds and what it did.
    pub(crate) launches: Vec<(f64, Option<Statistics>)>,
}

impl Frame {
    /// Lets go of the inputs of the last run, which would else live as long as this.
    pub(crate) fn release_inputs(&mut self, plan: &Plan) {
        for (slot, buffer) in self.bound.iter_mut().zip(&plan.buffers) {
            if let BufferRole::Input(_) = buffer.role {
                *slot = None;
            }
        }
    }

    /// Lets go of memory that others hold too.
    pub(crate) fn release_shared(&mut self) {
        for slot in &mut self.bound {
            slot.take_if(|buffer| buffer.is_shared());
        }
    }

    /// Bytes of the memory between kernels.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, Buffer::len)
    }

    /// Takes the arena where it is that of launches of the sizes in `dims`, and else makes it.
    pub(crate) fn take_arena(&mut self, plan: &Plan, dims: &Dims) -> Result<Arena, SizeError> {
        let same = |arena: &Arena| {
            let mut placements = arena.placements.iter();
            placements.all(|placement| {
                plan.buffer(placement.buffer)
                    .bytes(dims)
                    .is_ok_and(|bytes| bytes == placement.bytes)
            })
        };
        self.arena.take().filter(same).map_or_else(|| plan.arena(dims), Ok)
    }
}
