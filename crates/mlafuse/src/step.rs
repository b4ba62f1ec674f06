//! What one step is given and gives.

use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_runtime::KernelTime;
use mlafuse_tensor::{DType, HostTensor};

use crate::cache::{Lists, PagedKvCache};
use crate::plan::launch_dims;
use crate::{Error, MlaLayer};

/// The result of [`MlaLayer::step`].
#[derive(Clone, Debug)]
pub struct Step {
    /// \[B, T, d_model\], f32, or f64 from the f64 reference; zeros in the rows of tokens that are not there.
    pub out: HostTensor,
    /// Each kernel launch, in order; none from the reference.
    pub kernels: Vec<KernelTime>,
    /// What was not fused, and why.
    pub notes: Vec<String>,
}

/// A step's arguments, checked, with the cache's pages.
pub(crate) struct Batch<'a> {
    /// \[B, T, d_model\].
    pub hidden: &'a HostTensor,
    /// Lengths and pages.
    pub lists: &'a Lists,
    /// P.
    pub table_width: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

impl Batch<'_> {
    /// Cached tokens of a sequence for which the block table has room.
    pub fn room(&self, page_size: usize) -> usize {
        self.table_width.saturating_mul(page_size)
    }

    /// The symbols' values, for rope tables of `positions` rows.
    pub fn dims(&self, cache: &PagedKvCache, positions: usize) -> Dims {
        let (sequences, tokens) = (self.lists.q_len.len(), self.hidden.shape().get(1).copied().unwrap_or(0));
        launch_dims(sequences, tokens, self.longest, cache.page_size())
            .with(Symbol::N, cache.pages().0)
            .with(Symbol::P, self.table_width)
            .with(Symbol::L, positions)
            .with_cache_strides(cache.row_stride(), cache.page_size())
    }
}

/// Checks a step's arguments and makes `lens` the lengths that the sequences will have.
pub(crate) fn check(
    layer: &MlaLayer,
    cache: &PagedKvCache,
    hidden: &HostTensor,
    new_tokens: &[usize],
    lens: &mut Vec<usize>,
) -> Result<(), Error> {
    layer.check_cache(cache)?;
    let (sequences, d_model) = (cache.sequences(), layer.config().d_model);
    let &[found_sequences, tokens, width] = hidden.shape() else {
        return Err(hidden_shape(sequences, d_model, hidden));
    };
    if (found_sequences, width) != (sequences, d_model) {
        return Err(hidden_shape(sequences, d_model, hidden));
    }
    if !hidden.dtype().is_float() {
        let allowed = "f64, f32, f16, bf16".to_string();
        return Err(Error::Type {
            argument: "hidden",
            allowed,
            found: hidden.dtype(),
        });
    }
    cache.grown("new_tokens", new_tokens, layer.config().max_position, lens)?;
    match new_tokens.iter().enumerate().find(|&(_, &new)| new > tokens) {
        Some((sequence, &found)) => {
            let allowed = format!("at most {tokens}, the tokens of hidden");
            Err(Error::Length {
                argument: "new_tokens",
                sequence,
                found,
                allowed,
            })
        }
        None => Ok(()),
    }
}

/// Checks that `out` can hold the result of a step.
pub(crate) fn check_out(out: &HostTensor, hidden: &HostTensor, dtype: DType) -> Result<(), Error> {
    if out.shape() != hidden.shape() {
        return Err(Error::Shape {
            argument: "out",
            expected: format!("{:?}, that of hidden", hidden.shape()),
            found: out.shape().to_vec(),
        });
    }
    if out.dtype() != dtype {
        return Err(Error::Type {
            argument: "out",
            allowed: dtype.to_string(),
            found: out.dtype(),
        });
    }
    Ok(())
}

fn hidden_shape(sequences: usize, d_model: usize, hidden: &HostTensor) -> Error {
    let expected = format!("[{sequences}, T, {d_model}] (sequences, tokens, d_model)");
    Error::Shape {
        argument: "hidden",
        expected,
        found: hidden.shape().to_vec(),
    }
}

/// i32 of lengths that [`check`] has seen to fit.
pub(crate) fn to_i32(lens: &[usize]) -> impl Iterator<Item = i32> + '_ {
    lens.iter().map(|&len| i32::try_from(len).unwrap_or(i32::MAX))
}

/// Zeros in the rows \[b, t ≥ new_tokens\[b\], :\].
pub(crate) fn zero_padding(out: &mut HostTensor, new_tokens: &[usize]) {
    let &[_, tokens, width] = out.shape() else { return };
    let (row, sequence) = (
        width * out.dtype().size_bytes(),
        tokens * width * out.dtype().size_bytes(),
    );
    if sequence == 0 || new_tokens.iter().all(|&new| new == tokens) {
        return;
    }
    for (rows, &new) in out.bytes_mut().chunks_exact_mut(sequence).zip(new_tokens) {
        rows.iter_mut().skip(new * row).for_each(|byte| *byte = 0);
    }
}
