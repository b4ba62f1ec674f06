//! Packing columns of rows a pair of rows at a time: as they are split, the first-level cache still has them.

use std::arch::x86_64::*;

use super::super::bf16::{Halves, K_STEP, ROWS};
use super::{PIECES, Planes};

/// Columns of rows that become packed ones, of each plane. A tile's words are followed by a line that is left out: else the same
/// pair of all tiles would often be in the same few places of a cache.
pub(crate) struct Pairs<'a> {
    words: &'a mut [u32],
    /// The first of the columns, and how many there are.
    columns: [usize; 2],
    rows: usize,
}

impl<'a> Pairs<'a> {
    /// Words that `columns` columns of `rows` rows take.
    pub(crate) fn len(columns: usize, rows: usize) -> usize {
        PIECES * columns.div_ceil(ROWS) * Pairs::apart(rows)
    }

    /// Words from one tile's to the next one's.
    pub(super) fn apart(rows: usize) -> usize {
        (rows.next_multiple_of(K_STEP) / 2 + 1) * ROWS
    }

    /// Of `rows` rows; `words` has [`Pairs::len`] of them.
    pub(crate) fn new(words: &'a mut [u32], columns: [usize; 2], rows: usize) -> Pairs<'a> {
        assert!(words.len() >= Pairs::len(columns[1], rows));
        Pairs { words, columns, rows }
    }

    /// Packs all rows, and zeros up to a whole K_STEP.
    pub(super) fn pack_all(&mut self, planes: Planes<'_>) {
        (0..self.rows.next_multiple_of(K_STEP))
            .step_by(2)
            .for_each(|row| self.pack(row, planes));
    }

    /// Packs rows `row`, which is even, and `row + 1`.
    pub(crate) fn pack(&mut self, row: usize, planes: Planes<'_>) {
        let there = self.rows.saturating_sub(row).min(2);
        let ([first, columns], apart) = (self.columns, Pairs::apart(self.rows));
        let len = columns.div_ceil(ROWS) * apart;
        for (Halves { data, stride }, words) in planes.into_iter().zip(self.words.chunks_exact_mut(len.max(1))) {
            assert!(there == 0 || data.len() >= (row + there - 1) * stride + first + columns);
            let from = data.as_ptr().wrapping_add(row * stride + first);
            let to = &mut words[row / 2 * ROWS..];
            // SAFETY: the level is available, or the kernel would have been refused; the rows have been checked, and each tile
            // has a line for the pair.
            unsafe {
                match there {
                    2 => pair::<2>([from, from.wrapping_add(stride)], columns, to, apart),
                    1 => pair::<1>([from, from], columns, to, apart),
                    _ => pair::<0>([from, from], columns, to, apart),
                }
            }
        }
    }
}

/// The words of the columns of two rows, of which the first `THERE` are there; others are zeros.
///
/// # Safety
/// These rows have the columns; `to` has a line for each tile of columns, so far apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pair<const THERE: usize>(rows: [*const u16; 2], columns: usize, to: &mut [u32], apart: usize) {
    for column in (0..columns).step_by(ROWS) {
        let of_tile = u16::MAX >> (ROWS - (columns - column).min(ROWS));
        let row = |i: usize| match i < THERE {
            // SAFETY: the caller's promise; the mask leaves out what is beyond the columns.
            true => _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(of_tile, rows[i].add(column).cast()) }),
            false => _mm512_setzero_si512(),
        };
        let words = _mm512_or_si512(row(0), _mm512_slli_epi32::<16>(row(1)));
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(column / ROWS * apart).cast(), words) };
    }
}
