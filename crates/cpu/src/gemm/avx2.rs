//! The micro-kernel with AVX2 and FMA.

use std::arch::x86_64::*;

use super::{Matrix, Micro, PANEL};

/// Floats of a register.
const LANES: usize = 8;

/// acc += a · b for MR rows and NP panels.
pub(super) fn micro<const MR: usize, const NP: usize>(micro: Micro<'_>) {
    // SAFETY: the level is available, or the kernel would have been refused; `Micro::check` has run for MR and NP.
    unsafe { fma::<MR, NP>(micro) }
}

/// # Safety
/// `micro` has passed `check::<MR, NP>`.
#[target_feature(enable = "avx2,fma")]
#[expect(
    clippy::needless_range_loop,
    reason = "constant bounds unroll, and sums stays in registers"
)]
unsafe fn fma<const MR: usize, const NP: usize>(micro: Micro<'_>) {
    let Micro {
        k,
        a,
        b,
        k_step,
        panel_step,
        acc,
        acc_stride,
    } = micro;
    let (a_data, a_stride, b, acc) = (a.data.as_ptr(), a.stride, b.as_ptr(), acc.as_mut_ptr());
    let mut sums = [[[_mm256_setzero_ps(); 2]; NP]; MR];
    for row in 0..MR {
        for panel in 0..NP {
            for half in 0..2 {
                // SAFETY: row < MR and panel < NP, so this is inside acc.
                sums[row][panel][half] =
                    unsafe { _mm256_loadu_ps(acc.add(row * acc_stride + panel * PANEL + half * LANES)) };
            }
        }
    }
    for step in 0..k {
        for panel in 0..NP {
            // SAFETY: step < k and panel < NP, so both halves are inside b.
            let (low, high) = unsafe {
                let from = b.add(step * k_step + panel * panel_step);
                (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES)))
            };
            for row in 0..MR {
                // SAFETY: row < MR and step < k, so this is inside a.
                let a = unsafe { _mm256_broadcast_ss(&*a_data.add(row * a_stride + step)) };
                sums[row][panel][0] = _mm256_fmadd_ps(a, low, sums[row][panel][0]);
                sums[row][panel][1] = _mm256_fmadd_ps(a, high, sums[row][panel][1]);
            }
        }
    }
    for row in 0..MR {
        for panel in 0..NP {
            for half in 0..2 {
                // SAFETY: as where it was loaded.
                unsafe {
                    _mm256_storeu_ps(
                        acc.add(row * acc_stride + panel * PANEL + half * LANES),
                        sums[row][panel][half],
                    )
                };
            }
        }
    }
}

/// PANEL rows of b \[n, k\] as a panel \[k, PANEL\].
pub(super) fn pack_panel(b: Matrix<'_>, k: usize, to: &mut [f32]) {
    assert!(b.data.len() >= (PANEL - 1) * b.stride + k && to.len() >= k * PANEL);
    // SAFETY: the level is available, or the kernel would have been refused; the lengths have been checked.
    unsafe { transpose(b, k, to) }
}

/// # Safety
/// `b` has PANEL rows of k elements, `to` holds k · PANEL.
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose(b: Matrix<'_>, k: usize, to: &mut [f32]) {
    let whole = k - k % LANES;
    for step in (0..whole).step_by(LANES) {
        for half in 0..2 {
            // SAFETY: eight rows from half · 8 on and eight columns from step on are inside both.
            unsafe {
                let from = b.data.as_ptr().add(half * LANES * b.stride + step);
                transpose_8x8(from, b.stride, to.as_mut_ptr().add(step * PANEL + half * LANES));
            }
        }
    }
    for step in whole..k {
        for j in 0..PANEL {
            to[step * PANEL + j] = b.data[j * b.stride + step];
        }
    }
}

/// # Safety
/// Eight rows of eight floats are readable at `from`, `stride` apart, and writable at `to`, PANEL apart.
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose_8x8(from: *const f32, stride: usize, to: *mut f32) {
    // Two rows that are four apart make the halves of a register, so that no shuffle crosses halves.
    let mut rows = [_mm256_setzero_ps(); LANES];
    for i in 0..4 {
        for quad in 0..2 {
            // SAFETY: the caller's promise; rows i and i + 4, four floats from 4 · quad on.
            let (low, high) = unsafe {
                (
                    _mm_loadu_ps(from.add(i * stride + 4 * quad)),
                    _mm_loadu_ps(from.add((i + 4) * stride + 4 * quad)),
                )
            };
            rows[4 * quad + i] = _mm256_set_m128(high, low);
        }
    }
    for quad in 0..2 {
        let [r0, r1, r2, r3] = [
            rows[4 * quad],
            rows[4 * quad + 1],
            rows[4 * quad + 2],
            rows[4 * quad + 3],
        ];
        let (low01, high01) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (low23, high23) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let columns = [
            _mm256_shuffle_ps(low01, low23, 0x44),
            _mm256_shuffle_ps(low01, low23, 0xee),
            _mm256_shuffle_ps(high01, high23, 0x44),
            _mm256_shuffle_ps(high01, high23, 0xee),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            // SAFETY: the caller's promise; column 4 · quad + i of the rows is row 4 · quad + i of `to`.
            unsafe { _mm256_storeu_ps(to.add((4 * quad + i) * PANEL), column) };
        }
    }
}
