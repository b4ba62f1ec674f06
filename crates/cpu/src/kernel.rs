//! Preparing a tile program, and launching it over its grid.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mlafuse_codegen::tile::{Access, TileProgram, verify};
use mlafuse_ir::size::{Dims, Symbol};
use smallvec::SmallVec;

use crate::binding::Held;
use crate::block::{Launch, Step};
use crate::convert::Element;
use crate::error::Fault;
use crate::expr::{At, Env, Scalar};
use crate::memory::Bound;
use crate::scratch::{Needs, with_scratch};
use crate::team::on_threads;
use crate::{CpuBuffer, CpuError, Level, compile};

/// How a kernel is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The instructions it may use.
    pub level: Level,
    /// Every tile of every block starts as NaN and gemm multiplies rows that are not there too, so that a program that reads
    /// what it has not written shows itself. Costs time.
    pub poison: bool,
}

impl Options {
    /// This level; poison where debug assertions are on.
    pub fn new(level: Level) -> Options {
        Options {
            level,
            poison: cfg!(debug_assertions),
        }
    }
}

/// A tensor parameter.
#[derive(Clone, Debug)]
pub(crate) struct TensorParam {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) access: Access,
}

/// A tile program in executable form.
#[derive(Clone, Debug)]
pub struct CpuKernel {
    pub(crate) name: String,
    pub(crate) options: Options,
    pub(crate) tensors: Vec<TensorParam>,
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) grid: [Scalar; 3],
    pub(crate) steps: Vec<Step>,
    pub(crate) needs: Needs,
}

impl CpuKernel {
    /// Translates `program` for `level`.
    ///
    /// # Errors
    /// [`CpuError::Program`] where the program breaks a rule of the tile language, [`CpuError::Level`] where this processor
    /// lacks the level, [`CpuError::ElementType`] and [`CpuError::TileSize`] where it cannot be executed.
    pub fn prepare(program: &TileProgram, level: Level) -> Result<CpuKernel, CpuError> {
        CpuKernel::prepare_with(program, Options::new(level))
    }

    /// Translates `program`.
    ///
    /// # Errors
    /// As [`CpuKernel::prepare`].
    pub fn prepare_with(program: &TileProgram, options: Options) -> Result<CpuKernel, CpuError> {
        if !options.level.is_available() {
            return Err(CpuError::Level {
                level: options.level,
                available: Level::detect(),
            });
        }
        verify(program)?;
        compile::kernel(program, options)
    }

    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of scratch that each thread needs.
    pub fn scratch_bytes(&self) -> usize {
        self.needs.arena * size_of::<f32>()
    }

    /// Runs every block of the grid, on as many threads as the current rayon pool has, and returns when all have ended; on this
    /// thread alone where another launch has the others. `tensors` are bound to the tensor parameters in their order; buffers
    /// may be larger than what is used of them. The outputs do not depend on the number of threads.
    ///
    /// # Errors
    /// Where a symbol is unbound, the buffers do not fit the parameters, are bound twice or in use; where a block reaches
    /// outside a buffer, needs a block-table entry that is no page, or divides by zero. Of several failing blocks the first
    /// one's error is given; what the outputs then hold is unspecified.
    pub fn launch(&self, dims: &Dims, tensors: &[&CpuBuffer]) -> Result<(), CpuError> {
        let params = self.params(dims)?;
        let mut held = Held::lock(&self.name, &self.tensors, tensors)?;
        let bound = held.bind();
        let grid = self.grid(&params)?;
        let blocks = self.blocks(grid)?;
        tracing::trace!(kernel = %self.name, ?grid, level = ?self.options.level, "launch");
        let Options { level, poison } = self.options;
        let launch = Launch {
            level,
            poison,
            params: &params,
            tensors: &bound,
            present: self.needs.present,
        };
        // A second thread is called even where there is one block: it stays awake for what follows.
        let threads = (rayon::current_num_threads() as u64).min(blocks.max(2));
        let queue = Queue::new(blocks, threads);
        on_threads(threads as usize, &|thread| self.work(&launch, grid, &queue, thread));
        match queue.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((_, fault)) => Err(self.error(fault, &bound)),
        }
    }

    /// Runs blocks until none is left.
    fn work(&self, launch: &Launch<'_>, grid: [i64; 3], queue: &Queue, thread: usize) {
        with_scratch(|scratch| {
            let mut parts = scratch.fit(&self.needs);
            parts.work.begin();
            while let Some(index) = queue.take(thread as u64) {
                // The splits of a sequence are neighbours: those that are not there are then in every share.
                let (x, z) = (grid[0] as u64, grid[2] as u64);
                let block = [index % x, index / x / z, index / x % z].map(|i| i as i64);
                if let Err(fault) = launch.block(&self.steps, block, &mut parts) {
                    queue.fail(index, fault);
                }
            }
        });
    }

    fn params(&self, dims: &Dims) -> Result<SmallVec<[i64; 16]>, CpuError> {
        let value = |&symbol: &Symbol| {
            let unbound = || CpuError::Unbound {
                kernel: self.name.clone(),
                symbol: symbol.letter(),
            };
            let value = dims.get(symbol).ok_or_else(unbound)?;
            i64::try_from(value).map_err(|_| CpuError::Overflow {
                kernel: self.name.clone(),
            })
        };
        self.symbols.iter().map(value).collect()
    }

    fn grid(&self, params: &[i64]) -> Result<[i64; 3], CpuError> {
        let env = Env {
            params,
            vars: &[],
            block: [0; 3],
            tensors: &[],
        };
        let mut grid = [0; 3];
        for (blocks, scalar) in grid.iter_mut().zip(&self.grid) {
            *blocks = scalar.eval(&env, At::BLOCK).map_err(|fault| self.error(fault, &[]))?;
        }
        Ok(grid)
    }

    /// Number of blocks of `grid`.
    fn blocks(&self, grid: [i64; 3]) -> Result<u64, CpuError> {
        let error = || CpuError::Grid {
            kernel: self.name.clone(),
            grid,
        };
        let sizes = grid
            .iter()
            .map(|&n| u64::try_from(n).map_err(|_| error()))
            .collect::<Result<SmallVec<[u64; 3]>, CpuError>>()?;
        if sizes.contains(&0) {
            return Ok(0);
        }
        // Half the range is left for the workers that find nothing more to do.
        let blocks = sizes
            .iter()
            .try_fold(1u64, |product, &n| product.checked_mul(n))
            .filter(|&n| n <= u64::MAX / 2);
        blocks.ok_or_else(error)
    }

    /// `fault` with the names of this kernel.
    fn error(&self, fault: Fault, bound: &[Bound<'_>]) -> CpuError {
        let kernel = self.name.clone();
        let name = |tensor: usize| self.tensors.get(tensor).map_or(String::new(), |t| t.name.clone());
        let len = |tensor: usize| match (self.tensors.get(tensor), bound.get(tensor)) {
            (Some(param), Some(bound)) => bound.len() / param.element.size(),
            _ => 0,
        };
        match fault {
            Fault::DivideByZero => CpuError::DivideByZero { kernel },
            Fault::Overflow => CpuError::Overflow { kernel },
            Fault::OutOfBounds { tensor, index } => CpuError::OutOfBounds {
                kernel,
                tensor: name(tensor),
                index,
                len: len(tensor),
            },
            Fault::Misaligned { tensor, index, align } => CpuError::Misaligned {
                kernel,
                tensor: name(tensor),
                index,
                align,
            },
            Fault::Columns { start, depth, cols } => CpuError::Columns {
                kernel,
                start,
                depth,
                cols,
            },
            Fault::Page { table, entry, page } => CpuError::Page {
                kernel,
                table: name(table),
                entry,
                page,
            },
        }
    }
}

