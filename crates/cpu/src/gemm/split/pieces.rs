//! An f32 as the sum of three bf16s: high, the nearest to it; middle, the nearest to what is left; low, what is left then, which
//! is a bf16 as it stands. Of 24 bits each piece has eight, its sign one of them.
//!
//! Pieces below 2^-126 are there, but AMX takes them, and products as small, as zeros.

use std::arch::x86_64::*;

use super::PIECES;

/// Lanes of a vector.
const LANES: usize = 16;

/// Beyond this, bits of an f32 without its sign, the nearest bf16 is infinite.
const LARGEST: i32 = 0x7f7f_7fff;

/// The pieces as f32s' bits, of which the upper halves count.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn pieces(x: __m512) -> [__m512i; PIECES] {
    match _mm512_cmpgt_epi32_mask(size(x), _mm512_set1_epi32(LARGEST)) {
        0 => after(x, nearest(x)),
        these => large(x, these),
    }
}

/// A first piece of x, and those after it.
#[target_feature(enable = "avx512f")]
#[inline]
fn after(x: __m512, high: __m512i) -> [__m512i; PIECES] {
    let rest = left(x, high);
    let middle = nearest(rest);
    [high, middle, _mm512_castps_si512(left(rest, middle))]
}

/// The bits without the sign.
#[target_feature(enable = "avx512f")]
#[inline]
fn size(x: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX))
}

/// The nearest bf16; the larger of two.
#[target_feature(enable = "avx512f")]
#[inline]
fn nearest(x: __m512) -> __m512i {
    upper(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)))
}

/// The upper halves.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper(bits: __m512i) -> __m512i {
    _mm512_and_si512(bits, _mm512_set1_epi32(!0xffff))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn left(x: __m512, piece: __m512i) -> __m512 {
    _mm512_sub_ps(x, _mm512_castsi512_ps(piece))
}

/// Instead of rounding to an infinity, `these` are cut off. A NaN stays one. An infinity is the low piece of a 1 with its sign: its
/// products with the high pieces of others are then what products with it are, and those with others' middle and low pieces,
/// whose signs may differ, are finite.
#[target_feature(enable = "avx512f")]
#[cold]
fn large(x: __m512, these: __mmask16) -> [__m512i; PIECES] {
    let bits = _mm512_castps_si512(x);
    let infinite = _mm512_cmpeq_epi32_mask(size(x), _mm512_set1_epi32(f32::INFINITY.to_bits() as i32));
    let unordered = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let zero = _mm512_setzero_si512();
    let nan = _mm512_set1_epi32(f32::NAN.to_bits() as i32);
    let one = _mm512_set1_epi32(1.0f32.to_bits() as i32);
    let signed = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(i32::MIN)), one);
    let (cut, of_infinite, of_nan) = (after(x, upper(bits)), [signed, zero, bits], [nan, zero, zero]);
    let mut out = after(x, nearest(x));
    for (i, out) in out.iter_mut().enumerate() {
        *out = _mm512_mask_mov_epi32(*out, these, cut[i]);
        *out = _mm512_mask_mov_epi32(*out, infinite, of_infinite[i]);
        *out = _mm512_mask_mov_epi32(*out, unordered, of_nan[i]);
    }
    out
}

/// The upper halves of both, side by side.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(crate) fn joined(first: __m512i, second: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(first), second)
}

/// Splits a row: the pieces of element j are halves j of `to`, `plane` apart.
pub(crate) fn row(from: &[f32], to: &mut [u16], plane: usize) {
    assert!(to.len() >= (PIECES - 1) * plane + from.len());
    // SAFETY: the level is available, or the kernel would have been refused; the length has been checked.
    unsafe { split(from, to, plane) }
}

/// # Safety
/// `to` has as many halves as `from` elements in each plane.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split(from: &[f32], to: &mut [u16], plane: usize) {
    let order: [u16; 2 * LANES] = std::array::from_fn(|i| (i % LANES * 2 + i / LANES) as u16);
    // SAFETY: 64 bytes. Told the numbers, the compiler makes two slow shuffles of one.
    let order = std::hint::black_box(unsafe { _mm512_loadu_si512(order.as_ptr().cast()) });
    for start in (0..from.len()).step_by(2 * LANES) {
        let count = from.len() - start;
        let there = u32::MAX >> (2 * LANES - count.min(2 * LANES));
        // SAFETY: the masks leave out what is beyond `from`.
        let [first, second] = unsafe {
            let at = from.as_ptr().add(start);
            [
                _mm512_maskz_loadu_ps(there as u16, at),
                _mm512_maskz_loadu_ps((there >> LANES) as u16, at.wrapping_add(LANES)),
            ]
        };
        let both = pieces(first).into_iter().zip(pieces(second));
        for (i, (first, second)) in both.enumerate() {
            let pairs = joined(first, second);
            // SAFETY: the mask leaves out what is beyond the row, and the plane is there.
            unsafe {
                let to = to.as_mut_ptr().add(i * plane + start);
                _mm512_mask_storeu_epi16(to.cast(), there, _mm512_permutexvar_epi16(order, pairs));
            }
        }
    }
}
