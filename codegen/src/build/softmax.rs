//! Softmax over the last dimension, in three passes over column blocks: largest, sum, result.

use super::axes::plane;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, blocks, indexed};
use crate::tile::{Access, Expr, ReduceOp, Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;
use std::f32::consts::LOG2_E;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [x] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?];
    let shape = plane(&views[0].shape, views);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let x_f = p.fragment("x_f", block_m, block_n);
    let max = p.row_vector("max", block_m);
    let sum = p.row_vector("sum", block_m);

    let grid = [p.row_blocks(&shape.outer, &shape.rows.extent), 1.into(), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    let access = [Access::Read, Access::Write];
    let matrices: [_; 2] = std::array::from_fn(|i| {
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
    let end = blocks(&mut p, &shape.cols.extent, block_n);
    let x = Expr::from(x_f);
    let pass = |p: &mut ProgramBuilder, name: &str, after: &mut dyn FnMut(crate::tile::View, Expr) -> Vec<Stmt>| {
        let var = p.var(name);
        let span = || Span::block(var, block_n, cols.clone());
        let src = p.rows(&matrices[0], place.row.clone(), rows.clone(), span());
        let dst = p.rows(&matrices[1], place.row.clone(), rows.clone(), span());
        let there = (Expr::from(var) * block_n + Expr::Col).lt(cols.clone());
        let mut step = vec![Stmt::Load {
            dst: x_f,
            cols: 0..block_n,
            src,
        }];
        step.extend(after(dst, there));
        Stmt::For {
            var,
            start: 0.into(),
            end: end.clone(),
            pipelined: false,
            body: step,
        }
    };
    // max is -inf or finite below; a row of -inf alone is measured against 0, so that its weights are 0 and not NaN.
    let weight = |there: Expr| there.select(((x.clone() - max) * LOG2_E).exp2(), 0.0f32);

    body.push(Stmt::Fill {
        dst: max,
        value: f32::NEG_INFINITY,
    });
    body.push(pass(&mut p, "largest", &mut |_, there| {
        vec![
            Stmt::Map {
                dst: x_f,
                value: there.select(x.clone(), f32::NEG_INFINITY),
            },
            Stmt::Reduce {
                op: ReduceOp::Max,
                dst: max,
                src: x_f,
            },
        ]
    }));
    let empty = Expr::from(max).equals(f32::NEG_INFINITY);
    body.push(Stmt::Map {
        dst: max,
        value: empty.select(0.0f32, max),
    });
    body.push(Stmt::Fill { dst: sum, value: 0.0 });
    body.push(pass(&mut p, "total", &mut |_, there| {
        vec![
            Stmt::Map {
                dst: x_f,
                value: weight(there),
            },
            Stmt::Reduce {
                op: ReduceOp::Sum,
                dst: sum,
                src: x_f,
            },
        ]
    }));
    let some = Expr::from(0.0f32).lt(sum);
    body.push(Stmt::Map {
        dst: sum,
        value: some.select(Expr::from(1.0f32) / sum, 0.0f32),
    });
    body.push(pass(&mut p, "result", &mut |dst, there| {
        vec![
            Stmt::Map {
                dst: x_f,
                value: weight(there) * sum,
            },
            Stmt::Store {
                dst,
                src: x_f,
                cols: 0..block_n,
            },
        ]
    }));
    let doc = format!("softmax of rows of {}, {}", shape.cols.extent, p.dtype(views[1]));
    Ok(p.finish(vec![doc], grid, body))
}
