//! The memory between a plan's kernels in one run.

use mlafuse_ir::plan::{Arena, Placement, Plan};

use crate::{Buffer, Device, RuntimeError};

/// The temporary buffers of one run, each there for its lifetime.
pub(crate) struct Temporaries<'a> {
    device: &'a dyn Device,
    plan: &'a Plan,
    arena: &'a Arena,
    /// What the buffers are parts of; `None` where each is an allocation of its own.
    memory: Option<Buffer>,
}

impl<'a> Temporaries<'a> {
    /// Takes the memory that an earlier run has kept if it is large enough, and new memory if not.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`].
    pub(crate) fn new(
        device: &'a dyn Device,
        plan: &'a Plan,
        arena: &'a Arena,
        kept: Option<Buffer>,
    ) -> Result<Temporaries<'a>, RuntimeError> {
        let memory = match (device.parts(), kept) {
            (None, _) => None,
            (Some(_), Some(kept)) if kept.len() >= arena.bytes => Some(kept),
            (Some(_), kept) => {
                // A quarter more than there was: a cache that grows with every run does not mean new memory in each.
                let before = kept.map_or(0, |kept| kept.len());
                Some(device.alloc("temporaries", arena.bytes.max(before.saturating_add(before / 4)))?)
            }
        };
        Ok(Temporaries {
            device,
            plan,
            arena,
            memory,
        })
    }

    /// Binds the buffers that kernel `index` is the first to use. What they hold is unspecified.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`].
    pub(crate) fn begin(&self, index: usize, bound: &mut [Option<Buffer>]) -> Result<(), RuntimeError> {
        for placement in self.at(index, |placement| *placement.lifetime.start()) {
            let &Placement {
                buffer, offset, bytes, ..
            } = placement;
            let memory = match (&self.memory, self.device.parts()) {
                (Some(memory), Some(parts)) => parts.part(memory, offset, bytes)?,
                _ => self.device.alloc(&self.plan.buffer(buffer).name, bytes)?,
            };
            if let Some(slot) = bound.get_mut(buffer.0) {
                *slot = Some(memory);
            }
        }
        Ok(())
    }

    /// Gives back the buffers that kernel `index` was the last to use.
    pub(crate) fn end(&self, index: usize, bound: &mut [Option<Buffer>]) {
        for placement in self.at(index, |placement| *placement.lifetime.end()) {
            if let Some(slot) = bound.get_mut(placement.buffer.0) {
                *slot = None;
            }
        }
    }

    /// The memory, for another run.
    pub(crate) fn into_memory(self) -> Option<Buffer> {
        self.memory
    }

    fn at(&self, index: usize, edge: impl Fn(&Placement) -> usize) -> impl Iterator<Item = &Placement> {
        self.arena
            .placements
            .iter()
            .filter(move |placement| edge(placement) == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvrtc::testing::nvrtc_or_skip;
    use crate::{DeviceSpec, RuntimeError, open};
    use mlafuse_ir::plan::unfused;
    use mlafuse_ir::size::{Dims, Symbol};
    use mlafuse_ir::target::Arch;
    use mlafuse_ir::text::parse;

    /// Two rows at a time; `c` lies where `a` was.
    const CHAIN: &str = "graph g { %x = input \"x\" : f32[T, 4]
        %a = scale factor=2.0 %x : f32[T, 4] %b = scale factor=2.0 %a : f32[T, 4]
        %c = scale factor=2.0 %b : f32[T, 4] %d = scale factor=2.0 %c : f32[T, 4] output \"d\" %d }";

    fn plan() -> (Plan, Dims) {
        (unfused(&parse(CHAIN).unwrap()).unwrap(), Dims::new().with(Symbol::T, 2))
    }

    /// Writes sevens to `a` and lets the kernels go by, up to where `c` is there and nobody has written to it.
    fn until_c(device: &dyn Device, plan: &Plan, dims: &Dims, kept: Option<Buffer>) -> (Buffer, Option<Buffer>) {
        let arena = plan.arena(dims).unwrap();
        let temporaries = Temporaries::new(device, plan, &arena, kept).unwrap();
        let mut bound = vec![None; plan.buffers.len()];
        let id = |name: &str| plan.buffers.iter().position(|buffer| buffer.name == name).unwrap();
        temporaries.begin(0, &mut bound).unwrap();
        device.write(bound[id("a")].as_ref().unwrap(), 0, &[7; 32]).unwrap();
        temporaries.end(0, &mut bound);
        temporaries.begin(1, &mut bound).unwrap();
        assert!(
            [("a", true), ("b", true), ("c", false)]
                .iter()
                .all(|&(name, there)| bound[id(name)].is_some() == there)
        );
        temporaries.end(1, &mut bound);
        temporaries.begin(2, &mut bound).unwrap();
        assert!(bound[id("a")].is_none());
        (bound[id("c")].clone().unwrap(), temporaries.into_memory())
    }

    #[test]
    fn one_buffer_takes_anothers_place_without_being_cleared() {
        let (plan, dims) = plan();
        let device = open(DeviceSpec::Cpu).unwrap();
        let (c, kept) = until_c(device.as_ref(), &plan, &dims, None);
        let mut bytes = [0; 32];
        device.read(&c, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 32]);
        let arena = plan.arena(&dims).unwrap();
        assert_eq!(kept.as_ref().map(Buffer::len), Some(arena.bytes));
        assert_eq!((arena.bytes, arena.separate_bytes), (512, 768));
        // Memory that is too small makes place for more than is needed.
        let (_, kept) = until_c(device.as_ref(), &plan, &dims.with(Symbol::T, 20), kept);
        assert_eq!(kept.map(|kept| kept.len()), Some(1024));
    }

    #[test]
    fn a_device_that_watches_sees_what_was_never_written() {
        if nvrtc_or_skip().is_none() {
            return;
        }
        let (plan, dims) = plan();
        let device = open(DeviceSpec::sim(Arch::Sm80)).unwrap();
        let (c, kept) = until_c(device.as_ref(), &plan, &dims, None);
        assert!(kept.is_none());
        let kernel = device
            .prepare(&plan, plan.kernel("scale_d").unwrap(), &dims)
            .unwrap()
            .kernel;
        let d = device.alloc("d", 32).unwrap();
        let error = kernel.launch(&dims, &[&c, &d]).unwrap_err();
        let RuntimeError::Checker { reports, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(reports[0].allocation.as_deref(), Some("c"));
        assert!(error.to_string().contains("initcheck"), "{error}");
    }
}
