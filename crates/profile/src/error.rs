//! What can go wrong.

use mlafuse_ir::plan::SizeError;
use mlafuse_runtime::RuntimeError;
use mlafuse_tensor::TensorError;

/// Why a plan cannot be profiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A kernel cannot be built or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An input cannot be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A buffer's size is unknown.
    #[error(transparent)]
    Buffer(#[from] SizeError),
    /// A size depends on a symbol that has no value, or is beyond 64 bits.
    #[error("the size of `{what}` ({size}) has no value that fits 64 bits")]
    Size {
        /// Whose size.
        what: String,
        /// The size in symbols.
        size: String,
    },
    /// More memory than is free.
    #[error("both plans need {needed} MiB of memory, and {free} MiB are free: take fewer or shorter sequences")]
    Memory {
        /// MiB that the plans' buffers take.
        needed: usize,
        /// MiB that are free.
        free: usize,
    },
    /// An integer input of which it is not known what it must hold.
    #[error("input `{name}`: random integers are known for block_table, q_len and kv_len only")]
    UnknownInput {
        /// The input.
        name: String,
    },
}
