//! A part that is not here: the model judges what the compiler made of a kernel.

use mlafuse_codegen::build::{candidates, modelled_seconds};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::target::Target;
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::Nvrtc;
use mlafuse_runtime::{Identity, compile_region, compile_under};

use crate::{Contest, Judge, Task, TuneError};

/// What records of a model call their device. No device that can be launched on is called so: launches go by what was measured.
pub(crate) const DEVICE: &str = "model";
/// Schedules of a kernel that are compiled.
const MOST: usize = 24;

/// Ranks schedules for a part by the model, with the registers that the compiler needed; those that spill fail.
pub struct Modelled {
    target: Target,
    nvrtc: Nvrtc,
    cache: KernelCache,
}

impl Modelled {
    /// A judge of kernels for `target`.
    pub fn new(target: Target, nvrtc: Nvrtc, cache: KernelCache) -> Modelled {
        Modelled { target, nvrtc, cache }
    }
}

impl Judge for Modelled {
    fn identity(&self) -> Identity {
        Identity {
            device: DEVICE.to_string(),
            part: self.target.name.to_string(),
            instructions: self.target.arch.to_string(),
            threads: 0,
        }
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn check(&self, _: &Task<'_>) -> Result<(), TuneError> {
        Ok(())
    }

    fn candidates(&self, task: &Task<'_>) -> Result<Vec<Schedule>, TuneError> {
        let Task { plan, region, ref dims } = *task;
        let own = compile_region(plan, region, &self.target, dims, &self.nvrtc, &self.cache)?.schedule;
        let all = candidates(plan, region, &self.target, dims).map_err(mlafuse_runtime::RuntimeError::from)?;
        let others = all.into_iter().filter(|&schedule| schedule != own);
        Ok([own].into_iter().chain(others).take(MOST).collect())
    }

    fn contest<'a>(&'a self, task: &'a Task<'a>) -> Result<Box<dyn Contest + 'a>, TuneError> {
        Ok(Box::new(ModelledContest { judge: self, task }))
    }
}

struct ModelledContest<'a> {
    judge: &'a Modelled,
    task: &'a Task<'a>,
}

impl Contest for ModelledContest<'_> {
    fn us(&mut self, schedule: &Schedule) -> Result<f64, TuneError> {
        let Task { plan, region, ref dims } = *self.task;
        let Modelled { target, nvrtc, cache } = self.judge;
        let compiled = compile_under(plan, region, schedule, target, nvrtc, cache)?;
        let registers = compiled.resources.registers as usize;
        Ok(1e6 * modelled_seconds(&compiled.tile, schedule, target, dims, registers))
    }
}
