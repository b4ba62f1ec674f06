//! Reading ahead: the rows that the next round of a loop borrows are fetched into the caches while this one's products are
//! computed.
//!
//! A core waits for few lines at a time, and those of a product's own operands are among them. Where computing takes longer
//! than fetching, lines are nearly free as long as they are asked for evenly, one after another, a few in each step, and cost as
//! much as they give in bursts. Where memory decides, lines come one of each group of rows in turn: many ascending streams, of
//! each of which the processor's own prefetching is ahead.

use std::ops::Range;

use super::{Halves, Lent, ROWS};
use crate::scratch::Borrowed;

/// Elements of a cache line.
pub(crate) const LINE: usize = 32;

/// What the next round of a loop borrows, and how much of it is yet to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// The load, and the round.
    pub(crate) of: Option<(usize, i64)>,
    pub(crate) rows: Borrowed,
    /// Lines of a group.
    of_group: usize,
    /// The groups that are left, and the lines of each of them.
    groups: Range<usize>,
    lines: Range<usize>,
    /// Parts of these that are left to products of this round.
    parts: usize,
}

impl Ahead {
    /// Shares the rows, of `cols` columns, out in so many parts. Of rows that lie further apart, with other columns between them,
    /// nothing is fetched.
    pub(crate) fn begin(&mut self, cols: usize, parts: usize) {
        let stride = self.rows.stride;
        self.of_group = match stride.checked_sub(cols) {
            Some(..LINE) => ((ROWS - 1) * stride + cols).div_ceil(LINE),
            _ => 0,
        };
        self.groups = 0..self.rows.groups.len();
        (self.lines, self.parts) = (0..self.of_group, parts);
    }

    /// There is no next round.
    pub(crate) fn clear(&mut self) {
        (self.of, self.groups) = (None, 0..0);
    }

    /// So many parts, for a product: lines of all groups that are left.
    pub(crate) fn share(&mut self, parts: usize) -> Share {
        let start = self.lines.start;
        self.lines.start += (self.lines.len() * parts).div_ceil(self.parts.max(parts).max(1));
        self.parts = self.parts.saturating_sub(parts);
        Share {
            groups: self.groups.clone(),
            lines: start..self.lines.start,
        }
    }

    /// What falls to a step that has time for so many lines: whole groups, half of them at most.
    pub(crate) fn share_of(&mut self, lines: usize) -> Share {
        let start = self.groups.start;
        let groups = lines.checked_div(self.of_group).unwrap_or(0);
        self.groups.start += groups.min(self.groups.len() / 2);
        Share {
            groups: start..self.groups.start,
            lines: self.lines.clone(),
        }
    }
}

/// These lines of these groups.
pub(crate) struct Share {
    groups: Range<usize>,
    lines: Range<usize>,
}

/// What is fetched beside a step.
pub(crate) struct Fetch<'a> {
    rows: Lent<'a>,
    /// Lines of each group.
    lines: Range<usize>,
    /// The next line of the first group, where one is taken after another.
    next: usize,
}

