//! Products of bf16 tiles with AMX.
//!
//! Tiles 0 to 3 are sums, 4 and 5 rows of one operand as it lies, 6 and 7 packed columns of the other. The compiler
//! never uses tile registers, so that inline assembly has them to itself; each thread configures them once.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::sync::OnceLock;

use super::super::{Acc, Sizes};
use super::pack::transposed as transposed_tile;
use super::{Halves, K_STEP, Packed, ROWS};

/// Whether the processor has AMX for bf16 and the system lets this process use it. Asks for it, once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_amx() && is_permitted())
}

fn has_amx() -> bool {
    // Leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE. XCR0 bits 17 and 18: the system saves tiles.
    let (tiles, state) = (1 << 22 | 1 << 24, 1 << 17 | 1 << 18);
    let highest = __cpuid(0).eax;
    if highest < 7 || !is_x86_feature_detected!("xsave") || __cpuid(1).ecx & 1 << 27 == 0 {
        return false;
    }
    // SAFETY: OSXSAVE (leaf 1, ECX bit 27) is set.
    let saved = unsafe { _xgetbv(0) };
    __cpuid_count(7, 0).edx & tiles == tiles && saved & state == state
}

/// Linux hands out the tiles' large state on request only.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call takes two integers and writes no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Memory operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, for each tile.
    columns: [u16; 16],
    rows: [u8; 16],
}

/// Gives all eight tiles of this thread 16 rows of 64 bytes.
fn configure() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        columns: [0; 16],
        rows: [0; 16],
    };
    config.columns[..8].fill(64);
    config.rows[..8].fill(ROWS as u8);
    // SAFETY: AMX is available, or the kernel would have been refused; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// acc \[m, n\] += rows of a · packed b.
pub(super) fn straight(sizes: Sizes, acc: Acc<'_>, a: Halves<'_>, b: Packed<'_>) {
    let Sizes { m, n, .. } = sizes;
    let (rows, columns) = (m.div_ceil(ROWS), n.div_ceil(ROWS));
    check(a, rows, b, columns);
    assert!(acc.data.len() >= (rows * ROWS - 1) * acc.stride + columns * ROWS);
    configure();
    for column in (0..columns).step_by(2) {
        for row in (0..rows).step_by(2) {
            let sums = &mut acc.data[row * ROWS * acc.stride + column * ROWS..];
            let block = Block {
                x: &a.data[row * ROWS * a.stride..],
                x_stride: a.stride,
                p: &b.words[column * b.pairs * ROWS..],
                pairs: b.pairs,
                sums,
                sums_stride: acc.stride,
                accumulate: true,
            };
            block.run((rows - row).min(2), (columns - column).min(2));
        }
    }
}

/// acc \[m, n\] += (rows of b · packed a)ᵀ.
pub(super) fn transposed(sizes: Sizes, acc: Acc<'_>, b: Halves<'_>, a: Packed<'_>) {
    let Sizes { m, n, .. } = sizes;
    let (rows, columns) = (n.div_ceil(ROWS), m.div_ceil(ROWS));
    check(b, rows, a, columns);
    assert!(acc.data.len() >= (m - 1) * acc.stride + rows * ROWS);
    configure();
    let mut sums = [0.0f32; 4 * ROWS * ROWS];
    for column in (0..columns).step_by(2) {
        for row in (0..rows).step_by(2) {
            let block = Block {
                x: &b.data[row * ROWS * b.stride..],
                x_stride: b.stride,
                p: &a.words[column * a.pairs * ROWS..],
                pairs: a.pairs,
                sums: &mut sums,
                sums_stride: 2 * ROWS,
                accumulate: false,
            };
            let (r, c) = ((rows - row).min(2), (columns - column).min(2));
            block.run(r, c);
            for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)]
                .into_iter()
                .filter(|&(i, j)| i < r && j < c)
            {
                let first = (column + j) * ROWS;
                let to = &mut acc.data[first * acc.stride + (row + i) * ROWS..];
                let from = &sums[i * ROWS * 2 * ROWS + j * ROWS..];
                // SAFETY: AMX implies AVX-512; acc has rows up to m and whole tiles of columns, `sums` a whole tile.
                unsafe { add_transposed(from, to, acc.stride, (m - first).min(ROWS)) };
            }
        }
    }
}

fn check(x: Halves<'_>, rows: usize, p: Packed<'_>, columns: usize) {
    assert!(p.pairs > 0 && (2 * p.pairs).is_multiple_of(K_STEP));
    assert!(x.data.len() >= (rows * ROWS - 1) * x.stride + 2 * p.pairs);
    assert!(p.words.len() >= columns * p.pairs * ROWS);
}

/// The first `rows` rows of `to` += the transpose of a tile whose rows are 2 · ROWS apart.
///
/// # Safety
/// `from` has a whole tile, `to` so many rows of ROWS.
#[target_feature(enable = "avx512f")]
unsafe fn add_transposed(from: &[f32], to: &mut [f32], stride: usize, rows: usize) {
    let mut tile = [_mm512_setzero_si512(); ROWS];
    for (i, row) in tile.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.as_ptr().add(i * 2 * ROWS).cast()) };
    }
    for (i, row) in transposed_tile(tile).into_iter().enumerate().take(rows) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = to.as_mut_ptr().add(i * stride);
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), _mm512_castsi512_ps(row)));
        }
    }
}

