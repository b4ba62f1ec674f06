//! What each statement asks of its operands, and what it writes.

use super::super::text::{expr_text, param_name};
use super::super::{
    Access, BLayout, Binary, Columns, Expr, Form, ReduceOp, Rows, Softmax, Space, Stmt, Tile, TileId, TileProgram, View,
};
use super::flow::Flow;
use super::operand::{Want, check_columns, float_tile, operand, unfit};
use super::scalar::{Place, expect_int, expect_kind, kind_of};
use super::{Fault, ScalarKind, positive, tensor, tile};
use mlafuse_tensor::DType;

/// Checks one statement without its body, and records what it binds and writes.
pub(super) fn check_stmt(program: &TileProgram, stmt: &Stmt, flow: &mut Flow) -> Result<(), Fault> {
    match stmt {
        Stmt::Comment(_) | Stmt::Return => Ok(()),
        Stmt::Let { var, value } => {
            let kind = kind_of(program, flow, value, Place::Block)?;
            flow.bind(program, *var, kind)
        }
        Stmt::Sum {
            var,
            index,
            count,
            value,
        } => {
            expect_int(program, flow, count, Place::Block)?;
            let outside = flow.enter();
            flow.bind(program, *index, ScalarKind::Int)?;
            expect_int(program, flow, value, Place::Block)?;
            flow.leave(outside);
            flow.bind(program, *var, ScalarKind::Int)
        }
        Stmt::For { start, end, .. } => {
            expect_int(program, flow, start, Place::Block)?;
            expect_int(program, flow, end, Place::Block)
        }
        Stmt::If { cond, .. } => expect_kind(program, flow, cond, Place::Block, ScalarKind::Bool),
        Stmt::Load { dst, cols, src } => check_load(program, flow, *dst, cols, src),
        Stmt::Store { dst, src, cols } => check_store(program, flow, dst, *src, cols),
        Stmt::Stage { dst, src } => check_stage(program, flow, *dst, *src),
        Stmt::Fill { dst, value } => check_fill(program, flow, *dst, *value),
        Stmt::Gemm {
            acc,
            a,
            a_start,
            b,
            layout,
            b_cols,
        } => check_gemm(program, flow, [*acc, *a, *b], a_start, *layout, b_cols),
        Stmt::Map { dst, value } => check_map(program, flow, *dst, value),
        Stmt::Reduce { op, dst, src } => check_reduce(program, flow, *op, *dst, *src),
        Stmt::Finish { dst, src } => check_finish(program, flow, *dst, *src),
        Stmt::Softmax(step) => check_softmax(program, flow, step),
        Stmt::Rotate {
            dst, src, cos, sin, d, ..
        } => check_rotate(program, flow, [*dst, *src, *cos, *sin], *d),
    }
}

fn check_load(program: &TileProgram, flow: &mut Flow, dst: TileId, cols: &Columns, src: &View) -> Result<(), Fault> {
    let tile = tile(program, dst)?;
    let dtype = check_view(program, flow, src, Access::Read, tile.rows)?;
    match (tile.space, tile.form) {
        (Space::Shared, _) => operand(program, "destination", dst, Want::shared(Some(dtype), None))?,
        (Space::Fragment, form) if form.is_partial() => {
            return Err(unfit("destination", tile, "a tile or row vector"));
        }
        (Space::Fragment, _) => {}
    }
    check_columns(tile, cols)?;
    flow.write(dst, cols.clone());
    Ok(())
}

fn check_store(program: &TileProgram, flow: &Flow, dst: &View, src: TileId, cols: &Columns) -> Result<(), Fault> {
    let tile = tile(program, src)?;
    let dtype = check_view(program, flow, dst, Access::Write, tile.rows)?;
    if !dtype.is_float() {
        return Err(Fault::TensorType {
            param: param_name(program, dst.param),
            expected: "a float type",
            got: dtype,
        });
    }
    if tile.space != Space::Fragment || tile.form.is_partial() {
        return Err(unfit("source", tile, "a fragment or row vector"));
    }
    check_columns(tile, cols)?;
    flow.read(program, src, cols.clone())
}