impl<'a> Fetch<'a> {
    /// Nothing.
    pub(crate) const NONE: Fetch<'static> = Fetch {
        rows: Lent {
            memory: Halves { data: &[], stride: 0 },
            groups: &[],
        },
        lines: 0..0,
        next: 0,
    };

    /// A share of the rows.
    pub(crate) fn new(rows: Lent<'a>, share: Share) -> Fetch<'a> {
        let groups = rows.groups.get(share.groups).unwrap_or_default();
        Fetch {
            rows: Lent { groups, ..rows },
            next: share.lines.start,
            lines: share.lines,
        }
    }

    /// Lines of each group.
    pub(super) fn lines(&self) -> usize {
        match self.rows.groups {
            [] => 0,
            _ => self.lines.len(),
        }
    }

    /// Lines of all groups.
    pub(super) fn total(&self) -> usize {
        self.rows.groups.len() * self.lines.len()
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

    /// Takes up to so many neighbouring lines, one group's after another's: where they are, and how many.
    #[inline]
    pub(crate) fn take(&mut self, lines: usize) -> Option<(*const u16, usize)> {
        while let Some((group, after)) = self.rows.groups.split_first() {
            let left = self.lines.end.saturating_sub(self.next);
            if let (Some(first), 1..) = (group, left) {
                let at = self.rows.memory.data.as_ptr().wrapping_add(first + self.next * LINE);
                let count = left.min(lines);
                self.next += count;
                return Some((at, count));
            }
            (self.rows.groups, self.next) = (after, self.lines.start);
        }
        None
    }
}

/// Asks for the line at `at`, wherever that is.
#[inline]
pub(crate) fn prefetch(at: *const u16) {
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

    fn ahead(cols: usize, stride: usize, groups: &[Option<usize>], parts: usize) -> Ahead {
        let mut ahead = Ahead::default();
        ahead.rows.stride = stride;
        ahead.rows.groups = groups.to_vec();
        ahead.begin(cols, parts);
        ahead
    }

    /// The lines of a share, so many at a time: of each group, or one after another.
    fn visited(share: Share, groups: &[Option<usize>], each: usize, in_turn: bool) -> Vec<usize> {
        let mut found = Vec::new();
        let mut fetch = Fetch::new(
            Lent {
                groups,
                ..Fetch::NONE.rows
            },
            share,
        );
        if in_turn {
            while fetch.lines() > 0 {
                fetch.visit(each, |at| found.push(at));
            }
            return found;
        }
        let total = fetch.total();
        while let Some((at, count)) = fetch.take(each) {
            found.extend((0..count).map(|line| at as usize / size_of::<u16>() + line * LINE));
        }
        assert!(found.len() <= total);
        found
    }

    proptest! {
        #[test]
        fn every_line_of_the_rows_is_visited_once_and_no_other(
            lines_of_a_row in 1usize..8, gap in 0usize..LINE, there in prop::collection::vec(any::<bool>(), 0..9),
            products in 1usize..5, time in 0usize..400, each in 1usize..40, in_turn in any::<bool>(),
        ) {
            let (cols, stride) = (lines_of_a_row * LINE, lines_of_a_row * LINE + gap);
            // Far enough apart that no two groups meet in a line.
            let place = |(i, there): (usize, &bool)| there.then_some((i * ROWS * (stride + LINE)).next_multiple_of(LINE));
            let groups: Vec<Option<usize>> = there.iter().enumerate().map(place).collect();
            let mut ahead = ahead(cols, stride, &groups, products);
            let memory = Fetch::NONE.rows.memory.data.as_ptr() as usize / size_of::<u16>();
            let first = visited(ahead.share_of(time), &groups, each, false);
            prop_assert!(first.len() <= time);
            let shares: Vec<Share> = (0..products).map(|_| ahead.share(1)).collect();
            prop_assert!(ahead.share(1).lines.is_empty());
            let rest = shares.into_iter().flat_map(|share| {
                let found = visited(share, &groups, each, in_turn);
                found.into_iter().map(|at| if in_turn { at } else { at - memory }).collect::<Vec<usize>>()
            });
            let mut found: Vec<usize> = first.into_iter().map(|at| at - memory).chain(rest).collect();
            found.sort_unstable();
            let rows = groups.iter().flatten().flat_map(|group| (0..ROWS).map(move |row| group + row * stride));
            let mut wanted: Vec<usize> = rows.flat_map(|row| row / LINE..=(row + cols - 1) / LINE).map(|at| at * LINE).collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn products_have_as_many_lines_as_parts() {
        let mut ahead = ahead(576, 576, &[Some(0)], 4);
        assert_eq!(
            [1, 3, 1].map(|parts| ahead.share(parts).lines),
            [0..72, 72..288, 288..288]
        );
    }

    #[test]
    fn a_step_with_little_time_has_whole_groups_and_at_most_half() {
        let mut ahead = ahead(576, 576, &[Some(0); 16], 1);
        assert_eq!(
            [287, 700, 10_000].map(|lines| ahead.share_of(lines).groups),
            [0..0, 0..2, 2..9]
        );
        assert_eq!(ahead.share(1).groups, 9..16);
    }

    #[test]
    fn nothing_is_fetched_of_rows_far_apart_or_without_a_next_round() {
        let nothing = |mut ahead: Ahead| {
            let shares = [ahead.share_of(100), ahead.share(1)];
            shares
                .into_iter()
                .all(|share| share.groups.is_empty() || share.lines.is_empty())
        };
        assert!(nothing(ahead(64, 64 + LINE, &[Some(0)], 1)));
        assert!(nothing(ahead(64, 0, &[Some(0)], 1)));
        let mut last = ahead(64, 64, &[Some(0)], 1);
        last.clear();
        assert!(nothing(last));
    }
}
