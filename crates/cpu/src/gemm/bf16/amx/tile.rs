//! The instructions on tile registers, one by one. The compiler never uses these registers; they are to be configured.

use std::arch::asm;

/// Zeros.
///
/// # Safety
/// The tiles are configured.
#[inline(always)]
pub(in crate::gemm) unsafe fn zero<const TILE: usize>() {
    // SAFETY: a register alone.
    unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nomem, nostack)) };
}

/// Sixteen lines, `stride` bytes apart.
///
/// # Safety
/// They are readable, and the tiles configured.
#[inline(always)]
pub(in crate::gemm) unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tileloadd tmm{tile}, [{from} + {stride}]", tile = const TILE, from = in(reg) from, stride = in(reg) stride,
            options(nostack, readonly));
    }
}

/// Sixteen lines, `stride` bytes apart, that the first-level cache had better not keep.
///
/// # Safety
/// They are readable, and the tiles configured.
#[inline(always)]
pub(in crate::gemm) unsafe fn pass<const TILE: usize>(from: *const u8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tileloaddt1 tmm{tile}, [{from} + {stride}]", tile = const TILE, from = in(reg) from, stride = in(reg) stride,
            options(nostack, readonly));
    }
}

/// To sixteen lines, `stride` bytes apart.
///
/// # Safety
/// They are writable, and the tiles configured.
#[inline(always)]
pub(in crate::gemm) unsafe fn store<const TILE: usize>(to: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tilestored [{to} + {stride}], tmm{tile}", tile = const TILE, to = in(reg) to, stride = in(reg) stride,
            options(nostack));
    }
}

/// SUM += X · P.
///
/// # Safety
/// The tiles are configured.
#[inline(always)]
pub(in crate::gemm) unsafe fn dot<const SUM: usize, const X: usize, const P: usize>() {
    // SAFETY: registers alone.
    unsafe {
        asm!("tdpbf16ps tmm{sum}, tmm{x}, tmm{p}", sum = const SUM, x = const X, p = const P, options(nomem, nostack));
    }
}
