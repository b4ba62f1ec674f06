//! Tile programs: how one kernel computes its region, in tiles.
//!
//! A tile program runs once per block of a grid. It moves rectangles between device memory, shared tiles and fragments and
//! computes on them; every op is defined by logical (row, column) indices, so that a backend may transpose, pack or
//! interleave as it likes. It names no thread and no barrier: those are the lowering's ([`crate::lower`]). The CPU executor
//! runs it as it stands.

#[cfg(test)]
pub(crate) mod example;
mod expr;
mod launch;
mod softmax;
mod text;
mod verify;

pub use expr::{Axis, Binary, Columns, Expr, Unary};
pub use launch::{Arg, Launch, LaunchError};
pub use softmax::Softmax;
pub(crate) use text::expr_text;
pub use text::stmt_text;
pub use verify::{Fault, ScalarKind, TileError, verify};

use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

pub use mlafuse_ir::graph::Pairing;

/// Index of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// Index of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId(pub usize);

/// Index of a scalar variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarId(pub usize);

/// What a kernel does with a tensor parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Only writes it.
    Write,
}

/// What a parameter is, and what a launch binds it to.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamKind {
    /// A buffer of the plan, in device memory.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Read or written.
        access: Access,
        /// The plan's buffer.
        buffer: BufferId,
    },
    /// The value of a symbol. Strides ([`Symbol::is_stride`]) travel in 64 bits, the others in 32.
    Scalar(Symbol),
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name in text and source.
    pub name: String,
    /// What it is.
    pub kind: ParamKind,
}

/// Where a tile lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Seen by the whole block, operand of gemm and rotate.
    Shared,
    /// f32, distributed over the block's threads as the lowering decides; accumulators, maps and reductions.
    Fragment,
}

/// The form of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// rows × cols elements.
    Matrix,
    /// One element a row (cols is 1); fragment only.
    RowVector,
    /// A row sum whose parts are still spread over the owners of a row's columns; only scaling, [`Reduce`] into it and
    /// [`Stmt::Finish`] may touch it.
    ///
    /// [`Reduce`]: Stmt::Reduce
    RowPartial,
    /// A sum of products whose parts are still spread over those who share out the depth; fragment only, and only filling
    /// with zeros, [`Gemm`] into it and [`Stmt::Finish`] may touch it.
    ///
    /// [`Gemm`]: Stmt::Gemm
    MatrixPartial,
}

impl Form {
    /// Whether a tile of this form has one element a row.
    pub fn is_vector(self) -> bool {
        matches!(self, Form::RowVector | Form::RowPartial)
    }

    /// Whether the elements are still in parts.
    pub fn is_partial(self) -> bool {
        matches!(self, Form::RowPartial | Form::MatrixPartial)
    }
}

/// A tile's declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// Its name in text and source.
    pub name: String,
    /// Element type; f32 for fragments.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns; 1 for vectors. Shared tiles that a tensor-core gemm reads along their columns have a multiple of 16.
    pub cols: usize,
    /// Where it lives.
    pub space: Space,
    /// Its form.
    pub form: Form,
}

/// How the rows of a view lie in device memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Tile row i is row `start + i` of a matrix whose rows are `stride` elements apart (0 repeats one row); it is there
    /// iff `start + i < limit`.
    Strided {
        /// First row.
        start: Expr,
        /// Elements from one row to the next.
        stride: Expr,
        /// One past the last row that is there.
        limit: Expr,
    },
    /// Tile row i is row `index` of a matrix whose rows are `stride` elements apart, where `index` may depend on i
    /// ([`Expr::Row`]); it is there iff `index < limit`.
    Gathered {
        /// The row, not negative.
        index: Expr,
        /// Elements from one row to the next.
        stride: Expr,
        /// One past the last row that is there.
        limit: Expr,
    },
    /// Tile row i is token `start + i` of a sequence: row `token % page_size` of the page that the block table names at
    /// `table_offset + token / page_size`. It is there iff `start + i < limit`; the table is read only for such rows.
    Paged {
        /// First token.
        start: Expr,
        /// One past the last token that is there.
        limit: Expr,
        /// Parameter of the block table (i32).
        table: ParamId,
        /// Index of the sequence's first entry.
        table_offset: Expr,
        /// Tokens a page.
        page_size: usize,
        /// Elements from one page to the next.
        page_stride: Expr,
        /// Elements from one row to the next.
        row_stride: Expr,
    },
}

