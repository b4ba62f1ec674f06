//! A tile program under construction: parameters, tiles and variables by name, and views of operands.

use super::axes::Axis;
use super::error::BuildError;
use crate::schedule::Schedule;
use crate::tile::{
    Access, Axis as GridAxis, Expr, Form, Param, ParamId, ParamKind, Rows, Space, Stmt, Tile, TileId, TileProgram,
    VarId, View,
};
use mlafuse_ir::graph::{Node, ValueId};
use mlafuse_ir::plan::{self, BufferId, Plan, Region};
use mlafuse_ir::size::{Size, Symbol};
use mlafuse_tensor::DType;
use std::collections::BTreeSet;

/// What every builder appends to.
pub(super) struct ProgramBuilder<'a> {
    pub plan: &'a Plan,
    pub region: &'a Region,
    pub schedule: Schedule,
    params: Vec<Param>,
    tiles: Vec<Tile>,
    vars: Vec<String>,
    names: BTreeSet<String>,
}

/// A matrix in device memory.
pub(super) struct Matrix {
    param: ParamId,
    offset: Expr,
    row_stride: Size,
    col_stride: Size,
    /// Elements: each row begins at a multiple of this.
    align: usize,
}

/// Columns of a matrix that a tile covers: from `start`, a multiple of `step`, up to `limit`.
pub(super) struct Span {
    pub start: Expr,
    pub step: usize,
    pub limit: Expr,
}

impl Span {
    /// From column 0.
    pub fn whole(limit: impl Into<Expr>) -> Span {
        Span {
            start: 0.into(),
            step: 0,
            limit: limit.into(),
        }
    }

    /// Block number `block` of `step` columns each.
    pub fn block(block: impl Into<Expr>, step: usize, limit: Expr) -> Span {
        Span {
            start: block.into() * step,
            step,
            limit,
        }
    }
}

/// The paged rows of one sequence, as addressing needs them.
pub(super) struct Pages {
    pub table: ParamId,
    pub table_offset: Expr,
    pub page_size: usize,
}

/// A block's place along the rows.
pub(super) struct Place {
    /// Its first row.
    pub row: Expr,
    /// The index of each outer axis.
    pub outer: Vec<Expr>,
}

