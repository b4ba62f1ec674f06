//! The PTX simulator as a device: it executes what NVRTC makes of a plan's kernels, and watches them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlafuse_codegen::build::candidates;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{self, Arg, TileProgram};
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, Target};
use ptxsim::machine::{self, Access, Checks, Contents, LaunchConfig, Memory, Options, Outcome, Statistics};

use crate::cache::KernelCache;
use crate::compile::MOST_TRIED;
use crate::device::{Identity, Prepared};
use crate::nvrtc::Nvrtc;
use crate::{Buffer, CompiledKernel, Device, Kernel, RuntimeError, compile_region, compile_under};

/// A GPU of one architecture. Kernels run on as many threads as the current rayon pool has, one launch at a time.
pub(crate) struct Sim {
    target: Target,
    options: Options,
    nvrtc: Nvrtc,
    cache: KernelCache,
    memory: SharedMemory,
}

/// A launch has it alone; copies come between launches.
type SharedMemory = Arc<Mutex<Memory>>;

impl Sim {
    /// # Errors
    /// [`RuntimeError::NoNvrtc`].
    pub(crate) fn new(arch: Arch, checked: bool) -> Result<Sim, RuntimeError> {
        let nvrtc = Nvrtc::locate(None).map_err(|reason| RuntimeError::NoNvrtc {
            device: format!("sim:{arch}"),
            reason: Box::new(reason),
        })?;
        let checks = if checked { Checks::ALL } else { Checks::NONE };
        Ok(Sim {
            target: Target::for_arch(arch),
            options: Options {
                checks,
                ..Options::default()
            },
            nvrtc,
            cache: KernelCache::of_user(),
            memory: SharedMemory::default(),
        })
    }
}

impl Device for Sim {
    fn name(&self) -> String {
        format!("sim:{}", self.target.arch)
    }

    fn target(&self) -> Option<&Target> {
        Some(&self.target)
    }

    fn alloc(&self, name: &str, bytes: usize) -> Result<Buffer, RuntimeError> {
        let allocated = lock(&self.memory).allocate(name, bytes as u64, Contents::Uninitialised, Access::ReadWrite);
        let address = allocated.map_err(|_| RuntimeError::OutOfMemory {
            device: self.name(),
            bytes,
        })?;
        Ok(Buffer::Sim(Arc::new(SimBuffer {
            memory: Arc::clone(&self.memory),
            address,
            bytes,
        })))
    }

    fn write(&self, buffer: &Buffer, offset: usize, from: &[u8]) -> Result<(), RuntimeError> {
        let address = own(buffer, &self.memory)?.address;
        Ok(lock(&self.memory).write(address.saturating_add(offset as u64), from)?)
    }

