//! Products of pieces with AMX.
//!
//! Tile registers 0 to 3 are sums, 4 and 5 rows of one operand as it lies, 6 and 7 packed columns of the other, as in
//! [`crate::gemm::bf16::amx`]. Six products of each tile of sums share fourteen tiles of pieces, so that loading these does not
//! show, and instructions need not be written one by one.

use super::super::bf16::amx::configure;
use super::super::bf16::amx::tile::{dot, load, store, zero};
use super::super::bf16::{K_STEP, ROWS};
use super::{PIECES, Packed, Planes, Sums};

/// Bytes of a row of a tile.
const LINE: usize = 64;

/// sums \[rows, columns\] = x · p, plus what they were unless they are fresh.
pub(super) fn product([rows, columns]: [usize; 2], sums: Sums<'_>, x: Planes<'_>, p: Packed<'_>) {
    let (rows, columns) = (rows.div_ceil(ROWS), columns.div_ceil(ROWS));
    let Sums { acc, fresh } = sums;
    let (x_stride, plane) = (x[0].stride, columns * p.apart);
    assert!(p.apart >= p.steps * ROWS * ROWS && p.words.len() >= PIECES * plane);
    for x in &x {
        assert!(x.stride == x_stride && x.data.len() >= (rows * ROWS - 1) * x_stride + p.steps * K_STEP);
    }
    assert!(acc.data.len() >= (rows * ROWS - 1) * acc.stride + columns * ROWS);
    configure();
    let tiles = Tiles {
        x: x.map(|plane| plane.data.as_ptr().cast()),
        x_stride: 2 * x_stride,
        p: [0, 1, 2].map(|piece| p.words[piece * plane..].as_ptr().cast()),
        p_stride: 4 * p.apart,
        steps: p.steps,
        sums: acc.data.as_mut_ptr(),
        stride: acc.stride,
        fresh,
    };
    for row in (0..rows).step_by(2) {
        for column in (0..columns).step_by(2) {
            // SAFETY: the tiles have been checked.
            unsafe {
                match (rows - row, columns - column) {
                    (1, 1) => tiles.block::<1, 1>(row, column),
                    (1, _) => tiles.block::<1, 2>(row, column),
                    (_, 1) => tiles.block::<2, 1>(row, column),
                    _ => tiles.block::<2, 2>(row, column),
                }
            }
        }
    }
}

/// The tiles of a product; strides are in bytes where not of sums.
struct Tiles {
    x: [*const u8; PIECES],
    x_stride: usize,
    p: [*const u8; PIECES],
    /// From one packed column of tiles to the next.
    p_stride: usize,
    /// K_STEPs.
    steps: usize,
    sums: *mut f32,
    stride: usize,
    fresh: bool,
}

impl Tiles {
    /// R × C tiles of sums, from tile (`row`, `column`) on, += all steps of their rows and columns.
    ///
    /// # Safety
    /// There are these tiles.
    unsafe fn block<const R: usize, const C: usize>(&self, row: usize, column: usize) {
        let [x, p] = [
            self.x.map(|plane| plane.wrapping_add(row * ROWS * self.x_stride)),
            self.p.map(|plane| plane.wrapping_add(column * self.p_stride)),
        ];
        let sums = self.sums.wrapping_add((row * self.stride + column) * ROWS);
        // SAFETY: the caller's promise.
        unsafe {
            match self.fresh {
                true => zero_sums(),
                false => load_sums::<R, C>(sums, self.stride),
            }
            for step in 0..self.steps {
                let [x_high, x_middle, x_low] = x.map(|plane| plane.wrapping_add(step * LINE));
                let [high, middle, low] = p.map(|plane| plane.wrapping_add(step * ROWS * LINE));
                self.rows::<R>(x_high);
                self.columns::<C>(low);
                self.multiply_then_columns::<R, C>(middle);
                self.multiply_then_rows::<R, C>(x_middle);
                self.multiply_then_columns::<R, C>(high);
                self.multiply_then_rows::<R, C>(x_low);
                self.multiply_then_rows::<R, C>(x_high);
                // The largest comes last: the others' sum is rounded as little as they are small.
                multiply::<R, C>();
            }
            store_sums::<R, C>(sums, self.stride);
        }
    }

