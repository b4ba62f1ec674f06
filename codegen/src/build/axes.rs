//! Dimensions of several operands that are walked together.

use mlafuse_ir::plan::View;
use mlafuse_ir::size::{Dim, Size};

/// One dimension of `N` operands: its extent, and each operand's elements from one index to the next (0 where the
/// operand does not have it).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis<const N: usize> {
    pub extent: Size,
    pub strides: [Size; N],
}

impl<const N: usize> Axis<N> {
    /// The dimension of one index.
    pub fn unit() -> Axis<N> {
        Axis {
            extent: Size::one(),
            strides: std::array::from_fn(|_| Size::constant(0)),
        }
    }

    /// Dimension `dim`, which stands in operand i at position `at[i]`.
    pub fn new(dim: Dim, operands: [&View; N], at: [Option<usize>; N]) -> Axis<N> {
        let stride = |i: usize| at[i].and_then(|axis| operands[i].strides.get(axis).cloned());
        let strides = std::array::from_fn(|i| stride(i).unwrap_or(Size::constant(0)));
        Axis {
            extent: Size::one().times(dim),
            strides,
        }
    }
}

/// The product of two sizes.
pub(super) fn times(a: &Size, b: &Size) -> Size {
    let coefficient = a.coefficient * b.coefficient;
    if coefficient == 0 {
        return Size::constant(0);
    }
    let mut symbols: Vec<_> = a.symbols.iter().chain(&b.symbols).copied().collect();
    symbols.sort();
    Size { coefficient, symbols }
}

/// Merges neighbours (outer, inner) that every operand walks as one dimension, and drops dimensions of one index.
pub(super) fn collapse<const N: usize>(axes: impl IntoIterator<Item = Axis<N>>) -> Vec<Axis<N>> {
    let mut merged: Vec<Axis<N>> = Vec::new();
    for inner in axes.into_iter().filter(|axis| axis.extent != Size::one()) {
        match merged.last_mut() {
            Some(outer) if walked_as_one(outer, &inner) => {
                *outer = Axis {
                    extent: times(&outer.extent, &inner.extent),
                    strides: inner.strides,
                };
            }
            _ => merged.push(inner),
        }
    }
    merged
}

fn walked_as_one<const N: usize>(outer: &Axis<N>, inner: &Axis<N>) -> bool {
    outer
        .strides
        .iter()
        .zip(&inner.strides)
        .all(|(outer, stride)| *outer == times(stride, &inner.extent))
}

/// The last of `axes`, collapsed, and what could not be merged with it.
pub(super) fn innermost<const N: usize>(axes: impl IntoIterator<Item = Axis<N>>) -> (Axis<N>, Vec<Axis<N>>) {
    let mut axes = collapse(axes);
    (axes.pop().unwrap_or_else(Axis::unit), axes)
}

/// Operands as rows and columns: the last dimension is the columns, the others are rows as far as they merge.
pub(super) struct Plane<const N: usize> {
    /// Dimensions that do not merge with the rows.
    pub outer: Vec<Axis<N>>,
    pub rows: Axis<N>,
    pub cols: Axis<N>,
}

/// `shape` as a plane; operand i has the last of its dimensions.
pub(super) fn plane<const N: usize>(shape: &[Dim], operands: [&View; N]) -> Plane<N> {
    let mut axes: Vec<Axis<N>> = (0..shape.len())
        .map(|axis| aligned_right(shape, axis, operands))
        .collect();
    let cols = axes.pop().unwrap_or_else(Axis::unit);
    let (rows, outer) = innermost(axes);
    Plane { outer, rows, cols }
}

/// Dimension `axis` of `shape`, of operands whose shapes are `shape` or a suffix of it.
pub(super) fn aligned_right<const N: usize>(shape: &[Dim], axis: usize, operands: [&View; N]) -> Axis<N> {
    let at = operands.map(|view| (axis + view.shape.len()).checked_sub(shape.len()));
    Axis::new(shape[axis], operands, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::BufferId;
    use mlafuse_ir::size::Symbol;

    #[test]
    fn contiguous_dimensions_merge_and_slices_do_not() {
        let shape = [Symbol::B.into(), Symbol::T.into(), 4.into(), 8.into()];
        let whole = View::contiguous(BufferId(0), &shape);
        let found = plane(&shape, [&whole]);
        assert!(found.outer.is_empty());
        assert_eq!(found.rows.extent.to_string(), "4*B*T");
        assert_eq!(found.rows.strides, [Size::constant(8)]);

        let mut part = whole.clone();
        part.shape[2] = 3.into();
        let found = plane(&part.shape, [&part]);
        assert_eq!(found.rows.extent, Size::constant(3));
        assert_eq!(found.outer.len(), 1);
        assert_eq!(found.outer[0].strides, [Size::constant(32)]);
    }

    #[test]
    fn a_bias_repeats() {
        let shape = [Symbol::B.into(), 8.into()];
        let (x, bias) = (
            View::contiguous(BufferId(0), &shape),
            View::contiguous(BufferId(1), &[8.into()]),
        );
        let found = plane(&shape, [&x, &bias]);
        assert_eq!(found.rows.strides, [Size::constant(8), Size::constant(0)]);
        assert_eq!(found.cols.strides, [Size::one(), Size::one()]);
    }
}
