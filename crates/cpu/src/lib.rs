//! Executes tile programs on the CPU.
//!
//! [`CpuKernel::prepare`] translates a [`TileProgram`] once: expressions become typed trees over resolved slots, tiles
//! become places in one scratch arena. [`CpuKernel::launch`] runs the blocks of the grid on as many threads as the
//! current rayon pool has. Every tile program runs, those scheduled for a GPU included; there is no second set of kernels.
//!
//! What must hold, and where it is kept:
//! - every access to a [`CpuBuffer`] is checked against its length;
//! - the same inputs give bitwise the same outputs whatever the number of threads: a block's work never depends on another
//!   block, each gemm element is one chain over k in ascending order, or over steps of it, each row sum has one fixed tree;
//! - `unsafe` stands in `memory` and `binding` (shared stores, parts of one memory), `level` (calling code compiled
//!   for a feature), `peak` (the same), `team` (work that threads share by reference) and the micro-kernels under `gemm` and `softmax`.
//!
//! [`TileProgram`]: mlafuse_codegen::tile::TileProgram

mod addends;
mod binding;
mod block;
mod caches;
mod compile;
mod convert;
mod error;
mod expr;
mod gemm;
mod kernel;
mod level;
mod lines;
mod math;
mod memory;
mod peak;
mod place;
mod rows;
mod scratch;
mod softmax;
mod team;
mod uses;
mod view;

pub use caches::second_level_cache;
pub use error::CpuError;
pub use kernel::{CpuKernel, Options};
pub use level::Level;
pub use memory::CpuBuffer;
pub use peak::{PRODUCTS_OF_F32, Peak, read};
pub use team::on_threads;
