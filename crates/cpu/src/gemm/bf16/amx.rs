//! Products of bf16 tiles with AMX.
//!
//! Tile registers 0 to 3 are sums, 4 and 5 rows of one operand as it lies, 6 and 7 packed columns of the other. The
//! compiler never uses them, so that inline assembly has them to itself; each thread configures them once.
//!
//! A block of sums is up to four tiles. It is stored, and the next loaded, between the instructions of the next block's
//! first step, so that these do not wait for the last of the block before.

mod beside;
mod setup;
mod shape;
mod squares;
mod strips;
pub(in crate::gemm) mod tile;

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use beside::Beside;
pub(crate) use setup::{configure, is_available};
use shape::Shape;

use super::super::{Acc, Sizes};
use super::pack::{Columns, transposed as transposed_tile};
use super::{Fetch, Halves, K_STEP, Operand, Packed, ROWS};

/// acc \[m, n\] = rows of a · packed b, plus what it was unless `fresh`.
pub(super) fn straight<'a>(sizes: Sizes, acc: Acc<'a>, a: Halves<'a>, b: Packed<'a>, fresh: bool, fetch: Fetch<'a>) {
    let Sizes { m, n, .. } = sizes;
    product([m, n], acc, Operand { tile: a, lent: None }, b, fresh, None, fetch);
}

/// accᵀ \[n, m\] = rows of b · packed a, plus what it was unless `fresh`.
/// Meanwhile `beside` is packed.
pub(super) fn turned<'a>(
    sizes: Sizes,
    acc: Acc<'a>,
    b: Operand<'a>,
    a: Packed<'a>,
    fresh: bool,
    beside: Option<Columns<'a>>,
    fetch: Fetch<'a>,
) {
    let Sizes { m, n, .. } = sizes;
    product([n, m], acc, b, a, fresh, beside, fetch);
}

/// acc \[m, n\] += (rows of b · packed a)ᵀ.
pub(super) fn transposed(sizes: Sizes, acc: Acc<'_>, b: Operand<'_>, a: Packed<'_>) {
    let Sizes { m, n, .. } = sizes;
    let (rows, columns) = (n.div_ceil(ROWS), m.div_ceil(ROWS));
    check(b, rows, a, columns);
    assert!(acc.data.len() >= (m - 1) * acc.stride + rows * ROWS);
    configure();
    // SAFETY: AMX is configured and implies AVX-512; b, a and acc have the tiles.
    unsafe { all_transposed(acc, m, b, a, [rows, columns]) };
}

/// [`transposed`], by blocks of two by two that are transposed on their way to acc.
///
/// # Safety
/// AMX is configured; there are such tiles of rows and columns, and acc has m rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn all_transposed(acc: Acc<'_>, m: usize, b: Operand<'_>, a: Packed<'_>, [rows, columns]: [usize; 2]) {
    let mut sums = [0.0f32; 4 * ROWS * ROWS];
    // SAFETY: the caller's promise; `sums` has four tiles.
    unsafe {
        let mut nothing = Beside::nothing();
        for column in (0..columns).step_by(2) {
            for row in (0..rows).step_by(2) {
                let to = Acc {
                    data: &mut sums,
                    stride: 2 * ROWS,
                };
                let mut run = Run::new(b, a, to, true);
                let places = [(0, 0), (0, 1), (1, 0), (1, 1)];
                let there = || {
                    places
                        .into_iter()
                        .filter(|&(i, j)| row + i < rows && column + j < columns)
                };
                match there().count() {
                    4 => {
                        let (x, p) = (run.rows(row), run.columns(column));
                        run.square(x, p, [0, 0], 0..a.steps(), &mut nothing);
                    }
                    _ => there().for_each(|(i, j)| run.one([row + i, column + j], [i, j], &mut nothing)),
                }
                run.end();
                for (i, j) in there() {
                    let first = (column + j) * ROWS;
                    let to = &mut acc.data[first * acc.stride + (row + i) * ROWS..];
                    let from = &sums[i * ROWS * 2 * ROWS + j * ROWS..];
                    add_transposed(from, to, acc.stride, (m - first).min(ROWS));
                }
            }
        }
    }
}

fn check(x: Operand<'_>, rows: usize, p: Packed<'_>, columns: usize) {
    assert!(p.pairs > 0 && (2 * p.pairs).is_multiple_of(K_STEP));
    for group in (0..rows).map(|row| x.group(row)) {
        assert!(group.data.len() >= (ROWS - 1) * group.stride + 2 * p.pairs);
    }
    assert!(p.words.len() >= columns * p.pairs * ROWS);
}