impl<'a> ProgramBuilder<'a> {
    pub fn new(plan: &'a Plan, region: &'a Region, schedule: Schedule) -> ProgramBuilder<'a> {
        // What the text form reads as the block's and the element's indices.
        let names = ["block", "row", "col"].map(String::from).into();
        ProgramBuilder {
            plan,
            region,
            schedule,
            params: Vec::new(),
            tiles: Vec::new(),
            vars: Vec::new(),
            names,
        }
    }

    pub fn finish(self, doc: Vec<String>, grid: [Expr; 3], body: Vec<Stmt>) -> TileProgram {
        let ProgramBuilder {
            region,
            schedule,
            params,
            tiles,
            vars,
            ..
        } = self;
        let doc = doc.into_iter().chain([format!("schedule: {schedule}")]).collect();
        TileProgram {
            name: region.name.clone(),
            doc,
            params,
            grid,
            tiles,
            vars,
            body,
        }
    }

    pub fn unsupported(&self, what: &'static str, found: String, expected: &str) -> BuildError {
        BuildError::Unsupported {
            kernel: self.region.name.clone(),
            what,
            found,
            expected: expected.to_string(),
        }
    }

    /// Asks for steps along the depth.
    pub fn check_block_k(&self) -> Result<(), BuildError> {
        match self.schedule.block_k {
            0 => Err(BuildError::Schedule {
                kernel: self.region.name.clone(),
                field: "block_k",
                found: 0,
                expected: "at least 1".into(),
            }),
            _ => Ok(()),
        }
    }

    pub fn not_in_memory(&self, value: ValueId) -> BuildError {
        let node = self.plan.graph.nodes.get(value.0);
        let value = node.map_or_else(|| value.0.to_string(), |node| node.name.clone());
        BuildError::NotInMemory {
            kernel: self.region.name.clone(),
            value,
        }
    }

    pub fn node(&self, value: ValueId) -> &'a Node {
        self.plan.graph.node(value)
    }

    /// Where a value lies.
    pub fn view(&self, value: ValueId) -> Result<&'a plan::View, BuildError> {
        self.plan.view(value).ok_or_else(|| self.not_in_memory(value))
    }

    /// Where the `N` arguments of a node lie.
    pub fn args<const N: usize>(&self, value: ValueId) -> Result<[ValueId; N], BuildError> {
        let args = &self.node(value).args;
        args.as_slice()
            .try_into()
            .map_err(|_| self.unsupported("arguments", args.len().to_string(), &N.to_string()))
    }

    pub fn dtype(&self, view: &plan::View) -> DType {
        self.plan.buffer(view.buffer).dtype
    }

    /// `wanted` as an identifier that nothing else has.
    fn unique(&mut self, wanted: &str) -> String {
        let mut wanted: String = wanted
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        if !wanted.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            wanted.insert(0, '_');
        }
        let numbered = (2usize..).map(|n| format!("{wanted}_{n}"));
        let name = std::iter::once(wanted.clone())
            .chain(numbered)
            .find(|name| !self.names.contains(name));
        let name = name.unwrap_or_default();
        self.names.insert(name.clone());
        name
    }

    /// The parameter of a buffer.
    pub fn tensor(&mut self, buffer: BufferId, access: Access) -> ParamId {
        let Some(declared) = self.plan.buffers.get(buffer.0) else {
            return ParamId(0);
        };
        let kind = ParamKind::Tensor {
            dtype: declared.dtype,
            access,
            buffer,
        };
        if let Some(index) = self.params.iter().position(|param| param.kind == kind) {
            return ParamId(index);
        }
        let name = self.unique(&declared.name);
        self.params.push(Param { name, kind });
        ParamId(self.params.len() - 1)
    }

    /// The value of a symbol.
    pub fn symbol(&mut self, symbol: Symbol) -> Expr {
        let kind = ParamKind::Scalar(symbol);
        if let Some(index) = self.params.iter().position(|param| param.kind == kind) {
            return Expr::Param(ParamId(index));
        }
        let name = self.unique(&symbol.to_string());
        self.params.push(Param { name, kind });
        Expr::Param(ParamId(self.params.len() - 1))
    }

    /// A number of rows, columns or blocks.
    pub fn extent(&mut self, size: &Size) -> Expr {
        size.symbols
            .iter()
            .fold(Expr::from(size.coefficient), |product, &symbol| {
                product * self.symbol(symbol)
            })
    }

    /// A number of elements, in 64 bits where it is not constant.
    pub fn elements(&mut self, size: &Size) -> Expr {
        let mut symbols = size.symbols.iter();
        let Some(&first) = symbols.next() else {
            return size.coefficient.into();
        };
        let first = self.symbol(first).wide();
        let product = symbols.fold(first, |product, &symbol| product * self.symbol(symbol));
        product * size.coefficient
    }

    fn tile(&mut self, name: &str, dtype: DType, [rows, cols]: [usize; 2], space: Space, form: Form) -> TileId {
        let name = self.unique(name);
        self.tiles.push(Tile {
            name,
            dtype,
            rows,
            cols,
            space,
            form,
        });
        TileId(self.tiles.len() - 1)
    }

    pub fn shared(&mut self, name: &str, dtype: DType, rows: usize, cols: usize) -> TileId {
        self.tile(name, dtype, [rows, cols], Space::Shared, Form::Matrix)
    }

    /// Columns of a tile.
    pub fn cols(&self, tile: TileId) -> usize {
        self.tiles[tile.0].cols
    }

    pub fn fragment(&mut self, name: &str, rows: usize, cols: usize) -> TileId {
        self.tile(name, DType::F32, [rows, cols], Space::Fragment, Form::Matrix)
    }

    /// What products of rows × cols elements are summed up in: of a partial, each warp along the depth has a part.
    pub fn accumulator(&mut self, name: &str, rows: usize, cols: usize) -> TileId {
        let form = match self.schedule.warps_k {
            1 => Form::Matrix,
            _ => Form::MatrixPartial,
        };
        self.tile(name, DType::F32, [rows, cols], Space::Fragment, form)
    }

    /// The sums of an accumulator, a fragment.
    pub fn finished(&mut self, body: &mut Vec<Stmt>, name: &str, src: TileId) -> TileId {
        let &Tile { rows, cols, form, .. } = &self.tiles[src.0];
        if form == Form::Matrix {
            return src;
        }
        let dst = self.fragment(name, rows, cols);
        body.push(Stmt::Finish { dst, src });
        dst
    }

    pub fn row_vector(&mut self, name: &str, rows: usize) -> TileId {
        self.tile(name, DType::F32, [rows, 1], Space::Fragment, Form::RowVector)
    }

    pub fn row_partial(&mut self, name: &str, rows: usize) -> TileId {
        self.tile(name, DType::F32, [rows, 1], Space::Fragment, Form::RowPartial)
    }

    pub fn var(&mut self, name: &str) -> VarId {
        let name = self.unique(name);
        self.vars.push(name);
        VarId(self.vars.len() - 1)
    }

    /// Binds `value` for the rest of `body`; constants stay as they are.
    pub fn bind(&mut self, body: &mut Vec<Stmt>, name: &str, value: Expr) -> Expr {
        if matches!(value, Expr::Int(_) | Expr::Var(_) | Expr::Param(_)) {
            return value;
        }
        let var = self.var(name);
        body.push(Stmt::Let { var, value });
        var.into()
    }

    /// The address of an element: the view's offset and `indices` times strides.
    pub fn address(&mut self, view: &plan::View, indices: &[(Expr, Size)]) -> Expr {
        let offset = view
            .offset
            .iter()
            .fold(Expr::Int(0), |sum, size| sum + self.elements(size));
        indices.iter().fold(offset, |sum, (index, stride)| {
            sum + index.clone().wide() * self.elements(stride)
        })
    }

    /// One element of a view of f32, at an index of each of its first dimensions.
    pub fn load_float(&mut self, view: &plan::View, indices: impl IntoIterator<Item = Expr>) -> Expr {
        let indices: Vec<_> = indices.into_iter().zip(view.strides.iter().cloned()).collect();
        let param = self.tensor(view.buffer, Access::Read);
        Expr::Load(param, Box::new(self.address(view, &indices)))
    }

    /// One integer of a vector view.
    pub fn load_int(&mut self, view: &plan::View, index: Expr) -> Expr {
        let stride = view.strides.first().cloned().unwrap_or(Size::one());
        let param = self.tensor(view.buffer, Access::Read);
        let offset = view
            .offset
            .iter()
            .fold(Expr::Int(0), |sum, size| sum + self.elements(size));
        let address = offset + index * self.elements(&stride);
        Expr::Load(param, Box::new(address))
    }

    /// A matrix of a view, at the given indices of its other dimensions.
    pub fn matrix(
        &mut self,
        view: &plan::View,
        access: Access,
        outer: &[(Expr, Size)],
        row_stride: &Size,
        col_stride: &Size,
    ) -> Matrix {
        let param = self.tensor(view.buffer, access);
        let offset = self.address(view, outer);
        let sizes = view
            .offset
            .iter()
            .chain(outer.iter().map(|(_, stride)| stride))
            .chain([row_stride]);
        let align = if *col_stride == Size::one() {
            self.alignment(view, sizes)
        } else {
            1
        };
        Matrix {
            param,
            offset,
            row_stride: row_stride.clone(),
            col_stride: col_stride.clone(),
            align,
        }
    }

    /// The largest power of two, up to 16 bytes' worth of elements, that divides all of `sizes`.
    fn alignment<'s>(&self, view: &plan::View, sizes: impl Iterator<Item = &'s Size>) -> usize {
        let buffer = self.plan.buffer(view.buffer);
        let whole = (16 / buffer.dtype.size_bytes()).max(1);
        let known = |size: &Size| {
            let strides = size
                .symbols
                .iter()
                .any(|&symbol| symbol == Symbol::R || symbol == Symbol::G);
            size.coefficient * if strides { buffer.stride_align } else { 1 }
        };
        sizes.map(known).fold(whole, power_of_two_divisor)
    }

    /// Rows `start..` up to `limit` of a matrix.
    pub fn rows(&mut self, matrix: &Matrix, start: Expr, limit: Expr, cols: Span) -> View {
        let stride = self.elements(&matrix.row_stride);
        self.with_rows(
            matrix,
            Rows::Strided {
                start: start.wide(),
                stride,
                limit,
            },
            cols,
        )
    }

    /// Rows of a matrix by an index for each, which may depend on the tile's row.
    pub fn gathered(&mut self, matrix: &Matrix, index: Expr, limit: Expr, cols: Span) -> View {
        let stride = self.elements(&matrix.row_stride);
        self.with_rows(matrix, Rows::Gathered { index, stride, limit }, cols)
    }

    /// Tokens `start..` up to `limit` of a sequence; the matrix is the cache's first page.
    pub fn paged(&mut self, cache: &plan::View, access: Access, pages: &Pages, tokens: [Expr; 2], cols: Span) -> View {
        let unit = Size::constant(0);
        let strides: [Size; 3] = std::array::from_fn(|i| cache.strides.get(i).unwrap_or(&unit).clone());
        let [page, row, col] = strides;
        let matrix = self.matrix(cache, access, &[(0.into(), page.clone())], &row, &col);
        let [start, limit] = tokens;
        let (page_stride, row_stride) = (self.elements(&page), self.elements(&row));
        let Pages { table, page_size, .. } = *pages;
        let table_offset = pages.table_offset.clone();
        let rows = Rows::Paged {
            start,
            limit,
            table,
            table_offset,
            page_size,
            page_stride,
            row_stride,
        };
        self.with_rows(&matrix, rows, cols)
    }

    fn with_rows(&mut self, matrix: &Matrix, rows: Rows, cols: Span) -> View {
        View {
            param: matrix.param,
            offset: matrix.offset.clone(),
            rows,
            col_start: cols.start,
            col_limit: cols.limit,
            col_stride: self.elements(&matrix.col_stride),
            align: power_of_two_divisor(matrix.align, cols.step),
            mask: None,
        }
    }

    /// The block table of sequence `b` and the page size of `cache`.
    pub fn pages(&mut self, cache: &plan::View, table: &plan::View, b: &Expr) -> Result<Pages, BuildError> {
        let page_size = match cache.shape.get(1) {
            Some(&mlafuse_ir::size::Dim::Const(n)) if n > 0 => n,
            other => return Err(self.unsupported("page size", format!("{other:?}"), "a constant of at least 1")),
        };
        if table.strides.get(1) != Some(&Size::one()) {
            let found = table.strides.get(1).map_or("none".to_string(), Size::to_string);
            return Err(self.unsupported("stride of the block table's entries", found, "1"));
        }
        let stride = table.strides.first().cloned().unwrap_or(Size::one());
        let table_offset = self.address(table, &[(b.clone(), stride)]);
        Ok(Pages {
            table: self.tensor(table.buffer, Access::Read),
            table_offset,
            page_size,
        })
    }

    /// Number of blocks of `block_m` rows over rows and outer axes.
    pub fn row_blocks<const N: usize>(&mut self, outer: &[Axis<N>], rows: &Size) -> Expr {
        let tiles = self.extent(rows).ceil_div(self.schedule.block_m);
        outer
            .iter()
            .fold(tiles, |product, axis| product * self.extent(&axis.extent))
    }

    /// Where block `index` of [`Self::row_blocks`] stands.
    pub fn place<const N: usize>(
        &mut self,
        body: &mut Vec<Stmt>,
        index: Expr,
        outer: &[Axis<N>],
        rows: &Size,
    ) -> Place {
        let block_m = self.schedule.block_m;
        let tiles = self.extent(rows).ceil_div(block_m);
        if outer.is_empty() {
            let row = self.bind(body, "row_start", index * block_m);
            return Place { row, outer: Vec::new() };
        }
        let single = tiles == Expr::Int(1);
        let row = if single {
            Expr::Int(0)
        } else {
            index.clone() % tiles.clone() * block_m
        };
        let row = self.bind(body, "row_start", row);
        let mut rest = if single {
            index
        } else {
            self.bind(body, "outer", index / tiles)
        };
        let mut indices = Vec::new();
        for (position, axis) in outer.iter().enumerate().rev() {
            let extent = self.extent(&axis.extent);
            if position == 0 {
                indices.push(rest.clone());
            } else {
                indices.push(self.bind(body, "outer_index", rest.clone() % extent.clone()));
                rest = self.bind(body, "outer", rest / extent);
            }
        }
        indices.reverse();
        Place { row, outer: indices }
    }
}

/// The largest power of two up to `limit`, itself one, that divides `n` (all divide 0).
fn power_of_two_divisor(limit: usize, n: usize) -> usize {
    if n == 0 {
        limit
    } else {
        limit.min(1 << n.trailing_zeros().min(30))
    }
}

/// The indices of outer axes with operand `i`'s strides.
pub(super) fn indexed<const N: usize>(outer: &[Axis<N>], indices: &[Expr], i: usize) -> Vec<(Expr, Size)> {
    outer
        .iter()
        .zip(indices)
        .map(|(axis, index)| (index.clone(), axis.strides[i].clone()))
        .collect()
}

/// The block's index along x.
pub(super) fn block_x() -> Expr {
    Expr::Block(GridAxis::X)
}

/// The block's index along y.
pub(super) fn block_y() -> Expr {
    Expr::Block(GridAxis::Y)
}

/// The block's index along z.
pub(super) fn block_z() -> Expr {
    Expr::Block(GridAxis::Z)
}

/// `ceil(size / block)`.
pub(super) fn blocks(program: &mut ProgramBuilder, size: &Size, block: usize) -> Expr {
    program.extent(size).ceil_div(block)
}
