//! Packing: words of pairs along k, sixteen columns side by side.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Halves, K_STEP, Operand, ROWS};

/// Words of a piece.
const PIECE: usize = ROWS * ROWS / 2;

/// Row j of `from` \[columns, k\] becomes column j.
pub(in crate::gemm) fn rows(from: Operand<'_>, columns: usize, k: usize, words: &mut [u32]) {
    if columns == 0 || k == 0 {
        return;
    }
    check(from, columns, k);
    assert!(words.len() >= super::packed_len(columns, k));
    // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
    unsafe { transpose(from, columns, k, words) }
}

/// Column j of `from` \[k, columns\] stays column j.
pub(super) fn columns(from: Operand<'_>, columns: usize, k: usize, words: &mut [u32]) {
    Columns::new(from, columns, k, words).finish();
}

/// Columns of rows, to be packed in pieces: half a packed tile each, a group of rows in sixteen columns.
pub(super) struct Pieces<'a> {
    from: Operand<'a>,
    columns: usize,
    k: usize,
}

impl<'a> Pieces<'a> {
    /// The columns of `from` \[k, columns\].
    pub(super) fn new(from: Operand<'a>, columns: usize, k: usize) -> Pieces<'a> {
        if columns > 0 && k > 0 {
            check(from, k, columns);
        }
        Pieces { from, columns, k }
    }

    /// Packs a group of rows in some tiles of columns, whose pieces are so many words apart.
    ///
    /// # Safety
    /// There are such a group and tiles, and `to` has the pieces.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn pack(&self, group: usize, tiles: Range<usize>, orders: Orders, to: *mut u32, apart: usize) {
        let rows = self.k.saturating_sub(group * ROWS).min(ROWS);
        let from = match rows {
            0 => Halves { data: &[], stride: 0 },
            _ => self.from.group(group),
        };
        // SAFETY: the group has the rows and columns; the caller's promise.
        unsafe {
            let (mut tile, mut to) = (tiles.start, to);
            while tile < tiles.end {
                let first = tile * ROWS;
                let columns = self.columns - first;
                let count = if rows == ROWS && columns >= 2 * ROWS && tiles.end - tile >= 2 {
                    pair_up(from, first, orders, [to, to.add(apart)]);
                    2
                } else {
                    pair_up_part(from, first, [rows, columns.min(ROWS)], orders, to);
                    1
                };
                tile += count;
                to = to.add(count * apart);
            }
        }
    }
}

/// Packing of columns, piece by piece, beside something else. The pieces of a group of rows come one after another.
pub(super) struct Columns<'a> {
    pieces: Pieces<'a>,
    words: &'a mut [u32],
    /// Groups of rows, whole K_STEPs, and tiles of columns.
    groups: usize,
    tiles: usize,
    /// The next piece.
    group: usize,
    tile: usize,
}

impl<'a> Columns<'a> {
    /// Column j of `from` \[k, columns\] is to be column j of `words`.
    pub(super) fn new(from: Operand<'a>, columns: usize, k: usize, words: &'a mut [u32]) -> Columns<'a> {
        assert!(words.len() >= super::packed_len(columns, k));
        let tiles = columns.div_ceil(ROWS);
        Columns {
            pieces: Pieces::new(from, columns, k),
            words,
            groups: if tiles > 0 {
                k.next_multiple_of(K_STEP) / ROWS
            } else {
                0
            },
            tiles,
            group: 0,
            tile: 0,
        }
    }

    /// Pieces that are left.
    pub(super) fn left(&self) -> usize {
        (self.groups - self.group) * self.tiles - self.tile
    }

    /// Packs so many pieces, or those that are left.
    pub(super) fn advance(&mut self, mut pieces: usize) {
        while pieces > 0 && self.group < self.groups {
            let end = self.tiles.min(self.tile.saturating_add(pieces));
            pieces -= end - self.tile;
            // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
            unsafe { self.interleave(end) }
            self.tile = end;
            if end == self.tiles {
                (self.group, self.tile) = (self.group + 1, 0);
            }
        }
    }

    /// Packs what is left.
    pub(super) fn finish(&mut self) {
        self.advance(usize::MAX);
    }

    /// Packs the group's tiles from the next one up to `end`.
    ///
    /// # Safety
    /// There are so many, and the group is one of those.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn interleave(&mut self, end: usize) {
        let orders = Orders::new();
        let to = &mut self.words[(self.tile * self.groups + self.group) * PIECE..];
        let apart = self.groups * PIECE;
        // SAFETY: `new` has seen that the words are there.
        unsafe {
            self.pieces
                .pack(self.group, self.tile..end, orders, to.as_mut_ptr(), apart);
        }
    }
}

/// What `permutexvar` makes pairs by: element j of the lower half, then that of the upper.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn pair_order() -> __m512i {
    let halves: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * ROWS) as u16);
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(halves.as_ptr().cast()) }
}

/// What `permutex2var` makes pairs by, of sixteen elements of one row and of another: the first sixteen, and those after them.
#[derive(Clone, Copy)]
pub(super) struct Orders([__m512i; 2]);

impl Orders {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn new() -> Orders {
        const HALVES: [[u16; K_STEP]; 2] = [order(0), order(ROWS)];
        // Told the numbers, the compiler makes slow shuffles of them. It is the place that it must not know: a copy would be
        // written in parts and read as a whole, which waits for all before.
        let [low, high] = std::hint::black_box(&HALVES);
        // SAFETY: 64 bytes each.
        unsafe { Orders([low, high].map(|halves| _mm512_loadu_si512(halves.as_ptr().cast()))) }
    }
}