    fn read(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<(), RuntimeError> {
        let address = own(buffer, &self.memory)?.address;
        Ok(lock(&self.memory).read(address.saturating_add(offset as u64), out)?)
    }

    fn prepare(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Prepared, RuntimeError> {
        self.decoded(compile_region(
            plan,
            region,
            &self.target,
            dims,
            &self.nvrtc,
            &self.cache,
        )?)
    }

    fn prepare_with(&self, plan: &Plan, region: &Region, schedule: &Schedule) -> Result<Prepared, RuntimeError> {
        let (target, nvrtc, cache) = (&self.target, &self.nvrtc, &self.cache);
        self.decoded(compile_under(plan, region, schedule, target, nvrtc, cache)?)
    }

    fn candidates(&self, plan: &Plan, region: &Region, dims: &Dims) -> Result<Vec<Schedule>, RuntimeError> {
        let mut found = candidates(plan, region, &self.target, dims)?;
        found.truncate(MOST_TRIED);
        Ok(found)
    }

    fn identity(&self) -> Identity {
        Identity {
            device: "sim".to_string(),
            part: self.target.name.to_string(),
            instructions: self.target.arch.to_string(),
            threads: 0,
        }
    }
}

impl Sim {
    fn decoded(&self, compiled: CompiledKernel) -> Result<Prepared, RuntimeError> {
        let kernel = Box::new(SimKernel {
            arch: self.target.arch,
            kernel: decode(&compiled, self.target.arch)?,
            program: compiled.tile.clone(),
            threads: u32::try_from(compiled.resources.threads).unwrap_or(u32::MAX),
            dynamic_shared: u32::try_from(compiled.resources.dynamic_shared_bytes).unwrap_or(u32::MAX),
            memory: Arc::clone(&self.memory),
            options: self.options,
        });
        Ok(Prepared {
            schedule: compiled.schedule,
            program: compiled.tile,
            kernel,
        })
    }
}

fn decode(compiled: &CompiledKernel, arch: Arch) -> Result<ptxsim::program::Kernel, RuntimeError> {
    let refused = |reason: String| RuntimeError::Ptx {
        kernel: compiled.name.clone(),
        arch,
        reason,
    };
    let module = ptxsim::parse::parse(&compiled.ptx).map_err(|error| refused(error.to_string()))?;
    ptxsim::program::Kernel::new(&module, &compiled.name).map_err(|error| refused(error.to_string()))
}

/// Memory of a simulator.
pub struct SimBuffer {
    memory: SharedMemory,
    address: u64,
    bytes: usize,
}

impl SimBuffer {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl fmt::Debug for SimBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimBuffer({} bytes at {:#x})", self.bytes, self.address)
    }
}

impl Drop for SimBuffer {
    fn drop(&mut self) {
        lock(&self.memory).free(self.address);
    }
}

fn own<'a>(buffer: &'a Buffer, memory: &SharedMemory) -> Result<&'a SimBuffer, RuntimeError> {
    match buffer {
        Buffer::Sim(buffer) if Arc::ptr_eq(&buffer.memory, memory) => Ok(buffer),
        _ => Err(RuntimeError::ForeignBuffer { device: "sim".into() }),
    }
}

/// A panic elsewhere leaves bytes behind, no broken structure.
fn lock(memory: &SharedMemory) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

struct SimKernel {
    arch: Arch,
    program: TileProgram,
    kernel: ptxsim::program::Kernel,
    threads: u32,
    dynamic_shared: u32,
    memory: SharedMemory,
    options: Options,
}

impl Kernel for SimKernel {
    fn launch(&self, dims: &Dims, buffers: &[&Buffer]) -> Result<Option<Statistics>, RuntimeError> {
        let launch = self.program.launch(dims)?;
        if launch.grid.contains(&0) {
            return Ok(Some(Statistics::default()));
        }
        let bound = self.bind(&launch.args, buffers)?;
        let config = LaunchConfig {
            grid: launch.grid,
            block: [self.threads, 1, 1],
            dynamic_shared: self.dynamic_shared,
        };
        let options = Options {
            threads: Some(rayon::current_num_threads()),
            ..self.options
        };
        let mut memory = lock(&self.memory);
        bound.protect(&mut memory, Access::ReadOnly)?;
        let outcome = machine::launch(&self.kernel, config, &bound.args, &mut memory, &options);
        bound.protect(&mut memory, Access::ReadWrite)?;
        self.judge(outcome?).map(Some)
    }
}

impl SimKernel {
    fn bind(&self, args: &[Arg], buffers: &[&Buffer]) -> Result<Bound, RuntimeError> {
        let mut buffers = buffers.iter();
        let mut bound = Bound {
            args: Vec::with_capacity(args.len()),
            read_only: Vec::new(),
        };
        let mut written = Vec::new();
        for (param, arg) in self.program.params.iter().zip(args) {
            bound.args.push(match *arg {
                Arg::I32(value) => value.to_le_bytes().to_vec(),
                Arg::I64(value) => value.to_le_bytes().to_vec(),
                Arg::Buffer { access, .. } => {
                    let buffer = buffers.next().ok_or_else(|| RuntimeError::Parameter {
                        kernel: self.program.name.clone(),
                        param: param.name.clone(),
                    })?;
                    let address = own(buffer, &self.memory)?.address;
                    match access {
                        tile::Access::Read => bound.read_only.push(address),
                        tile::Access::Write => written.push(address),
                    }
                    address.to_le_bytes().to_vec()
                }
            });
        }
        bound.read_only.retain(|address| !written.contains(address));
        Ok(bound)
    }

    fn judge(&self, outcome: Outcome) -> Result<Statistics, RuntimeError> {
        if outcome.completed && outcome.reports.is_empty() {
            return Ok(outcome.statistics);
        }
        Err(RuntimeError::Checker {
            kernel: self.program.name.clone(),
            arch: self.arch,
            reports: outcome.reports,
        })
    }
}

/// A launch's arguments.
struct Bound {
    /// Their bytes.
    args: Vec<Vec<u8>>,
    /// Addresses of the buffers that the kernel must not write.
    read_only: Vec<u64>,
}

impl Bound {
    fn protect(&self, memory: &mut Memory, access: Access) -> Result<(), RuntimeError> {
        for address in &self.read_only {
            memory.protect(*address, access)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