    /// R tiles of rows.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            load::<4>(from, self.x_stride);
            if R == 2 {
                load::<5>(from.wrapping_add(ROWS * self.x_stride), self.x_stride);
            }
        }
    }

    /// C tiles of packed columns.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn columns<const C: usize>(&self, from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            load::<6>(from, LINE);
            if C == 2 {
                load::<7>(from.wrapping_add(self.p_stride), LINE);
            }
        }
    }

    /// Sums += rows · columns; loads other columns as soon as these have been used.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn multiply_then_columns<const R: usize, const C: usize>(&self, next: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            dot::<0, 4, 6>();
            if R == 2 {
                dot::<2, 5, 6>();
            }
            load::<6>(next, LINE);
            if C == 2 {
                dot::<1, 4, 7>();
                if R == 2 {
                    dot::<3, 5, 7>();
                }
                load::<7>(next.wrapping_add(self.p_stride), LINE);
            }
        }
    }

    /// Sums += rows · columns; loads other rows as soon as these have been used.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn multiply_then_rows<const R: usize, const C: usize>(&self, next: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            dot::<0, 4, 6>();
            if C == 2 {
                dot::<1, 4, 7>();
            }
            load::<4>(next, self.x_stride);
            if R == 2 {
                dot::<2, 5, 6>();
                if C == 2 {
                    dot::<3, 5, 7>();
                }
                load::<5>(next.wrapping_add(ROWS * self.x_stride), self.x_stride);
            }
        }
    }
}

/// # Safety
/// The sums are there.
#[inline(always)]
unsafe fn load_sums<const R: usize, const C: usize>(sums: *const f32, stride: usize) {
    let at = |i: usize, j: usize| sums.wrapping_add((i * stride + j) * ROWS).cast();
    let stride = 4 * stride;
    // SAFETY: the caller's promise.
    unsafe {
        load::<0>(at(0, 0), stride);
        if C == 2 {
            load::<1>(at(0, 1), stride);
        }
        if R == 2 {
            load::<2>(at(1, 0), stride);
        }
        if R == 2 && C == 2 {
            load::<3>(at(1, 1), stride);
        }
    }
}

/// # Safety
/// The sums are there.
#[inline(always)]
unsafe fn store_sums<const R: usize, const C: usize>(sums: *mut f32, stride: usize) {
    let at = |i: usize, j: usize| sums.wrapping_add((i * stride + j) * ROWS);
    let stride = 4 * stride;
    // SAFETY: the caller's promise.
    unsafe {
        store::<0>(at(0, 0), stride);
        if C == 2 {
            store::<1>(at(0, 1), stride);
        }
        if R == 2 {
            store::<2>(at(1, 0), stride);
        }
        if R == 2 && C == 2 {
            store::<3>(at(1, 1), stride);
        }
    }
}

/// # Safety
/// The tiles are configured.
#[inline(always)]
unsafe fn zero_sums() {
    // SAFETY: the caller's promise.
    unsafe {
        zero::<0>();
        zero::<1>();
        zero::<2>();
        zero::<3>();
    }
}

/// Sums += rows · columns.
///
/// # Safety
/// The tiles are configured.
#[inline(always)]
unsafe fn multiply<const R: usize, const C: usize>() {
    // SAFETY: the caller's promise.
    unsafe {
        dot::<0, 4, 6>();
        if R == 2 {
            dot::<2, 5, 6>();
        }
        if C == 2 {
            dot::<1, 4, 7>();
        }
        if R == 2 && C == 2 {
            dot::<3, 5, 7>();
        }
    }
}
