//! What is done beside a product, a bit after each step of it.
//!
//! A core does both at once as long as little of the one stands between two parts of the other: what is packed after each step
//! costs much less than after every ninth.

use std::arch::x86_64::*;

use super::super::pack::{Columns, Orders, Patches};
use super::super::{Fetch, LINE};

/// Tiles of rows and of columns of sums from which on computing takes longer than fetching.
const LARGE: usize = 4;

/// What is packed and what is fetched.
pub(super) struct Beside<'a> {
    columns: Option<Columns<'a>>,
    fetch: Fetch<'a>,
    /// After each step of two by two, so many patches are packed, and there are enough for so many steps,
    packed: usize,
    pub(super) orders: Orders,
    pub(super) patches: Patches,
    packed_steps: usize,
    /// (those beside each other take so many)
    abreast_steps: usize,
    /// so many lines fetched from `at` on, one after another, and there are enough for so many steps;
    pub(super) lines: usize,
    pub(super) at: *const u16,
    lines_steps: usize,
    /// or, after each step of whatever shape, so many lines of each group.
    of_each: usize,
}

impl<'a> Beside<'a> {
    /// Nothing.
    ///
    /// # Safety
    /// AVX-512 is available.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn nothing() -> Beside<'a> {
        // SAFETY: the caller's promise.
        unsafe { Beside::new(None, Fetch::NONE, [1, 1], [1, 1]) }
    }

    /// Shares it out to the steps of a product with so many tiles of rows and columns and steps of its depth, of which a block
    /// has so many.
    ///
    /// # Safety
    /// AVX-512 is available.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn new(
        columns: Option<Columns<'a>>,
        fetch: Fetch<'a>,
        [rows, cols]: [usize; 2],
        [steps, of_block]: [usize; 2],
    ) -> Beside<'a> {
        let of_squares = (rows / 2) * (cols / 2) * steps;
        let (left, abreast) = columns.as_ref().map_or((0, 0), Columns::left);
        let packed = match (left.div_ceil(of_squares.max(1)), abreast) {
            (0, _) => 0,
            (1, _) | (_, 1) => 1,
            (2, _) | (_, ..4) => 2,
            _ => 4,
        };
        let abreast_steps = (abreast / packed.max(1)).min(of_block - 1);
        let (lines, of_each) = match rows.min(cols) >= LARGE {
            true => (fetch.total().div_ceil(of_squares), 0),
            false => (0, fetch.lines().div_ceil((rows * cols * steps).div_ceil(4))),
        };
        Beside {
            columns,
            fetch,
            packed,
            orders: Orders::new(),
            patches: Patches::NONE,
            packed_steps: 0,
            abreast_steps,
            lines,
            at: std::ptr::null(),
            lines_steps: 0,
            of_each,
        }
    }

    /// How many of the next steps of two by two, of the `steps` that a block has left, have the same beside them, and how many
    /// patches each; these are at hand then, and so are the lines. A block begins no patches that it has not the steps for.
    #[inline(always)]
    pub(super) fn at_hand(&mut self, steps: usize) -> (usize, usize) {
        let (mut some, mut packed) = (if self.of_each > 0 { 1 } else { steps }, self.packed);
        if packed > 0 && self.packed_steps == 0 {
            match steps < self.abreast_steps {
                true => packed = 0,
                false => packed = self.next_patches(),
            }
        }
        if packed > 0 {
            some = some.min(self.packed_steps);
        }
        if self.lines > 0 && self.lines_steps == 0 {
            self.next_lines();
        }
        if self.lines > 0 {
            some = some.min(self.lines_steps);
        }
        (some, packed)
    }

    /// Notes that so many steps of two by two have been done, with so many patches each.
    #[inline(always)]
    pub(super) fn done(&mut self, steps: usize, packed: usize) {
        if packed > 0 {
            self.packed_steps -= steps;
        }
        self.lines_steps = self.lines_steps.saturating_sub(steps);
        self.after_step();
    }

    /// Inline, as are those that it calls: what came back by memory would be read as a whole where it was written in parts, and
    /// so wait for all patches to be stored before.
    #[inline(always)]
    fn next_patches(&mut self) -> usize {
        // SAFETY: AVX-512 is available, as `new` has been told, and they have been handed out.
        unsafe { self.patches.pack(self.orders) };
        self.patches = self.columns.as_mut().map_or(Patches::NONE, Columns::hand_out);
        // One, two or four.
        self.packed_steps = self.patches.left >> self.packed.trailing_zeros();
        self.patches.left -= self.packed_steps * self.packed;
        if self.packed_steps == 0 {
            self.packed = 0;
        }
        self.packed
    }

    #[inline(always)]
    fn next_lines(&mut self) {
        match self.fetch.take(usize::MAX) {
            // What is beyond the last line is a neighbour's.
            Some((at, count)) => (self.at, self.lines_steps) = (at, count.div_ceil(self.lines)),
            None => self.lines = 0,
        }
    }

    /// Whether lines of each group are fetched after each step.
    pub(super) fn fetches(&self) -> bool {
        self.of_each > 0
    }

    /// Lines of each group, after a step.
    #[inline]
    pub(super) fn after_step(&mut self) {
        if self.of_each > 0 {
            self.fetch.advance(self.of_each);
        }
    }

    /// Packs what is left.
    pub(super) fn finish(mut self) {
        self.patches.left += self.packed_steps * self.packed;
        // SAFETY: as in `next_patches`.
        unsafe { self.patches.pack(self.orders) };
        self.columns.into_iter().for_each(Columns::finish);
    }
}

/// Asks for the next lines, which need not come nearer than the second-level cache.
#[inline(always)]
pub(super) fn fetch(at: &mut *const u16, lines: usize) {
    for _ in 0..lines {
        // SAFETY: a hint, which neither faults nor changes anything.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
        *at = at.wrapping_add(LINE);
    }
}
