//! A device with a clock: kernels are launched, one at a time, on memory of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::Dims;
use mlafuse_profile::{ProfileError, Sweep, free_memory, random_buffer};
use mlafuse_runtime::{Buffer, Device, Identity, Kernel, with_splits};

use crate::{Contest, Judge, Key, Task, TuneError};

/// Times launches on a device.
pub struct Timed {
    device: Arc<dyn Device>,
    sweep: Sweep,
    /// The last kernel's weights and other floats by name and size: filling them takes longer than many a launch.
    filled: RefCell<BTreeMap<(String, usize), Buffer>>,
}

impl Timed {
    /// A judge that times `device`.
    pub fn new(device: Arc<dyn Device>) -> Timed {
        Timed {
            device,
            sweep: Sweep::default(),
            filled: RefCell::default(),
        }
    }

    /// Only what one kernel reads and writes, and not what the rest of its plan does.
    fn memory(&self, task: &Task<'_>, dims: &Dims) -> Result<BTreeMap<BufferId, Buffer>, TuneError> {
        let Task { plan, region, .. } = *task;
        let mut before = self.filled.take();
        let (mut filled, mut memory) = (BTreeMap::new(), BTreeMap::new());
        for &id in region.reads.iter().chain(&region.writes) {
            let buffer = plan.buffer(id);
            let bytes = buffer.bytes(dims).map_err(ProfileError::from)?;
            let name = (buffer.name.clone(), bytes);
            let known = memory.get(&id).cloned().or_else(|| before.remove(&name));
            let made = match known {
                Some(made) => made,
                None => random_buffer(self.device.as_ref(), buffer, dims)?,
            };
            // Lengths and pages are other ones in launches of other sizes.
            if buffer.dtype.is_float() {
                filled.insert(name, made.clone());
            }
            memory.insert(id, made);
        }
        self.filled.replace(filled);
        Ok(memory)
    }
}

impl Judge for Timed {
    fn identity(&self) -> Identity {
        self.device.identity()
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn check(&self, task: &Task<'_>) -> Result<(), TuneError> {
        let (dims, mut needed) = (with_splits(&task.dims, self.device.as_ref()), 0usize);
        for &id in task.region.reads.iter().chain(&task.region.writes) {
            let bytes = task.plan.buffer(id).bytes(&dims).map_err(ProfileError::from)?;
            needed = needed.saturating_add(bytes);
        }
        match free_memory() {
            Some(free) if needed > free => Err(TuneError::TooLarge {
                kernel: task.region.name.clone(),
                bucket: Key::new(self.identity(), task.plan, task.region, &task.dims).bucket(),
                needed: needed >> 20,
                free: free >> 20,
            }),
            _ => Ok(()),
        }
    }

    fn candidates(&self, task: &Task<'_>) -> Result<Vec<Schedule>, TuneError> {
        Ok(self.device.candidates(task.plan, task.region, &task.dims)?)
    }

    fn contest<'a>(&'a self, task: &'a Task<'a>) -> Result<Box<dyn Contest + 'a>, TuneError> {
        let dims = with_splits(&task.dims, self.device.as_ref());
        Ok(Box::new(TimedContest {
            judge: self,
            task,
            memory: self.memory(task, &dims)?,
            dims,
            ready: BTreeMap::new(),
        }))
    }
}

struct TimedContest<'a> {
    judge: &'a Timed,
    task: &'a Task<'a>,
    dims: Dims,
    memory: BTreeMap<BufferId, Buffer>,
    ready: BTreeMap<Schedule, (Box<dyn Kernel>, Vec<BufferId>)>,
}

impl Contest for TimedContest<'_> {
    fn us(&mut self, schedule: &Schedule) -> Result<f64, TuneError> {
        let (kernel, ids) = match self.ready.entry(*schedule) {
            Entry::Occupied(ready) => ready.into_mut(),
            Entry::Vacant(place) => {
                let Task { plan, region, .. } = *self.task;
                let prepared = self.judge.device.prepare_with(plan, region, schedule)?;
                let buffers = prepared.buffers(plan, region)?;
                place.insert((prepared.kernel, buffers))
            }
        };
        let buffers: Vec<&Buffer> = ids.iter().filter_map(|id| self.memory.get(id)).collect();
        self.judge.sweep.run();
        let start = Instant::now();
        kernel.launch(&self.dims, &buffers)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}
