//! Row loops beside maps: reductions and rotation.

use mlafuse_codegen::tile::{Pairing, ReduceOp};

use crate::level::{Level, Loop};
use crate::scratch::Slot;

/// Partial results of a row: sixteen, whatever the level, so that a sum's order is always the same.
const LANES: usize = 16;

/// dst\[i\] = op(dst\[i\], row i of src reduced).
pub(crate) fn reduce(level: Level, op: ReduceOp, dst: Slot, src: Slot, arena: &mut [f32]) {
    level.run(Reduce { op, dst, src, arena });
}

struct Reduce<'a> {
    op: ReduceOp,
    dst: Slot,
    src: Slot,
    arena: &'a mut [f32],
}

impl Loop for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for row in 0..self.src.rows {
            let elements = &self.arena[self.src.row(row, 0..self.src.cols)];
            let reduced = match self.op {
                ReduceOp::Max => fold(elements, f32::NEG_INFINITY, f32::max),
                ReduceOp::Sum => fold(elements, 0.0, |a, b| a + b),
            };
            let to = &mut self.arena[self.dst.start + row];
            *to = match self.op {
                ReduceOp::Max => to.max(reduced),
                ReduceOp::Sum => *to + reduced,
            };
        }
    }
}

#[inline(always)]
fn fold(elements: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = elements.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = f(*lane, *x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane = f(*lane, *x));
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(high).for_each(|(a, b)| *a = f(*a, *b));
    }
    lanes[0]
}

/// What a rotation works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) dst: Slot,
    pub(crate) src: Slot,
    pub(crate) cos: Slot,
    pub(crate) sin: Slot,
    pub(crate) pairing: Pairing,
    /// Columns that are rotated; those beyond are copied.
    pub(crate) d: usize,
}

/// dst = src with the pairs of its first d columns rotated.
pub(crate) fn rotate(r: &Rotation, arena: &mut [f32]) {
    let half = r.d / 2;
    for row in 0..r.src.rows {
        let from = r.src.row(row, 0..r.src.cols);
        arena.copy_within(from.clone(), r.dst.row(row, 0..0).start);
        for pair in 0..half {
            let (first, second) = match r.pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Halves => (pair, pair + half),
            };
            let (x, y) = (arena[from.start + first], arena[from.start + second]);
            let (cos, sin) = (
                arena[r.cos.row(row, pair..pair).start],
                arena[r.sin.row(row, pair..pair).start],
            );
            let to = r.dst.row(row, 0..0).start;
            arena[to + first] = x * cos - y * sin;
            arena[to + second] = x * sin + y * cos;
        }
    }
}
