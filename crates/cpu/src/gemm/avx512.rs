//! The f32 micro-kernel with AVX-512.

use std::arch::x86_64::*;

use super::{Micro, PANEL};

/// acc += a · b for MR rows and NP panels.
pub(super) fn micro<const MR: usize, const NP: usize>(micro: Micro<'_>) {
    // SAFETY: the level is available, or the kernel would have been refused; `Micro::check` has run for MR and NP.
    unsafe { fma::<MR, NP>(micro) }
}

/// # Safety
/// `micro` has passed `check::<MR, NP>`.
#[target_feature(enable = "avx512f")]
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
    let mut sums = [[_mm512_setzero_ps(); NP]; MR];
    for row in 0..MR {
        for panel in 0..NP {
            // SAFETY: row < MR and panel < NP, so this is inside acc.
            sums[row][panel] = unsafe { _mm512_loadu_ps(acc.add(row * acc_stride + panel * PANEL)) };
        }
    }
    for step in 0..k {
        for panel in 0..NP {
            // SAFETY: step < k and panel < NP, so this is inside b.
            let from = unsafe { _mm512_loadu_ps(b.add(step * k_step + panel * panel_step)) };
            for row in 0..MR {
                // SAFETY: row < MR and step < k, so this is inside a.
                let a = _mm512_set1_ps(unsafe { *a_data.add(row * a_stride + step) });
                sums[row][panel] = _mm512_fmadd_ps(a, from, sums[row][panel]);
            }
        }
    }
    for row in 0..MR {
        for panel in 0..NP {
            // SAFETY: as where it was loaded.
            unsafe { _mm512_storeu_ps(acc.add(row * acc_stride + panel * PANEL), sums[row][panel]) };
        }
    }
}