fn check_stage(program: &TileProgram, flow: &mut Flow, dst: TileId, src: TileId) -> Result<(), Fault> {
    let Tile { rows, cols, .. } = *tile(program, dst)?;
    operand(program, "destination", dst, Want::shared(None, None))?;
    float_tile(program, "destination", dst)?;
    operand(program, "source", src, Want::fragment(Some(rows), Some(cols)))?;
    flow.read_all(program, src)?;
    flow.write_all(program, dst);
    Ok(())
}

fn check_fill(program: &TileProgram, flow: &mut Flow, dst: TileId, value: f32) -> Result<(), Fault> {
    let tile = tile(program, dst)?;
    if tile.space != Space::Fragment {
        return Err(unfit("destination", tile, "a fragment or vector"));
    }
    // Each owner of a part would contribute the value once, and how many owners there are is the lowering's choice.
    if tile.form.is_partial() && value != 0.0 {
        return Err(Fault::PartialFill {
            tile: tile.name.clone(),
            value: format!("{value:?}"),
        });
    }
    flow.write_all(program, dst);
    Ok(())
}

fn check_gemm(
    program: &TileProgram,
    flow: &Flow,
    [acc, a, b]: [TileId; 3],
    a_start: &Expr,
    layout: BLayout,
    b_cols: &Columns,
) -> Result<(), Fault> {
    let Tile {
        rows: m, cols: n, form, ..
    } = *tile(program, acc)?;
    let form = match form {
        Form::MatrixPartial => form,
        _ => Form::Matrix,
    };
    operand(program, "acc", acc, Want::matrix(form, None, None))?;
    operand(program, "a", a, Want::shared(None, Some(m)))?;
    float_tile(program, "a", a)?;
    let b_rows = (layout == BLayout::Nk).then_some(n);
    operand(program, "b", b, Want::shared(Some(tile(program, a)?.dtype), b_rows))?;
    let b_tile = tile(program, b)?;
    check_columns(b_tile, b_cols)?;
    if layout == BLayout::Kn && b_cols.len() != n {
        return Err(Fault::GemmColumns {
            expected: n,
            got: b_cols.clone(),
        });
    }
    flow.read_all(program, acc)?;
    read_depth(program, flow, a, a_start, layout.depth(b_tile, b_cols))?;
    flow.read(program, b, b_cols.clone())
}

/// Checks the `depth` columns of `a` from `start` on. Where `start` is not known, an executor finds out whether they are
/// there, and all of `a` must be written.
fn read_depth(program: &TileProgram, flow: &Flow, a: TileId, start: &Expr, depth: usize) -> Result<(), Fault> {
    expect_int(program, flow, start, Place::Block)?;
    let Expr::Int(start) = *start else {
        check_columns(tile(program, a)?, &(0..depth))?;
        return flow.read_all(program, a);
    };
    let start = usize::try_from(start).map_err(|_| Fault::GemmStart { start })?;
    let cols = start..start.saturating_add(depth);
    check_columns(tile(program, a)?, &cols)?;
    flow.read(program, a, cols)
}

fn check_map(program: &TileProgram, flow: &mut Flow, dst: TileId, value: &Expr) -> Result<(), Fault> {
    let tile = tile(program, dst)?;
    if tile.space != Space::Fragment || tile.form == Form::MatrixPartial {
        return Err(unfit("destination", tile, "a fragment or vector"));
    }
    if tile.form == Form::RowPartial {
        let factor = scale_factor(dst, value).ok_or_else(|| Fault::PartialScale {
            tile: tile.name.clone(),
            value: expr_text(program, value),
        })?;
        flow.read_all(program, dst)?;
        return expect_kind(program, flow, factor, Place::Map(tile), ScalarKind::Float);
    }
    expect_kind(program, flow, value, Place::Map(tile), ScalarKind::Float)?;
    flow.write_all(program, dst);
    Ok(())
}

/// What a map of `partial` multiplies it by; `None` where it does anything else.
fn scale_factor(partial: TileId, value: &Expr) -> Option<&Expr> {
    match value {
        Expr::Binary(Binary::Mul, a, b) if **a == Expr::Tile(partial) => Some(b),
        Expr::Binary(Binary::Mul, a, b) if **b == Expr::Tile(partial) => Some(a),
        _ => None,
    }
}

