//! Rotation of pairs by position: one block a token and group of its rows, which share one row of the tables.

use super::elementwise::per_token;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, indexed};
use crate::tile::{Access, Stmt, TileProgram};
use mlafuse_ir::graph::{Pairing, ValueId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::{Dim, Size};
use mlafuse_tensor::DType;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId, pairing: Pairing) -> Result<TileProgram, BuildError> {
    let [x, cos, sin, q_len, kv_len] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?];
    let tables = [p.view(cos)?, p.view(sin)?];
    let (q_len, kv_len) = (p.view(q_len)?, p.view(kv_len)?);
    let shape = per_token(&p, views)?;
    let d = shape.cols.extent.as_constant().unwrap_or(0);
    check(&p, d, tables)?;
    // The schedule pads d to what the device's fragments need.
    let (block_m, padded) = (p.schedule.block_m, p.schedule.block_n);
    let x_s = p.shared("x_s", p.dtype(views[0]), block_m, padded);
    let cos_s = p.shared("cos_s", DType::F32, block_m, padded / 2);
    let sin_s = p.shared("sin_s", DType::F32, block_m, padded / 2);
    let rotated = p.fragment("rotated", block_m, padded);

    let grid = [p.row_blocks(&shape.outer, &shape.rows.extent), 1.into(), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    let (b, t) = (place.outer[0].clone(), place.outer[1].clone());
    let positions = tables[0].shape.first().copied().unwrap_or(Dim::Const(1));
    let last = p.extent(&Size::one().times(positions)) - 1;
    let position = p.load_int(kv_len, b.clone()) - p.load_int(q_len, b) + t;
    let position = p.bind(&mut body, "position", position.max(0).min(last));
    let rows = p.extent(&shape.rows.extent);
    let at = |p: &mut ProgramBuilder, i: usize, access: Access| {
        let outer = indexed(&shape.outer, &place.outer, i);
        let matrix = p.matrix(views[i], access, &outer, &shape.rows.strides[i], &shape.cols.strides[i]);
        p.rows(&matrix, place.row.clone(), rows.clone(), Span::whole(d))
    };
    body.push(Stmt::Load {
        dst: x_s,
        cols: 0..padded,
        src: at(&mut p, 0, Access::Read),
    });
    for (dst, table) in [(cos_s, tables[0]), (sin_s, tables[1])] {
        let matrix = p.matrix(
            table,
            Access::Read,
            &[(position.clone(), table.strides[0].clone())],
            &Size::constant(0),
            &table.strides[1],
        );
        let src = p.rows(&matrix, 0.into(), block_m.into(), Span::whole(d / 2));
        body.push(Stmt::Load {
            dst,
            cols: 0..padded / 2,
            src,
        });
    }
    body.push(Stmt::Rotate {
        dst: rotated,
        src: x_s,
        cos: cos_s,
        sin: sin_s,
        pairing,
        d,
    });
    body.push(Stmt::Store {
        dst: at(&mut p, 1, Access::Write),
        src: rotated,
        cols: 0..d,
    });
    let doc = format!("rope of rows of {d}, {pairing} pairs, {}", p.dtype(views[1]));
    Ok(p.finish(vec![doc], grid, body))
}

/// Checks the width of a rotated row and its tables.
pub(super) fn check_tables(p: &ProgramBuilder, d: usize, tables: [&View; 2]) -> Result<(), BuildError> {
    if d == 0 || !d.is_multiple_of(2) {
        return Err(p.unsupported(
            "width of a rotated row",
            d.to_string(),
            "an even constant of at least 2",
        ));
    }
    match tables
        .into_iter()
        .find(|table| p.dtype(table) != DType::F32 || table.shape.len() != 2)
    {
        Some(table) => {
            let found = format!("{} of {} dimensions", p.dtype(table), table.shape.len());
            Err(p.unsupported("rope table", found, "f32 of 2 dimensions"))
        }
        None => Ok(()),
    }
}

fn check(p: &ProgramBuilder, d: usize, tables: [&View; 2]) -> Result<(), BuildError> {
    check_tables(p, d, tables)?;
    let found = p.schedule.block_n;
    if found < d || !d.is_multiple_of(2) {
        let expected = format!("an even number of at least {d}, the rows' width");
        return Err(BuildError::Schedule {
            kernel: p.region.name.clone(),
            field: "block_n",
            found,
            expected,
        });
    }
    Ok(())
}
