//! The step with AVX-512, on scores that lie transposed: a vector is one key's scores in sixteen rows.

use std::arch::x86_64::*;

use super::{SoftmaxStep, Tiles};
use crate::gemm::bf16::{K_STEP, ROWS, pair_order, transposed};

/// Words of a tile of weights: pairs of keys.
const PAIRS: usize = K_STEP / 2;

/// 2^f on 0..1 to 2.1e-7, from the constant on.
const EXP2: [f32; 6] = [
    1.0,
    0.693_147_6,
    0.240_207_2,
    0.055_657_055,
    0.009_199_388,
    0.001_788_368_7,
];

/// Runs a step whose weights are bf16 bits; the level has AVX-512 with bf16.
pub(super) fn run(step: &SoftmaxStep, first: i64, tiles: Tiles<'_>) {
    let (keys, rows) = (step.scores.rows, step.scores.cols);
    let weights: &mut [u16] = bytemuck::cast_slice_mut(tiles.weights);
    let stride = step.weights.stride;
    assert!(keys > 0 && rows > 0 && stride >= keys.next_multiple_of(K_STEP));
    assert!(tiles.scores.len() >= (keys - 1) * step.scores.stride + rows.next_multiple_of(ROWS));
    assert!(weights.len() >= rows * stride);
    let vectors = [tiles.visible, &*tiles.max, &*tiles.sum, &*tiles.decay];
    assert!(vectors.iter().all(|vector| vector.len() >= rows));
    for row in (0..rows).step_by(ROWS) {
        let lanes = Lanes {
            scores: &tiles.scores[row..],
            stride: step.scores.stride,
            keys,
            rows: (rows - row).min(ROWS),
            first,
            scale: step.scale,
            visible: &tiles.visible[row..],
        };
        let sums = Sums {
            max: &mut tiles.max[row..],
            sum: &mut tiles.sum[row..],
            decay: &mut tiles.decay[row..],
        };
        // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
        unsafe { lanes.run(sums, &mut weights[row * stride..], stride) };
    }
}

/// Up to sixteen rows of the scores.
struct Lanes<'a> {
    scores: &'a [f32],
    /// From key to key.
    stride: usize,
    keys: usize,
    rows: usize,
    first: i64,
    scale: f32,
    visible: &'a [f32],
}

/// What the rows keep.
struct Sums<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    decay: &'a mut [f32],
}

