//! Blocks of two by two tiles of sums.

use std::ops::Range;

use super::super::{Halves, ROWS, prefetch};
use super::beside::{Beside, fetch};
use super::tile::{dot, load, pass};
use super::{Begin, PACKED_LINE, PACKED_TILE, X_STEP};
use crate::lines::Line;

/// Steps of a block beside which the next block's sums are fetched: in each of them four rows of two tiles.
const FETCH_STEPS: usize = 2 * ROWS / SUM_ROWS;
const SUM_ROWS: usize = 4;

/// Where the next step's tiles are: of rows, so many bytes apart, and packed ones.
struct Tiles {
    x: [*const u8; 2],
    strides: [usize; 2],
    p: [*const u8; 2],
}

/// The next block's sums, four rows for each step, which are so many bytes apart.
#[derive(Clone, Copy)]
struct Next {
    at: *const u8,
    stride: usize,
}

/// Adds steps of two tiles of rows of x and of columns of p, the first of which are given.
///
/// # Safety
/// AMX is configured; there are so many steps of these, and the sums that `begin` names.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
pub(super) unsafe fn block(
    begin: &Begin,
    x: [Halves<'_>; 2],
    p: [*const u32; 2],
    steps: Range<usize>,
    beside: &mut Beside<'_>,
) {
    let mut tiles = Tiles {
        x: x.map(|rows| rows.data.as_ptr().cast::<u8>().wrapping_add(steps.start * X_STEP)),
        strides: x.map(|rows| 2 * rows.stride),
        p: p.map(|columns| columns.cast::<u8>().wrapping_add(steps.start * PACKED_TILE)),
    };
    // SAFETY: the caller's promise.
    unsafe {
        first(begin, &mut tiles);
        let next = (!begin.fresh && steps.len() <= FETCH_STEPS).then(|| {
            let mut next = Next {
                at: begin.sums[0].wrapping_add(2 * ROWS).cast(),
                stride: begin.stride,
            };
            next.fetch();
            next
        });
        rest(&mut tiles, steps.len() - 1, beside, next);
    }
}

impl Next {
    const NOWHERE: Next = Next {
        at: std::ptr::null(),
        stride: 0,
    };

    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..SUM_ROWS {
            prefetch(self.at.cast());
            prefetch(self.at.wrapping_add(Line::BYTES).cast());
            self.at = self.at.wrapping_add(self.stride);
        }
    }
}

/// The first step.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn first(begin: &Begin, tiles: &mut Tiles) {
    let ([x0, x1], [s0, s1], [p0, p1]) = (tiles.x, tiles.strides, tiles.p);
    // SAFETY: the caller's promise.
    unsafe {
        load::<4>(x0, s0);
        pass::<6>(p0, PACKED_LINE);
        begin.sum::<0>();
        dot::<0, 4, 6>();
        pass::<7>(p1, PACKED_LINE);
        begin.sum::<1>();
        dot::<1, 4, 7>();
        load::<5>(x1, s1);
        begin.sum::<2>();
        dot::<2, 5, 6>();
        begin.sum::<3>();
        dot::<3, 5, 7>();
    }
    tiles.x = [x0, x1].map(|x| x.wrapping_add(X_STEP));
    tiles.p = [p0, p1].map(|p| p.wrapping_add(PACKED_TILE));
}

/// The steps after the first.
///
/// # Safety
/// As for [`block`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn rest(tiles: &mut Tiles, mut steps: usize, beside: &mut Beside<'_>, next: Option<Next>) {
    let sums = next.is_some();
    let mut next = next.unwrap_or(Next::NOWHERE);
    while steps > 0 {
        let (some, packed) = beside.at_hand(steps);
        // SAFETY: the caller's promise; `beside` has seen to as many patches.
        next = unsafe {
            match (packed, sums) {
                (0, true) => some_steps::<0, true>(tiles, some, beside, next),
                (0, false) => some_steps::<0, false>(tiles, some, beside, next),
                (1, _) => some_steps::<1, false>(tiles, some, beside, next),
                (2, _) => some_steps::<2, false>(tiles, some, beside, next),
                _ => some_steps::<4, false>(tiles, some, beside, next),
            }
        };
        beside.done(some, packed);
        steps -= some;
    }
}

/// Steps with `PACKED` patches after each, and the next sums if `SUMS`. A function of its own, so that everything has a register:
/// what it read from the stack would wait for patches to be stored at other addresses that end in the same twelve bits.
///
/// # Safety
/// As for [`block`]; there are so many patches.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
unsafe fn some_steps<const PACKED: usize, const SUMS: bool>(
    tiles: &mut Tiles,
    steps: usize,
    beside: &mut Beside<'_>,
    mut next: Next,
) -> Next {
    let ([mut x0, mut x1], [s0, s1], [mut p0, mut p1]) = (tiles.x, tiles.strides, tiles.p);
    let (mut patches, mut at, lines, orders) = (beside.patches, beside.at, beside.lines, beside.orders);
    for _ in 0..steps {
        // SAFETY: the caller's promise.
        unsafe {
            load::<4>(x0, s0);
            pass::<6>(p0, PACKED_LINE);
            dot::<0, 4, 6>();
            pass::<7>(p1, PACKED_LINE);
            dot::<1, 4, 7>();
            load::<5>(x1, s1);
            dot::<2, 5, 6>();
            dot::<3, 5, 7>();
            for _ in 0..PACKED {
                patches.pack_one(orders);
            }
        }
        [x0, x1] = [x0, x1].map(|x| x.wrapping_add(X_STEP));
        [p0, p1] = [p0, p1].map(|p| p.wrapping_add(PACKED_TILE));
        if SUMS {
            next.fetch();
        }
        fetch(&mut at, lines);
    }
    (tiles.x, tiles.p) = ([x0, x1], [p0, p1]);
    (beside.patches, beside.at) = (patches, at);
    next
}