/// Elements from `first` on of one row, each with that of the other, which count from K_STEP on.
const fn order(first: usize) -> [u16; K_STEP] {
    let mut halves = [0; K_STEP];
    let mut i = 0;
    while i < K_STEP {
        halves[i] = (first + i / 2 + i % 2 * K_STEP) as u16;
        i += 1;
    }
    halves
}

/// Panics unless `from` has so many rows and columns.
fn check(from: Operand<'_>, rows: usize, cols: usize) {
    for first in (0..rows).step_by(ROWS) {
        let group = from.group(first / ROWS);
        assert!(group.data.len() >= ((rows - first).min(ROWS) - 1) * group.stride + cols);
    }
}

/// # Safety
/// `from` has `columns` rows of k elements, `words` room for the packed ones.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose(from: Operand<'_>, columns: usize, k: usize, words: &mut [u32]) {
    let pairs = k.next_multiple_of(K_STEP) / 2;
    for first in (0..columns).step_by(ROWS) {
        let group = from.group(first / ROWS);
        for step in (0..k).step_by(K_STEP) {
            let there = ones(k - step);
            let mut tile = [_mm512_setzero_si512(); ROWS];
            for (j, row) in tile.iter_mut().enumerate().take(columns - first) {
                // SAFETY: row first + j is below columns, and the mask leaves out what is beyond k.
                *row = unsafe {
                    let at = group.data.as_ptr().add(j * group.stride + step);
                    _mm512_maskz_loadu_epi16(there, at.cast())
                };
            }
            let tile = transposed(tile);
            let to = first / ROWS * pairs * ROWS + step / 2 * ROWS;
            for (pair, row) in tile.into_iter().enumerate() {
                // SAFETY: `words` holds whole tiles of whole K_STEPs.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().add(to + pair * ROWS).cast(), row) };
            }
        }
    }
}

/// The words of two tiles of columns from `first` on, over 16 rows.
///
/// # Safety
/// `from` has the rows and columns, `to` half a tile each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn pair_up(from: Halves<'_>, first: usize, orders: Orders, to: [*mut u32; 2]) {
    let Orders(orders) = orders;
    // SAFETY: the rows are there, and the pairs are eight.
    unsafe {
        let mut upper = from.data.as_ptr().add(first);
        for pair in 0..ROWS / 2 {
            let lower = upper.add(from.stride);
            let (a, b) = (_mm512_loadu_si512(upper.cast()), _mm512_loadu_si512(lower.cast()));
            for (order, to) in orders.into_iter().zip(to) {
                let words = _mm512_permutex2var_epi16(a, order, b);
                _mm512_storeu_si512(to.add(pair * ROWS).cast(), words);
            }
            upper = lower.wrapping_add(from.stride);
        }
    }
}

/// The words of `columns` columns from `first` on, over `rows` rows; those beyond are zero.
///
/// # Safety
/// `from` has the rows and columns, `to` half a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pair_up_part(from: Halves<'_>, first: usize, [rows, columns]: [usize; 2], orders: Orders, to: *mut u32) {
    let there = ones(columns);
    let row = |at: usize| match at < rows {
        // SAFETY: the group has the row, and the mask leaves out what is beyond the columns.
        true => unsafe { _mm512_maskz_loadu_epi16(there, from.data.as_ptr().add(at * from.stride + first).cast()) },
        false => _mm512_setzero_si512(),
    };
    for pair in 0..ROWS / 2 {
        let words = _mm512_permutex2var_epi16(row(2 * pair), orders.0[0], row(2 * pair + 1));
        // SAFETY: pair is one of the eight.
        unsafe { _mm512_storeu_si512(to.add(pair * ROWS).cast(), words) };
    }
}

/// A mask of the first `count` of 32.
fn ones(count: usize) -> u32 {
    u32::MAX >> (K_STEP - count.clamp(1, K_STEP))
}

/// The transpose of 16 × 16 words.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Words within 128 bits: after both steps, register 4q + c has column c of each of the four 4 × 4 blocks of rows 4q..
    let mut quads = rows;
    for q in 0..4 {
        let [r0, r1, r2, r3] = [rows[4 * q], rows[4 * q + 1], rows[4 * q + 2], rows[4 * q + 3]];
        let (low01, high01) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
        let (low23, high23) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
        quads[4 * q] = _mm512_unpacklo_epi64(low01, low23);
        quads[4 * q + 1] = _mm512_unpackhi_epi64(low01, low23);
        quads[4 * q + 2] = _mm512_unpacklo_epi64(high01, high23);
        quads[4 * q + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
    // Then the 128-bit blocks themselves.
    let mut out = rows;
    for c in 0..4 {
        let [q0, q1, q2, q3] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
        let (even01, odd01) = (_mm512_shuffle_i32x4(q0, q1, 0x88), _mm512_shuffle_i32x4(q0, q1, 0xdd));
        let (even23, odd23) = (_mm512_shuffle_i32x4(q2, q3, 0x88), _mm512_shuffle_i32x4(q2, q3, 0xdd));
        out[c] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        out[8 + c] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
        out[4 + c] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        out[12 + c] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
    out
}
