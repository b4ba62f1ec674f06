//! Up-projections: a block computes all columns of one head for its rows, and uses them up: parts go to memory as they are,
//! are rotated by the position of each row's token, or are multiplied with a weight of the head.

use super::axes::{Axis, innermost};
use super::epilogue::Epilogue;
use super::error::BuildError;
use super::operand::{Operand, check_product};
use super::program::{Place, ProgramBuilder, Span, block_x, block_y, blocks, indexed};
use super::rope::Rotation;
use crate::tile::{Access, Expr, Stmt, TileId, TileProgram, View};
use mlafuse_ir::graph::{EinsumSpec, Op, ValueId};
use mlafuse_ir::plan::{self, ProjectedPart, UpProjectionRegion};
use mlafuse_ir::size::Size;
use mlafuse_tensor::DType;

// Positions of the operands in an axis of the rows.
const X: usize = 0;
const BIAS: usize = 1;
const FACTORS: usize = 2;

/// A part with the tiles that its columns are made in.
struct Part<'a> {
    region: &'a ProjectedPart,
    weight: Operand,
    /// The columns, padded for the tensor core's pieces.
    made: TileId,
    padded: usize,
}

/// What is the same for all of a block's parts.
struct Rows {
    /// b and t as one dimension, or b outside.
    outer: Vec<Axis<3>>,
    rows: Axis<3>,
    /// New tokens of a sequence.
    tokens: Size,
    place: Place,
    /// Number of rows.
    count: Expr,
}

pub(super) fn build(mut p: ProgramBuilder, region: &UpProjectionRegion) -> Result<TileProgram, BuildError> {
    let [x, w] = p.args(region.product)?;
    let (x, w) = (p.view(x)?, p.view(w)?);
    let spec = spec_of(&p, region.product)?;
    check_product(&p, [x, w])?;
    let epilogue = Epilogue::new(&p, &region.epilogue)?;
    let (block_m, block_k) = (p.schedule.block_m, p.schedule.block_k);
    let mut body = Vec::new();
    let rows = rows(&mut p, &mut body, spec, x, &epilogue)?;
    let heads = label(&p, spec, &spec.b, 2, w)?;
    let grid = [
        p.row_blocks(&rows.outer, &rows.rows.extent),
        p.extent(&heads.extent),
        1.into(),
    ];

    let depth = label(&p, spec, &spec.a, spec.out.len(), x)?;
    let x_s = p.shared("x_s", p.dtype(x), block_m, block_k);
    let parts = parts(&mut p, region, spec, w)?;
    let (step, k) = (p.var("k"), p.extent(&depth.extent));
    let span = || Span::block(step, block_k, k.clone());
    let from = indexed(&rows.outer, &rows.place.outer, X);
    let matrix = p.matrix(x, Access::Read, &from, &rows.rows.strides[X], &depth.stride);
    let src = p.rows(&matrix, rows.place.row.clone(), rows.count.clone(), span());
    let mut of_step = vec![Stmt::Load {
        dst: x_s,
        cols: 0..block_k,
        src,
    }];
    for part in &parts {
        of_step.push(part.weight.load(&mut p, part.span(), span()));
        body.push(Stmt::Fill {
            dst: part.made,
            value: 0.0,
        });
    }
    of_step.extend(parts.iter().map(|part| part.weight.gemm(part.made, x_s)));
    body.push(Stmt::For {
        var: step,
        start: 0.into(),
        end: blocks(&mut p, &depth.extent, block_k),
        pipelined: true,
        body: of_step,
    });
    let factors = epilogue.factors.map(|view| {
        let dst = p.row_vector("factors", block_m);
        let src = rows.read(&mut p, view, FACTORS, &Size::constant(0), Span::whole(1usize));
        body.push(Stmt::Load { dst, cols: 0..1, src });
        dst
    });
    // What is multiplied comes last, when the registers of the other columns are free.
    let (multiplied, others): (Vec<&Part>, Vec<&Part>) = parts.iter().partition(|part| part.is_multiplied(&p));
    for part in others.into_iter().chain(multiplied) {
        let bias = epilogue.bias.map(|view| part.bias(&mut p, &mut body, &rows, view));
        epilogue.apply(&mut body, part.made, bias, factors);
        part.finish(&mut p, &mut body, &rows)?;
    }
    let doc = doc(&p, region, spec, x);
    Ok(p.finish(doc, grid, body))
}

fn doc(p: &ProgramBuilder, region: &UpProjectionRegion, spec: &EinsumSpec, x: &plan::View) -> Vec<String> {
    let part = |part: &ProjectedPart| {
        let (node, columns) = (p.node(part.value), &part.columns);
        let becomes = match &node.op {
            Op::Rope { pairing } => format!("rotated, {pairing} pairs"),
            Op::Einsum(spec) => spec.to_string(),
            _ => "as they are".to_string(),
        };
        format!("columns {}..{} {becomes}", columns.start, columns.end)
    };
    let parts: Vec<String> = region.parts.iter().map(part).collect();
    vec![format!("projection {spec}, {}", p.dtype(x)), parts.join("; ")]
}

