//! Products by AMX of no more rows than a tile has, with columns that are packed on the way.
//!
//! What is packed is used once. It stays in the first-level cache: two tiles are packed while the two before are multiplied.

use std::mem::MaybeUninit;

use super::super::{Acc, Sizes};
use super::amx::tile::{dot, load, store, zero};
use super::amx::{PACKED_LINE, configure};
use super::pack::{Orders, Pieces};
use super::{Fetch, Halves, K_STEP, Operand, ROWS};
use crate::lines::Line;

/// Words of a packed tile.
const TILE: usize = ROWS * ROWS;
/// Tiles of columns that are multiplied together: their rows are whole cache lines.
const TILES: usize = 2;

/// What is packed: the tiles of one step, and those of the step before. A row of a packed tile is a line.
type Ring = [[Line; TILES * TILE / ROWS]; 2];

/// acc \[m, n\] = a · b, m up to ROWS, plus what it was unless `fresh`. Meanwhile `fetch` is fetched.
pub(super) fn gemm(sizes: Sizes, acc: Acc<'_>, a: Halves<'_>, b: Operand<'_>, fresh: bool, mut fetch: Fetch<'_>) {
    let Sizes { m, n, k } = sizes;
    let steps = k.div_ceil(K_STEP);
    assert!(m <= ROWS && a.data.len() >= (ROWS - 1) * a.stride + steps * K_STEP);
    assert!(acc.data.len() >= (ROWS - 1) * acc.stride + n.next_multiple_of(ROWS));
    configure();
    let product = Product {
        pieces: Pieces::new(b, n, k),
        a,
        steps,
        columns: n.div_ceil(ROWS),
        sums: acc.data.as_mut_ptr(),
        stride: acc.stride,
        fresh,
    };
    // SAFETY: AMX implies AVX-512; a and the sums have the tiles.
    unsafe { product.run(&mut fetch) };
}

/// A step of tiles of columns that are multiplied together.
#[derive(Clone, Copy)]
struct Turn {
    /// The first of the tiles of columns, and how many there are.
    first: usize,
    tiles: usize,
    step: usize,
    /// Where they are packed.
    packed: *mut u32,
}

struct Product<'a> {
    pieces: Pieces<'a>,
    a: Halves<'a>,
    steps: usize,
    /// Tiles of columns.
    columns: usize,
    sums: *mut f32,
    stride: usize,
    fresh: bool,
}

impl Product<'_> {
    /// # Safety
    /// AMX is available and configured; a and the sums have the tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn run(&self, fetch: &mut Fetch<'_>) {
        let mut ring = MaybeUninit::<Ring>::uninit();
        let ring = ring.as_mut_ptr().cast::<u32>();
        let orders = Orders::new();
        let lines = fetch.lines().div_ceil(self.columns.div_ceil(TILES) * self.steps);
        let mut place = 0;
        let mut before: Option<Turn> = None;
        for first in (0..self.columns).step_by(TILES) {
            for step in 0..self.steps {
                let turn = Turn {
                    first,
                    tiles: (self.columns - first).min(TILES),
                    step,
                    packed: ring.wrapping_add(place),
                };
                place = TILES * TILE - place;
                // SAFETY: each half of the ring has TILES tiles, which the turn before the last is done with.
                unsafe { self.pack(turn, orders) };
                if let Some(before) = before {
                    // SAFETY: its tiles are packed; the caller's promise.
                    unsafe { self.multiply(before) };
                }
                before = Some(turn);
                fetch.advance(lines);
            }
        }
        if let Some(last) = before {
            // SAFETY: as above.
            unsafe { self.multiply(last) };
        }
    }

    /// # Safety
    /// AVX-512 is available; `turn` has room for its tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn pack(&self, turn: Turn, orders: Orders) {
        for half in 0..2 {
            // SAFETY: a packed tile is two pieces, one after the other.
            unsafe {
                let to = turn.packed.add(half * TILE / 2);
                self.pieces.pack(
                    2 * turn.step + half,
                    turn.first..turn.first + turn.tiles,
                    orders,
                    to,
                    TILE,
                );
            }
        }
    }

    /// # Safety
    /// AMX is configured and the turn's tiles are packed; a and the sums have theirs.
    #[inline]
    unsafe fn multiply(&self, turn: Turn) {
        let sums = self.sums.wrapping_add(turn.first * ROWS);
        let (two, stride) = (turn.tiles == TILES, 4 * self.stride);
        // SAFETY: the caller's promise.
        unsafe {
            if turn.step == 0 && self.fresh {
                zero::<0>();
                zero::<1>();
            } else if turn.step == 0 {
                load::<0>(sums.cast(), stride);
                if two {
                    load::<1>(sums.add(ROWS).cast(), stride);
                }
            }
            load::<4>(self.a.data.as_ptr().add(turn.step * K_STEP).cast(), 2 * self.a.stride);
            load::<6>(turn.packed.cast(), PACKED_LINE);
            dot::<0, 4, 6>();
            if two {
                load::<7>(turn.packed.add(TILE).cast(), PACKED_LINE);
                dot::<1, 4, 7>();
            }
            if turn.step + 1 == self.steps {
                store::<0>(sums, stride);
                if two {
                    store::<1>(sums.add(ROWS), stride);
                }
            }
        }
    }
}
