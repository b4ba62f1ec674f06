//! x / sqrt(mean(x²) + eps) · gain over the last dimension.

use super::axes::plane;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, blocks, indexed};
use crate::tile::{Access, Expr, ReduceOp, Stmt, TileId, TileProgram, VarId, View};
use mlafuse_ir::graph::ValueId;

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
        |p, tile, block| Stmt::Store {
            dst: at(p, 1, block),
            src: tile,
            cols: 0..block_n,
        },
    )?;
    let doc = format!(
        "rms_norm of rows of {}, eps {eps:e}, {}",
        shape.cols.extent,
        p.dtype(views[1])
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// What a norm is computed in.
pub(super) struct Tiles {
    x: TileId,
    gain: TileId,
    square: TileId,
    sum: TileId,
    rstd: TileId,
}

impl Tiles {
    pub fn new(p: &mut ProgramBuilder) -> Tiles {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let x = p.fragment("x_f", block_m, block_n);
        let gain = p.fragment("gain_f", block_m, block_n);
        let square = p.fragment("square", block_m, block_n);
        let sum = p.row_vector("sum", block_m);
        let rstd = p.row_vector("rstd", block_m);
        Tiles {
            x,
            gain,
            square,
            sum,
            rstd,
        }
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
        write: impl Fn(&mut ProgramBuilder, TileId, Expr) -> Stmt,
    ) -> Result<(), BuildError> {
        let Norm { tiles, count, d, eps } = self;
        let Tiles {
            x,
            gain,
            square,
            sum,
            rstd,
        } = tiles;
        let block_n = p.schedule.block_n;
        let load = |dst: TileId, src: View| Stmt::Load {
            dst,
            cols: 0..block_n,
            src,
        };
        // A row that fits a tile is read once.
        let whole = count == Expr::Int(1);
        body.push(Stmt::Fill { dst: sum, value: 0.0 });
        let first = p.var("first");
        let block = if whole { Expr::Int(0) } else { first.into() };
        let [rows, _] = read(p, block)?;
        let step = vec![
            load(x, rows),
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
        over(body, whole, first, count.clone(), step);
        body.push(Stmt::Map {
            dst: rstd,
            value: (Expr::from(sum) / d.to_float() + eps as f32).rsqrt(),
        });
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
        step.push(write(p, x, block));
        over(body, whole, second, count, step);
        Ok(())
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
