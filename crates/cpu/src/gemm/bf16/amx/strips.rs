//! Blocks of sums of one tile of rows or of columns, with up to four of the other.

use std::ops::Range;

use super::super::Halves;
use super::beside::Beside;
use super::tile::{dot, load, pass};
use super::{Begin, PACKED_LINE, PACKED_TILE, X_STEP};

/// Adds steps of four tiles of rows of x and one of columns of p, the first of which are given. Two steps at a time where rows
/// are fetched ahead: they are in a cache then, and come faster with their neighbouring lines; out of memory they come faster one
/// after another.
///
/// # Safety
/// AMX is configured; there are so many steps of these, and the sums that `begin` names.
#[inline]
pub(super) unsafe fn four_by_one(
    begin: &Begin,
    rows: [Halves<'_>; 4],
    columns: *const u32,
    steps: Range<usize>,
    beside: &mut Beside<'_>,
) {
    let at_a_time = if beside.fetches() { 2 } else { 1 };
    for step in steps.clone().step_by(at_a_time) {
        let (first, two) = (step == steps.start, at_a_time == 2 && step + 1 < steps.end);
        // SAFETY: the caller's promise.
        unsafe {
            load::<6>(p(columns, step), PACKED_LINE);
            if two {
                load::<7>(p(columns, step + 1), PACKED_LINE);
            }
            begin.sum_if::<0>(first);
            two_steps::<0>(rows[0], step, two);
            begin.sum_if::<1>(first);
            two_steps::<1>(rows[1], step, two);
            if two {
                beside.after_step();
            }
            begin.sum_if::<2>(first);
            two_steps::<2>(rows[2], step, two);
            begin.sum_if::<3>(first);
            two_steps::<3>(rows[3], step, two);
        }
        beside.after_step();
    }
}

/// A step of a tile of rows, whose packed tile is in a register, and the next one where there are two.
///
/// # Safety
/// AMX is configured, and the rows have the steps.
#[inline(always)]
unsafe fn two_steps<const SUM: usize>(rows: Halves<'_>, step: usize, two: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        x::<4>(rows, step);
        dot::<SUM, 4, 6>();
        if two {
            x::<5>(rows, step + 1);
            dot::<SUM, 5, 7>();
        }
    }
}

/// As [`four_by_one`], of one tile of rows of x and four of columns of p.
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn one_by_four(
    begin: &Begin,
    rows: Halves<'_>,
    columns: [*const u32; 4],
    steps: Range<usize>,
    beside: &mut Beside<'_>,
) {
    for step in steps.clone() {
        let first = step == steps.start;
        // SAFETY: the caller's promise.
        unsafe {
            x::<4>(rows, step);
            column::<0, 6>(begin, columns[0], step, first);
            column::<1, 7>(begin, columns[1], step, first);
            column::<2, 6>(begin, columns[2], step, first);
            column::<3, 7>(begin, columns[3], step, first);
        }
        beside.after_step();
    }
}

/// A step of a packed tile that passes by, whose tile of rows is in a register, and its sums before the first.
///
/// # Safety
/// AMX is configured; there are the step of the columns, and the sums that `begin` names.
#[inline(always)]
unsafe fn column<const SUM: usize, const TILE: usize>(begin: &Begin, columns: *const u32, step: usize, first: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        pass::<TILE>(p(columns, step), PACKED_LINE);
        begin.sum_if::<SUM>(first);
        dot::<SUM, 4, TILE>();
    }
}

/// As [`four_by_one`], of one tile each.
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn one(
    begin: &Begin,
    rows: Halves<'_>,
    columns: *const u32,
    steps: Range<usize>,
    beside: &mut Beside<'_>,
) {
    for step in steps.clone() {
        // SAFETY: the caller's promise.
        unsafe {
            x::<4>(rows, step);
            load::<6>(p(columns, step), PACKED_LINE);
            begin.sum_if::<0>(step == steps.start);
            dot::<0, 4, 6>();
        }
        beside.after_step();
    }
}

/// A step's tile of rows.
///
/// # Safety
/// AMX is configured, and the rows have the step.
#[inline(always)]
unsafe fn x<const TILE: usize>(rows: Halves<'_>, step: usize) {
    let from = rows.data.as_ptr().cast::<u8>().wrapping_add(step * X_STEP);
    // SAFETY: the caller's promise.
    unsafe { load::<TILE>(from, 2 * rows.stride) };
}

/// Where a step's packed tile is.
#[inline(always)]
fn p(columns: *const u32, step: usize) -> *const u8 {
    columns.cast::<u8>().wrapping_add(step * PACKED_TILE)
}
