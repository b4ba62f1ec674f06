//! The micro-kernel in plain Rust.

use super::{Matrix, Micro, PANEL};

/// acc += a · b for MR rows and NP panels.
pub(super) fn micro<const MR: usize, const NP: usize>(micro: Micro<'_>) {
    let Micro {
        k,
        a,
        b,
        k_step,
        panel_step,
        acc,
        acc_stride,
    } = micro;
    for panel in 0..NP {
        let mut sums = [[0.0f32; PANEL]; MR];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&acc[row * acc_stride + panel * PANEL..][..PANEL]);
        }
        for step in 0..k {
            let b = &b[panel * panel_step + step * k_step..][..PANEL];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = a.data[row * a.stride + step];
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            acc[row * acc_stride + panel * PANEL..][..PANEL].copy_from_slice(sums);
        }
    }
}

/// The first `columns` rows of b \[n, k\] as a panel \[k, PANEL\]; the other columns become zero.
pub(super) fn pack_panel(b: Matrix<'_>, columns: usize, k: usize, to: &mut [f32]) {
    for (step, to) in to.chunks_exact_mut(PANEL).take(k).enumerate() {
        to.fill(0.0);
        to.iter_mut()
            .take(columns)
            .enumerate()
            .for_each(|(j, to)| *to = b.data[j * b.stride + step]);
    }
}
