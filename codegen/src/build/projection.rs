//! The splits of an attention put together and multiplied with a weight of each head in one kernel, so that what attention
//! made never lies in memory.
//!
//! A block has rows (b, t) of one head, those of several sequences where each has few, so that they read the head's weight
//! once. Each step puts some columns of the rows together, rounds them as they would be in memory and multiplies them;
//! meanwhile the weights of the next steps are on their way.

use super::combine::{Combine, RowsOf, check_result};
use super::error::BuildError;
use super::operand::Operand;
use super::program::{ProgramBuilder, Span, block_x, block_y, block_z, blocks};
use crate::tile::{Access, Stmt, TileProgram};
use mlafuse_ir::plan::{CombineRegion, Projection};
use mlafuse_ir::size::Size;

pub(super) fn build(
    mut p: ProgramBuilder,
    region: &CombineRegion,
    projection: &Projection,
) -> Result<TileProgram, BuildError> {
    let (view, out) = (p.view(projection.weight)?, p.view(region.output)?);
    check_result(&p, out)?;
    p.check_block_k()?;
    let (block_m, block_n, block_k) = (p.schedule.block_m, p.schedule.block_n, p.schedule.block_k);
    let rows = Size::product(&out.shape[..2]);
    let [heads, outputs, columns] =
        [out.shape[2], out.shape[3], region.columns.into()].map(|dim| Size::one().times(dim));
    let stride = |axis: usize| {
        let expected = || p.unsupported("dimensions of the weight", view.strides.len().to_string(), "3");
        view.strides.get(axis).cloned().ok_or_else(expected)
    };
    let [h, v, c] = projection.axes;
    let [of_head, of_output, of_column] = [stride(h)?, stride(v)?, stride(c)?];

    let a_s = p.shared("combined_s", p.dtype(view), block_m, block_k);
    let weight = Operand::new(
        &mut p,
        "w_s",
        view,
        &[(block_y(), of_head)],
        [&of_output, &of_column],
        [block_n, block_k],
    );
    let combined = p.fragment("combined", block_m, block_k);
    let acc = p.fragment("acc", block_m, block_n);
    let grid = [
        p.row_blocks::<1>(&[], &rows),
        p.extent(&heads),
        blocks(&mut p, &outputs, block_n),
    ];

    let mut body = Vec::new();
    let row = p.bind(&mut body, "row_start", block_x() * block_m);
    let [limit, n, k] = [&rows, &outputs, &columns].map(|size| p.extent(size));
    let of = RowsOf::Head(block_y());
    let combine = Combine::new(&mut p, region, of, [row.clone(), limit.clone()], block_k);
    combine.largest(&mut p, &mut body);
    body.push(Stmt::Fill { dst: acc, value: 0.0 });

    let step = p.var("k");
    let of_n = Span::block(block_z(), block_n, n.clone());
    let of_k = || Span::block(step, block_k, k.clone());
    let mut step_body = vec![weight.load(&mut p, of_n, of_k())];
    combine.columns(&mut p, combined, of_k, &mut step_body);
    step_body.extend([
        Stmt::Stage {
            dst: a_s,
            src: combined,
        },
        weight.gemm(acc, a_s),
    ]);
    body.push(Stmt::For {
        var: step,
        start: 0.into(),
        end: k.ceil_div(block_k),
        pipelined: true,
        body: step_body,
    });

    let strides = &out.strides;
    let matrix = p.matrix(
        out,
        Access::Write,
        &[(block_y(), strides[2].clone())],
        &strides[1],
        &strides[3],
    );
    let dst = p.rows(&matrix, row, limit, Span::block(block_z(), block_n, n));
    body.push(Stmt::Store {
        dst,
        src: acc,
        cols: 0..block_n,
    });
    let doc = format!(
        "combine of attention's splits, projected: {} heads, {columns} columns to {outputs}, {} to {}",
        region.n_heads,
        p.dtype(view),
        p.dtype(out)
    );
    Ok(p.finish(vec![doc], grid, body))
}
