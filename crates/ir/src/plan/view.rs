//! Where a value lies in its buffer.

use super::BufferId;
use crate::size::{Dim, Size, Symbol};

/// A value in memory: element (i, j, ..) is at `Σ offset + i · strides[0] + j · strides[1] + ..` of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// Elements before the first; a sum.
    pub offset: Vec<Size>,
    /// Elements from one index of each dimension to the next.
    pub strides: Vec<Size>,
    /// The dimensions, outermost first.
    pub shape: Vec<Dim>,
}

impl View {
    /// All of a buffer, in row-major order.
    pub fn contiguous(buffer: BufferId, shape: &[Dim]) -> View {
        View {
            buffer,
            offset: Vec::new(),
            strides: row_major(shape),
            shape: shape.to_vec(),
        }
    }

    /// A paged cache \[N, page_size, width\]: `G` elements from page to page, `R` from row to row.
    pub fn cache(buffer: BufferId, shape: &[Dim]) -> View {
        let stride = |symbol: Symbol| Size::one().times(Dim::Sym(symbol));
        let strides = vec![stride(Symbol::G), stride(Symbol::R), Size::one()];
        View {
            buffer,
            offset: Vec::new(),
            strides,
            shape: shape.to_vec(),
        }
    }

    /// The part of this view from `start` of dimension `axis`, of shape `shape`.
    pub(super) fn slice(mut self, axis: usize, start: usize, shape: &[Dim]) -> View {
        if let (Some(stride), true) = (self.strides.get(axis), start > 0) {
            self.offset.push(stride.clone().times(Dim::Const(start)));
        }
        self.shape = shape.to_vec();
        self
    }

    /// The same elements under another shape; `None` where they do not lie next to each other.
    pub(super) fn reshape(&self, shape: &[Dim]) -> Option<View> {
        let contiguous = View {
            offset: self.offset.clone(),
            ..View::contiguous(self.buffer, shape)
        };
        self.is_contiguous().then_some(contiguous)
    }

    /// Whether the elements lie next to each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        // The stride of a dimension of one element is never used.
        let expected = row_major(&self.shape);
        let pairs = self.strides.iter().zip(&expected).zip(&self.shape);
        pairs
            .clone()
            .all(|((found, expected), &dim)| dim == Dim::Const(1) || found == expected)
    }
}

/// The strides of contiguous elements.
fn row_major(shape: &[Dim]) -> Vec<Size> {
    let mut strides: Vec<Size> = shape
        .iter()
        .rev()
        .scan(Size::one(), |size, &dim| {
            let stride = size.clone();
            *size = stride.clone().times(dim);
            Some(stride)
        })
        .collect();
    strides.reverse();
    strides
}
