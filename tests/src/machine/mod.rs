//! A machine that executes thread programs on the host, and watches them.
//!
//! All threads of a block run in lockstep, statement by statement, with a mask of the active ones; blocks run one after
//! another. What real hardware leaves undefined is a [`Fault`]: reading memory that nobody wrote, an access out of bounds or
//! off its alignment, two warps at the same shared bytes without a barrier between them, the use of bytes that an
//! asynchronous copy may still be writing, registers without a value, loop bounds or barriers that the threads do not share.
//!
//! Intrinsics follow the PTX ISA: fragments of `mma.m16n8k16` and `ldmatrix` ("Warp Level Matrix Instructions"), `cp.async`
//! with zero fill. A product of the tensor core is summed in f64 and rounded to f32 once.

mod block;
mod expr;
mod global;
mod lanes;
mod resolve;
mod shared;
mod tensor_core;

use crate::executor::Executor;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile;

pub use global::{DeviceBuffer, Memory};

/// When the bytes of an asynchronous copy arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At the wait that covers them: a missing wait shows.
    Lazy,
    /// At once: an overwritten stage shows.
    Eager,
}

/// What a parameter of a kernel is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A buffer of [`Memory`], by its index.
    Buffer(usize),
    /// An integer.
    Int(i64),
}

/// What a kernel did that the hardware leaves undefined, or that the machine does not model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`, block {block:?}: {what}\n  in `{statement}`")]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// The block's index.
    pub block: [usize; 3],
    /// What happened.
    pub what: String,
    /// Where.
    pub statement: String,
}

/// What a launch did, over all blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Eight-row phases of ldmatrix.
    pub matrix_phases: usize,
    /// Shared-memory wavefronts that those phases took beyond one each.
    pub matrix_conflicts: usize,
    /// Warp-wide loads and stores of shared memory other than ldmatrix and asynchronous copies.
    pub shared_accesses: usize,
    /// Wavefronts that those took; as many where no bank is asked for twice.
    pub shared_wavefronts: usize,
    /// Warp-wide tensor-core products.
    pub products: usize,
    /// Barriers that blocks met at.
    pub barriers: usize,
}

/// The machine as an executor: copies arrive late, then early.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Executor for Machine {
    type Stats = Stats;

    fn execute(
        &mut self,
        threads: &ThreadProgram,
        launch: &tile::Launch,
        memory: &mut Memory,
    ) -> Result<Stats, String> {
        let args: Vec<Arg> = launch.args.iter().map(Arg::from).collect();
        let grid = launch.grid.map(|blocks| blocks as usize);
        let mut early = memory.clone();
        let stats = self::launch(threads, grid, &args, memory, Arrival::Lazy).map_err(|f| f.to_string())?;
        self::launch(threads, grid, &args, &mut early, Arrival::Eager).map_err(|f| f.to_string())?;
        match early == *memory {
            true => Ok(stats),
            false => Err("copies that arrive early give another result than late ones".into()),
        }
    }
}

impl From<&tile::Arg> for Arg {
    fn from(arg: &tile::Arg) -> Arg {
        match *arg {
            tile::Arg::Buffer { buffer, .. } => Arg::Buffer(buffer.0),
            tile::Arg::I32(value) => Arg::Int(value.into()),
            tile::Arg::I64(value) => Arg::Int(value),
        }
    }
}

/// The registers of one array after a block, by register, then thread. Floats; `None` where none was set.
pub type Registers = Vec<Vec<Option<f32>>>;

/// Runs `program` over `grid`. `args` are bound to the parameters, in their order.
///
/// # Errors
/// The first [`Fault`].
pub fn launch(
    program: &ThreadProgram,
    grid: [usize; 3],
    args: &[Arg],
    memory: &mut Memory,
    arrival: Arrival,
) -> Result<Stats, Fault> {
    let code = resolve::resolve(program, args, memory).map_err(|what| fault(program, [0; 3], what, "parameters"))?;
    let mut stats = Stats::default();
    memory.begin_launch();
    for z in 0..grid[2] {
        for y in 0..grid[1] {
            for x in 0..grid[0] {
                block::run(&code, [x, y, z], memory, arrival, &mut stats)?;
            }
        }
    }
    Ok(stats)
}

/// Runs one block of `program` and gives the registers of the float array `name` as it leaves them.
///
/// # Errors
/// The first [`Fault`], or that there is no such array.
pub fn registers(
    program: &ThreadProgram,
    block: [usize; 3],
    args: &[Arg],
    memory: &mut Memory,
    name: &str,
) -> Result<Registers, Fault> {
    let code = resolve::resolve(program, args, memory).map_err(|what| fault(program, block, what, "parameters"))?;
    memory.begin_launch();
    let state = block::run(&code, block, memory, Arrival::Lazy, &mut Stats::default())?;
    let found = code.arrays.iter().position(|array| array.name == name);
    found
        .map(|index| state[index].iter().map(lanes::Register::floats).collect())
        .ok_or_else(|| fault(program, block, "no such register array".into(), name))
}

fn fault(program: &ThreadProgram, block: [usize; 3], what: String, statement: &str) -> Fault {
    Fault {
        kernel: program.name.clone(),
        block,
        what,
        statement: statement.into(),
    }
}

#[cfg(test)]
mod tests;