/// One dimension of an operand.
struct Label {
    extent: Size,
    stride: Size,
}

/// Label number `index` of the result, or after those the label that is summed over, in an operand of these labels.
fn label(
    p: &ProgramBuilder,
    spec: &EinsumSpec,
    labels: &[String],
    index: usize,
    view: &plan::View,
) -> Result<Label, BuildError> {
    let roles = spec.roles();
    let name = spec.out.get(index).map(String::as_str).or(roles.k.first().copied());
    let at = labels.iter().position(|label| Some(label.as_str()) == name);
    let found = at.and_then(|at| Some((view.shape.get(at)?, view.strides.get(at)?)));
    match found {
        Some((&dim, stride)) => Ok(Label {
            extent: Size::one().times(dim),
            stride: stride.clone(),
        }),
        None => Err(p.unsupported("up-projection", spec.to_string(), "b t k, h m k -> b t h m")),
    }
}

fn spec_of<'a>(p: &ProgramBuilder<'a>, value: ValueId) -> Result<&'a EinsumSpec, BuildError> {
    let node = p.node(value);
    match &node.op {
        Op::Einsum(spec) => Ok(spec),
        op => Err(p.unsupported("node of an up-projection", op.word().into(), "a contraction")),
    }
}

/// The rows b, t of the product and of what its epilogue reads, and the block's place among them.
fn rows(
    p: &mut ProgramBuilder,
    body: &mut Vec<Stmt>,
    spec: &EinsumSpec,
    x: &plan::View,
    epilogue: &Epilogue,
) -> Result<Rows, BuildError> {
    let views = [x, epilogue.bias.unwrap_or(x), epilogue.factors.unwrap_or(x)];
    let mut axes = Vec::new();
    for axis in 0..2 {
        let in_x = spec.a.iter().position(|label| spec.out.get(axis) == Some(label));
        let [in_bias, in_factors] = epilogue.axes(axis, spec.out.len());
        let dim = in_x.and_then(|at| x.shape.get(at).copied());
        axes.push(Axis::new(dim.unwrap_or(1.into()), views, [in_x, in_bias, in_factors]));
    }
    let tokens = axes[1].extent.clone();
    let (rows, outer) = innermost(axes);
    let place = p.place(body, block_x(), &outer, &rows.extent);
    let count = p.extent(&rows.extent);
    Ok(Rows {
        outer,
        rows,
        tokens,
        place,
        count,
    })
}

impl Rows {
    /// The block's rows of operand `i`, at the block's head.
    fn read(&self, p: &mut ProgramBuilder, view: &plan::View, i: usize, col_stride: &Size, cols: Span) -> View {
        let outer = indexed(&self.outer, &self.place.outer, i);
        let matrix = p.matrix(view, Access::Read, &outer, &self.rows.strides[i], col_stride);
        p.rows(&matrix, self.place.row.clone(), self.count.clone(), cols)
    }

    /// The block's rows of a result \[B, T, H, c\], which the plan has placed without gaps.
    fn write(&self, p: &mut ProgramBuilder, value: ValueId, cols: Span) -> Result<View, BuildError> {
        let view = p.view(value)?;
        let [batch, token, head, col] = view.strides.as_slice() else {
            return Err(p.unsupported("dimensions of a result", view.strides.len().to_string(), "4"));
        };
        let mut outer = vec![(block_y(), head.clone())];
        outer.extend(self.place.outer.first().map(|b| (b.clone(), batch.clone())));
        let matrix = p.matrix(view, Access::Write, &outer, token, col);
        Ok(p.rows(&matrix, self.place.row.clone(), self.count.clone(), cols))
    }

    /// The position of each row's token, as rope has it; of rows that are not there that of the last.
    fn position(&self, p: &mut ProgramBuilder, [q_len, kv_len]: [&plan::View; 2], last: Expr) -> Expr {
        let row = (self.place.row.clone() + Expr::Row).min(self.count.clone() - 1);
        let tokens = p.extent(&self.tokens);
        let (b, t) = match self.place.outer.first() {
            Some(b) => (b.clone(), row),
            None => (row.clone() / tokens.clone(), row % tokens),
        };
        let position = p.load_int(kv_len, b.clone()) - p.load_int(q_len, b) + t;
        position.max(0).min(last)
    }
}

/// The tiles of every part.
fn parts<'a>(
    p: &mut ProgramBuilder,
    region: &'a UpProjectionRegion,
    spec: &EinsumSpec,
    w: &plan::View,
) -> Result<Vec<Part<'a>>, BuildError> {
    let [head, column, depth] = [2, 3, 4].map(|index| label(p, spec, &spec.b, index, w));
    let (head, column, depth) = (head?, column?, depth?);
    let (block_m, block_k) = (p.schedule.block_m, p.schedule.block_k);
    // Sixteen columns for each warp: what it writes of them are whole sectors.
    let piece = 16 * p.schedule.warps_n;
    let part = |part: &'a ProjectedPart| {
        let padded = part.columns.len().next_multiple_of(piece);
        let outer = [(block_y(), head.stride.clone())];
        let strides = [&column.stride, &depth.stride];
        let weight = Operand::new(p, "w_s", w, &outer, strides, [padded, block_k]);
        Part {
            region: part,
            weight,
            made: p.fragment("made", block_m, padded),
            padded,
        }
    };
    Ok(region.parts.iter().map(part).collect())
}

