//! acc += a · b on bf16 tiles, in f32: products of pairs (AVX-512) or of tiles (AMX).
//!
//! Both instructions take one operand as it lies, rows of pairs along k, and want the other packed: [`Packed`] has a word, a
//! pair along k, for each column, sixteen columns side by side. What is packed is b, except that AMX takes the rows of
//! b \[n, k\] as they are, packs a, and makes accᵀ, so that rows which are used once are not packed.
//!
//! Operands lie in rows that are readable, and finite or zero, up to a whole [`K_STEP`]; a is readable up to whole
//! [`ROWS`]; acc is writable up to whole ROWS and columns of [`ROWS`], where it becomes anything.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod pack;

use mlafuse_codegen::tile::BLayout;

use super::{Acc, Sizes};
use crate::level::Level;

/// Elements of k that one tile has.
pub(crate) const K_STEP: usize = 32;
/// Rows of a tile, and columns that are packed together.
pub(crate) const ROWS: usize = 16;

/// A matrix of bf16 bits, and how far apart its rows are.
#[derive(Clone, Copy)]
pub(crate) struct Halves<'a> {
    pub(crate) data: &'a [u16],
    pub(crate) stride: usize,
}

/// The operand that is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// Which operand `level` packs.
pub(crate) fn packed_side(level: Level, layout: BLayout) -> Side {
    match (level, layout) {
        (Level::Amx, BLayout::Nk) => Side::A,
        _ => Side::B,
    }
}

/// Words that packing `columns` columns of `k` elements takes.
pub(crate) fn packed_len(columns: usize, k: usize) -> usize {
    columns.next_multiple_of(ROWS) * k.next_multiple_of(K_STEP) / 2
}

/// A packed operand: tile c, pair p, column j is word `(c * pairs + p) * ROWS + j`.
#[derive(Clone, Copy)]
struct Packed<'a> {
    words: &'a [u32],
    /// Pairs along k, whole K_STEPs; those beyond k are zero.
    pairs: usize,
}

/// Packs the operand that [`packed_side`] names into `words`, which holds [`packed_len`] of it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pack(level: Level, sizes: Sizes, a: Halves<'_>, b: Halves<'_>, layout: BLayout, words: &mut [u32]) {
    let Sizes { m, n, k } = sizes;
    match (packed_side(level, layout), layout) {
        (Side::A, _) => pack::rows(a, m, k, words),
        (Side::B, BLayout::Nk) => pack::rows(b, n, k, words),
        (Side::B, BLayout::Kn) => pack::columns(b, n, k, words),
    }
}

/// acc += a · b, of which one operand has been packed into `words` for the same sizes.
#[cfg(target_arch = "x86_64")]
pub(crate) fn gemm(
    level: Level,
    sizes: Sizes,
    acc: Acc<'_>,
    a: Halves<'_>,
    b: Halves<'_>,
    layout: BLayout,
    words: &[u32],
) {
    let Sizes { m, n, k } = sizes;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let packed = Packed {
        words,
        pairs: k.next_multiple_of(K_STEP) / 2,
    };
    match (level, layout) {
        (Level::Amx, BLayout::Nk) => amx::transposed(sizes, acc, b, packed),
        (Level::Amx, BLayout::Kn) => amx::straight(sizes, acc, a, packed),
        _ => dot::gemm(sizes, acc, a, packed),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
