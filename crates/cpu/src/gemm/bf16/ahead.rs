//! Reading ahead: the rows that the next round of a loop borrows are fetched into the caches while this one's products are
//! computed.
//!
//! A core waits for few lines at a time, and those of a product's own operands are among them. So that fetching does not take
//! their places, lines come one of each group of rows in turn: many ascending streams, each so slow that the processor's
//! own prefetching into the second-level cache is far ahead of it, and a line is there soon after it is asked for.

use std::ops::Range;

use super::{Halves, Lent, ROWS};
use crate::scratch::Borrowed;

/// Elements of a cache line.
const LINE: usize = 32;

/// What the next round of a loop borrows, and how much of it is yet to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pub(crate) rows: Borrowed,
    /// Of each group: the lines that are left.
    lines: Range<usize>,
    /// Products of this round that are left.
    products: usize,
}

impl Ahead {
    /// Shares the rows, of `cols` columns, out to so many products. Of rows that lie further apart, with other columns between
    /// them, nothing is fetched.
    pub(crate) fn begin(&mut self, cols: usize, products: usize) {
        let stride = self.rows.stride;
        let lines = match stride.checked_sub(cols) {
            Some(..LINE) => ((ROWS - 1) * stride + cols).div_ceil(LINE),
            _ => 0,
        };
        (self.lines, self.products) = (0..lines, products);
    }

    /// There is no next round.
    pub(crate) fn clear(&mut self) {
        self.lines = 0..0;
    }

    /// The lines of each group that fall to the next product.
    pub(crate) fn share(&mut self) -> Range<usize> {
        let start = self.lines.start;
        self.lines.start += self.lines.len().div_ceil(self.products.max(1));
        self.products = self.products.saturating_sub(1);
        start..self.lines.start
    }
}

/// What is fetched beside a product: these lines of each group.
pub(crate) struct Fetch<'a> {
    pub(crate) rows: Lent<'a>,
    pub(crate) lines: Range<usize>,
}

impl Fetch<'_> {
    /// Nothing.
    pub(super) const NONE: Fetch<'static> = Fetch {
        rows: Lent {
            memory: Halves { data: &[], stride: 0 },
            groups: &[],
        },
        lines: 0..0,
    };

    /// Lines of each group that are left.
    pub(super) fn left(&self) -> usize {
        self.lines.len()
    }

    /// Asks for so many lines of each group, or those that are left.
    pub(super) fn advance(&mut self, lines: usize) {
        let first = self.rows.memory.data.as_ptr();
        self.visit(lines, |at| prefetch(first.wrapping_add(at)));
    }

    /// The first elements of the next lines.
    fn visit(&mut self, lines: usize, mut line_at: impl FnMut(usize)) {
        for line in self.lines.by_ref().take(lines) {
            for group in self.rows.groups.iter().flatten() {
                line_at(group + line * LINE);
            }
        }
    }
}

/// Asks for the line at `at`, wherever that is.
fn prefetch(at: *const u16) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which neither faults nor changes anything.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ahead(cols: usize, stride: usize, groups: &[Option<usize>], products: usize) -> Ahead {
        let mut ahead = Ahead::default();
        ahead.rows.stride = stride;
        ahead.rows.groups = groups.to_vec();
        ahead.begin(cols, products);
        ahead
    }

    /// The lines that a product visits, so many of each group at a time.
    fn visited(lines: Range<usize>, groups: &[Option<usize>], each: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut fetch = Fetch {
            rows: Lent {
                groups,
                ..Fetch::NONE.rows
            },
            lines,
        };
        while fetch.left() > 0 {
            fetch.visit(each, |at| found.push(at));
        }
        found
    }

    proptest! {
        #[test]
        fn every_line_of_the_rows_is_visited_once_and_no_other(
            lines_of_a_row in 1usize..8, gap in 0usize..LINE, there in prop::collection::vec(any::<bool>(), 0..9),
            products in 1usize..5, each in 1usize..40,
        ) {
            let (cols, stride) = (lines_of_a_row * LINE, lines_of_a_row * LINE + gap);
            // Far enough apart that no two groups meet in a line.
            let place = |(i, there): (usize, &bool)| there.then_some((i * ROWS * (stride + LINE)).next_multiple_of(LINE));
            let groups: Vec<Option<usize>> = there.iter().enumerate().map(place).collect();
            let mut ahead = ahead(cols, stride, &groups, products);
            let shares: Vec<Range<usize>> = (0..products).map(|_| ahead.share()).collect();
            prop_assert!(ahead.share().is_empty());
            let mut found: Vec<usize> = shares.into_iter().flat_map(|lines| visited(lines, &groups, each)).collect();
            found.sort_unstable();
            let rows = groups.iter().flatten().flat_map(|group| (0..ROWS).map(move |row| group + row * stride));
            let mut wanted: Vec<usize> = rows.flat_map(|row| row / LINE..=(row + cols - 1) / LINE).map(|at| at * LINE).collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn products_have_even_shares() {
        let mut ahead = ahead(576, 576, &[Some(0)], 2);
        assert_eq!(
            [ahead.share(), ahead.share(), ahead.share()],
            [0..144, 144..288, 288..288]
        );
    }

    #[test]
    fn nothing_is_fetched_of_rows_far_apart_or_without_a_next_round() {
        assert!(ahead(64, 64 + LINE, &[Some(0)], 1).share().is_empty());
        assert!(ahead(64, 0, &[Some(0)], 1).share().is_empty());
        let mut last = ahead(64, 64, &[Some(0)], 1);
        last.clear();
        assert!(last.share().is_empty());
    }
}
