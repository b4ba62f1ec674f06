//! Types of expressions, and what may stand in them where.

use super::super::text::{expr_text, param_name};
use super::super::{Access, Binary, Expr, Form, ParamId, ParamKind, Space, Tile, TileId, TileProgram, Unary};
use super::flow::Flow;
use super::operand::unfit;
use super::{Fault, ScalarKind, param, tensor, tile};
use mlafuse_tensor::DType;

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// The grid: before there is a block.
    Grid,
    /// Once per block.
    Block,
    /// In the index of a gathered row: once per row.
    Row,
    /// In a map to this tile: once per element.
    Map(&'a Tile),
}

/// Requires an integer.
pub(super) fn expect_int(program: &TileProgram, flow: &Flow, expr: &Expr, place: Place) -> Result<(), Fault> {
    expect_kind(program, flow, expr, place, ScalarKind::Int)
}

/// Requires an expression of type `expected`.
pub(super) fn expect_kind(
    program: &TileProgram,
    flow: &Flow,
    expr: &Expr,
    place: Place,
    expected: ScalarKind,
) -> Result<(), Fault> {
    let got = kind_of(program, flow, expr, place)?;
    if got == expected {
        Ok(())
    } else {
        Err(mismatch(program, expr, expected.words(), got))
    }
}

/// The type of an expression whose parts fit together and may stand here.
pub(super) fn kind_of(program: &TileProgram, flow: &Flow, expr: &Expr, place: Place) -> Result<ScalarKind, Fault> {
    check_place(program, expr, place)?;
    match expr {
        Expr::Int(_) | Expr::Block(_) | Expr::Row | Expr::Col => Ok(ScalarKind::Int),
        Expr::Float(_) => Ok(ScalarKind::Float),
        Expr::Param(id) => scalar(program, *id),
        Expr::Var(var) => flow.kind(program, *var),
        Expr::Tile(id) => map_operand(program, flow, *id, place),
        Expr::Load(id, index) => {
            expect_int(program, flow, index, place)?;
            match tensor(program, *id, Access::Read)? {
                DType::I32 => Ok(ScalarKind::Int),
                DType::F32 => Ok(ScalarKind::Float),
                got => Err(Fault::TensorType {
                    param: param_name(program, *id),
                    expected: "i32 or f32",
                    got,
                }),
            }
        }
        Expr::Unary(op, a) => {
            let (from, to) = match op {
                Unary::Wide => (ScalarKind::Int, ScalarKind::Int),
                Unary::ToFloat => (ScalarKind::Int, ScalarKind::Float),
                Unary::Exp2 | Unary::Log2 | Unary::Rsqrt => (ScalarKind::Float, ScalarKind::Float),
            };
            expect_kind(program, flow, a, place, from)?;
            Ok(to)
        }
        Expr::Binary(op, a, b) => binary_kind(program, flow, *op, [a, b], place),
        Expr::Select(cond, a, b) => {
            expect_kind(program, flow, cond, place, ScalarKind::Bool)?;
            let kind = kind_of(program, flow, a, place)?;
            expect_kind(program, flow, b, place, kind)?;
            Ok(kind)
        }
    }
}

fn binary_kind(
    program: &TileProgram,
    flow: &Flow,
    op: Binary,
    [a, b]: [&Expr; 2],
    place: Place,
) -> Result<ScalarKind, Fault> {
    let kind = kind_of(program, flow, a, place)?;
    if (op == Binary::And) != (kind == ScalarKind::Bool) {
        let expected = if op == Binary::And {
            "a truth value"
        } else {
            "an integer or a float"
        };
        return Err(mismatch(program, a, expected, kind));
    }
    expect_kind(program, flow, b, place, kind)?;
    match op {
        Binary::Lt | Binary::Le | Binary::Eq | Binary::And => Ok(ScalarKind::Bool),
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Rem | Binary::Min | Binary::Max => Ok(kind),
    }
}

/// Refuses a leaf that has no meaning here.
fn check_place(program: &TileProgram, expr: &Expr, place: Place) -> Result<(), Fault> {
    let misplaced = |place, allowed| {
        Err(Fault::Misplaced {
            expr: expr_text(program, expr),
            place,
            allowed,
        })
    };
    let elementwise = matches!(expr, Expr::Row | Expr::Col | Expr::Tile(_));
    match place {
        Place::Grid if elementwise || matches!(expr, Expr::Var(_) | Expr::Block(_) | Expr::Load(..)) => {
            misplaced("the grid", "scalar parameters")
        }
        Place::Block if elementwise => misplaced("a scalar expression", "parameters, variables and block indices"),
        Place::Row if matches!(expr, Expr::Col | Expr::Tile(_)) => misplaced(
            "the index of a gathered row",
            "parameters, variables, block indices and the row",
        ),
        // Every owner of a part scales it by itself, so they must all scale by the same.
        Place::Map(dst) if *expr == Expr::Col && dst.form == Form::RowPartial => {
            misplaced("the factor of a row partial", "what is the same for a whole row")
        }
        _ => Ok(()),
    }
}

fn scalar(program: &TileProgram, id: ParamId) -> Result<ScalarKind, Fault> {
    let param = param(program, id)?;
    match param.kind {
        ParamKind::Scalar(_) => Ok(ScalarKind::Int),
        ParamKind::Tensor { .. } => Err(Fault::ParamKind {
            param: param.name.clone(),
            expected: "scalar",
            got: "tensor",
        }),
    }
}

fn map_operand(program: &TileProgram, flow: &Flow, id: TileId, place: Place) -> Result<ScalarKind, Fault> {
    let operand = tile(program, id)?;
    if let Place::Map(dst) = place {
        let same = operand.form == Form::Matrix && dst.form == Form::Matrix && operand.cols == dst.cols;
        let fits = operand.space == Space::Fragment && operand.rows == dst.rows;
        if !(fits && (same || operand.form == Form::RowVector)) {
            let row = format!("row f32[{}]", dst.rows);
            let expected = match dst.form {
                Form::Matrix => format!("fragment f32[{}, {}] or {row}", dst.rows, dst.cols),
                Form::RowVector | Form::RowPartial | Form::MatrixPartial => row,
            };
            return Err(unfit("operand", operand, &expected));
        }
    }
    flow.read_all(program, id)?;
    Ok(ScalarKind::Float)
}

fn mismatch(program: &TileProgram, expr: &Expr, expected: &'static str, got: ScalarKind) -> Fault {
    Fault::Type {
        expr: expr_text(program, expr),
        expected,
        got,
    }
}