/// A rectangle of device memory: element (i, j) of the tile is at `offset + row(i) + (col_start + j) * col_stride`.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The tensor.
    pub param: ParamId,
    /// Elements before the matrix.
    pub offset: Expr,
    /// The rows.
    pub rows: Rows,
    /// First column of the tile in the matrix.
    pub col_start: Expr,
    /// Columns `col_limit` and beyond of the matrix are not there.
    pub col_limit: Expr,
    /// Elements from one column to the next.
    pub col_stride: Expr,
    /// The element index of column `col_start` of every row is a multiple of this.
    pub align: usize,
    /// Only rows where this row vector is > 0 are there.
    pub mask: Option<TileId>,
}

/// Which index of `b` a gemm sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BLayout {
    /// b is \[n, k\]: acc\[m, n\] += Σ a\[m, k\] · b\[n, k\].
    Nk,
    /// b is \[k, n\]: acc\[m, n\] += Σ a\[m, k\] · b\[k, n\].
    Kn,
}

impl BLayout {
    /// The k of a gemm that uses the columns `b_cols` of `b`.
    pub fn depth(self, b: &Tile, b_cols: &Columns) -> usize {
        match self {
            BLayout::Nk => b_cols.len(),
            BLayout::Kn => b.rows,
        }
    }
}

/// A row reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// The largest element.
    Max,
    /// The sum.
    Sum,
}

/// A statement of a tile program.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Words for the reader of the text and the source.
    Comment(String),
    /// Binds a scalar for the rest of the enclosing body.
    Let {
        /// The variable.
        var: VarId,
        /// Its value.
        value: Expr,
    },
    /// Binds an integer sum for the rest of the enclosing body: of `value` for index in 0..count, 0 where there is none.
    Sum {
        /// The variable.
        var: VarId,
        /// The index, in scope in `value` alone.
        index: VarId,
        /// How many values there are.
        count: Expr,
        /// The values: integers.
        value: Expr,
    },
    /// Runs the body for var in start..end. Bodies run in order, whatever overlap a backend makes.
    For {
        /// The loop's variable.
        var: VarId,
        /// First value.
        start: Expr,
        /// One past the last.
        end: Expr,
        /// The loads from device memory at the head of the body may be issued ahead (the schedule's stages say how far).
        pipelined: bool,
        /// The statements.
        body: Vec<Stmt>,
    },
    /// Runs the body iff the condition, which is the same for the whole block, holds.
    If {
        /// The condition.
        cond: Expr,
        /// The statements.
        body: Vec<Stmt>,
    },
    /// Ends the block.
    Return,
    /// Device memory to a tile: rows × cols.len() elements into columns `cols` of `dst`; what is not there becomes zero.
    /// `dst` is shared (same element type), a fragment, or a row vector (one column).
    Load {
        /// The tile.
        dst: TileId,
        /// The columns of the tile that are written.
        cols: Columns,
        /// Where from.
        src: View,
    },
    /// A fragment or row vector to device memory, rounded to the tensor's type; what is not there is not written.
    Store {
        /// Where to.
        dst: View,
        /// The tile.
        src: TileId,
        /// The columns of the tile that are stored.
        cols: Columns,
    },
    /// A fragment to a shared tile of the same shape, rounded to its element type.
    Stage {
        /// Shared.
        dst: TileId,
        /// Fragment.
        src: TileId,
    },
    /// Every element of a fragment or vector becomes `value`; of a partial, zero.
    Fill {
        /// The tile.
        dst: TileId,
        /// The value.
        value: f32,
    },
    /// acc += a · b in f32, over as many columns of a as b has of k ([`BLayout::depth`]).
    Gemm {
        /// Fragment or matrix partial \[m, n\].
        acc: TileId,
        /// Shared \[m, >= k\].
        a: TileId,
        /// First column of a that is used: what stays in shared memory whole is multiplied piece by piece. `a_start + k`
        /// is at most the columns of a.
        a_start: Expr,
        /// Shared \[n, >= k\] or \[k, >= n\].
        b: TileId,
        /// Which.
        layout: BLayout,
        /// The columns of b that are used: k of them for Nk, n of them for Kn.
        b_cols: Columns,
    },
    /// Each element of dst becomes the expression's value there. Operands have dst's shape, or are row vectors.
    Map {
        /// Fragment or vector.
        dst: TileId,
        /// Float valued.
        value: Expr,
    },
    /// dst\[i\] = op(dst\[i\], row i of src reduced); dst is a row vector, or for sums a row partial.
    Reduce {
        /// Max or sum.
        op: ReduceOp,
        /// The vector.
        dst: TileId,
        /// Fragment matrix.
        src: TileId,
    },
    /// dst = the whole sums of a partial.
    Finish {
        /// Row vector for a row partial, fragment of the same shape for a matrix partial.
        dst: TileId,
        /// The partial.
        src: TileId,
    },
    /// A step of an online softmax. A backend may execute its [`Softmax::expansion`] instead.
    Softmax(Box<Softmax>),
    /// dst = src with its pairs rotated: for pair (x, y) and angle a of the same row, (x cos a - y sin a,
    /// x sin a + y cos a).
    Rotate {
        /// Fragment \[rows, d\].
        dst: TileId,
        /// Shared \[rows, d\].
        src: TileId,
        /// Shared f32 \[rows, d / 2\].
        cos: TileId,
        /// Shared f32 \[rows, d / 2\].
        sin: TileId,
        /// Which columns make a pair.
        pairing: Pairing,
        /// Columns that are rotated; those beyond are copied.
        d: usize,
    },
}

