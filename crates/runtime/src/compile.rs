//! A region of a plan to PTX and CUBIN: the first schedule that the compiler keeps in registers.

use mlafuse_codegen::build::{build, candidates};
use mlafuse_codegen::cuda;
use mlafuse_codegen::lower::lower;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::TileProgram;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::Target;

use crate::RuntimeError;
use crate::cache::KernelCache;
use crate::nvrtc::{Compiled, CudaSource, KernelResources, Nvrtc};

/// Schedules that are compiled before a kernel is given up.
pub(crate) const MOST_TRIED: usize = 24;
/// Each block takes this much of an SM's shared memory besides its own.
const SHARED_RESERVED: usize = 1024;
/// Registers are given to a warp in multiples of this.
const REGISTER_GRANULE: usize = 256;

/// A kernel as text, before NVRTC.
#[derive(Clone, Debug)]
pub struct SourceKernel {
    /// The schedule it was made with.
    pub schedule: Schedule,
    /// In tiles.
    pub tile: TileProgram,
    /// As each thread runs it.
    pub thread: ThreadProgram,
    /// CUDA C++.
    pub source: String,
}

/// A kernel that NVRTC has compiled.
#[derive(Clone, Debug)]
pub struct CompiledKernel {
    /// The entry's name.
    pub name: String,
    /// The schedule that was taken.
    pub schedule: Schedule,
    /// In tiles.
    pub tile: TileProgram,
    /// CUDA C++.
    pub source: String,
    /// The options that NVRTC was given besides those that are always given.
    pub options: Vec<String>,
    /// The PTX.
    pub ptx: String,
    /// The machine code, an ELF file.
    pub cubin: Vec<u8>,
    /// What it takes of the part.
    pub resources: Resources,
    /// Wall time of NVRTC when it compiled this, in milliseconds.
    pub compile_ms: f64,
    /// Whether it came from the cache.
    pub from_cache: bool,
    /// Schedules that were tried before and refused.
    pub rejected: Vec<Rejected>,
}

/// What a compiled kernel takes of a part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Bytes of spill stores and loads a thread.
    pub spill_bytes: u64,
    /// Shared memory that the source declares, in bytes a block.
    pub static_shared_bytes: u64,
    /// Shared memory that the launch asks for, in bytes a block.
    pub dynamic_shared_bytes: usize,
    /// Threads a block.
    pub threads: usize,
    /// Resident threads of an SM by those that it can hold, 0 to 1.
    pub occupancy: f64,
}

/// A schedule that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The schedule.
    pub schedule: Schedule,
    /// Why.
    pub reason: String,
}