/// Up to two tiles of rows times up to two of packed columns, over all of k.
struct Block<'a> {
    x: &'a [u16],
    x_stride: usize,
    p: &'a [u32],
    pairs: usize,
    sums: &'a mut [f32],
    sums_stride: usize,
    /// Adds to what the sums are; else they begin at zero.
    accumulate: bool,
}

/// One block in assembly: `$load` and `$store` move the sums, `$step` is one K_STEP.
macro_rules! tiles {
    ($block:expr, $zero:literal, $load:literal, $step:literal, $store:literal) => {{
        let block = $block;
        let (xs, cs) = (2 * block.x_stride, 4 * block.sums_stride);
        let (x, p, c) = (block.x.as_ptr(), block.p.as_ptr(), block.sums.as_mut_ptr());
        // SAFETY: `check` and the callers' assertions hold for the block's tiles; a second row or column of tiles that the
        // block does not have is pointed to with wrapping arithmetic and never read.
        unsafe {
            asm!(
                "test {accumulate:e}, {accumulate:e}",
                "jnz 3f",
                $zero,
                "jmp 2f",
                "3:",
                $load,
                "2:",
                $step,
                "add {x0}, 64",
                "add {x1}, 64",
                "add {p0}, 1024",
                "add {p1}, 1024",
                "dec {n}",
                "jnz 2b",
                $store,
                // One row of tiles does not use it.
                "/* {c1} */",
                accumulate = in(reg) u32::from(block.accumulate),
                x0 = inout(reg) x => _,
                x1 = inout(reg) x.wrapping_byte_add(ROWS * xs) => _,
                xs = in(reg) xs,
                p0 = inout(reg) p => _,
                p1 = inout(reg) p.wrapping_add(block.pairs * ROWS) => _,
                ps = in(reg) 64usize,
                n = inout(reg) block.pairs / (K_STEP / 2) => _,
                c0 = in(reg) c,
                c1 = in(reg) c.wrapping_byte_add(ROWS * cs),
                cs = in(reg) cs,
                options(nostack),
            );
        }
    }};
}

impl Block<'_> {
    fn run(self, rows: usize, columns: usize) {
        match (rows, columns) {
            (2, 2) => self.two_by_two(),
            (2, _) => self.two_by_one(),
            (_, 2) => self.one_by_two(),
            _ => self.one_by_one(),
        }
    }

    fn two_by_two(self) {
        tiles!(
            self,
            "tilezero tmm0\n tilezero tmm1\n tilezero tmm2\n tilezero tmm3",
            "tileloadd tmm0, [{c0} + {cs}]\n tileloadd tmm1, [{c0} + {cs} + 64]\n tileloadd tmm2, [{c1} + {cs}]\n \
             tileloadd tmm3, [{c1} + {cs} + 64]",
            "tileloadd tmm4, [{x0} + {xs}]\n tileloadd tmm6, [{p0} + {ps}]\n tdpbf16ps tmm0, tmm4, tmm6\n \
             tileloadd tmm7, [{p1} + {ps}]\n tdpbf16ps tmm1, tmm4, tmm7\n tileloadd tmm5, [{x1} + {xs}]\n \
             tdpbf16ps tmm2, tmm5, tmm6\n tdpbf16ps tmm3, tmm5, tmm7",
            "tilestored [{c0} + {cs}], tmm0\n tilestored [{c0} + {cs} + 64], tmm1\n tilestored [{c1} + {cs}], tmm2\n \
             tilestored [{c1} + {cs} + 64], tmm3"
        );
    }

    fn two_by_one(self) {
        tiles!(
            self,
            "tilezero tmm0\n tilezero tmm2",
            "tileloadd tmm0, [{c0} + {cs}]\n tileloadd tmm2, [{c1} + {cs}]",
            "tileloadd tmm4, [{x0} + {xs}]\n tileloadd tmm6, [{p0} + {ps}]\n tdpbf16ps tmm0, tmm4, tmm6\n \
             tileloadd tmm5, [{x1} + {xs}]\n tdpbf16ps tmm2, tmm5, tmm6",
            "tilestored [{c0} + {cs}], tmm0\n tilestored [{c1} + {cs}], tmm2"
        );
    }

    fn one_by_two(self) {
        tiles!(
            self,
            "tilezero tmm0\n tilezero tmm1",
            "tileloadd tmm0, [{c0} + {cs}]\n tileloadd tmm1, [{c0} + {cs} + 64]",
            "tileloadd tmm4, [{x0} + {xs}]\n tileloadd tmm6, [{p0} + {ps}]\n tdpbf16ps tmm0, tmm4, tmm6\n \
             tileloadd tmm7, [{p1} + {ps}]\n tdpbf16ps tmm1, tmm4, tmm7",
            "tilestored [{c0} + {cs}], tmm0\n tilestored [{c0} + {cs} + 64], tmm1"
        );
    }

    fn one_by_one(self) {
        tiles!(
            self,
            "tilezero tmm0",
            "tileloadd tmm0, [{c0} + {cs}]",
            "tileloadd tmm4, [{x0} + {xs}]\n tileloadd tmm6, [{p0} + {ps}]\n tdpbf16ps tmm0, tmm4, tmm6",
            "tilestored [{c0} + {cs}], tmm0"
        );
    }
}
