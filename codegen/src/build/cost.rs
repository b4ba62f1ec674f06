//! What a schedule needs of a part, and roughly how long a kernel takes under it.
//!
//! The model only ranks: the first schedules of the list are tried, and compiled resources or measured times decide.
//! Per block it adds up, walking the program with loop counts at typical dimensions: multiply-adds of gemms, bytes that
//! warps read from shared memory for them (each warp reads its rows of a and its columns of b a step, so that warps_n warps
//! read the same a; warps along the depth read parts of both and pass their sums on), bytes moved from and to device memory,
//! elementwise operations, and steps that end in a barrier. Loads of a pipelined loop overlap with what the block computes,
//! those of a loop with one stage do not. Blocks run in waves of as many as fit an SM.

use super::splits::UNBALANCED;
use crate::lower::shared_bytes;
use crate::schedule::Schedule;
use crate::tile::{Expr, Form, Rows, Space, Stmt, Tile, TileId, TileProgram, VarId};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::Target;

/// Registers of a thread besides its fragments: addresses, operands on their way to the tensor core, loop state.
const REGISTERS_BESIDES: usize = 64;
/// Bytes that shared memory gives an SM a second: 128 a clock at 1.5 GHz.
const SHARED_BYTES_PER_S: f64 = 128.0 * 1.5e9;
/// A barrier, or the first instructions of a step, which nothing hides.
const STEP_S: f64 = 0.08e-6;
/// With this many warps an SM's tensor cores are half idle.
const IDLE_WARPS: f64 = 2.0;
/// A load from device memory that nothing hides.
const LATENCY_S: f64 = 0.8e-6;
/// The second-level cache against device memory.
const L2_SPEEDUP: f64 = 3.0;
/// What each block takes of an SM's shared memory besides its own, in bytes.
const SHARED_RESERVED: usize = 1024;

/// What one block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub shared: usize,
    /// Registers a thread, estimated.
    pub registers: usize,
}

pub(super) fn needs(program: &TileProgram, schedule: &Schedule) -> Needs {
    let is_matrix = |tile: &&Tile| tile.space == Space::Fragment && !tile.form.is_vector();
    let elements: usize = program
        .tiles
        .iter()
        .filter(is_matrix)
        .map(|tile| tile.rows * tile.cols * holders(tile, schedule))
        .sum();
    let registers = elements.div_ceil(schedule.threads()) + REGISTERS_BESIDES;
    Needs {
        shared: shared_bytes(program, schedule),
        registers,
    }
}

/// How many warps hold each element of a fragment, or a part of it.
fn holders(tile: &Tile, schedule: &Schedule) -> usize {
    match tile.form {
        Form::MatrixPartial => schedule.warps_k,
        _ => schedule.warps_k / schedule.row_shares(tile.rows),
    }
}

/// Seconds that the kernel takes on `target` as the model has it, once it is known that it takes `registers` registers a
/// thread. For ranking schedules of one region: it knows nothing of what a part does beside moving, multiplying and waiting.
pub fn modelled_seconds(
    program: &TileProgram,
    schedule: &Schedule,
    target: &Target,
    dims: &Dims,
    registers: usize,
) -> f64 {
    let registers = registers.max(1);
    let needs = Needs {
        registers,
        ..needs(program, schedule)
    };
    seconds(program, schedule, target, dims, needs)
}

/// Seconds that the kernel takes, for ranking schedules of one region.
pub(super) fn seconds(program: &TileProgram, schedule: &Schedule, target: &Target, dims: &Dims, needs: Needs) -> f64 {
    let resident = resident_blocks(needs, schedule, target);
    let dims = with_splits(program, schedule, resident * target.sm_count, dims);
    let (blocks, work) = walked(program, schedule, dims);
    let resident = resident as f64;
    let sms = target.sm_count as f64;
    let waves = (blocks / (sms * resident)).ceil();
    // Fewer blocks than SMs times resident share an SM with fewer others.
    let sharing = (blocks / sms).ceil().min(resident);
    let busy = (work.gemm_flops * sms / target.tensor_flops).max(work.shared_bytes / SHARED_BYTES_PER_S)
        + work.elementwise * sms / target.fma_flops;
    // Few warps leave the tensor cores waiting for each instruction's operands.
    let warps = sharing * schedule.threads() as f64 / 32.0;
    let busy = busy * (warps + IDLE_WARPS) / warps;
    let loading = work.device_bytes * sms / (L2_SPEEDUP * target.dram_bytes_per_s);
    let computing = busy + work.steps * STEP_S;
    // With several stages the next loads are under way meanwhile; with one, nothing but other blocks of the SM hides them.
    let alone = match schedule.stages {
        1 => computing + loading + work.loads * LATENCY_S,
        // What is loaded so many iterations ahead arrives no sooner for it.
        stages => computing.max(loading).max(work.waits * LATENCY_S / (stages - 1) as f64),
    };
    // What overlaps still gets in the way a little: between equals, less traffic wins.
    waves * (alone.max(sharing * busy.max(loading)) + 0.1 * sharing * loading)
}