/// The kernel in tiles, threads and CUDA C++, under the schedule that the model ranks first and that can be lowered.
///
/// `dims` are the typical sizes of a launch, as far as they are known.
///
/// # Errors
/// Where the region has no program, or no schedule fits `target`.
pub fn region_source(plan: &Plan, region: &Region, target: &Target, dims: &Dims) -> Result<SourceKernel, RuntimeError> {
    let mut first_error = None;
    for schedule in candidates(plan, region, target, dims)? {
        match source(plan, region, target, schedule) {
            Ok(kernel) => return Ok(kernel),
            Err(RuntimeError::Lower(error)) => {
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.map_or_else(|| none_fits(region, target, Vec::new()), RuntimeError::Lower))
}

/// Compiles a region for `target`, through `cache`: the first schedule, in the model's order, that spills no register.
///
/// The cache keeps those that spill too, so that a second call compiles nothing and comes to the same choice. `dims` are
/// the typical sizes of a launch, as far as they are known.
///
/// # Errors
/// [`RuntimeError::NoSchedule`] where every schedule spills, with the registers and spills of each; those of NVRTC; those of
/// making the program.
pub fn compile_region(
    plan: &Plan,
    region: &Region,
    target: &Target,
    dims: &Dims,
    nvrtc: &Nvrtc,
    cache: &KernelCache,
) -> Result<CompiledKernel, RuntimeError> {
    let _span = tracing::info_span!("compile", kernel = %region.name, arch = %target.arch).entered();
    let mut rejected = Vec::new();
    for schedule in candidates(plan, region, target, dims)?.into_iter().take(MOST_TRIED) {
        let kernel = match source(plan, region, target, schedule) {
            Ok(kernel) => kernel,
            Err(RuntimeError::Lower(error)) => {
                rejected.push(Rejected {
                    schedule,
                    reason: error.to_string(),
                });
                continue;
            }
            Err(error) => return Err(error),
        };
        let compiled = compile(kernel, target, nvrtc, cache)?;
        match spills(&compiled) {
            None => return Ok(CompiledKernel { rejected, ..compiled }),
            Some(spilled) => rejected.push(spilled),
        }
    }
    Err(none_fits(region, target, rejected))
}

/// Compiles a region for `target`, through `cache`, under one schedule.
///
/// # Errors
/// [`RuntimeError::NoSchedule`] where it spills registers; those of NVRTC; those of making the program.
pub fn compile_under(
    plan: &Plan,
    region: &Region,
    schedule: &Schedule,
    target: &Target,
    nvrtc: &Nvrtc,
    cache: &KernelCache,
) -> Result<CompiledKernel, RuntimeError> {
    let compiled = compile(source(plan, region, target, *schedule)?, target, nvrtc, cache)?;
    match spills(&compiled) {
        None => Ok(compiled),
        Some(spilled) => Err(none_fits(region, target, vec![spilled])),
    }
}

/// Why a kernel is not taken, where its registers spill.
fn spills(compiled: &CompiledKernel) -> Option<Rejected> {
    let Resources {
        registers, spill_bytes, ..
    } = compiled.resources;
    let schedule = compiled.schedule;
    (spill_bytes > 0).then(|| {
        tracing::debug!(%schedule, registers, spill_bytes, "spills");
        let reason = format!("{registers} registers, {spill_bytes} bytes spilled");
        Rejected { schedule, reason }
    })
}

fn none_fits(region: &Region, target: &Target, rejected: Vec<Rejected>) -> RuntimeError {
    RuntimeError::NoSchedule {
        kernel: region.name.clone(),
        arch: target.arch,
        rejected,
    }
}

fn source(plan: &Plan, region: &Region, target: &Target, schedule: Schedule) -> Result<SourceKernel, RuntimeError> {
    let tile = build(plan, region, &schedule)?;
    let thread = lower(&tile, &schedule, target)?;
    let source = cuda::print(&thread);
    Ok(SourceKernel {
        schedule,
        tile,
        thread,
        source,
    })
}

fn compile(
    kernel: SourceKernel,
    target: &Target,
    nvrtc: &Nvrtc,
    cache: &KernelCache,
) -> Result<CompiledKernel, RuntimeError> {
    let name = kernel.tile.name.clone();
    let options = Vec::new();
    let arch = target.arch.to_string();
    let source = CudaSource {
        name: format!("{name}.cu"),
        text: kernel.source,
        arch,
        options,
    };
    let (compiled, outcome) = cache.get_or_compile(nvrtc, &source)?;
    let Some(found) = compiled.resources.iter().find(|resources| resources.name == name) else {
        return Err(RuntimeError::NoResources {
            kernel: name,
            arch: target.arch,
        });
    };
    let resources = resources(found, &kernel.thread, target);
    let Compiled {
        ptx, cubin, compile_ms, ..
    } = compiled;
    let CudaSource { text, options, .. } = source;
    Ok(CompiledKernel {
        name,
        schedule: kernel.schedule,
        tile: kernel.tile,
        source: text,
        options,
        ptx,
        cubin,
        resources,
        compile_ms,
        from_cache: outcome.from_cache,
        rejected: Vec::new(),
    })
}

fn resources(found: &KernelResources, thread: &ThreadProgram, target: &Target) -> Resources {
    let threads = thread.threads;
    let shared = thread.shared_bytes + usize::try_from(found.static_shared_bytes).unwrap_or(usize::MAX / 2);
    let blocks = resident_blocks(found.registers as usize, shared, threads, target);
    Resources {
        registers: found.registers,
        spill_bytes: found.spill_store_bytes + found.spill_load_bytes,
        static_shared_bytes: found.static_shared_bytes,
        dynamic_shared_bytes: thread.shared_bytes,
        threads,
        occupancy: (blocks * threads) as f64 / target.threads_per_sm.max(1) as f64,
    }
}

/// Blocks that an SM holds at a time.
fn resident_blocks(registers: usize, shared: usize, threads: usize, target: &Target) -> usize {
    let of_warp = (32 * registers)
        .next_multiple_of(REGISTER_GRANULE)
        .max(REGISTER_GRANULE);
    let warps = threads.div_ceil(32).max(1);
    let by_registers = target.registers_per_sm / of_warp / warps;
    let by_shared = target.shared_per_sm / (shared + SHARED_RESERVED);
    by_registers
        .min(by_shared)
        .min(target.threads_per_sm / (32 * warps))
        .min(target.blocks_per_sm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::target::Arch;

    #[test]
    fn every_refusal_is_listed() {
        let schedule = Schedule {
            block_m: 64,
            block_n: 32,
            block_k: 0,
            warps_m: 2,
            warps_n: 4,
            warps_k: 1,
            transposed: false,
            stages: 3,
        };
        let reason = "255 registers, 16 bytes spilled".to_string();
        let rejected = vec![Rejected { schedule, reason }];
        let error = RuntimeError::NoSchedule {
            kernel: "attention".into(),
            arch: Arch::Sm120,
            rejected,
        }
        .to_string();
        assert_eq!(
            error,
            "kernel attention for sm_120: every schedule fails:\n  block 64x32, warps 2x4, stages 3: 255 registers, 16 bytes spilled"
        );
    }

    #[test]
    fn residency_is_the_scarcest_resource() {
        let a100 = Target::for_arch(Arch::Sm80);
        // 65536 registers: 250 round up to 256 a thread, 256 threads hold all of them.
        assert_eq!(resident_blocks(250, 0, 256, &a100), 1);
        assert_eq!(resident_blocks(32, 0, 256, &a100), 8);
        assert_eq!(resident_blocks(32, 81 << 10, 256, &a100), 2);
        assert_eq!(resident_blocks(32, 200 << 10, 256, &a100), 0);
        assert_eq!(resident_blocks(0, 0, 32, &a100), 32);
    }
}
