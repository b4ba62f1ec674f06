//! Into how many parts attention splits the cached tokens.

use mlafuse_ir::size::{Dims, Symbol};

/// Cached tokens that are worth a split of their own.
const TOKENS_PER_SPLIT: usize = 128;
/// Most splits: each adds a partial result that the combine reads.
const MOST_SPLITS: usize = 16;
/// New tokens of a sequence from which on there are blocks enough without splitting.
const LONG: usize = 9;

/// By the longest sequence alone: neither the number of threads nor that of SMs may change a result.
pub(crate) fn by_length(dims: &Dims) -> usize {
    match (dims.get(Symbol::S), dims.get(Symbol::T)) {
        (Some(cached), Some(new)) if new < LONG => cached.div_ceil(TOKENS_PER_SPLIT).clamp(1, MOST_SPLITS),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_caches_are_split_and_long_prefills_are_not() {
        let dims = |new, cached| Dims::new().with(Symbol::T, new).with(Symbol::S, cached);
        let splits =
            [(1, 0), (1, 129), (8, 1000), (1, 1 << 20), (9, 1000)].map(|(new, cached)| by_length(&dims(new, cached)));
        assert_eq!(splits, [1, 2, 8, 16, 1]);
        assert_eq!(by_length(&Dims::new()), 1);
    }
}
