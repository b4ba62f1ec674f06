//! What can go wrong with a layer.

use mlafuse_ir::build::BuildError;
use mlafuse_ir::interp::InterpError;
use mlafuse_ir::plan::PlanError;
use mlafuse_ir::rewrite::RewriteError;
use mlafuse_ir::rope::RopeTableTooLarge;
use mlafuse_runtime::RuntimeError;
use mlafuse_tensor::{DType, TensorError};

/// An error of this crate. Messages name the tensor, field or argument, what was found and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor or file that cannot be read, or has the wrong shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A weight that was not given.
    #[error("weight {name} is missing; expected shape {shape:?}")]
    MissingWeight {
        /// The weight, by its name in the checkpoint after the layer's prefix.
        name: String,
        /// The shape it must have.
        shape: Vec<usize>,
    },
    /// A weight of another shape.
    #[error("weight {name}: expected shape {expected:?}, got {found:?}")]
    WeightShape {
        /// The weight.
        name: String,
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A weight of integers.
    #[error("weight {name} has element type {found}; allowed: f64, f32, f16, bf16")]
    WeightType {
        /// The weight.
        name: String,
        /// Its type.
        found: DType,
    },
    /// A layer that is stored in a type no kernel computes in.
    #[error("dtype {found}: allowed: bf16, f16, f32")]
    ComputeType {
        /// The type asked for.
        found: DType,
    },
    /// Pages without tokens, or too many of them.
    #[error("page size {found}: allowed: 1 to {largest}")]
    PageSize {
        /// Tokens a page, as asked for.
        found: usize,
        /// The most.
        largest: usize,
    },
    /// An argument of the wrong shape.
    #[error("{argument}: expected shape {expected}, got {found:?}")]
    Shape {
        /// The argument.
        argument: &'static str,
        /// The shape in names and numbers.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// An argument that is needed and was not given.
    #[error("{argument}: expected shape {expected:?}, got none")]
    Absent {
        /// The argument.
        argument: &'static str,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// An argument of the wrong element type.
    #[error("{argument} has element type {found}; allowed: {allowed}")]
    Type {
        /// The argument.
        argument: &'static str,
        /// The types it may have.
        allowed: String,
        /// The type it has.
        found: DType,
    },
    /// A length that is not allowed.
    #[error("{argument}, sequence {sequence}: {found}; allowed: {allowed}")]
    Length {
        /// The argument.
        argument: &'static str,
        /// The sequence, from 0.
        sequence: usize,
        /// The length.
        found: usize,
        /// The lengths that are allowed.
        allowed: String,
    },
    /// A list with another number of entries than there are sequences.
    #[error("{argument}: expected {expected} entries, one a sequence, got {found}")]
    Count {
        /// The list.
        argument: &'static str,
        /// Sequences.
        expected: usize,
        /// Entries.
        found: usize,
    },
    /// A sequence the cache does not have.
    #[error("sequence {found}: the cache has {sequences}, from 0")]
    Sequence {
        /// The number asked for.
        found: usize,
        /// Sequences of the cache.
        sequences: usize,
    },
    /// A sequence that holds tokens where an empty one is needed.
    #[error("sequence {sequence} holds {len} tokens; expected an empty one")]
    Occupied {
        /// The sequence, from 0.
        sequence: usize,
        /// Its tokens.
        len: usize,
    },
    /// A block-table entry that is needed and names no page.
    #[error("block_table, sequence {sequence}, entry {entry}: page {found}; allowed: 0 to below {pages}")]
    Page {
        /// The sequence, from 0.
        sequence: usize,
        /// The entry, from 0.
        entry: usize,
        /// What it holds.
        found: i32,
        /// Pages of the cache.
        pages: usize,
    },
    /// The cache has no room for the new tokens.
    #[error("the cache is full: {needed} more pages of {page_size} tokens are needed, {free} of {pages} are free")]
    CacheFull {
        /// Pages that the new tokens need.
        needed: usize,
        /// Pages that no sequence has.
        free: usize,
        /// Pages of the cache.
        pages: usize,
        /// Tokens a page.
        page_size: usize,
    },
    /// More pages than a block table can number.
    #[error(
        "a cache of {sequences} sequences of {max_tokens} tokens needs too many pages of {page_size} tokens; at most {largest} pages are possible"
    )]
    CacheSize {
        /// Sequences asked for.
        sequences: usize,
        /// Tokens for each.
        max_tokens: usize,
        /// Tokens a page.
        page_size: usize,
        /// The most pages.
        largest: usize,
    },
    /// A cache that was made for another layer.
    #[error("the cache does not suit this layer: its {what} is {found}, expected {expected}")]
    CacheMismatch {
        /// What differs.
        what: &'static str,
        /// What the layer has.
        expected: String,
        /// What the cache has.
        found: String,
    },
    /// A layer that cannot be written as a graph.
    #[error("the layer cannot be built: {0}")]
    Graph(#[from] BuildError),
    /// A graph that cannot be rewritten.
    #[error("the layer cannot be rewritten: {0}")]
    Rewrite(#[from] RewriteError),
    /// A graph that cannot be planned.
    #[error("the layer cannot be planned: {0}")]
    Plan(#[from] PlanError),
    /// Attention that no one kernel can compute.
    #[error("attention is not fused: {notes}")]
    NotFused {
        /// What the planner says.
        notes: String,
    },
    /// A result that the plan does not make.
    #[error("the plan has no output {name}")]
    MissingOutput {
        /// The output.
        name: &'static str,
    },
    /// The interpreter failed.
    #[error("reference: {0}")]
    Interp(#[from] InterpError),
    /// Rope tables that are too long.
    #[error(transparent)]
    Rope(#[from] RopeTableTooLarge),
    /// The device failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
