//! Packing: words of pairs along k, sixteen columns side by side.

use std::arch::x86_64::*;

use super::{Halves, K_STEP, ROWS};

/// Row j of `from` \[columns, k\] becomes column j.
pub(super) fn rows(from: Halves<'_>, columns: usize, k: usize, words: &mut [u32]) {
    if columns == 0 || k == 0 {
        return;
    }
    assert!(from.data.len() >= (columns - 1) * from.stride + k);
    assert!(words.len() >= super::packed_len(columns, k));
    // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
    unsafe { transpose(from, columns, k, words) }
}

/// Column j of `from` \[k, columns\] stays column j.
pub(super) fn columns(from: Halves<'_>, columns: usize, k: usize, words: &mut [u32]) {
    if columns == 0 || k == 0 {
        return;
    }
    assert!(from.data.len() >= (k - 1) * from.stride + columns);
    assert!(words.len() >= super::packed_len(columns, k));
    // SAFETY: as above.
    unsafe { interleave(from, columns, k, words) }
}

/// # Safety
/// `from` has `columns` rows of k elements, `words` room for the packed ones.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose(from: Halves<'_>, columns: usize, k: usize, words: &mut [u32]) {
    let pairs = k.next_multiple_of(K_STEP) / 2;
    for first in (0..columns).step_by(ROWS) {
        for step in (0..k).step_by(K_STEP) {
            let there = ones(k - step);
            let mut tile = [_mm512_setzero_si512(); ROWS];
            for (j, row) in tile.iter_mut().enumerate().take(columns - first) {
                // SAFETY: row first + j is below columns, and the mask leaves out what is beyond k.
                *row = unsafe {
                    let at = from.data.as_ptr().add((first + j) * from.stride + step);
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

/// # Safety
/// `from` has k rows of `columns` elements, `words` room for the packed ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn interleave(from: Halves<'_>, columns: usize, k: usize, words: &mut [u32]) {
    let pairs = k.next_multiple_of(K_STEP) / 2;
    for first in (0..columns).step_by(ROWS) {
        let there = ones(columns - first) as u16;
        let row = |at: usize| {
            if at >= k {
                return _mm512_setzero_si512();
            }
            // SAFETY: row `at` is below k, and the mask leaves out what is beyond the columns.
            let halves =
                unsafe { _mm256_maskz_loadu_epi16(there, from.data.as_ptr().add(at * from.stride + first).cast()) };
            _mm512_cvtepu16_epi32(halves)
        };
        for pair in 0..pairs {
            let word = _mm512_or_si512(row(2 * pair), _mm512_slli_epi32(row(2 * pair + 1), 16));
            let to = (first / ROWS * pairs + pair) * ROWS;
            // SAFETY: `words` holds whole tiles of whole K_STEPs.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().add(to).cast(), word) };
        }
    }
}

/// A mask of the first `count` of 32.
fn ones(count: usize) -> u32 {
    u32::MAX >> (K_STEP - count.clamp(1, K_STEP))
}

/// The transpose of 16 × 16 words.
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
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
