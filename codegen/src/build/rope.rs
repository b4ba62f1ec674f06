//! Rotation of pairs by position: one block a token and group of its rows, which share one row of the tables.

use super::elementwise::per_token;
use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, indexed};
use crate::tile::{self, Access, Expr, Stmt, TileId, TileProgram};
use mlafuse_ir::graph::{Pairing, ValueId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::Size;
use mlafuse_tensor::DType;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId, pairing: Pairing) -> Result<TileProgram, BuildError> {
    let [x, cos, sin, q_len, kv_len] = p.args(value)?;
    let views = [p.view(x)?, p.view(value)?];
    let (q_len, kv_len) = (p.view(q_len)?, p.view(kv_len)?);
    let shape = per_token(&p, views)?;
    let d = shape.cols.extent.as_constant().unwrap_or(0);
    let rotation = Rotation::new(&p, d, [cos, sin], pairing)?;
    check_block(&p, d)?;
    // The schedule pads d to what the device's fragments need.
    let (block_m, padded) = (p.schedule.block_m, p.schedule.block_n);
    let x_s = p.shared("x_s", p.dtype(views[0]), block_m, padded);
    let rotated = p.fragment("rotated", block_m, padded);

    let grid = [p.row_blocks(&shape.outer, &shape.rows.extent), 1.into(), 1.into()];
    let mut body = Vec::new();
    let place = p.place(&mut body, block_x(), &shape.outer, &shape.rows.extent);
    let (b, t) = (place.outer[0].clone(), place.outer[1].clone());
    let last = rotation.positions(&mut p) - 1;
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
    rotation.push(&mut p, &mut body, [rotated, x_s], |p, table| {
        let outer = [(position.clone(), table.strides[0].clone())];
        let matrix = p.matrix(table, Access::Read, &outer, &Size::constant(0), &table.strides[1]);
        p.rows(&matrix, 0.into(), block_m.into(), Span::whole(d / 2))
    });
    body.push(Stmt::Store {
        dst: at(&mut p, 1, Access::Write),
        src: rotated,
        cols: 0..d,
    });
    let doc = format!("rope of rows of {d}, {pairing} pairs, {}", p.dtype(views[1]));
    Ok(p.finish(vec![doc], grid, body))
}

/// A rotation of rows by the angles of their positions.
pub(super) struct Rotation<'a> {
    /// Columns of a row.
    d: usize,
    /// Cosines and sines, \[positions, d / 2\].
    tables: [&'a View; 2],
    pairing: Pairing,
}

impl<'a> Rotation<'a> {
    pub fn new(
        p: &ProgramBuilder<'a>,
        d: usize,
        tables: [ValueId; 2],
        pairing: Pairing,
    ) -> Result<Rotation<'a>, BuildError> {
        if d == 0 || !d.is_multiple_of(2) {
            return Err(p.unsupported(
                "width of a rotated row",
                d.to_string(),
                "an even constant of at least 2",
            ));
        }
        let tables = [p.view(tables[0])?, p.view(tables[1])?];
        let wrong = |table: &&View| p.dtype(table) != DType::F32 || table.shape.len() != 2;
        match tables.into_iter().find(wrong) {
            Some(table) => {
                let found = format!("{} of {} dimensions", p.dtype(table), table.shape.len());
                Err(p.unsupported("rope table", found, "f32 of 2 dimensions"))
            }
            None => Ok(Rotation { d, tables, pairing }),
        }
    }

    /// How many positions the tables have.
    pub fn positions(&self, p: &mut ProgramBuilder) -> Expr {
        p.extent(&Size::one().times(self.tables[0].shape[0]))
    }

    /// Rotates the rows of `src`, which is in shared memory, by those that `angles` picks of each table.
    pub fn push(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        [dst, src]: [TileId; 2],
        mut angles: impl FnMut(&mut ProgramBuilder, &View) -> tile::View,
    ) {
        let (rows, half) = (p.schedule.block_m, p.cols(src) / 2);
        let [cos, sin] = ["cos_s", "sin_s"].map(|name| p.shared(name, DType::F32, rows, half));
        for (dst, table) in [cos, sin].into_iter().zip(self.tables) {
            let src = angles(p, table);
            let cols = 0..half;
            body.push(Stmt::Load { dst, cols, src });
        }
        body.push(Stmt::Rotate {
            dst,
            src,
            cos,
            sin,
            pairing: self.pairing,
            d: self.d,
        });
    }
}

fn check_block(p: &ProgramBuilder, d: usize) -> Result<(), BuildError> {
    let found = p.schedule.block_n;
    if found < d {
        let expected = format!("at least {d}, the rows' width");
        return Err(BuildError::Schedule {
            kernel: p.region.name.clone(),
            field: "block_n",
            found,
            expected,
        });
    }
    Ok(())
}
