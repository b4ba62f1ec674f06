//! The device boundary: memory and kernels.

use std::sync::Arc;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{ParamKind, TileProgram};
use mlafuse_cpu::CpuBuffer;
use mlafuse_ir::plan::{BufferId, Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, Target};
use ptxsim::machine::Statistics;

use crate::cpu::Cpu;
use crate::driver::{self, Driver};
use crate::sim::{Sim, SimBuffer};
use crate::{DeviceSpec, RuntimeError};

/// Memory of a device. Clones are the same memory.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Memory of this machine.
    Host(CpuBuffer),
    /// Memory of a simulator.
    Sim(Arc<SimBuffer>),
}

impl Buffer {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Host(buffer) => buffer.len(),
            Buffer::Sim(buffer) => buffer.len(),
        }
    }

    /// Whether another buffer has the same memory.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Buffer::Host(buffer) => buffer.is_shared(),
            Buffer::Sim(buffer) => Arc::strong_count(buffer) > 1,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something that runs kernels.
pub trait Device: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> String;

    /// The GPU whose code it runs; `None` for the processor.
    fn target(&self) -> Option<&Target>;

    /// New memory of `bytes` zero bytes, which a device that watches its memory counts as never written. `name` is what
    /// reports call it.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`].
    fn alloc(&self, name: &str, bytes: usize) -> Result<Buffer, RuntimeError>;

    /// How one piece of memory becomes several buffers. `None` from a device that watches its memory: there each buffer is an
    /// allocation of its own, which ends where its use ends, so that no kernel takes another's bytes for its own unnoticed.
    fn parts(&self) -> Option<&dyn Parts> {
        None
    }

    /// Copies `from` to the bytes of `buffer` from `offset` on.
    ///
    /// # Errors
    /// Where that reaches past the end, or the buffer is another device's.
    fn write(&self, buffer: &Buffer, offset: usize, from: &[u8]) -> Result<(), RuntimeError>;

    /// Copies the bytes of `buffer` from `offset` on to `out`.
    ///
    /// # Errors
    /// Where that reaches past the end, or the buffer is another device's.
    fn read(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<(), RuntimeError>;

    /// Blocks that split attention aims at in a launch of so many sequences (the symbol `W`): as many as keep the device busy.
    /// It does not follow from the number of threads, so that equal launches give equal bits.
    fn blocks(&self, _sequences: usize) -> usize {
        64
    }

    /// Makes a kernel of a plan executable, for launches of about the sizes in `dims`. Launches of any size give right
    /// results.
    ///
    /// # Errors
    /// Where the kernel cannot be built or no schedule fits the device.
    fn prepare(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Prepared, RuntimeError>;

    /// The same, under a schedule of somebody's choice, for launches of any size. The schedule may come from anywhere: what the
    /// device cannot run is an error.
    ///
    /// # Errors
    /// Where the kernel cannot be built, or does not fit the device, under this schedule.
    fn prepare_with(&self, plan: &Plan, region: &Region, schedule: &Schedule) -> Result<Prepared, RuntimeError>;

    /// The schedules that are worth trying for launches of about the sizes in `dims`, likely ones first.
    ///
    /// # Errors
    /// Where the kernel cannot be built, or no schedule fits the device.
    fn candidates(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Vec<Schedule>, RuntimeError>;

    /// What times that are measured on it hold for.
    fn identity(&self) -> Identity;
}

/// What a measured time holds for: it tells nothing of machines that differ in any of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The kind of device: `cpu`, `sim`, `cuda`.
    pub device: String,
    /// The processor's or GPU's model.
    pub part: String,
    /// The instructions that kernels use: a level of the processor, an architecture.
    pub instructions: String,
    /// Threads of the processor that blocks run on; 0 where they run on a GPU.
    pub threads: usize,
}

/// A device whose memory can be divided.
pub trait Parts {
    /// The `bytes` bytes of `buffer` from `offset` on, a multiple of [`ARENA_ALIGN`](mlafuse_ir::plan::ARENA_ALIGN), as a
    /// buffer of their own: the same memory.
    ///
    /// # Errors
    /// Where that reaches past the end, or the buffer is another device's.
    fn part(&self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<Buffer, RuntimeError>;
}

/// A kernel of a plan, made executable.
pub struct Prepared {
    /// How it is computed.
    pub schedule: Schedule,
    /// What is computed.
    pub program: TileProgram,
    /// What can be launched.
    pub kernel: Box<dyn Kernel>,
}

impl Prepared {
    /// The buffers of `plan` that a launch takes, in order: those that the tensor parameters stand for. Lifetimes follow from
    /// what the region says it uses, so a program may use nothing else.
    ///
    /// # Errors
    /// [`RuntimeError::Parameter`].
    pub fn buffers(&self, plan: &Plan, region: &Region) -> Result<Vec<BufferId>, RuntimeError> {
        let mut buffers = Vec::new();
        for param in &self.program.params {
            if let ParamKind::Tensor { buffer, .. } = param.kind {
                let used = region.reads.contains(&buffer) || region.writes.contains(&buffer);
                if !used || buffer.0 >= plan.buffers.len() {
                    return Err(RuntimeError::Parameter {
                        kernel: self.program.name.clone(),
                        param: param.name.clone(),
                    });
                }
                buffers.push(buffer);
            }
        }
        Ok(buffers)
    }
}

/// A program that a device can launch.
pub trait Kernel: Send + Sync {
    /// Runs it to its end. `buffers` are bound to the program's tensor parameters, in their order, `dims` to its scalars.
    /// A device that counts gives what it counted.
    ///
    /// # Errors
    /// Where a symbol is unbound or a buffer does not fit; where a device that watches its kernels reports something.
    fn launch(&self, dims: &Dims, buffers: &[&Buffer]) -> Result<Option<Statistics>, RuntimeError>;
}

/// What [`open`] opens.
const HERE: &str = "cpu, sim (and reference, the interpreter)";

/// Opens a device. The simulator is one of an A100 where `spec` leaves the choice.
///
/// # Errors
/// [`RuntimeError::CpuLevel`] for the processor at a level that it lacks; [`RuntimeError::NoNvrtc`] for the simulator where nothing can compile for it; [`RuntimeError::NoDevice`] for GPUs,
/// which this version does not drive, and for the reference, which executes graphs and no kernels.
pub fn open(spec: DeviceSpec) -> Result<Arc<dyn Device>, RuntimeError> {
    let reason = match spec {
        DeviceSpec::Cpu => return Ok(Arc::new(Cpu::new()?)),
        DeviceSpec::Sim { arch, checked } => return Ok(Arc::new(Sim::new(arch.unwrap_or(Arch::Sm80), checked)?)),
        DeviceSpec::Cuda { .. } => format!("this version does not run on GPUs ({})", driver()),
        DeviceSpec::Reference { .. } => "the interpreter executes graphs, not kernels".to_string(),
    };
    Err(RuntimeError::NoDevice {
        device: spec.to_string(),
        reason,
        here: HERE,
    })
}

fn driver() -> String {
    match driver::probe() {
        Driver::Present {
            version: (major, minor),
            ..
        } => format!("a driver for CUDA {major}.{minor} was found"),
        Driver::Missing { reason } => format!("and no CUDA driver was found: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_not_here_are_named() {
        for (spec, words) in [("cuda:3", "driver"), ("reference", "interpreter")] {
            let Err(error) = open(spec.parse().unwrap()) else {
                panic!("{spec} was opened")
            };
            let error = error.to_string();
            assert!(
                error.starts_with(&format!("device {spec}: ")) && error.contains(words),
                "{error}"
            );
            assert!(error.contains("devices here: cpu, sim"), "{error}");
        }
        assert!(open(DeviceSpec::Cpu).is_ok());
    }
}
