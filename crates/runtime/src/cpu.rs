//! The processor as a device.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use mlafuse_codegen::build::{Processor, build, cpu_candidates, cpu_schedule};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_cpu::{CpuBuffer, CpuKernel, Level, second_level_cache};
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::Target;
use ptxsim::machine::Statistics;
use smallvec::SmallVec;

use crate::device::{Identity, Parts, Prepared};
use crate::{Buffer, Device, Kernel, RuntimeError, cpu_level, processor};

/// Bytes of scratch a thread beyond which a schedule that somebody suggests is refused: many times what a core's cache holds.
const MOST_SCRATCH: usize = 64 << 20;

/// This machine's processor, with the instructions of one level. Kernels run on as many threads as the current rayon pool has.
pub(crate) struct Cpu {
    level: Level,
    /// Of this machine, whether or not a pool uses them all.
    processors: usize,
}

impl Cpu {
    /// With the level that [`cpu_level`] says.
    pub(crate) fn new() -> Result<Cpu, RuntimeError> {
        Ok(Cpu {
            level: cpu_level()?,
            processors: available_parallelism().map_or(1, NonZeroUsize::get),
        })
    }

    /// What bears on schedules.
    fn processor(&self) -> Processor {
        Processor {
            threads: rayon::current_num_threads(),
            second_level: second_level_cache().unwrap_or(Processor::PLAIN.second_level),
            streams_bf16: self.level.streams_bf16(),
        }
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        format!("cpu ({})", self.level)
    }

    fn target(&self) -> Option<&Target> {
        None
    }

    fn alloc(&self, _: &str, bytes: usize) -> Result<Buffer, RuntimeError> {
        // The allocator aborts the process where a `Vec` cannot be had, so ask first.
        let refused = || RuntimeError::OutOfMemory {
            device: self.name(),
            bytes,
        };
        let mut probe: Vec<u8> = Vec::new();
        probe.try_reserve_exact(bytes).map_err(|_| refused())?;
        drop(probe);
        Ok(Buffer::Host(CpuBuffer::zeroed(bytes)))
    }

    fn parts(&self) -> Option<&dyn Parts> {
        Some(self)
    }

    fn write(&self, buffer: &Buffer, offset: usize, from: &[u8]) -> Result<(), RuntimeError> {
        Ok(host(buffer)?.write_bytes(offset, from)?)
    }

    fn read(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<(), RuntimeError> {
        Ok(host(buffer)?.read_bytes(offset, out)?)
    }

    /// Each costs attention queries to pack and results to combine. One for each processor of the machine is enough for a sequence
    /// that is alone, and for two: cut at that share of the whole, what their last blocks lack makes a whole block or none. More
    /// of any lengths come out even enough with two.
    fn blocks(&self, sequences: usize) -> usize {
        match sequences {
            1 | 2 => self.processors,
            _ => 2 * self.processors,
        }
    }

    fn prepare(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Prepared, RuntimeError> {
        let schedule = cpu_schedule(plan, region, &self.processor(), dims)?;
        let program = build(plan, region, &schedule)?;
        let kernel = Box::new(CpuKernel::prepare(&program, self.level)?);
        Ok(Prepared {
            schedule,
            program,
            kernel,
        })
    }

    fn prepare_with(&self, plan: &Plan, region: &Region, schedule: &Schedule) -> Result<Prepared, RuntimeError> {
        let program = build(plan, region, schedule)?;
        let kernel = CpuKernel::prepare(&program, self.level)?;
        let found = kernel.scratch_bytes();
        if found > MOST_SCRATCH {
            return Err(RuntimeError::Scratch {
                kernel: region.name.clone(),
                schedule: *schedule,
                found,
                allowed: MOST_SCRATCH,
            });
        }
        Ok(Prepared {
            schedule: *schedule,
            program,
            kernel: Box::new(kernel),
        })
    }

    fn candidates(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Vec<Schedule>, RuntimeError> {
        Ok(cpu_candidates(plan, region, &self.processor(), dims)?)
    }

    fn identity(&self) -> Identity {
        Identity {
            device: "cpu".to_string(),
            part: processor::model().unwrap_or_else(|| std::env::consts::ARCH.to_string()),
            instructions: self.level.to_string(),
            threads: rayon::current_num_threads(),
        }
    }
}

impl Parts for Cpu {
    fn part(&self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<Buffer, RuntimeError> {
        Ok(Buffer::Host(host(buffer)?.part(offset, bytes)?))
    }
}

impl Kernel for CpuKernel {
    fn launch(&self, dims: &Dims, buffers: &[&Buffer]) -> Result<Option<Statistics>, RuntimeError> {
        let buffers: SmallVec<[&CpuBuffer; 16]> =
            buffers.iter().map(|buffer| host(buffer)).collect::<Result<_, _>>()?;
        CpuKernel::launch(self, dims, &buffers)?;
        Ok(None)
    }
}

fn host(buffer: &Buffer) -> Result<&CpuBuffer, RuntimeError> {
    match buffer {
        Buffer::Host(buffer) => Ok(buffer),
        Buffer::Sim(_) => Err(RuntimeError::ForeignBuffer { device: "cpu".into() }),
    }
}
