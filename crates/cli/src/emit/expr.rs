//! The value of a grid's size: an integer expression of scalar parameters.

use anyhow::{Result, bail};
use mlafuse_codegen::tile::{Binary, Expr, ParamKind, TileProgram, Unary};
use mlafuse_ir::size::Dims;

/// Evaluates `expr` with the scalars of `dims`.
pub fn integer(program: &TileProgram, expr: &Expr, dims: &Dims) -> Result<i64> {
    let value = |expr: &Expr| integer(program, expr, dims);
    let found = match expr {
        Expr::Int(n) => Some(*n),
        Expr::Param(id) => match program.param(*id).kind {
            ParamKind::Scalar(symbol) => dims.get(symbol).and_then(|n| i64::try_from(n).ok()),
            ParamKind::Tensor { .. } => None,
        },
        Expr::Unary(Unary::Wide, a) => Some(value(a)?),
        Expr::Binary(op, a, b) => binary(*op, value(a)?, value(b)?),
        Expr::Select(cond, a, b) => Some(if value(cond)? != 0 { value(a)? } else { value(b)? }),
        _ => None,
    };
    match found {
        Some(n) => Ok(n),
        None => bail!(
            "kernel {}: the grid's size is no integer of its scalar parameters",
            program.name
        ),
    }
}

fn binary(op: Binary, a: i64, b: i64) -> Option<i64> {
    match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => a.checked_div(b),
        Binary::Rem => a.checked_rem(b),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::Lt => Some((a < b).into()),
        Binary::Le => Some((a <= b).into()),
        Binary::Eq => Some((a == b).into()),
        Binary::And => Some((a != 0 && b != 0).into()),
    }
}
