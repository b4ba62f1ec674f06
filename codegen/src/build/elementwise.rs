//! Elementwise nodes: scale, add, mul, scale_rows, cast, mask, and concat as two copies.

use super::axes::{Axis, Plane, aligned_right, innermost, plane};
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, blocks, indexed};
use crate::tile::{Access, Expr, Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::plan::View;
use mlafuse_ir::size::{Dim, Size};

/// x · factor.
pub(super) fn scale(p: ProgramBuilder, value: ValueId, factor: f64) -> Result<TileProgram, BuildError> {
    let doc = format!("scale by {factor:?}");
    map_one(p, value, doc, |x| x * factor as f32)
}

/// x in another type.
pub(super) fn cast(p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    map_one(p, value, "cast".to_string(), |x| x)
}

fn map_one(
    mut p: ProgramBuilder,
    value: ValueId,
    what: String,
    f: impl Fn(Expr) -> Expr,
) -> Result<TileProgram, BuildError> {
    let [x] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?];
    let shape = plane(&views[1].shape, views);
    let (grid, mut body, mut at) = start(&mut p, &shape);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let x_f = p.fragment("x_f", block_m, block_n);
    body.push(Stmt::Load {
        dst: x_f,
        cols: 0..block_n,
        src: at.view(&mut p, views[0], 0, Access::Read),
    });
    let result = f(x_f.into());
    if result != Expr::from(x_f) {
        body.push(Stmt::Map {
            dst: x_f,
            value: result,
        });
    }
    body.push(Stmt::Store {
        dst: at.view(&mut p, views[1], 1, Access::Write),
        src: x_f,
        cols: 0..block_n,
    });
    let doc = format!("{what}, {} to {}", p.dtype(views[0]), p.dtype(views[1]));
    Ok(p.finish(vec![doc], grid, body))
}

/// a + b; b may be a suffix of a's shape.
pub(super) fn add(p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [_, b] = p.args(value)?;
    let b = p.view(b)?.clone();
    map_two(p, value, "add", &b, |a, b| a + b)
}

/// a · b; b may be a suffix of a's shape.
pub(super) fn mul(p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [_, b] = p.args(value)?;
    let b = p.view(b)?.clone();
    map_two(p, value, "mul", &b, |a, b| a * b)
}

/// The rows of x times r, whose shape is a prefix of x's.
pub(super) fn scale_rows(p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [x, r] = p.args(value)?;
    let r = repeated(p.view(r)?, &p.view(x)?.shape);
    map_two(p, value, "scale_rows", &r, |x, r| x * r)
}

/// A value whose shape is a prefix of `shape`, as one of that shape: each element is all of its row.
pub(super) fn repeated(view: &View, shape: &[Dim]) -> View {
    let mut strides = view.strides.clone();
    strides.resize(shape.len(), Size::constant(0));
    View {
        shape: shape.to_vec(),
        strides,
        ..view.clone()
    }
}