impl Part<'_> {
    fn width(&self) -> usize {
        self.region.columns.len()
    }

    /// Its columns of a head's.
    fn span(&self) -> Span {
        let columns = &self.region.columns;
        Span {
            start: columns.start.into(),
            step: columns.start,
            limit: columns.end.into(),
        }
    }

    fn is_multiplied(&self, p: &ProgramBuilder) -> bool {
        matches!(p.node(self.region.value).op, Op::Einsum(_))
    }

    /// The part's columns of a bias: of all heads, of the block's, or of every row's.
    fn bias(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, rows: &Rows, view: &plan::View) -> TileId {
        let dst = p.fragment("bias_f", p.schedule.block_m, self.padded);
        let col = view.strides.last().cloned().unwrap_or(Size::one());
        let head = view.strides.iter().rev().nth(1).cloned().unwrap_or(Size::constant(0));
        let mut outer = indexed(&rows.outer, &rows.place.outer, BIAS);
        outer.push((block_y(), head));
        let matrix = p.matrix(view, Access::Read, &outer, &rows.rows.strides[BIAS], &col);
        let src = p.rows(&matrix, rows.place.row.clone(), rows.count.clone(), self.span());
        body.push(Stmt::Load {
            dst,
            cols: 0..self.padded,
            src,
        });
        dst
    }

    /// Makes the part's result of its columns and stores it.
    fn finish(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, rows: &Rows) -> Result<(), BuildError> {
        let node = p.node(self.region.value);
        match (&node.op, node.args.as_slice()) {
            (&Op::Rope { pairing }, &[_, cos, sin, q_len, kv_len]) => {
                let rotation = Rotation::new(p, self.width(), [cos, sin], pairing)?;
                self.rotate(p, body, rows, &rotation, [p.view(q_len)?, p.view(kv_len)?])?;
                self.store(p, body, rows)
            }
            (Op::Einsum(spec), &[_, weight]) => self.multiply(p, body, rows, spec, p.view(weight)?),
            _ => self.store(p, body, rows),
        }
    }

    fn store(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, rows: &Rows) -> Result<(), BuildError> {
        let width = self.width();
        body.push(Stmt::Store {
            dst: rows.write(p, self.region.value, Span::whole(width))?,
            src: self.made,
            cols: 0..width,
        });
        Ok(())
    }

    /// The columns in shared memory, in the type that they would have in device memory.
    fn stage(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, dtype: DType) -> TileId {
        let dst = p.shared("made_s", dtype, p.schedule.block_m, self.padded);
        body.push(Stmt::Stage { dst, src: self.made });
        dst
    }

    fn rotate(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        rows: &Rows,
        rotation: &Rotation,
        lengths: [&plan::View; 2],
    ) -> Result<(), BuildError> {
        let dtype = p.dtype(p.view(self.region.value)?);
        let src = self.stage(p, body, dtype);
        let positions = rotation.positions(p);
        rotation.push(p, body, [self.made, src], |p, table| {
            let matrix = p.matrix(table, Access::Read, &[], &table.strides[0], &table.strides[1]);
            let position = rows.position(p, lengths, positions.clone() - 1);
            p.gathered(&matrix, position, positions.clone(), Span::whole(self.width() / 2))
        });
        Ok(())
    }

    /// `b t h n, h n c -> b t h c`, a block of columns c after the other.
    fn multiply(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        rows: &Rows,
        spec: &EinsumSpec,
        weight: &plan::View,
    ) -> Result<(), BuildError> {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let [head, column, depth] = [2, 3, 4].map(|index| label(p, spec, &spec.b, index, weight));
        let (head, column, depth) = (head?, column?, depth?);
        let a = self.stage(p, body, p.dtype(weight));
        let outer = [(block_y(), head.stride)];
        let strides = [&column.stride, &depth.stride];
        let b = Operand::new(p, "weight_s", weight, &outer, strides, [block_n, self.padded]);
        let out = p.fragment("out", block_m, block_n);
        let (step, width) = (p.var("columns"), p.extent(&column.extent));
        let span = || Span::block(step, block_n, width.clone());
        let load = b.load(p, span(), Span::whole(self.width()));
        let dst = rows.write(p, self.region.value, span())?;
        body.push(Stmt::For {
            var: step,
            start: 0.into(),
            end: blocks(p, &column.extent, block_n),
            pipelined: true,
            body: vec![
                load,
                Stmt::Fill { dst: out, value: 0.0 },
                b.gemm(out, a),
                Stmt::Store {
                    dst,
                    src: out,
                    cols: 0..block_n,
                },
            ],
        });
        Ok(())
    }
}
