//! The second operand of a product, read along the dimension in which its elements are neighbours.

use super::error::BuildError;
use super::program::{Matrix, ProgramBuilder, Span};
use crate::tile::{Access, BLayout, Expr, Stmt, TileId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::Size;

/// b of a product \[m, k\] · \[k, n\] and the shared tile that holds a block of it.
pub(super) struct Operand {
    tile: TileId,
    layout: BLayout,
    matrix: Matrix,
    /// Columns n and depth k of the tile.
    block: [usize; 2],
}

impl Operand {
    /// The matrix of `view` at the indices `outer` of its other dimensions, with the strides of n and k, in tiles of `block`
    /// (n, k).
    pub fn new(
        p: &mut ProgramBuilder,
        name: &str,
        view: &View,
        outer: &[(Expr, Size)],
        [n, k]: [&Size; 2],
        block: [usize; 2],
    ) -> Operand {
        let layout = match *k != Size::one() && *n == Size::one() {
            true => BLayout::Kn,
            false => BLayout::Nk,
        };
        let ((rows, columns), (row_stride, col_stride)) = match layout {
            BLayout::Nk => ((block[0], block[1]), (n, k)),
            BLayout::Kn => ((block[1], block[0]), (k, n)),
        };
        Operand {
            tile: p.shared(name, p.dtype(view), rows, columns),
            layout,
            matrix: p.matrix(view, Access::Read, outer, row_stride, col_stride),
            block,
        }
    }

    /// Loads the block of these columns n and this depth k.
    pub fn load(&self, p: &mut ProgramBuilder, n: Span, k: Span) -> Stmt {
        let (rows, cols, width) = match self.layout {
            BLayout::Nk => (n, k, self.block[1]),
            BLayout::Kn => (k, n, self.block[0]),
        };
        Stmt::Load {
            dst: self.tile,
            cols: 0..width,
            src: p.rows(&self.matrix, rows.start, rows.limit, cols),
        }
    }

    /// acc += a · b.
    pub fn gemm(&self, acc: TileId, a: TileId) -> Stmt {
        let width = match self.layout {
            BLayout::Nk => self.block[1],
            BLayout::Kn => self.block[0],
        };
        Stmt::Gemm {
            acc,
            a,
            a_start: 0.into(),
            b: self.tile,
            layout: self.layout,
            b_cols: 0..width,
        }
    }
}

/// Checks that operands have one type, and that the schedule says how deep a step of their product is.
pub(super) fn check_product(p: &ProgramBuilder, views: [&View; 2]) -> Result<(), BuildError> {
    let types = views.map(|view| p.dtype(view));
    if types[0] != types[1] {
        let found = format!("{} and {}", types[0], types[1]);
        return Err(p.unsupported("operands' types", found, "one type"));
    }
    p.check_block_k()
}