impl Lanes<'_> {
    /// # Safety
    /// There are whole vectors of scores, and vectors and weights for the rows; a row of weights has whole K_STEPs.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run(&self, sums: Sums<'_>, weights: &mut [u16], stride: usize) {
        let there = u16::MAX >> (ROWS - self.rows);
        // SAFETY: the vectors have the rows that the mask leaves.
        let [visible, before, sum] = unsafe {
            [self.visible, &*sums.max, &*sums.sum].map(|vector| _mm512_maskz_loadu_ps(there, vector.as_ptr()))
        };
        let seen = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(there, self.key(self.keys - 1), visible);
        let all = seen == there;
        // SAFETY: the caller's promise.
        let largest = unsafe {
            match all {
                true => self.largest::<true>(visible),
                false => self.largest::<false>(visible),
            }
        };
        // Of two of which the first is NaN it is the second.
        let max = _mm512_max_ps(_mm512_mul_ps(largest, _mm512_set1_ps(self.scale)), before);
        let nothing = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(max, _mm512_set1_ps(f32::NEG_INFINITY));
        let base = _mm512_maskz_mov_ps(!nothing, max);
        let decay = exp2(_mm512_sub_ps(before, base));
        // SAFETY: the caller's promise.
        let total = unsafe {
            match all {
                true => self.weigh::<true>(visible, base, weights, stride),
                false => self.weigh::<false>(visible, base, weights, stride),
            }
        };
        let sum = _mm512_fmadd_ps(sum, decay, total);
        for (vector, value) in [(sums.max, max), (sums.sum, sum), (sums.decay, decay)] {
            // SAFETY: as where they were loaded.
            unsafe { _mm512_mask_storeu_ps(vector.as_mut_ptr(), there, value) };
        }
    }

    /// Key `key` of the tile, as it is compared.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn key(&self, key: usize) -> __m512 {
        _mm512_set1_ps(self.first.saturating_add(key as i64) as f32)
    }

    /// # Safety
    /// `key` is below the keys.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn score(&self, key: usize) -> __m512 {
        // SAFETY: the caller's promise, and that of `run`.
        unsafe { _mm512_loadu_ps(self.scores.as_ptr().add(key * self.stride)) }
    }

    /// The largest score of each row among the keys that it sees: all where ALL says so. Not yet scaled.
    ///
    /// # Safety
    /// As [`Lanes::run`].
    #[target_feature(enable = "avx512f")]
    unsafe fn largest<const ALL: bool>(&self, visible: __m512) -> __m512 {
        let larger = |largest: __m512, key: usize| {
            let sees = match ALL {
                true => u16::MAX,
                false => _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.key(key), visible),
            };
            // SAFETY: key is one of the keys. Where the score is NaN the largest is what it was.
            unsafe { _mm512_mask_max_ps(largest, sees, self.score(key), largest) }
        };
        let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 4];
        let whole = self.keys - self.keys % 4;
        for first in (0..whole).step_by(4) {
            for (i, of) in largest.iter_mut().enumerate() {
                *of = larger(*of, first + i);
            }
        }
        for key in whole..self.keys {
            largest[0] = larger(largest[0], key);
        }
        let [a, b, c, d] = largest;
        _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d))
    }

    /// Writes the weights, zeros up to a whole K_STEP after them; gives their sum.
    ///
    /// # Safety
    /// As [`Lanes::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn weigh<const ALL: bool>(
        &self,
        visible: __m512,
        base: __m512,
        weights: &mut [u16],
        stride: usize,
    ) -> __m512 {
        let mut totals = [_mm512_setzero_ps(); 2];
        for first in (0..self.keys).step_by(K_STEP) {
            // SAFETY: the caller's promise.
            let tile = unsafe {
                match self.keys - first {
                    K_STEP.. => self.words::<ALL, true>(first, visible, base, &mut totals),
                    _ => self.words::<ALL, false>(first, visible, base, &mut totals),
                }
            };
            let store = |(row, words): (usize, __m512i)| {
                // SAFETY: the weights have the row, and whole K_STEPs of it.
                unsafe { _mm512_storeu_si512(weights.as_mut_ptr().add(row * stride + first).cast(), words) }
            };
            let words = transposed(tile).into_iter().enumerate();
            // Where none is left out, none waits for a comparison.
            match self.rows {
                ROWS => words.for_each(store),
                rows => words.take(rows).for_each(store),
            }
        }
        _mm512_add_ps(totals[0], totals[1])
    }

    /// The weights of a K_STEP of keys from `first` on, all of which are there where WHOLE says so, a pair a word; adds to
    /// the totals of the first and the second of a pair.
    ///
    /// # Safety
    /// As [`Lanes::run`]; `first` is below the keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn words<const ALL: bool, const WHOLE: bool>(
        &self,
        first: usize,
        visible: __m512,
        base: __m512,
        totals: &mut [__m512; 2],
    ) -> [__m512i; PAIRS] {
        let scale = _mm512_set1_ps(self.scale);
        let weight = |key: usize| {
            if !WHOLE && key >= self.keys {
                return _mm512_setzero_ps();
            }
            // SAFETY: key is one of the keys.
            let weight = exp2(_mm512_fmsub_ps(unsafe { self.score(key) }, scale, base));
            match ALL {
                true => weight,
                false => _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.key(key), visible), weight),
            }
        };
        let order = pair_order();
        let mut tile = [_mm512_setzero_si512(); PAIRS];
        for (pair, words) in tile.iter_mut().enumerate() {
            let (even, odd) = (weight(first + 2 * pair), weight(first + 2 * pair + 1));
            totals[0] = _mm512_add_ps(totals[0], even);
            totals[1] = _mm512_add_ps(totals[1], odd);
            // SAFETY: both are 512 bits.
            let halves = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even)) };
            *words = _mm512_permutexvar_epi16(order, halves);
        }
        tile
    }
}

/// 2^x to about 2 ulp; 2^-inf is 0, 2^NaN is NaN.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn exp2(x: __m512) -> __m512 {
    // x - floor(x).
    let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let [.., last] = EXP2;
    let mut p = _mm512_set1_ps(last);
    for &c in EXP2.iter().rev().skip(1) {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, x)
}
