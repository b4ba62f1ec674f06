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

    /// Packs a group of rows in one tile of columns or two, whose pieces are so many words apart.
    ///
    /// # Safety
    /// There are such a group and tiles, and `to` has the pieces.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn pack(&self, group: usize, tiles: Range<usize>, orders: Orders, to: *mut u32, apart: usize) {
        let first = tiles.start * ROWS;
        if tiles.len() == 2 && (group + 1) * ROWS <= self.k && first + 2 * ROWS <= self.columns {
            let from = self.from.group(group);
            // SAFETY: the group has the rows and columns; the caller's promise.
            return unsafe {
                let at = from.data.as_ptr().add(first);
                pair_up::<{ ROWS / 2 }>(at, from.stride, orders, [to, to.add(apart)]);
            };
        }
        // SAFETY: the caller's promise.
        unsafe { self.pack_part(group, tiles, to, apart) };
    }

    /// [`Self::pack`] where not all of it is there. It is told no more than it needs: what the compiler passes by memory would
    /// be there for the whole ones too.
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[cold]
    #[inline(never)]
    unsafe fn pack_part(&self, group: usize, tiles: Range<usize>, to: *mut u32, apart: usize) {
        let rows = self.k.saturating_sub(group * ROWS).min(ROWS);
        let from = match rows {
            0 => Halves { data: &[], stride: 0 },
            _ => self.from.group(group),
        };
        let orders = Orders::new();
        for (i, first) in tiles.map(|tile| tile * ROWS).enumerate() {
            let columns = (self.columns - first).min(ROWS);
            // SAFETY: the group has the rows and columns; the caller's promise.
            unsafe { pair_up_part(from, first, [rows, columns], orders, to.add(i * apart)) };
        }
    }
}

/// Packing of columns beside something else: patch by patch where rows and columns are whole, the rest at the end.
pub(super) struct Columns<'a> {
    pieces: Pieces<'a>,
    words: &'a mut [u32],
    /// Groups of rows, whole K_STEPs, and tiles of columns.
    groups: usize,
    tiles: usize,
    /// Patches beside each other, the eights of rows that have such, and the next of these.
    abreast: usize,
    eights: usize,
    eight: usize,
}

impl<'a> Columns<'a> {
    /// Column j of `from` \[k, columns\] is to be column j of `words`.
    pub(super) fn new(from: Operand<'a>, columns: usize, k: usize, words: &'a mut [u32]) -> Columns<'a> {
        assert!(words.len() >= super::packed_len(columns, k));
        let abreast = columns / (2 * ROWS);
        Columns {
            pieces: Pieces::new(from, columns, k),
            words,
            groups: k.next_multiple_of(K_STEP) / ROWS,
            tiles: columns.div_ceil(ROWS),
            abreast,
            eights: if abreast > 0 { k / ROWS * 2 } else { 0 },
            eight: 0,
        }
    }

    /// Patches that are left, and how many of them are beside each other.
    pub(super) fn left(&self) -> (usize, usize) {
        ((self.eights - self.eight) * self.abreast, self.abreast)
    }

    /// Hands out the next patches beside each other, for the caller to pack; none if there are no more.
    #[inline(always)]
    pub(super) fn hand_out(&mut self) -> Patches {
        if self.eight == self.eights {
            return Patches::NONE;
        }
        let (group, half) = (self.eight / 2, self.eight % 2);
        let Halves { data, stride } = self.pieces.from.group(group);
        self.eight += 1;
        Patches {
            from: data[half * ROWS / 2 * stride..].as_ptr(),
            stride,
            to: self.words[group * PIECE + half * PIECE / 2..].as_mut_ptr(),
            apart: self.groups * PIECE,
            left: self.abreast,
        }
    }

    /// Packs what has not been handed out.
    pub(super) fn finish(mut self) {
        // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
        unsafe { self.pack() }
    }

    /// # Safety
    /// AVX-512 is available.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn pack(&mut self) {
        let orders = Orders::new();
        // SAFETY: `new` has seen that the rows and words are there.
        unsafe {
            while self.eight < self.eights {
                self.hand_out().pack(orders);
            }
            for group in 0..self.groups {
                let done = if 2 * group < self.eights { 2 * self.abreast } else { 0 };
                for first in (done..self.tiles).step_by(2) {
                    let to = &mut self.words[(first * self.groups + group) * PIECE..];
                    let tiles = first..self.tiles.min(first + 2);
                    self.pieces
                        .pack(group, tiles, orders, to.as_mut_ptr(), self.groups * PIECE);
                }
            }
        }
    }
}

/// Patches beside each other: of each, eight rows of two tiles of columns.
#[derive(Clone, Copy)]
pub(super) struct Patches {
    /// The next one's first row, and elements from a row to the next.
    from: *const u16,
    stride: usize,
    /// Its first tile's words, and words from a tile to the next.
    to: *mut u32,
    apart: usize,
    pub(super) left: usize,
}

impl Patches {
    pub(super) const NONE: Patches = Patches {
        from: std::ptr::null(),
        stride: 0,
        to: std::ptr::null_mut(),
        apart: 0,
        left: 0,
    };

    /// Packs all that are left.
    ///
    /// # Safety
    /// AVX-512 is available, and their rows and words are there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn pack(&mut self, orders: Orders) {
        for _ in 0..std::mem::take(&mut self.left) {
            // SAFETY: the caller's promise.
            unsafe { self.pack_one(orders) };
        }
    }

    /// Packs the next one; the caller counts.
    ///
    /// # Safety
    /// AVX-512 is available, and there is one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn pack_one(&mut self, orders: Orders) {
        let to = [self.to, self.to.wrapping_add(self.apart)];
        // SAFETY: the caller's promise.
        unsafe { pair_up::<{ ROWS / 4 }>(self.from, self.stride, orders, to) };
        self.from = self.from.wrapping_add(2 * ROWS);
        self.to = self.to.wrapping_add(2 * self.apart);
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

/// The words of two tiles of columns, over so many pairs of rows, the first of which is at `from`.
///
/// # Safety
/// The rows have the columns, and `to` a line for each pair.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn pair_up<const PAIRS: usize>(from: *const u16, stride: usize, orders: Orders, to: [*mut u32; 2]) {
    let Orders(orders) = orders;
    // SAFETY: the caller's promise.
    unsafe {
        let mut upper = from;
        for pair in 0..PAIRS {
            let lower = upper.wrapping_add(stride);
            let (a, b) = (_mm512_loadu_si512(upper.cast()), _mm512_loadu_si512(lower.cast()));
            for (order, to) in orders.into_iter().zip(to) {
                let words = _mm512_permutex2var_epi16(a, order, b);
                _mm512_storeu_si512(to.add(pair * ROWS).cast(), words);
            }
            upper = lower.wrapping_add(stride);
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
