//! Attention whose values, and most of whose keys, are each head's own.

use crate::graph::ValueId;
use std::ops::Range;

/// The keys that a query meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// \[B, S, H, x\]: each head has its own.
    PerHead(ValueId),
    /// x columns of the cached rows, which all heads share.
    Cached {
        /// \[N, page_size, row width\].
        cache: ValueId,
        /// \[B, P\].
        block_table: ValueId,
        /// Which.
        columns: Range<usize>,
    },
}

/// A term of the scores: a query and the keys it is multiplied with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreTerm {
    /// \[B, T, H, x\].
    pub query: ValueId,
    /// As wide.
    pub keys: Keys,
}

/// Causal attention over every cached token, a head at a time: what a long prefill is before absorption.
///
/// `output[b, t, h, :]` = softmax over the visible tokens s of `scale · Σ terms query · key`, times `values[b, s, h, :]`.
/// Token t sees the keys before kv_len - q_len + t + 1; rows without visible keys and rows from q_len on are zeros. Rows of
/// keys and values from kv_len on are not read.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefillRegion {
    /// What is summed; at least one.
    pub terms: Vec<ScoreTerm>,
    /// \[B, S, H, v\].
    pub values: ValueId,
    /// \[B\].
    pub q_len: ValueId,
    /// \[B\].
    pub kv_len: ValueId,
    /// Softmax scale.
    pub scale: f64,
    /// \[B, T, H, v\].
    pub output: ValueId,
}

impl PrefillRegion {
    /// The values that the kernel reads.
    pub fn reads(&self) -> Vec<ValueId> {
        let of_term = |term: &ScoreTerm| match term.keys {
            Keys::PerHead(keys) => vec![term.query, keys],
            Keys::Cached { cache, block_table, .. } => vec![term.query, cache, block_table],
        };
        let terms = self.terms.iter().flat_map(of_term);
        terms.chain([self.values, self.q_len, self.kv_len]).collect()
    }
}