/// The first `rows` rows of `to` += the transpose of a tile whose rows are 2 · ROWS apart.
///
/// # Safety
/// `from` has a whole tile, `to` so many rows of ROWS.
#[target_feature(enable = "avx512f")]
unsafe fn add_transposed(from: &[f32], to: &mut [f32], stride: usize, rows: usize) {
    let mut tile = [_mm512_setzero_si512(); ROWS];
    for (i, row) in tile.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.as_ptr().add(i * 2 * ROWS).cast()) };
    }
    for (i, row) in transposed_tile(tile).into_iter().enumerate().take(rows) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = to.as_mut_ptr().add(i * stride);
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_castsi512_ps(row)));
        }
    }
}

/// Steps of k that a block takes at most: two tiles of rows over so many stay in the first-level cache while the columns pass
/// by, which are loaded with the hint (`t1`) to leave it alone.
const STEPS: usize = 18;
/// Bytes from a step's tile of rows to the next one's.
const X_STEP: usize = 2 * K_STEP;
/// Bytes of a row of a packed tile, and of the whole.
pub(super) const PACKED_LINE: usize = 4 * ROWS;
const PACKED_TILE: usize = ROWS * PACKED_LINE;

/// sums \[rows, columns\] = x · p, plus what they were unless `fresh`; meanwhile `pack` is packed and `fetch` fetched.
fn product<'a>(
    [rows, columns]: [usize; 2],
    acc: Acc<'a>,
    x: Operand<'a>,
    p: Packed<'a>,
    fresh: bool,
    pack: Option<Columns<'a>>,
    fetch: Fetch<'a>,
) {
    let tiles = [rows.div_ceil(ROWS), columns.div_ceil(ROWS)];
    let [rows, columns] = tiles;
    check(x, rows, p, columns);
    assert!(acc.data.len() >= (rows * ROWS - 1) * acc.stride + columns * ROWS);
    configure();
    // SAFETY: AMX is configured and implies AVX-512; x, p and the sums have the tiles.
    unsafe {
        let of_block = p.steps().div_ceil(p.steps().div_ceil(STEPS));
        let mut beside = Beside::new(pack, fetch, tiles, [p.steps(), of_block]);
        Run::new(x, p, acc, fresh).all(tiles, of_block, &mut beside);
        beside.finish();
    }
}

/// One product's blocks of sums, one after another.
struct Run<'a> {
    x: Operand<'a>,
    p: Packed<'a>,
    sums: *mut f32,
    stride: usize,
    fresh: bool,
    /// The shape of the block that the registers hold, and where its first tile goes.
    held: Option<(Shape, *mut f32)>,
    borrow: PhantomData<&'a mut [f32]>,
}

/// How a block begins: what the registers hold of another is put away, and its own sums are loaded, or begin at zero.
struct Begin {
    sums: [*mut f32; 4],
    held: Option<[*mut f32; 4]>,
    fresh: bool,
    /// Bytes between the rows of sums.
    stride: usize,
}

impl Begin {
    /// # Safety
    /// AMX is configured; there are a tile of sums and one for what is held.
    #[inline(always)]
    unsafe fn sum<const I: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(held) = self.held {
                tile::store::<I>(held[I], self.stride);
            }
            match self.fresh {
                true => tile::zero::<I>(),
                false => tile::load::<I>(self.sums[I].cast(), self.stride),
            }
        }
    }

    /// # Safety
    /// As for `sum`.
    #[inline(always)]
    unsafe fn sum_if<const I: usize>(&self, first: bool) {
        if first {
            // SAFETY: the caller's promise.
            unsafe { self.sum::<I>() };
        }
    }
}

impl<'a> Run<'a> {
    /// Of rows of x and columns of p that [`check`] has seen, and sums with room for their tiles.
    fn new(x: Operand<'a>, p: Packed<'a>, sums: Acc<'a>, fresh: bool) -> Run<'a> {
        Run {
            x,
            p,
            sums: sums.data.as_mut_ptr(),
            stride: sums.stride,
            fresh,
            held: None,
            borrow: PhantomData,
        }
    }

    /// The product of so many tiles of rows and columns, in blocks of so many steps.
    ///
    /// # Safety
    /// AMX is configured, and there are such tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn all(&mut self, [rows, columns]: [usize; 2], of_block: usize, beside: &mut Beside<'_>) {
        let steps = self.p.steps();
        let even = [rows, columns].map(|tiles| tiles - tiles % 2);
        // SAFETY: the caller's promise.
        unsafe {
            for row in (0..even[0]).step_by(2) {
                let x = self.rows(row);
                for first in (0..steps).step_by(of_block) {
                    let steps = first..(first + of_block).min(steps);
                    for column in (0..even[1]).step_by(2) {
                        self.square(x, self.columns(column), [row, column], steps.clone(), beside);
                    }
                }
            }
            // The last column and row where their number is odd.
            if even[1] < columns {
                for row in (0..rows).step_by(4) {
                    self.column(row..rows.min(row + 4), even[1], beside);
                }
            }
            if even[0] < rows {
                for column in (0..even[1]).step_by(4) {
                    self.row(even[0], column..even[1].min(column + 4), beside);
                }
            }
            self.end();
        }
    }

