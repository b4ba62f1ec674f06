//! What can go wrong when a tile program is prepared or launched.

use mlafuse_codegen::tile::TileError;
use mlafuse_tensor::DType;

use crate::Level;

/// An error of the CPU executor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CpuError {
    /// The program breaks a rule of the tile language.
    #[error(transparent)]
    Program(#[from] TileError),
    /// A tensor or tile has an element type that is not executed.
    #[error("kernel {kernel}: {name} has type {dtype}; executed are f32, f16, bf16 and i32")]
    ElementType {
        /// The kernel.
        kernel: String,
        /// The parameter or tile.
        name: String,
        /// Its type.
        dtype: DType,
    },
    /// The tiles up to this one are larger than any scratch memory.
    #[error("kernel {kernel}: with {tile} ({rows} × {cols}) the tiles are too large")]
    TileSize {
        /// The kernel.
        kernel: String,
        /// The tile.
        tile: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// This processor lacks the instructions of the level that was asked for.
    #[error("this processor cannot run level {level}; it can run {available}")]
    Level {
        /// What was asked for.
        level: Level,
        /// The best level this processor has.
        available: Level,
    },
    /// A scalar parameter's symbol has no value.
    #[error("kernel {kernel}: no value was given for {symbol}")]
    Unbound {
        /// The kernel.
        kernel: String,
        /// The symbol's letter.
        symbol: char,
    },
    /// The number of buffers is not the number of tensor parameters.
    #[error("kernel {kernel}: expected {expected} tensors, got {got}")]
    TensorCount {
        /// The kernel.
        kernel: String,
        /// Tensor parameters of the kernel.
        expected: usize,
        /// Buffers given.
        got: usize,
    },
    /// The same bytes are bound to two parameters that do not both read them, nor both write them as the same type.
    #[error("kernel {kernel}: {first} and {second} are bound to the same bytes, which one of them writes")]
    Alias {
        /// The kernel.
        kernel: String,
        /// A parameter.
        first: String,
        /// A later parameter.
        second: String,
    },
    /// Another launch is writing the buffer, or reading a buffer that this launch would write.
    #[error("kernel {kernel}: the buffer bound to {tensor} is in use by another launch")]
    Busy {
        /// The kernel.
        kernel: String,
        /// The parameter.
        tensor: String,
    },
    /// An axis of the grid is negative, or the grid has too many blocks to count.
    #[error("kernel {kernel}: the grid {grid:?} is not a number of blocks")]
    Grid {
        /// The kernel.
        kernel: String,
        /// Blocks along x, y and z.
        grid: [i64; 3],
    },
    /// An element outside a buffer.
    #[error("kernel {kernel}: element {index} of {tensor} is outside its {len} elements")]
    OutOfBounds {
        /// The kernel.
        kernel: String,
        /// The parameter.
        tensor: String,
        /// Element index.
        index: i64,
        /// Elements in the buffer that is bound to it.
        len: usize,
    },
    /// A view's first element breaks the view's promise of alignment.
    #[error("kernel {kernel}: element {index} of {tensor} starts a row, but is not a multiple of {align}")]
    Misaligned {
        /// The kernel.
        kernel: String,
        /// The parameter.
        tensor: String,
        /// Element index.
        index: i64,
        /// The promised multiple.
        align: usize,
    },
    /// An entry of a block table that is needed names no page.
    #[error("kernel {kernel}: entry {entry} of {table} is {page}, which is no page")]
    Page {
        /// The kernel.
        kernel: String,
        /// The block table's parameter.
        table: String,
        /// Index of the entry.
        entry: i64,
        /// What it holds.
        page: i64,
    },
    /// A gemm that uses columns of a tile that it does not have.
    #[error("kernel {kernel}: a gemm uses {depth} columns from column {start} on of a tile of {cols}")]
    Columns {
        /// The kernel.
        kernel: String,
        /// The first.
        start: i64,
        /// How many.
        depth: usize,
        /// Columns of the tile.
        cols: usize,
    },
    /// An integer division or remainder by zero.
    #[error("kernel {kernel}: division by zero")]
    DivideByZero {
        /// The kernel.
        kernel: String,
    },
    /// An integer that does not fit 64 bits.
    #[error("kernel {kernel}: integer overflow")]
    Overflow {
        /// The kernel.
        kernel: String,
    },
    /// A part that reaches past a buffer's end, or does not start at a cache line.
    #[error("{bytes} bytes from {offset} on are no part of a buffer of {buffer} bytes: parts start at multiples of 64")]
    Part {
        /// The part's first byte.
        offset: usize,
        /// Its bytes.
        bytes: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// A host copy that reaches past a buffer's end.
    #[error("bytes {offset}..{offset}+{len} are outside a buffer of {buffer} bytes")]
    HostRange {
        /// First byte.
        offset: usize,
        /// Bytes to copy.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
}

/// A failure inside a block: small and without names, which [`CpuError`] adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    DivideByZero,
    Overflow,
    OutOfBounds { tensor: usize, index: i64 },
    Misaligned { tensor: usize, index: i64, align: usize },
    Page { table: usize, entry: i64, page: i64 },
    Columns { start: i64, depth: usize, cols: usize },
}
