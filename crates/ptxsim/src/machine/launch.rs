//! A launch: a kernel, its grid, and its arguments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::block::{Block, Progress};
use super::counters::{Counters, Statistics, Traffic};
use super::environment::{Environment, Reports};
use super::memory::{Access, Contents, Memory, MemoryError};
use super::options::{MmaArithmetic, Options};
use super::race::GlobalShadow;
use super::registers::{LANES, Lanes};
use super::report::Report;
use crate::numeric::mma::MmaMode;
use crate::numeric::tensor_core::TensorCore;
use crate::program::{Kernel, Target};

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

/// What a launch did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the checkers found, in order of block.
    pub reports: Vec<Report>,
    /// Whether every block ran to its end.
    pub completed: bool,
    /// What was counted.
    pub statistics: Statistics,
    /// Wall time.
    pub seconds: f64,
}

/// A launch that cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// Other than the kernel's parameters.
    #[error("kernel {kernel} has {expected} parameters, found {found} arguments")]
    ArgumentCount {
        /// The kernel.
        kernel: String,
        /// Its parameters.
        expected: usize,
        /// The arguments.
        found: usize,
    },
    /// An argument of another size than its parameter.
    #[error("kernel {kernel}: argument {index} has {found} bytes, its parameter `{param}` {expected}")]
    ArgumentSize {
        /// The kernel.
        kernel: String,
        /// From 0.
        index: usize,
        /// The parameter's name.
        param: String,
        /// Bytes of the parameter.
        expected: u32,
        /// Bytes of the argument.
        found: usize,
    },
    /// A grid or block that no GPU would take.
    #[error("kernel {kernel}: {what} is {found:?}: {allowed}")]
    Shape {
        /// The kernel.
        kernel: String,
        /// `grid` or `block`.
        what: &'static str,
        /// Its extents.
        found: [u32; 3],
        /// What is allowed.
        allowed: String,
    },
    /// More shared memory than the target has.
    #[error(
        "kernel {kernel}: {statik} bytes of static and {dynamic} of dynamic shared memory; sm_{sm} has {allowed} for a block"
    )]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// Declared in the PTX.
        statik: u32,
        /// Asked for by the launch.
        dynamic: u32,
        /// The target.
        sm: u32,
        /// Most bytes.
        allowed: u32,
    },
    /// The module's variables cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Runs a kernel to its end, or to where a report ends it.
///
/// `arguments` are the parameters' bytes, little-endian, in order; pointers are addresses in `memory`. The module's own
/// variables are new in each launch.
///
/// # Errors
/// Before anything runs, where the launch does not suit the kernel or its target.
pub fn launch(
    kernel: &Kernel,
    config: LaunchConfig,
    arguments: &[Vec<u8>],
    memory: &mut Memory,
    options: &Options,
) -> Result<Outcome, LaunchError> {
    check_shape(kernel, config)?;
    let params = parameters(kernel, arguments)?;
    let start = Instant::now();
    let variables = add_variables(kernel, memory)?;
    memory.reset_sectors();
    let outcome = run(kernel, config, params, memory, options, start);
    for address in variables {
        memory.free(address);
    }
    Ok(outcome)
}

/// Instructions of a block before another of the same worker gets a turn: one may wait for the other.
const SLICE: u64 = 1 << 22;
/// Blocks that a worker has under way at most.
const UNDER_WAY: usize = 32;
/// The same where blocks may be waiting for ones that have not begun.
const MOST_UNDER_WAY: usize = 1024;