/// One kernel, in tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct TileProgram {
    /// The kernel's name.
    pub name: String,
    /// What it computes, for the head of the text and the source.
    pub doc: Vec<String>,
    /// Parameters, in launch order.
    pub params: Vec<Param>,
    /// Blocks along x, y and z; of scalar parameters only.
    pub grid: [Expr; 3],
    /// Tiles.
    pub tiles: Vec<Tile>,
    /// Names of the scalar variables.
    pub vars: Vec<String>,
    /// The statements.
    pub body: Vec<Stmt>,
}

impl TileProgram {
    /// The declaration of `id`.
    pub fn tile(&self, id: TileId) -> &Tile {
        &self.tiles[id.0]
    }

    /// The declaration of `id`.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// The blocks along x, y and z of a launch of the sizes in `dims`; `None` where a symbol is unbound or a size overflows.
    pub fn grid_size(&self, dims: &Dims) -> Option<[i64; 3]> {
        let scalar = |leaf: &Expr| self.scalar(leaf, dims);
        let [x, y, z] = &self.grid;
        Some([x.integer(&scalar)?, y.integer(&scalar)?, z.integer(&scalar)?])
    }

    /// The value of `expr` if it is a scalar parameter whose symbol is bound.
    pub fn scalar(&self, expr: &Expr, dims: &Dims) -> Option<i64> {
        match expr {
            Expr::Param(id) => match self.param(*id).kind {
                ParamKind::Scalar(symbol) => dims.get(symbol).and_then(|n| i64::try_from(n).ok()),
                ParamKind::Tensor { .. } => None,
            },
            _ => None,
        }
    }

    /// Element type of the tensor parameter `id`; `None` for a scalar.
    pub fn tensor_dtype(&self, id: ParamId) -> Option<DType> {
        match self.param(id).kind {
            ParamKind::Tensor { dtype, .. } => Some(dtype),
            ParamKind::Scalar(_) => None,
        }
    }
}