/// Most shares of the blocks of a launch.
const SHARES: usize = 64;

/// The blocks that are left, and the first failure. Each thread has a share of neighbouring blocks, the same in each launch of as
/// many, so that what it left of them in its caches is there for the kernel that goes on with it; who has none left helps the others.
struct Queue {
    /// The next block of each share.
    next: [AtomicU64; SHARES],
    blocks: u64,
    shares: u64,
    /// The first block that has failed.
    failed: AtomicU64,
    failure: Mutex<Option<(u64, Fault)>>,
}

impl Queue {
    fn new(blocks: u64, threads: u64) -> Queue {
        let shares = threads.clamp(1, SHARES as u64);
        Queue {
            next: std::array::from_fn(|share| AtomicU64::new(Queue::start(blocks, shares, share as u64))),
            blocks,
            shares,
            failed: AtomicU64::new(u64::MAX),
            failure: Mutex::new(None),
        }
    }

    /// The first block of a share, and the end of the one before.
    fn start(blocks: u64, shares: u64, share: u64) -> u64 {
        blocks / shares * share + share.min(blocks % shares)
    }

    fn take(&self, thread: u64) -> Option<u64> {
        let mut shares = (0..self.shares).map(|other| (thread + other) % self.shares);
        shares.find_map(|share| {
            let index = self.next[share as usize].fetch_add(1, Ordering::Relaxed);
            let end = Queue::start(self.blocks, self.shares, share + 1);
            (index < end.min(self.failed.load(Ordering::Relaxed))).then_some(index)
        })
    }

    /// A share's blocks are taken in order, so every block before the first failing one runs to its end, whatever the threads.
    fn fail(&self, index: u64, fault: Fault) {
        self.failed.fetch_min(index, Ordering::Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none_or(|(first, _)| index < first) {
            *failure = Some((index, fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_taken_once_and_its_own_thread_is_asked_first() {
        for (blocks, threads) in [(0, 1), (1, 1), (7, 3), (2, 5), (300, 100)] {
            let queue = Queue::new(blocks, threads);
            let mut all: Vec<u64> = std::iter::from_fn(|| queue.take(1)).collect();
            assert_eq!(
                all.first().copied(),
                (blocks > 0).then(|| Queue::start(blocks, queue.shares, 1 % queue.shares))
            );
            all.sort_unstable();
            assert_eq!(all, (0..blocks).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_failing_block_is_reported_whatever_the_order() {
        let queue = Queue::new(6, 2);
        assert_eq!([queue.take(1), queue.take(0)], [Some(3), Some(0)]);
        for (index, fault) in [(5, Fault::Overflow), (2, Fault::DivideByZero), (3, Fault::Overflow)] {
            queue.fail(index, fault);
        }
        // Of those before it none is left out.
        assert_eq!([queue.take(1), queue.take(1)], [Some(1), None]);
        assert_eq!(queue.failure.into_inner().unwrap(), Some((2, Fault::DivideByZero)));
    }
}