    /// The two by two sums from tile `to` (row, column) on += steps of tiles of rows of x and of columns of p. Sums are stored
    /// with the next block, or at the end.
    ///
    /// # Safety
    /// AMX is configured, and there are such steps and sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn square(
        &mut self,
        x: [Halves<'_>; 2],
        p: [*const u32; 2],
        to: [usize; 2],
        steps: Range<usize>,
        beside: &mut Beside<'_>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let begin = self.begin(Shape::TwoByTwo, to, steps.start);
            squares::block(&begin, x, p, steps, beside);
        }
    }

    /// Up to four tiles of sums of one column, with all steps.
    ///
    /// # Safety
    /// As for [`Self::square`].
    unsafe fn column(&mut self, tiles: Range<usize>, column: usize, beside: &mut Beside<'_>) {
        if tiles.len() < 4 {
            // SAFETY: the caller's promise.
            return tiles.for_each(|row| unsafe { self.one([row, column], [row, column], beside) });
        }
        // SAFETY: the caller's promise.
        unsafe {
            let begin = self.begin(Shape::FourByOne, [tiles.start, column], 0);
            let [p] = self.columns(column);
            strips::four_by_one(&begin, self.rows(tiles.start), p, 0..self.p.steps(), beside);
        }
    }

    /// Up to four tiles of sums of one row, with all steps.
    ///
    /// # Safety
    /// As for [`Self::square`].
    unsafe fn row(&mut self, row: usize, tiles: Range<usize>, beside: &mut Beside<'_>) {
        if tiles.len() < 4 {
            // SAFETY: the caller's promise.
            return tiles.for_each(|column| unsafe { self.one([row, column], [row, column], beside) });
        }
        // SAFETY: the caller's promise.
        unsafe {
            let begin = self.begin(Shape::OneByFour, [row, tiles.start], 0);
            let [x] = self.rows(row);
            strips::one_by_four(&begin, x, self.columns(tiles.start), 0..self.p.steps(), beside);
        }
    }

    /// One tile of sums, with all steps.
    ///
    /// # Safety
    /// As for [`Self::square`].
    unsafe fn one(&mut self, [i, j]: [usize; 2], to: [usize; 2], beside: &mut Beside<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            let begin = self.begin(Shape::One, to, 0);
            let ([x], [p]) = (self.rows(i), self.columns(j));
            strips::one(&begin, x, p, 0..self.p.steps(), beside);
        }
    }

    /// Tiles of rows from tile `first` on.
    #[inline]
    fn rows<const N: usize>(&self, first: usize) -> [Halves<'a>; N] {
        std::array::from_fn(|i| self.x.group(first + i))
    }

    /// Tiles of columns from tile `first` on.
    #[inline]
    fn columns<const N: usize>(&self, first: usize) -> [*const u32; N] {
        std::array::from_fn(|j| self.p.words.as_ptr().wrapping_add((first + j) * self.p.pairs * ROWS))
    }

    /// The begin of the block whose sums are at tile `to`, with step `step`; then the registers hold them.
    ///
    /// # Safety
    /// AMX is configured.
    #[inline]
    unsafe fn begin(&mut self, shape: Shape, to: [usize; 2], step: usize) -> Begin {
        if self.held.is_some_and(|(held, _)| held != shape) {
            // SAFETY: the caller's promise.
            unsafe { self.end() };
        }
        let at = self.sums.wrapping_add(to[0] * ROWS * self.stride + to[1] * ROWS);
        let held = self.held.replace((shape, at));
        Begin {
            sums: shape.sums(at, self.stride),
            held: held.map(|(_, held)| shape.sums(held, self.stride)),
            fresh: self.fresh && step == 0,
            stride: 4 * self.stride,
        }
    }

    /// Stores what the registers hold.
    ///
    /// # Safety
    /// AMX is configured.
    unsafe fn end(&mut self) {
        let Some((held, at)) = self.held.take() else { return };
        let (stride, [c0, c1, c2, c3]) = (4 * self.stride, held.sums(at, self.stride));
        // SAFETY: the caller's promise; the sums have the tiles of the last block.
        unsafe {
            tile::store::<0>(c0, stride);
            if held != Shape::One {
                tile::store::<1>(c1, stride);
                tile::store::<2>(c2, stride);
                tile::store::<3>(c3, stride);
            }
        }
    }
}
