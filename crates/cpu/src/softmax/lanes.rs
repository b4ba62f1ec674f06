//! The step with AVX-512, on scores that lie transposed: a vector is one key's scores in sixteen rows.

use std::arch::x86_64::*;

use super::{LINES, SoftmaxStep, Tiles};
use crate::gemm::bf16::{Fetch, K_STEP, LINE, ROWS, pair_order, prefetch, transposed};
use crate::gemm::split::{PIECES, joined, pieces};
use crate::math;
use crate::scratch::Elements;

/// Words of a tile of weights: pairs of keys.
const PAIRS: usize = K_STEP / 2;

/// 2^f on 0..1 to 2.1e-7, from the constant on: enough for weights that are rounded to bf16.
const EXP2: [f32; 6] = [
    1.0,
    0.693_147_6,
    0.240_207_2,
    0.055_657_055,
    0.009_199_388,
    0.001_788_368_7,
];

/// Runs a step whose weights are halves or pieces; the level has AVX-512 with bf16.
pub(super) fn run(step: &SoftmaxStep, first: i64, tiles: Tiles<'_>, mut fetch: Fetch<'_>) {
    let (keys, rows) = (step.scores.rows, step.scores.cols);
    let weights: &mut [u16] = bytemuck::cast_slice_mut(tiles.weights);
    let stride = step.weights.stride;
    assert!(keys > 0 && rows > 0 && stride >= keys.next_multiple_of(K_STEP));
    assert!(tiles.scores.len() >= (keys - 1) * step.scores.stride + rows.next_multiple_of(ROWS));
    assert!(weights.len() >= (step.weights.elements.planes() - 1) * step.weights.plane() + rows * stride);
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
        let weights = Weights {
            data: &mut weights[row * stride..],
            stride,
            plane: step.weights.plane(),
        };
        // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
        unsafe {
            match step.weights.elements {
                Elements::Pieces => lanes.run::<PIECES>(sums, weights, &mut fetch),
                _ => lanes.run::<1>(sums, weights, &mut fetch),
            }
        };
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

/// The weights of the rows, in planes of halves.
struct Weights<'a> {
    data: &'a mut [u16],
    /// From row to row.
    stride: usize,
    /// From plane to plane.
    plane: usize,
}

impl Lanes<'_> {
    /// Writes the weights in P planes.
    ///
    /// # Safety
    /// There are whole vectors of scores, and vectors and weights for the rows; a row of weights has whole K_STEPs.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run<const P: usize>(&self, sums: Sums<'_>, weights: Weights<'_>, fetch: &mut Fetch<'_>) {
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
        let decay = exp2::<P>(_mm512_sub_ps(before, base));
        // SAFETY: the caller's promise.
        let total = unsafe {
            match all {
                true => self.weigh::<true, P>(visible, base, weights, fetch),
                false => self.weigh::<false, P>(visible, base, weights, fetch),
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
    unsafe fn weigh<const ALL: bool, const P: usize>(
        &self,
        visible: __m512,
        base: __m512,
        weights: Weights<'_>,
        fetch: &mut Fetch<'_>,
    ) -> __m512 {
        let mut totals = [_mm512_setzero_ps(); 2];
        let mut tiles = [[_mm512_setzero_si512(); PAIRS]; P];
        for first in (0..self.keys).step_by(K_STEP) {
            // SAFETY: the caller's promise.
            unsafe {
                match self.keys - first {
                    K_STEP.. => self.words::<ALL, true, P>(first, visible, base, &mut tiles, &mut totals, fetch),
                    _ => self.words::<ALL, false, P>(first, visible, base, &mut tiles, &mut totals, fetch),
                }
            };
            for (plane, tile) in tiles.iter().enumerate() {
                let store = |(row, words): (usize, __m512i)| {
                    let at = plane * weights.plane + row * weights.stride + first;
                    // SAFETY: the weights have the row in each plane, and whole K_STEPs of it.
                    unsafe { _mm512_storeu_si512(weights.data.as_mut_ptr().add(at).cast(), words) }
                };
                let words = transposed(*tile).into_iter().enumerate();
                // Where none is left out, none waits for a comparison.
                match self.rows {
                    ROWS => words.for_each(store),
                    rows => words.take(rows).for_each(store),
                }
            }
        }
        _mm512_add_ps(totals[0], totals[1])
    }

    /// The weights of a K_STEP of keys from `first` on, all of which are there where WHOLE says so, a pair a word, in P planes;
    /// adds to the totals of the first and the second of a pair.
    ///
    /// # Safety
    /// As [`Lanes::run`]; `first` is below the keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    unsafe fn words<const ALL: bool, const WHOLE: bool, const P: usize>(
        &self,
        first: usize,
        visible: __m512,
        base: __m512,
        tiles: &mut [[__m512i; PAIRS]; P],
        totals: &mut [__m512; 2],
        fetch: &mut Fetch<'_>,
    ) {
        let scale = _mm512_set1_ps(self.scale);
        let weight = |key: usize| {
            if !WHOLE && key >= self.keys {
                return _mm512_setzero_ps();
            }
            // SAFETY: key is one of the keys.
            let weight = exp2::<P>(_mm512_fmsub_ps(unsafe { self.score(key) }, scale, base));
            match ALL {
                true => weight,
                false => _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.key(key), visible), weight),
            }
        };
        let order = pair_order();
        // Where there is nothing to fetch, a line is asked for that is there: a branch in each round takes longer.
        let (ahead, apart) = match fetch.take(LINES * PAIRS) {
            Some((ahead, _)) => (ahead, LINE),
            None => (self.scores.as_ptr().cast(), 0),
        };
        for pair in 0..PAIRS {
            for line in 0..LINES {
                prefetch(ahead.wrapping_add((pair * LINES + line) * apart));
            }
            let (even, odd) = (weight(first + 2 * pair), weight(first + 2 * pair + 1));
            totals[0] = _mm512_add_ps(totals[0], even);
            totals[1] = _mm512_add_ps(totals[1], odd);
            for (tile, words) in tiles.iter_mut().zip(paired::<P>(even, odd, order)) {
                tile[pair] = words;
            }
        }
    }
}

/// Pairs of bf16s a word: one plane of rounded ones, or those of the pieces.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn paired<const P: usize>(even: __m512, odd: __m512, order: __m512i) -> [__m512i; P] {
    if P == 1 {
        // SAFETY: both are 512 bits.
        let halves = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even)) };
        return [_mm512_permutexvar_epi16(order, halves); P];
    }
    let mut words = [_mm512_setzero_si512(); P];
    for ((words, even), odd) in words.iter_mut().zip(pieces(even)).zip(pieces(odd)) {
        *words = joined(even, odd);
    }
    words
}

/// 2^x; 2^-inf is 0, 2^NaN is NaN. To about 2 ulp where one plane of it is kept, else to 1.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn exp2<const P: usize>(x: __m512) -> __m512 {
    if P == 1 {
        // x - floor(x).
        let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
        return _mm512_scalef_ps(polynomial(EXP2, f), x);
    }
    let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    _mm512_scalef_ps(polynomial(math::EXP2, f), _mm512_sub_ps(x, f))
}

/// The polynomial with these coefficients, from the constant on.
#[target_feature(enable = "avx512f")]
#[inline]
fn polynomial<const N: usize>(terms: [f32; N], x: __m512) -> __m512 {
    let mut sum = _mm512_set1_ps(terms[N - 1]);
    for &term in terms[..N - 1].iter().rev() {
        sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(term));
    }
    sum
}
