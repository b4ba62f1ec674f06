//! The processor as a device.

use std::sync::Arc;

use mlafuse_codegen::build::cpu_schedule;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::TileProgram;
use mlafuse_cpu::{CpuBuffer, CpuKernel, Level};
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::{Dims, Symbol};

use crate::{Buffer, Device, Kernel, RuntimeError};

/// Cached tokens that are worth a split of their own.
const TOKENS_PER_SPLIT: usize = 128;
/// Most splits: each adds a partial result that the combine reads.
const MOST_SPLITS: usize = 16;

/// This machine's processor, with the best instructions it has. Kernels run on the current rayon pool.
pub(crate) struct Cpu {
    level: Level,
}

impl Cpu {
    pub(crate) fn new() -> Cpu {
        Cpu { level: Level::detect() }
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        format!("cpu ({:?})", self.level).to_lowercase()
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, RuntimeError> {
        // The allocator aborts the process where a `Vec` cannot be had, so ask first.
        let refused = || RuntimeError::OutOfMemory {
            device: self.name(),
            bytes,
        };
        let mut probe: Vec<u8> = Vec::new();
        probe.try_reserve_exact(bytes).map_err(|_| refused())?;
        drop(probe);
        Ok(Buffer::Host(Arc::new(CpuBuffer::zeroed(bytes))))
    }

    fn write(&self, buffer: &Buffer, offset: usize, from: &[u8]) -> Result<(), RuntimeError> {
        let Buffer::Host(buffer) = buffer;
        Ok(buffer.write_bytes(offset, from)?)
    }

    fn read(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<(), RuntimeError> {
        let Buffer::Host(buffer) = buffer;
        Ok(buffer.read_bytes(offset, out)?)
    }

    fn schedule(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Schedule, RuntimeError> {
        Ok(cpu_schedule(plan, region, dims)?)
    }

    /// By the longest sequence alone: the number of threads must not change a result.
    fn splits(&self, dims: &Dims) -> usize {
        // Long prefills have blocks enough without splitting.
        match (dims.get(Symbol::S), dims.get(Symbol::T)) {
            (Some(cached), Some(..=8)) => cached.div_ceil(TOKENS_PER_SPLIT).clamp(1, MOST_SPLITS),
            _ => 1,
        }
    }

    fn prepare(&self, program: &TileProgram, _: &Schedule) -> Result<Box<dyn Kernel>, RuntimeError> {
        Ok(Box::new(CpuKernel::prepare(program, self.level)?))
    }
}

impl Kernel for CpuKernel {
    fn launch(&self, dims: &Dims, buffers: &[&Buffer]) -> Result<(), RuntimeError> {
        let host = |buffer: &&Buffer| match buffer {
            Buffer::Host(buffer) => Arc::clone(buffer),
        };
        let buffers: Vec<Arc<CpuBuffer>> = buffers.iter().map(host).collect();
        let buffers: Vec<&CpuBuffer> = buffers.iter().map(Arc::as_ref).collect();
        Ok(CpuKernel::launch(self, dims, &buffers)?)
    }
}