/// The least seconds in which the part could do what the kernel's blocks do, all together: their arithmetic, and their traffic
/// with the second-level cache, which serves what several of them read. What blocks do again counts again; `dims` tell the splits.
pub(super) fn least_seconds(program: &TileProgram, schedule: &Schedule, target: &Target, dims: &Dims) -> f64 {
    let (blocks, work) = walked(program, schedule, with_splits(program, schedule, 1, dims));
    let arithmetic = work.gemm_flops / target.tensor_flops + work.elementwise / target.fma_flops;
    blocks * arithmetic.max(work.present_bytes / (L2_SPEEDUP * target.dram_bytes_per_s))
}

/// How many blocks the kernel has, and what each does.
fn walked(program: &TileProgram, schedule: &Schedule, dims: Dims) -> (f64, Work) {
    let mut walk = Walk {
        program,
        schedule,
        dims,
        vars: vec![None; program.vars.len()],
    };
    let blocks = walk.blocks() as f64;
    let mut work = Work::default();
    walk.body(&program.body, 1.0, &mut work);
    (blocks, work)
}

/// Blocks of a launch, where `places` of them run at a time and nothing else is said of splits.
pub(super) fn blocks(program: &TileProgram, schedule: &Schedule, places: usize, dims: &Dims) -> usize {
    let walk = Walk {
        program,
        schedule,
        dims: with_splits(program, schedule, places, dims),
        vars: Vec::new(),
    };
    usize::try_from(walk.blocks()).unwrap_or(usize::MAX)
}

/// Blocks of an SM at a time, at least one.
fn resident_blocks(needs: Needs, schedule: &Schedule, target: &Target) -> usize {
    let threads = schedule.threads();
    let by_shared = target.shared_per_sm / (needs.shared + SHARED_RESERVED);
    let by_registers = target.registers_per_sm / (needs.registers * threads);
    let by_threads = target.threads_per_sm / threads;
    by_shared
        .min(by_registers)
        .min(by_threads)
        .min(target.blocks_per_sm)
        .max(1)
}

/// `dims`, and where nothing says how many splits there are, as many as fill the part's `places` for blocks once.
fn with_splits(program: &TileProgram, schedule: &Schedule, places: usize, dims: &Dims) -> Dims {
    let defaults = [
        (Symbol::B, 1),
        (Symbol::T, 1),
        (Symbol::S, 4096),
        (Symbol::P, 64),
        (Symbol::L, 4096),
        (Symbol::F, 1),
        // Where nothing is said of them, every sequence has as many splits as there may be.
        (Symbol::W, UNBALANCED),
    ];
    let missing = defaults.into_iter().filter(|&(symbol, _)| dims.get(symbol).is_none());
    let dims = missing.fold(dims.clone(), |dims, (symbol, value)| dims.with(symbol, value));
    if dims.get(Symbol::Z).is_some() {
        return dims;
    }
    let walk = Walk {
        program,
        schedule,
        dims: dims.clone().with(Symbol::Z, 1),
        vars: Vec::new(),
    };
    let splits = (places as i64 / walk.blocks()).clamp(1, 32);
    dims.with(Symbol::Z, splits as usize)
}

/// What one block does.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    gemm_flops: f64,
    shared_bytes: f64,
    device_bytes: f64,
    /// Of them those of rows that are there.
    present_bytes: f64,
    elementwise: f64,
    steps: f64,
    loads: f64,
    /// Iterations that wait for what was loaded ahead.
    waits: f64,
}

struct Walk<'a> {
    program: &'a TileProgram,
    schedule: &'a Schedule,
    dims: Dims,
    vars: Vec<Option<i64>>,
}

