//! acc += a · b on f32 tiles with AMX, which multiplies bf16s alone: each f32 is the sum of three of them ([`pieces`]), high, middle
//! and low. Of the nine products of pieces six are added, in f32; the others are below 2^-24 of the whole product, and of
//! either sign. AMX rounds each of the six, summed over a K_STEP, once on its way to acc, where multiply-adds round 32 times.
//!
//! In each K_STEP all six are done, in one order whatever the rows and columns, so that an element's bits depend neither on how
//! many there are nor on how the depth is cut.
//!
//! AMX takes pieces, products and sums below 2^-126 as zeros. A product that is too large by a factor of 256 or more may become
//! NaN instead of infinite: its pieces are infinite, of either sign.
//!
//! An operand lies in three planes of halves, laid as bf16s are and packed as they are ([`super::bf16`]), or pair by pair
//! ([`Pairs`]).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod pieces;

#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::Pairs;
#[cfg(target_arch = "x86_64")]
pub(crate) use pieces::{joined, pieces, row};

use mlafuse_codegen::tile::{BLayout, Tile};

use super::bf16::{self, Halves, K_STEP, Operand, ROWS, Side};
use super::{Acc, Sizes};

/// bf16s that an f32 is the sum of.
pub(crate) const PIECES: usize = 3;

/// Rows and columns of acc from which on this is faster than multiply-adds: splitting an element takes as long as some of its
/// products.
const FEWEST: [usize; 2] = [32, 128];

/// Whether products that are added to `acc` are made so.
pub(crate) fn pays(acc: &Tile) -> bool {
    acc.rows >= FEWEST[0] && acc.cols >= FEWEST[1]
}

/// The planes of an operand.
pub(crate) type Planes<'a> = [Halves<'a>; PIECES];

/// Words that packing `columns` columns of `k` elements takes.
pub(crate) fn packed_len(layout: BLayout, side: Side, columns: usize, k: usize) -> usize {
    match (side, layout) {
        (Side::B | Side::Neither, BLayout::Kn) => Pairs::len(columns, k),
        _ => PIECES * bf16::packed_len(columns, k),
    }
}

/// Packs an operand (b unless it is a) into `words`, which holds [`packed_len`] of it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pack(side: Side, sizes: Sizes, a: Planes<'_>, b: Planes<'_>, layout: BLayout, words: &mut [u32]) {
    let Sizes { m, n, k } = sizes;
    let (planes, columns) = match (side, layout) {
        (Side::A, _) => (a, m),
        (Side::B | Side::Neither, BLayout::Kn) => return Pairs::new(words, [0, n], k).pack_all(b),
        (Side::B | Side::Neither, BLayout::Nk) => (b, n),
    };
    let len = bf16::packed_len(columns, k);
    for (words, tile) in words.chunks_exact_mut(len.max(1)).zip(planes) {
        bf16::pack_rows(Operand { tile, lent: None }, columns, k, words);
    }
}

/// acc, and how a product goes to it.
pub(crate) struct Sums<'a> {
    /// \[m, n\] where b is packed, else accᵀ \[n, m\].
    pub(crate) acc: Acc<'a>,
    /// It is zero, whatever it holds.
    pub(crate) fresh: bool,
}

/// acc += a · b, of which `side` has been packed into `words` for the same sizes and layout.
#[cfg(target_arch = "x86_64")]
pub(crate) fn gemm(
    sizes: Sizes,
    sums: Sums<'_>,
    a: Planes<'_>,
    b: Planes<'_>,
    layout: BLayout,
    side: Side,
    words: &[u32],
) {
    let Sizes { m, n, k } = sizes;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let steps = k.div_ceil(K_STEP);
    let (x, sums_shape) = match side {
        Side::A => (b, [n, m]),
        Side::B | Side::Neither => (a, [m, n]),
    };
    let apart = match (side, layout) {
        (Side::B | Side::Neither, BLayout::Kn) => Pairs::apart(k),
        _ => steps * ROWS * ROWS,
    };
    amx::product(sums_shape, sums, x, Packed { words, apart, steps });
}

/// The packed operand, one plane after another.
#[derive(Clone, Copy)]
struct Packed<'a> {
    words: &'a [u32],
    /// Words from one tile of columns to the next.
    apart: usize,
    /// K_STEPs.
    steps: usize,
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
