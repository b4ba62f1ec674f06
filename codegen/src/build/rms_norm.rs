//! x / sqrt(mean(x²) + eps) · gain over the last dimension, and what it divides by, inverted.

use super::axes::plane;
use super::elementwise::repeated;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, blocks, indexed};
use crate::tile::{Access, Expr, ReduceOp, Stmt, TileId, TileProgram, VarId, View};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::plan::View as Placed;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId, eps: f64) -> Result<TileProgram, BuildError> {
    let [x, gain] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?, p.view(gain)?];
    let shape = plane(&views[0].shape, views);
    let block_n = p.schedule.block_n;
    let tiles = Tiles::new(&mut p);

    let grid = [p.row_blocks(&shape.outer, &shape.rows.extent), 1.into(), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    let access = [Access::Read, Access::Write, Access::Read];
    let matrices: [_; 3] = std::array::from_fn(|i| {
        let outer = indexed(&shape.outer, &place.outer, i);
        p.matrix(
            views[i],
            access[i],
            &outer,
            &shape.rows.strides[i],
            &shape.cols.strides[i],
        )
    });
    let (rows, cols) = (p.extent(&shape.rows.extent), p.extent(&shape.cols.extent));
    let at = |p: &mut ProgramBuilder, i: usize, block: Expr| {
        p.rows(
            &matrices[i],
            place.row.clone(),
            rows.clone(),
            Span::block(block, block_n, cols.clone()),
        )
    };
    let count = blocks(&mut p, &shape.cols.extent, block_n);
    let d = p.extent(&shape.cols.extent);
    let norm = Norm { tiles, count, d, eps };
    norm.rows(
        &mut p,
        &mut body,
        |p, block| Ok([at(p, 0, block.clone()), at(p, 2, block)]),
        |p, tile, block| {
            Ok(Stmt::Store {
                dst: at(p, 1, block),
                src: tile,
                cols: 0..block_n,
            })
        },
    )?;
    let doc = format!(
        "rms_norm of rows of {}, eps {eps:e}, {}",
        shape.cols.extent,
        p.dtype(views[1])
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// 1 / sqrt(mean(x²) + eps) of each row.
pub(super) fn inverse(mut p: ProgramBuilder, value: ValueId, eps: f64) -> Result<TileProgram, BuildError> {
    let [x] = p.args(value)?;
    let x = p.view(x)?;
    let out = repeated(p.view(value)?, &x.shape);
    let shape = plane(&x.shape, [x, &out]);
    let block_n = p.schedule.block_n;
    let tiles = Tiles::new(&mut p);

    let grid = [p.row_blocks(&shape.outer, &shape.rows.extent), 1.into(), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    let matrix = |p: &mut ProgramBuilder, view: &Placed, access, i: usize| {
        let outer = indexed(&shape.outer, &place.outer, i);
        p.matrix(view, access, &outer, &shape.rows.strides[i], &shape.cols.strides[i])
    };
    let from = matrix(&mut p, x, Access::Read, 0);
    let to = matrix(&mut p, &out, Access::Write, 1);
    let (rows, cols) = (p.extent(&shape.rows.extent), p.extent(&shape.cols.extent));
    let count = blocks(&mut p, &shape.cols.extent, block_n);
    let norm = Norm {
        tiles,
        count,
        d: cols.clone(),
        eps,
    };
    norm.inverse(&mut p, &mut body, |p, block| {
        let span = Span::block(block, block_n, cols.clone());
        Ok(p.rows(&from, place.row.clone(), rows.clone(), span))
    })?;
    let dst = p.rows(&to, place.row.clone(), rows.clone(), Span::whole(1usize));
    body.push(Stmt::Store {
        dst,
        src: norm.tiles.rstd,
        cols: 0..1,
    });
    let doc = format!(
        "1 / rms of rows of {}, eps {eps:e}, {} to {}",
        shape.cols.extent,
        p.dtype(x),
        p.dtype(&out)
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// What a norm is computed in.
pub(super) struct Tiles {
    x: TileId,
    square: TileId,
    sum: TileId,
    /// 1 / sqrt(mean(x²) + eps).
    pub rstd: TileId,
}

impl Tiles {
    pub fn new(p: &mut ProgramBuilder) -> Tiles {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let x = p.fragment("x_f", block_m, block_n);
        let square = p.fragment("square", block_m, block_n);
        let sum = p.row_vector("sum", block_m);
        let rstd = p.row_vector("rstd", block_m);
        Tiles { x, square, sum, rstd }
    }
}

/// The norm of a block's rows, of `d` elements in `count` column blocks.
pub(super) struct Norm {
    pub tiles: Tiles,
    pub count: Expr,
    pub d: Expr,
    pub eps: f64,
}

impl Norm {
    /// Norms the rows: `read` gives the column blocks of the rows and of their gains, `write` stores one of the result.
    pub fn rows(
        self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        read: impl Fn(&mut ProgramBuilder, Expr) -> Result<[View; 2], BuildError>,
        write: impl Fn(&mut ProgramBuilder, TileId, Expr) -> Result<Stmt, BuildError>,
    ) -> Result<(), BuildError> {
        let Tiles { x, rstd, .. } = self.tiles;
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let gain = p.fragment("gain_f", block_m, block_n);
        let load = |dst: TileId, src: View| Stmt::Load {
            dst,
            cols: 0..block_n,
            src,
        };
        self.inverse(p, body, |p, block| Ok(read(p, block)?[0].clone()))?;
        // A row that fits a tile is read once.
        let whole = self.whole();
        let second = p.var("second");
        let block = if whole { Expr::Int(0) } else { second.into() };
        let [rows, gains] = read(p, block.clone())?;
        let mut step = Vec::new();
        if !whole {
            step.push(load(x, rows));
        }
        step.push(load(gain, gains));
        step.push(Stmt::Map {
            dst: x,
            value: Expr::from(x) * rstd * gain,
        });
        step.push(write(p, x, block)?);
        over(body, whole, second, self.count, step);
        Ok(())
    }

    /// Leaves 1 / sqrt(mean(x²) + eps) of the rows in the tiles; `read` gives their column blocks.
    pub fn inverse(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        read: impl Fn(&mut ProgramBuilder, Expr) -> Result<View, BuildError>,
    ) -> Result<(), BuildError> {
        let Tiles {
            x, square, sum, rstd, ..
        } = self.tiles;
        body.push(Stmt::Fill { dst: sum, value: 0.0 });
        let first = p.var("first");
        let block = if self.whole() { Expr::Int(0) } else { first.into() };
        let step = vec![
            Stmt::Load {
                dst: x,
                cols: 0..p.schedule.block_n,
                src: read(p, block)?,
            },
            Stmt::Map {
                dst: square,
                value: Expr::from(x) * x,
            },
            Stmt::Reduce {
                op: ReduceOp::Sum,
                dst: sum,
                src: square,
            },
        ];
        over(body, self.whole(), first, self.count.clone(), step);
        body.push(Stmt::Map {
            dst: rstd,
            value: (Expr::from(sum) / self.d.clone().to_float() + self.eps as f32).rsqrt(),
        });
        Ok(())
    }

    /// Whether one column block has the whole row.
    fn whole(&self) -> bool {
        self.count == Expr::Int(1)
    }
}

/// `step` for each column block, or as it is where there is one.
fn over(body: &mut Vec<Stmt>, whole: bool, var: VarId, end: Expr, step: Vec<Stmt>) {
    if whole {
        body.extend(step);
    } else {
        body.push(Stmt::For {
            var,
            start: 0.into(),
            end,
            pipelined: false,
            body: step,
        });
    }
}