impl Walk<'_> {
    /// Blocks of the grid, at least one.
    fn blocks(&self) -> i64 {
        self.program
            .grid
            .iter()
            .map(|size| self.eval(size).unwrap_or(1).max(1))
            .fold(1, i64::saturating_mul)
    }

    fn body(&mut self, body: &[Stmt], times: f64, work: &mut Work) {
        for stmt in body {
            self.stmt(stmt, times, work);
        }
    }

    fn stmt(&mut self, stmt: &Stmt, times: f64, work: &mut Work) {
        match stmt {
            Stmt::Comment(_) | Stmt::Return => {}
            Stmt::Let { var, value } => self.set(*var, self.eval(value)),
            Stmt::Sum {
                var,
                index,
                count,
                value,
            } => {
                self.set(*index, Some(0));
                let sum = self.eval(count).zip(self.eval(value));
                self.set(*var, sum.and_then(|(count, value)| count.checked_mul(value)));
            }
            Stmt::For {
                var,
                start,
                end,
                pipelined,
                body,
            } => {
                let (start, end) = (self.eval(start).unwrap_or(0), self.eval(end).unwrap_or(1));
                self.set(*var, Some(start));
                work.steps += times;
                let times = times * (end - start).max(0) as f64;
                if *pipelined {
                    work.waits += times;
                }
                self.body(body, times, work);
            }
            // Early exits are not taken.
            Stmt::If { body, .. } if body.last() == Some(&Stmt::Return) => {}
            Stmt::If { body, .. } => self.body(body, times, work),
            Stmt::Load { dst, cols, src } => {
                let tile = self.program.tile(*dst);
                let size = self
                    .program
                    .tensor_dtype(src.param)
                    .map_or(4, |dtype| dtype.size_bytes());
                // A row that repeats is read once.
                let repeats = matches!(
                    &src.rows,
                    Rows::Strided {
                        stride: Expr::Int(0),
                        ..
                    }
                );
                let rows = if repeats { 1 } else { tile.rows };
                let row_bytes = times * (cols.len() * size) as f64;
                work.device_bytes += row_bytes * rows as f64;
                work.present_bytes += row_bytes * self.present(&src.rows, rows) as f64;
                work.steps += times;
                work.loads += times;
            }
            Stmt::Store { dst, src, cols } => {
                let size = self
                    .program
                    .tensor_dtype(dst.param)
                    .map_or(4, |dtype| dtype.size_bytes());
                let (rows, row_bytes) = (self.program.tile(*src).rows, times * (cols.len() * size) as f64);
                work.device_bytes += row_bytes * rows as f64;
                work.present_bytes += row_bytes * self.present(&dst.rows, rows) as f64;
            }
            Stmt::Gemm {
                acc, b, layout, b_cols, ..
            } => {
                let b = self.program.tile(*b);
                self.gemm(*acc, layout.depth(b, b_cols), b.dtype.size_bytes(), times, work);
            }
            Stmt::Stage { .. } => work.steps += times,
            Stmt::Finish { dst, src } => {
                work.steps += times;
                self.finish(*dst, *src, times, work);
            }
            Stmt::Fill { dst, .. } | Stmt::Map { dst, .. } => work.elementwise += times * self.elements(*dst),
            Stmt::Reduce { src, .. } => work.elementwise += 2.0 * times * self.elements(*src),
            Stmt::Softmax(step) => self.body(&step.expansion(), times, work),
            Stmt::Rotate { dst, .. } => work.elementwise += 4.0 * times * self.elements(*dst),
        }
    }

    /// How many of a tile's `rows` are there.
    fn present(&self, of: &Rows, rows: usize) -> usize {
        let (start, limit) = match of {
            Rows::Strided { start, limit, .. } | Rows::Paged { start, limit, .. } => {
                (self.eval(start), self.eval(limit))
            }
            Rows::Gathered { limit, .. } => (Some(0), self.eval(limit)),
        };
        let present = start.zip(limit).and_then(|(start, limit)| limit.checked_sub(start));
        present.map_or(rows, |present| present.clamp(0, rows as i64) as usize)
    }

    /// A product of depth `k` of elements of `size` bytes.
    fn gemm(&self, acc: TileId, k: usize, size: usize, times: f64, work: &mut Work) {
        let (m, n) = (self.program.tile(acc).rows, self.program.tile(acc).cols);
        work.gemm_flops += times * (2 * m * n * k) as f64;
        let Schedule { warps_m, warps_n, .. } = *self.schedule;
        work.shared_bytes += times * (k * (m * warps_n + n * warps_m) * size) as f64;
        work.steps += times;
    }

    /// Every warp along the depth leaves its part, and each that holds the sum reads all parts.
    fn finish(&self, dst: TileId, src: TileId, times: f64, work: &mut Work) {
        if self.program.tile(src).form == Form::MatrixPartial {
            let passed = (1 + holders(self.program.tile(dst), self.schedule)) * self.schedule.warps_k;
            work.shared_bytes += times * self.elements(src) * (passed * size_of::<f32>()) as f64;
            work.steps += times;
        }
    }

    fn elements(&self, id: TileId) -> f64 {
        let tile = self.program.tile(id);
        (tile.rows * tile.cols) as f64
    }

    fn set(&mut self, var: VarId, value: Option<i64>) {
        if let Some(slot) = self.vars.get_mut(var.0) {
            *slot = value;
        }
    }

    /// An integer expression, in the first block; what is loaded is a length, so it has the longest.
    fn eval(&self, expr: &Expr) -> Option<i64> {
        expr.integer(&|leaf| match leaf {
            Expr::Var(var) => *self.vars.get(var.0)?,
            Expr::Block(_) => Some(0),
            Expr::Load(..) => self.dims.get(Symbol::S).map(|n| n as i64),
            other => self.program.scalar(other, &self.dims),
        })
    }
}
