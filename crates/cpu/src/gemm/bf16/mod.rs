//! acc += a · b on bf16 tiles, in f32: products of pairs (AVX-512) or of tiles (AMX).
//!
//! Both instructions take one operand as it lies, rows of pairs along k, and want the other packed: [`Packed`] has a word, a
//! pair along k, for each column, sixteen columns side by side. What is packed is b, except that AMX can take the rows of
//! b \[n, k\] as they are, pack a, and make accᵀ, so that rows which are used once are not packed. By AMX an element's bits
//! are the same either way.
//!
//! Operands lie in rows that are readable, and finite or zero, up to a whole [`K_STEP`]; a is readable up to whole
//! [`ROWS`]; acc is writable up to whole ROWS and columns of [`ROWS`], where it becomes anything.

mod ahead;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod thin;

pub(crate) use ahead::{Ahead, Fetch, LINE, prefetch};
#[cfg(target_arch = "x86_64")]
use pack::Columns;
#[cfg(target_arch = "x86_64")]
pub(super) use pack::rows as pack_rows;
#[cfg(target_arch = "x86_64")]
pub(crate) use pack::{pair_order, transposed};

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

/// The rows of b, in groups of [`ROWS`]: each lies in the tile or in device memory.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) tile: Halves<'a>,
    pub(crate) lent: Option<Lent<'a>>,
}

/// Rows that were left in device memory.
#[derive(Clone, Copy)]
pub(crate) struct Lent<'a> {
    pub(crate) memory: Halves<'a>,
    /// By group: where its first row begins, if it is there.
    pub(crate) groups: &'a [Option<usize>],
}

impl<'a> Operand<'a> {
    /// The rows from row `group` · ROWS on; so many of them lie one stride apart.
    fn group(&self, group: usize) -> Halves<'a> {
        if let Some(Lent { memory, groups }) = self.lent
            && let Some(&Some(start)) = groups.get(group)
        {
            return Halves {
                data: &memory.data[start..],
                ..memory
            };
        }
        let Halves { data, stride } = self.tile;
        Halves {
            data: &data[group * ROWS * stride..],
            stride,
        }
    }
}

/// The operand that is packed before the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
    /// Columns of b are packed on the way.
    Neither,
}

/// Rows of a up to which AMX packs them rather than what they are multiplied with.
const FEW: usize = 32;

/// Which operand `level` packs, of a product with `m` rows: that which `stays`, as the next products with the same accumulator
/// have it too, else the one with less to pack.
pub(crate) fn packed_side(level: Level, layout: BLayout, m: usize, stays: Option<Side>) -> Side {
    match (level, layout) {
        (Level::Amx, BLayout::Nk) if stays == Some(Side::A) || m <= FEW => Side::A,
        (Level::Amx, BLayout::Kn) if stays != Some(Side::B) && m <= ROWS => Side::Neither,
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

impl Packed<'_> {
    /// Its K_STEPs.
    fn steps(&self) -> usize {
        2 * self.pairs / K_STEP
    }
}

/// Packs an operand into `words`, which holds [`packed_len`] of it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pack(side: Side, sizes: Sizes, a: Halves<'_>, b: Operand<'_>, layout: BLayout, words: &mut [u32]) {
    let Sizes { m, n, k } = sizes;
    match (side, layout) {
        (Side::A, _) => pack::rows(Operand { tile: a, lent: None }, m, k, words),
        (Side::B, BLayout::Nk) => pack::rows(b, n, k, words),
        (Side::B, BLayout::Kn) => pack::columns(b, n, k, words),
        (Side::Neither, _) => {}
    }
}

/// acc \[m, n\], and how a product goes to it.
pub(crate) struct Sums<'a> {
    pub(crate) acc: Acc<'a>,
    /// It lies as accᵀ \[n, m\]: of a product by AMX whose a is packed.
    pub(crate) transposed: bool,
    /// It is zero, whatever it holds: of a product by AMX that is not transposed on its way there.
    pub(crate) fresh: bool,
    /// What else is packed meanwhile, where it is transposed.
    pub(crate) beside: Option<Beside<'a>>,
    /// What AMX's products fetch meanwhile.
    pub(crate) fetch: Fetch<'a>,
}

/// Columns of b's rows that the next product wants packed: b \[k, n\] of it.
pub(crate) struct Beside<'a> {
    pub(crate) b: Operand<'a>,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) words: &'a mut [u32],
}

/// acc += a · b, of which `side` has been packed into `words` for the same sizes.
#[cfg(target_arch = "x86_64")]
pub(crate) fn gemm(
    level: Level,
    sizes: Sizes,
    sums: Sums<'_>,
    a: Halves<'_>,
    b: Operand<'_>,
    side: Side,
    words: &[u32],
) {
    let Sizes { m, n, k } = sizes;
    let Sums {
        acc,
        transposed,
        fresh,
        beside,
        fetch,
    } = sums;
    let beside = beside.map(|next| Columns::new(next.b, next.n, next.k, next.words));
    if m == 0 || n == 0 || k == 0 {
        beside.into_iter().for_each(Columns::finish);
        return;
    }
    let packed = Packed {
        words,
        pairs: k.next_multiple_of(K_STEP) / 2,
    };
    match (level, side) {
        (Level::Amx, Side::A) if transposed => amx::turned(sizes, acc, b, packed, fresh, beside, fetch),
        (Level::Amx, Side::A) => amx::transposed(sizes, acc, b, packed),
        (Level::Amx, Side::B) => amx::straight(sizes, acc, a, packed, fresh, fetch),
        (Level::Amx, Side::Neither) => thin::gemm(sizes, acc, a, b, fresh, fetch),
        _ => dot::gemm(sizes, acc, a, packed),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
