//! x / sqrt(mean(x²) + eps) · gain over the last dimension.

use super::axes::plane;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, blocks, indexed};
use crate::tile::{Access, Expr, ReduceOp, Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId, eps: f64) -> Result<TileProgram, BuildError> {
    let [x, gain] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?, p.view(gain)?];
    let shape = plane(&views[0].shape, views);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let x_f = p.fragment("x_f", block_m, block_n);
    let gain_f = p.fragment("gain_f", block_m, block_n);
    let square = p.fragment("square", block_m, block_n);
    let sum = p.row_vector("sum", block_m);
    let rstd = p.row_vector("rstd", block_m);

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
    let end = blocks(&mut p, &shape.cols.extent, block_n);
    // A row that fits a tile is read once.
    let whole = end == Expr::Int(1);

    body.push(Stmt::Fill { dst: sum, value: 0.0 });
    let first = p.var("first");
    let block = if whole { Expr::Int(0) } else { first.into() };
    let mut step = vec![Stmt::Load {
        dst: x_f,
        cols: 0..block_n,
        src: at(&mut p, 0, block),
    }];
    step.push(Stmt::Map {
        dst: square,
        value: Expr::from(x_f) * x_f,
    });
    step.push(Stmt::Reduce {
        op: ReduceOp::Sum,
        dst: sum,
        src: square,
    });
    over(&mut body, whole, first, end.clone(), step);
    let d = p.extent(&shape.cols.extent).to_float();
    body.push(Stmt::Map {
        dst: rstd,
        value: (Expr::from(sum) / d + eps as f32).rsqrt(),
    });

    let second = p.var("second");
    let block = if whole { Expr::Int(0) } else { second.into() };
    let mut step = Vec::new();
    if !whole {
        step.push(Stmt::Load {
            dst: x_f,
            cols: 0..block_n,
            src: at(&mut p, 0, block.clone()),
        });
    }
    step.push(Stmt::Load {
        dst: gain_f,
        cols: 0..block_n,
        src: at(&mut p, 2, block.clone()),
    });
    step.push(Stmt::Map {
        dst: x_f,
        value: Expr::from(x_f) * rstd * gain_f,
    });
    step.push(Stmt::Store {
        dst: at(&mut p, 1, block),
        src: x_f,
        cols: 0..block_n,
    });
    over(&mut body, whole, second, end, step);
    let doc = format!(
        "rms_norm of rows of {}, eps {eps:e}, {}",
        shape.cols.extent,
        p.dtype(views[1])
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// `step` for each column block, or as it is where there is one.
fn over(body: &mut Vec<Stmt>, whole: bool, var: crate::tile::VarId, end: Expr, step: Vec<Stmt>) {
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