/// A node of its first argument and `b`.
fn map_two(
    mut p: ProgramBuilder,
    value: ValueId,
    what: &str,
    b: &View,
    f: impl Fn(Expr, Expr) -> Expr,
) -> Result<TileProgram, BuildError> {
    let [a, _] = p.args(value)?;
    let views = [p.view(a)?, p.view(value)?, b];
    let shape = plane(&views[1].shape, views);
    let (grid, mut body, mut at) = start(&mut p, &shape);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let a_f = p.fragment("a_f", block_m, block_n);
    let b_f = p.fragment("b_f", block_m, block_n);
    body.push(Stmt::Load {
        dst: a_f,
        cols: 0..block_n,
        src: at.view(&mut p, views[0], 0, Access::Read),
    });
    body.push(Stmt::Load {
        dst: b_f,
        cols: 0..block_n,
        src: at.view(&mut p, views[2], 2, Access::Read),
    });
    body.push(Stmt::Map {
        dst: a_f,
        value: f(a_f.into(), b_f.into()),
    });
    body.push(Stmt::Store {
        dst: at.view(&mut p, views[1], 1, Access::Write),
        src: a_f,
        cols: 0..block_n,
    });
    let doc = format!(
        "{what}, {} and {} to {}",
        p.dtype(views[0]),
        p.dtype(views[2]),
        p.dtype(views[1])
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// Scores \[B, T, .., S\] with -inf where key j >= min(kv_len, kv_len - q_len + t + 1).
pub(super) fn mask(mut p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [x, q_len, kv_len] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?];
    let (q_len, kv_len) = (p.view(q_len)?, p.view(kv_len)?);
    let shape = per_token(&p, views)?;
    let (grid, mut body, mut at) = start(&mut p, &shape);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let x_f = p.fragment("x_f", block_m, block_n);
    let [b, t] = at.token();
    let kv_value = p.load_int(kv_len, b.clone());
    let kv = p.bind(&mut body, "kv", kv_value);
    let q = p.load_int(q_len, b);
    let visible = kv.clone().min(kv - q + t + 1);
    let visible = p.bind(&mut body, "visible", visible);
    body.push(Stmt::Load {
        dst: x_f,
        cols: 0..block_n,
        src: at.view(&mut p, views[0], 0, Access::Read),
    });
    let key = block_y() * block_n + Expr::Col;
    body.push(Stmt::Map {
        dst: x_f,
        value: key.lt(visible).select(x_f, f32::NEG_INFINITY),
    });
    body.push(Stmt::Store {
        dst: at.view(&mut p, views[1], 1, Access::Write),
        src: x_f,
        cols: 0..block_n,
    });
    let doc = format!(
        "causal mask by length over {} keys, {}",
        shape.cols.extent,
        p.dtype(views[1])
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// A plane of \[B, T, .., last\] whose first two outer axes are B and T, even where they would merge.
pub(super) fn per_token<const N: usize>(p: &ProgramBuilder, views: [&View; N]) -> Result<Plane<N>, BuildError> {
    let dims = &views[0].shape;
    if dims.len() < 3 {
        return Err(p.unsupported("dimensions", dims.len().to_string(), "at least 3: B, T, .., last"));
    }
    let axis = |at: usize| aligned_right(dims, at, views);
    let last = dims.len() - 1;
    let (rows, middle) = innermost((2..last).map(axis));
    let outer: Vec<Axis<N>> = [axis(0), axis(1)].into_iter().chain(middle).collect();
    Ok(Plane {
        outer,
        rows,
        cols: axis(last),
    })
}

/// Where one block of a plane stands.
struct At<'s, const N: usize> {
    shape: &'s Plane<N>,
    row: Expr,
    outer: Vec<Expr>,
}

/// The grid of a plane, and the block's place on it: rows and outer axes along x, columns along y.
fn start<'s, const N: usize>(p: &mut ProgramBuilder, shape: &'s Plane<N>) -> ([Expr; 3], Vec<Stmt>, At<'s, N>) {
    let block_n = p.schedule.block_n;
    let x = p.row_blocks(&shape.outer, &shape.rows.extent);
    let grid = [x, blocks(p, &shape.cols.extent, block_n), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    (
        grid,
        body,
        At {
            shape,
            row: place.row,
            outer: place.outer,
        },
    )
}

impl<const N: usize> At<'_, N> {
    /// The block's rectangle of operand `i`.
    fn view(&mut self, p: &mut ProgramBuilder, view: &View, i: usize, access: Access) -> crate::tile::View {
        let Plane { outer, rows, cols } = self.shape;
        let outer = indexed(outer, &self.outer, i);
        let matrix = p.matrix(view, access, &outer, &rows.strides[i], &cols.strides[i]);
        let (limit, width) = (p.extent(&rows.extent), p.extent(&cols.extent));
        let span = Span::block(block_y(), p.schedule.block_n, width);
        p.rows(&matrix, self.row.clone(), limit, span)
    }

    /// The sequence and the token of a [`per_token`] plane.
    fn token(&self) -> [Expr; 2] {
        std::array::from_fn(|i| self.outer.get(i).cloned().unwrap_or(Expr::Int(0)))
    }
}

/// a and b side by side: two copies, one after the other along the grid's x.
pub(super) fn concat(mut p: ProgramBuilder, value: ValueId, axis: usize) -> Result<TileProgram, BuildError> {
    let [a, b] = p.args(value)?;
    let (a, b, out) = (p.view(a)?, p.view(b)?, p.view(value)?);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let x_f = p.fragment("x_f", block_m, block_n);
    let (mut body, mut first, mut widest) = (Vec::new(), Expr::Int(0), Expr::Int(0));
    let mut skipped: Option<Size> = None;
    for from in [a, b] {
        let mut part = View {
            shape: from.shape.clone(),
            ..out.clone()
        };
        part.offset.extend(skipped.take());
        let shape = plane(&from.shape, [from, &part]);
        let size = p.row_blocks(&shape.outer, &shape.rows.extent);
        let width = blocks(&mut p, &shape.cols.extent, block_n);
        let mut copy = Vec::new();
        let place = p.place(&mut copy, block_x() - first.clone(), &shape.outer, &shape.rows.extent);
        let mut at = At {
            shape: &shape,
            row: place.row,
            outer: place.outer,
        };
        copy.push(Stmt::Load {
            dst: x_f,
            cols: 0..block_n,
            src: at.view(&mut p, from, 0, Access::Read),
        });
        copy.push(Stmt::Store {
            dst: at.view(&mut p, &part, 1, Access::Write),
            src: x_f,
            cols: 0..block_n,
        });
        let last = first.clone() + size;
        let mine = first
            .le(block_x())
            .and(block_x().lt(last.clone()))
            .and(block_y().lt(width.clone()));
        body.push(Stmt::If { cond: mine, body: copy });
        first = last;
        widest = if widest == Expr::Int(0) || widest == width {
            width
        } else {
            widest.max(width)
        };
        let stride = out.strides.get(axis).cloned().unwrap_or(Size::one());
        skipped = from.shape.get(axis).map(|&dim| stride.times(dim));
    }
    let doc = format!("concat along dimension {axis}, {}", p.dtype(out));
    Ok(p.finish(vec![doc], [first, widest, 1.into()], body))
}
