//! The splits of an attention put together, each weighted by its log-sum-exp.

use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, block_z, blocks};
use crate::tile::{Access, Expr, Stmt, TileId, TileProgram, VarId, View};
use mlafuse_ir::plan::{CombineRegion, View as Placed};
use mlafuse_ir::size::{Size, Symbol};
use std::f32::consts::LOG2_E;

pub(super) fn build(mut p: ProgramBuilder, region: &CombineRegion) -> Result<TileProgram, BuildError> {
    let out = p.view(region.output)?;
    let &[batch, tokens, heads, width] = &out.shape[..] else {
        return Err(p.unsupported(
            "dimensions of the result",
            out.shape.len().to_string(),
            "4: B, T, H, columns",
        ));
    };
    if out.strides[1] != out.strides[2].clone().times(heads) {
        let found = format!("tokens {} and heads {} elements apart", out.strides[1], out.strides[2]);
        return Err(p.unsupported("result", found, "tokens as far apart as their heads reach"));
    }
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let rows = Size::product(&[tokens, heads]);
    let width = Size::one().times(width);
    let acc = p.fragment("acc", block_m, block_n);
    let part = p.fragment("part", block_m, block_n);
    let [lse, max, weight, sum] = ["lse_f", "max", "weight", "sum"].map(|name| p.row_vector(name, block_m));
    let batch = p.extent(&Size::one().times(batch));
    let grid = [p.row_blocks::<1>(&[], &rows), batch, blocks(&mut p, &width, block_n)];

    let mut body = Vec::new();
    let row = p.bind(&mut body, "row_start", block_x() * block_m);
    let splits = p.symbol(Symbol::Z);
    let limit = p.extent(&rows);
    let cols = p.extent(&width);

    let split = p.var("split");
    let load_lse = load_lse(&mut p, region, lse, split, [row.clone(), limit.clone()]);
    body.push(Stmt::Fill {
        dst: max,
        value: f32::NEG_INFINITY,
    });
    body.push(Stmt::For {
        var: split,
        start: 0.into(),
        end: splits.clone(),
        pipelined: false,
        body: vec![
            load_lse,
            Stmt::Map {
                dst: max,
                value: Expr::from(max).max(lse),
            },
        ],
    });
    let empty = Expr::from(max).equals(f32::NEG_INFINITY);
    body.push(Stmt::Map {
        dst: max,
        value: empty.select(0.0f32, max),
    });

    let split = p.var("weighed");
    let load_lse = self::load_lse(&mut p, region, lse, split, [row.clone(), limit.clone()]);
    // A split without tokens left its part unwritten: its weight is 0, and the mask keeps it from being read.
    let span = Span::block(block_z(), block_n, cols.clone());
    let mut src = split_view(&mut p, region, true, split, [row.clone(), limit.clone()], span);
    src.mask = Some(weight);
    body.push(Stmt::Fill { dst: sum, value: 0.0 });
    body.push(Stmt::Fill { dst: acc, value: 0.0 });
    body.push(Stmt::For {
        var: split,
        start: 0.into(),
        end: splits,
        pipelined: false,
        body: vec![
            load_lse,
            Stmt::Map {
                dst: weight,
                value: ((Expr::from(lse) - max) * LOG2_E).exp2(),
            },
            Stmt::Load {
                dst: part,
                cols: 0..block_n,
                src,
            },
            Stmt::Map {
                dst: sum,
                value: Expr::from(sum) + weight,
            },
            Stmt::Map {
                dst: acc,
                value: Expr::from(acc) + Expr::from(part) * weight,
            },
        ],
    });
    let some = Expr::from(0.0f32).lt(sum);
    body.push(Stmt::Map {
        dst: sum,
        value: some.select(Expr::from(1.0f32) / sum, 0.0f32),
    });
    body.push(Stmt::Map {
        dst: acc,
        value: Expr::from(acc) * sum,
    });
    let outer = [(block_y(), out.strides[0].clone())];
    let matrix = p.matrix(out, Access::Write, &outer, &out.strides[2], &out.strides[3]);
    let dst = p.rows(&matrix, row, limit, Span::block(block_z(), block_n, cols));
    body.push(Stmt::Store {
        dst,
        src: acc,
        cols: 0..block_n,
    });
    let doc = format!(
        "combine of attention's splits: {} heads, {} columns, {}",
        region.n_heads,
        region.columns,
        p.dtype(out)
    );
    Ok(p.finish(vec![doc], grid, body))
}

fn load_lse(p: &mut ProgramBuilder, region: &CombineRegion, dst: TileId, split: VarId, rows: [Expr; 2]) -> Stmt {
    let src = split_view(p, region, false, split, rows, Span::whole(1usize));
    Stmt::Load { dst, cols: 0..1, src }
}

/// One split's part of the partial results, or of the log-sum-exps, as rows.
fn split_view(
    p: &mut ProgramBuilder,
    region: &CombineRegion,
    partial: bool,
    split: VarId,
    [row, limit]: [Expr; 2],
    cols: Span,
) -> View {
    let buffer = if partial { region.partial } else { region.lse };
    let placed = Placed::contiguous(buffer, &p.plan.buffer(buffer).shape);
    let strides = &placed.strides;
    let outer = [(block_y(), strides[0].clone()), (split.into(), strides[1].clone())];
    let matrix = p.matrix(&placed, Access::Read, &outer, &strides[3], &Size::one());
    p.rows(&matrix, row, limit, cols)
}