fn check_reduce(program: &TileProgram, flow: &Flow, op: ReduceOp, dst: TileId, src: TileId) -> Result<(), Fault> {
    operand(program, "source", src, Want::fragment(None, None))?;
    let rows = tile(program, src)?.rows;
    let form = match (op, tile(program, dst)?.form) {
        (ReduceOp::Sum, Form::RowPartial) => Form::RowPartial,
        _ => Form::RowVector,
    };
    operand(program, "destination", dst, Want::vector(form, rows))?;
    flow.read_all(program, dst)?;
    flow.read_all(program, src)
}

fn check_finish(program: &TileProgram, flow: &mut Flow, dst: TileId, src: TileId) -> Result<(), Fault> {
    let Tile { rows, cols, form, .. } = *tile(program, src)?;
    let (partial, whole) = match form {
        Form::MatrixPartial => {
            let of = |form| Want::matrix(form, Some(rows), Some(cols));
            (of(Form::MatrixPartial), of(Form::Matrix))
        }
        _ => (
            Want::vector(Form::RowPartial, rows),
            Want::vector(Form::RowVector, rows),
        ),
    };
    operand(program, "source", src, partial)?;
    operand(program, "destination", dst, whole)?;
    flow.read_all(program, src)?;
    flow.write_all(program, dst);
    Ok(())
}

/// Each op of the expansion.
fn check_softmax(program: &TileProgram, flow: &mut Flow, step: &Softmax) -> Result<(), Fault> {
    let tiles = step.tiles();
    if let Some((_, &id)) = tiles.iter().enumerate().find(|(i, id)| tiles[..*i].contains(id)) {
        let tile = tile(program, id)?.name.clone();
        return Err(Fault::Repeated { tile });
    }
    for stmt in step.expansion() {
        check_stmt(program, &stmt, flow)?;
    }
    tiles
        .into_iter()
        .filter(|&id| step.uses_up(id))
        .for_each(|id| flow.forget(id));
    Ok(())
}

fn check_rotate(
    program: &TileProgram,
    flow: &mut Flow,
    [dst, src, cos, sin]: [TileId; 4],
    d: usize,
) -> Result<(), Fault> {
    operand(program, "source", src, Want::shared(None, None))?;
    let Tile { rows, cols, .. } = *tile(program, src)?;
    float_tile(program, "source", src)?;
    operand(program, "destination", dst, Want::fragment(Some(rows), Some(cols)))?;
    if d == 0 || !d.is_multiple_of(2) || d > cols {
        return Err(Fault::RotatedColumns { d, cols });
    }
    for (role, table) in [("cos", cos), ("sin", sin)] {
        operand(program, role, table, Want::shared(Some(DType::F32), Some(rows)))?;
        check_columns(tile(program, table)?, &(0..d / 2))?;
        flow.read(program, table, 0..d / 2)?;
    }
    flow.read_all(program, src)?;
    flow.write_all(program, dst);
    Ok(())
}

/// Checks a view of `tile_rows` rows; gives the tensor's element type.
fn check_view(
    program: &TileProgram,
    flow: &Flow,
    view: &View,
    access: Access,
    tile_rows: usize,
) -> Result<DType, Fault> {
    let dtype = tensor(program, view.param, access)?;
    let (rows, paging) = match &view.rows {
        Rows::Strided { start, stride, limit } => (vec![start, stride, limit], None),
        Rows::Gathered { index, stride, limit } => {
            expect_int(program, flow, index, Place::Row)?;
            (vec![stride, limit], None)
        }
        Rows::Paged {
            start,
            limit,
            table,
            table_offset,
            page_size,
            page_stride,
            row_stride,
        } => {
            positive("page_size", *page_size)?;
            let got = tensor(program, *table, Access::Read)?;
            if got != DType::I32 {
                return Err(Fault::TensorType {
                    param: param_name(program, *table),
                    expected: "i32",
                    got,
                });
            }
            (vec![start, row_stride, limit], Some([table_offset, page_stride]))
        }
    };
    let columns = [&view.offset, &view.col_start, &view.col_limit, &view.col_stride];
    for expr in rows.into_iter().chain(paging.into_iter().flatten()).chain(columns) {
        expect_int(program, flow, expr, Place::Block)?;
    }
    positive("align", view.align)?;
    if let Some(mask) = view.mask {
        operand(program, "mask", mask, Want::vector(Form::RowVector, tile_rows))?;
        flow.read_all(program, mask)?;
    }
    Ok(dtype)
}
