//! Products of bf16 pairs with AVX-512.

use std::arch::x86_64::*;

use super::super::{Acc, Sizes};
use super::{Halves, Packed, ROWS};

/// acc += a · b, b packed.
pub(super) fn gemm(sizes: Sizes, acc: Acc<'_>, a: Halves<'_>, b: Packed<'_>) {
    let Sizes { m, n, .. } = sizes;
    let tiles = n.div_ceil(ROWS);
    assert!(a.data.len() >= (m - 1) * a.stride + 2 * b.pairs);
    assert!(b.words.len() >= tiles * b.pairs * ROWS);
    assert!(acc.data.len() >= (m - 1) * acc.stride + tiles * ROWS);
    let mut tile = 0;
    while tile < tiles {
        // Few rows take more columns at once, so that enough sums are in flight.
        let width = match (m, tiles - tile) {
            (..=3, 4..) => 4,
            (..=6, 2..) => 2,
            _ => 1,
        };
        for row in (0..m).step_by(8) {
            let at = At {
                a: &a.data[row * a.stride..],
                a_stride: a.stride,
                b: &b.words[tile * b.pairs * ROWS..],
                pairs: b.pairs,
                acc: &mut acc.data[row * acc.stride + tile * ROWS..],
                acc_stride: acc.stride,
            };
            // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
            unsafe { dispatch((m - row).min(8), width, at) };
        }
        tile += width;
    }
}

/// Where one micro-kernel stands.
struct At<'a> {
    a: &'a [u16],
    a_stride: usize,
    b: &'a [u32],
    pairs: usize,
    acc: &'a mut [f32],
    acc_stride: usize,
}

/// # Safety
/// `at` has so many rows and column tiles.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dispatch(rows: usize, width: usize, at: At<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (rows, width) {
            (1, 4) => micro::<1, 4>(at),
            (2, 4) => micro::<2, 4>(at),
            (3, 4) => micro::<3, 4>(at),
            (1, 2) => micro::<1, 2>(at),
            (2, 2) => micro::<2, 2>(at),
            (3, 2) => micro::<3, 2>(at),
            (4, 2) => micro::<4, 2>(at),
            (5, 2) => micro::<5, 2>(at),
            (6, 2) => micro::<6, 2>(at),
            (1, _) => micro::<1, 1>(at),
            (2, _) => micro::<2, 1>(at),
            (3, _) => micro::<3, 1>(at),
            (4, _) => micro::<4, 1>(at),
            (5, _) => micro::<5, 1>(at),
            (6, _) => micro::<6, 1>(at),
            (7, _) => micro::<7, 1>(at),
            _ => micro::<8, 1>(at),
        }
    }
}

/// # Safety
/// `at` has MR rows and NP column tiles.
#[target_feature(enable = "avx512f,avx512bf16")]
#[expect(
    clippy::needless_range_loop,
    reason = "constant bounds unroll, and sums stays in registers"
)]
unsafe fn micro<const MR: usize, const NP: usize>(at: At<'_>) {
    let (a, b, acc) = (at.a.as_ptr(), at.b.as_ptr(), at.acc.as_mut_ptr());
    let mut sums = [[_mm512_setzero_ps(); NP]; MR];
    for row in 0..MR {
        for tile in 0..NP {
            // SAFETY: row < MR and tile < NP.
            sums[row][tile] = unsafe { _mm512_loadu_ps(acc.add(row * at.acc_stride + tile * ROWS)) };
        }
    }
    for pair in 0..at.pairs {
        let mut words = [_mm512_setzero_si512(); NP];
        for tile in 0..NP {
            // SAFETY: tile < NP and pair < pairs.
            words[tile] = unsafe { _mm512_loadu_si512(b.add((tile * at.pairs + pair) * ROWS).cast()) };
        }
        for row in 0..MR {
            // SAFETY: row < MR and pair < pairs: a pair of elements of a, at any alignment.
            let word = unsafe { a.add(row * at.a_stride + 2 * pair).cast::<i32>().read_unaligned() };
            let word = _mm512_set1_epi32(word);
            for tile in 0..NP {
                sums[row][tile] = pairs(sums[row][tile], word, words[tile]);
            }
        }
    }
    for row in 0..MR {
        for tile in 0..NP {
            // SAFETY: as where it was loaded.
            unsafe { _mm512_storeu_ps(acc.add(row * at.acc_stride + tile * ROWS), sums[row][tile]) };
        }
    }
}

/// sum + the products of both pairs, word by word.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn pairs(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both are 512 bits, and any bits are bf16s.
    let [a, b] = unsafe {
        [
            std::mem::transmute::<__m512i, __m512bh>(a),
            std::mem::transmute::<__m512i, __m512bh>(b),
        ]
    };
    _mm512_dpbf16_ps(sum, a, b)
}