fn run(
    kernel: &Kernel,
    config: LaunchConfig,
    params: Vec<u8>,
    memory: &Memory,
    options: &Options,
    start: Instant,
) -> Outcome {
    let blocks = config.grid.iter().map(|extent| u64::from(*extent)).product::<u64>();
    let env = Environment {
        kernel,
        config,
        params,
        memory,
        options,
        mma: match options.mma {
            MmaArithmetic::Fast => MmaMode::Fast,
            MmaArithmetic::Exact => MmaMode::Exact(TensorCore::of_sm(kernel.target.sm)),
        },
        shared_bytes: kernel.static_shared_bytes + config.dynamic_shared,
        image: image(kernel),
        shadow: options.checks.races.then(|| GlobalShadow::new(memory.sizes())),
        reports: Reports::new(options.max_reports.max(1)),
        wide_atomics: Mutex::default(),
    };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = options
        .threads
        .unwrap_or_else(cores)
        .clamp(1, 256)
        .min(blocks.max(1) as usize);
    let (next, total) = (AtomicU64::new(0), Mutex::new(Counts::default()));
    let work = || {
        let counts = worker(&env, &next, blocks);
        total.lock().unwrap_or_else(PoisonError::into_inner).add(&counts);
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    let counts = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let statistics = counts.statistics(kernel, memory);
    Outcome {
        reports: env.reports.into_reports(),
        completed: counts.blocks == blocks,
        statistics,
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// What the blocks of one worker counted.
#[derive(Default)]
struct Counts {
    /// Blocks that ran to their end.
    blocks: u64,
    total: Counters,
    by_instruction: Vec<Counters>,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.blocks += other.blocks;
        self.total.add(&other.total);
        self.add_lines(&other.by_instruction);
    }

    fn add_lines(&mut self, lines: &[Counters]) {
        self.by_instruction
            .resize(self.by_instruction.len().max(lines.len()), Counters::default());
        for (sum, line) in self.by_instruction.iter_mut().zip(lines) {
            sum.add(line);
        }
    }

    fn statistics(&self, kernel: &Kernel, memory: &Memory) -> Statistics {
        let mut lines = BTreeMap::<u32, Counters>::new();
        for (inst, counters) in kernel.code.iter().zip(&self.by_instruction) {
            if counters.instructions > 0 {
                lines.entry(inst.line).or_default().add(counters);
            }
        }
        let touched = |(_, read, written): &(String, u64, u64)| read + written > 0;
        let traffic = memory.sectors().into_iter().filter(touched);
        let traffic = traffic.map(|(allocation, sectors_read, sectors_written)| Traffic {
            allocation,
            sectors_read,
            sectors_written,
        });
        Statistics {
            total: self.total.clone(),
            lines,
            traffic: traffic.collect(),
        }
    }
}

/// Runs blocks until there are no more.
fn worker(env: &Environment<'_>, next: &AtomicU64, blocks: u64) -> Counts {
    let mut counts = Counts::default();
    let (mut under_way, mut most) = (VecDeque::new(), UNDER_WAY);
    loop {
        let fresh = (under_way.len() < most).then(|| next.fetch_add(1, Ordering::Relaxed));
        let block = match fresh.filter(|linear| *linear < blocks) {
            Some(linear) => Some(Block::new(env, linear)),
            None => under_way.pop_front(),
        };
        let Some(mut block) = block.filter(|_| !env.reports.stopped()) else {
            return counts;
        };
        let progress = block.run(SLICE);
        most = match progress {
            Progress::Stalled => MOST_UNDER_WAY,
            _ => UNDER_WAY,
        };
        match progress {
            Progress::Running | Progress::Stalled => {
                under_way.push_back(block);
                continue;
            }
            Progress::Stopped => {}
            Progress::Done => counts.blocks += 1,
        }
        counts.total.add(&block.counters);
        counts.add_lines(&block.line_counters);
    }
}

/// The register file as a warp finds it.
fn image(kernel: &Kernel) -> Vec<Lanes> {
    let mut image = vec![[0; LANES]; kernel.slots as usize];
    for (reg, word) in &kernel.constants {
        image[reg.index()] = [*word; LANES];
    }
    image
}

/// The module's variables in memory; their addresses.
fn add_variables(kernel: &Kernel, memory: &mut Memory) -> Result<Vec<u64>, MemoryError> {
    let mut addresses = Vec::new();
    for variable in &kernel.variables {
        let (name, address) = (&variable.name, variable.address);
        memory.allocate_at(address, name, variable.bytes, Contents::Zeros, Access::ReadWrite)?;
        addresses.push(address);
        memory.write(address, &variable.contents)?;
        if variable.read_only {
            memory.make_constant(address)?;
        }
    }
    Ok(addresses)
}

fn check_shape(kernel: &Kernel, config: LaunchConfig) -> Result<(), LaunchError> {
    let refuse = |what, found, allowed: String| {
        Err(LaunchError::Shape {
            kernel: kernel.name.clone(),
            what,
            found,
            allowed,
        })
    };
    // CUDA C++ Programming Guide, "Technical specifications per compute capability".
    if !config
        .grid
        .iter()
        .zip([i32::MAX as u32, 65535, 65535])
        .all(|(found, most)| (1..=most).contains(found))
    {
        return refuse("grid", config.grid, "1 to 2147483647, 65535 and 65535".to_owned());
    }
    let [x, y, z] = config.block.map(u64::from);
    let threads = x.saturating_mul(y).saturating_mul(z);
    if threads == 0 || threads > Target::MAX_THREADS.into() || z > 64 {
        let allowed = format!(
            "1 to {} threads, at most 64 in the third dimension",
            Target::MAX_THREADS
        );
        return refuse("block", config.block, allowed);
    }
    if let Some(required) = kernel.performance.reqntid
        && required != config.block
    {
        return refuse("block", config.block, format!("`.reqntid` says {required:?}"));
    }
    if let Some(most) = kernel.performance.maxntid
        && threads > most.iter().map(|extent| u64::from(*extent)).product()
    {
        return refuse("block", config.block, format!("`.maxntid` says at most {most:?}"));
    }
    let (statik, dynamic) = (kernel.static_shared_bytes, config.dynamic_shared);
    let allowed = kernel.target.max_shared_bytes;
    if u64::from(statik) + u64::from(dynamic) > u64::from(allowed) {
        return Err(LaunchError::SharedMemory {
            kernel: kernel.name.clone(),
            statik,
            dynamic,
            sm: kernel.target.sm,
            allowed,
        });
    }
    Ok(())
}

/// The parameter space.
fn parameters(kernel: &Kernel, arguments: &[Vec<u8>]) -> Result<Vec<u8>, LaunchError> {
    if arguments.len() != kernel.params.len() {
        return Err(LaunchError::ArgumentCount {
            kernel: kernel.name.clone(),
            expected: kernel.params.len(),
            found: arguments.len(),
        });
    }
    let mut space = vec![0; kernel.param_bytes as usize];
    for (index, (param, argument)) in kernel.params.iter().zip(arguments).enumerate() {
        if argument.len() != param.bytes as usize {
            return Err(LaunchError::ArgumentSize {
                kernel: kernel.name.clone(),
                index,
                param: param.name.clone(),
                expected: param.bytes,
                found: argument.len(),
            });
        }
        space[param.offset as usize..][..argument.len()].copy_from_slice(argument);
    }
    Ok(space)
}
