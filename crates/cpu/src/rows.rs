//! Row loops beside maps: reductions, factors, rounding and rotation.

use mlafuse_codegen::tile::{Pairing, ReduceOp};

use crate::convert::{Element, bf16_row, round_row};
use crate::gemm::split;
use crate::level::{Level, Loop};
use crate::scratch::{Elements, Slot};

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

/// dst\[i, j\] *= by\[i\].
pub(crate) fn scale_rows(level: Level, dst: Slot, by: Slot, arena: &mut [f32]) {
    (0..dst.rows).for_each(|row| scale_row(level, dst, by, row, arena));
}

/// dst\[row, j\] *= by\[row\].
pub(crate) fn scale_row(level: Level, dst: Slot, by: Slot, row: usize, arena: &mut [f32]) {
    let factor = arena[by.start + row];
    // As a softmax's sums mostly are, once its largest score has come.
    if factor != 1.0 {
        let line = &mut arena[dst.row(row, 0..dst.cols)];
        level.run(Scale { factor, line });
    }
}

struct Scale<'a> {
    factor: f32,
    line: &'a mut [f32],
}

impl Loop for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.line.iter_mut().for_each(|x| *x *= self.factor);
    }
}

/// dst = src, rounded to the element type.
pub(crate) fn stage(level: Level, dst: Slot, src: Slot, element: Element, arena: &mut [f32]) {
    // Tiles never overlap, so both borrows are there.
    let Ok([to, from]) = arena.get_disjoint_mut([dst.range(), src.range()]) else {
        return;
    };
    if dst.elements != Elements::Floats {
        let to: &mut [u16] = bytemuck::cast_slice_mut(to);
        for row in 0..src.rows {
            let from = &from[row * src.stride..][..src.cols];
            let first = row * dst.stride;
            match dst.elements {
                Elements::Pieces => split::row(from, &mut to[first..], dst.plane()),
                _ => bf16_row(level, from, &mut to[first..][..src.cols]),
            }
            for plane in 0..dst.elements.planes() {
                to[first + plane * dst.plane()..][..dst.stride][src.cols..].fill(0);
            }
        }
        return;
    }
    for row in 0..src.rows {
        let to = &mut to[row * dst.stride..][..src.cols];
        round_row(level, element, &from[row * src.stride..][..src.cols], to);
    }
}

#[inline(always)]
pub(crate) fn fold(elements: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
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
