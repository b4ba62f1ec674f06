//! What must hold of a tile program before anything executes or lowers it.
//!
//! One pass in program order: declarations, then each statement with the scalars in scope and the columns of each tile
//! that are certainly written by then. A loop may run zero times and an `if` may be skipped, so what their bodies bind
//! and write does not count after them.

mod error;
mod flow;
mod operand;
mod scalar;
mod statement;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use error::{Fault, ScalarKind, TileError};
use flow::Flow;
use scalar::{Place, expect_int};
use statement::check_stmt;

use super::text::stmt_text;
use super::{Access, Form, Param, ParamId, ParamKind, Space, Stmt, Tile, TileId, TileProgram};
use mlafuse_tensor::DType;

/// Words that mean something in expressions.
const RESERVED: [&str; 3] = ["block", "row", "col"];

/// Checks a program: names, declarations, scopes, expression types, what each statement asks of its operands, and that
/// nothing is read before it is written. Executors and lowerings may index and trust a program that passed.
///
/// # Errors
/// The first fault in program order, with the statement's text.
pub fn verify(program: &TileProgram) -> Result<(), TileError> {
    let at = |place: &str| {
        let place = place.to_string();
        |fault: Fault| TileError {
            program: program.name.clone(),
            at: place,
            fault: Box::new(fault),
        }
    };
    check_names(program).map_err(at("the declarations"))?;
    for tile in &program.tiles {
        check_declaration(tile).map_err(at(&format!("tile {}", tile.name)))?;
    }
    let mut flow = Flow::new(program);
    for blocks in &program.grid {
        expect_int(program, &flow, blocks, Place::Grid).map_err(at("the grid"))?;
    }
    check_body(program, &program.body, &mut flow)
}

fn check_names(program: &TileProgram) -> Result<(), Fault> {
    check_name(&program.name)?;
    let params = program.params.iter().map(|param| &param.name);
    let tiles = program.tiles.iter().map(|tile| &tile.name);
    let mut seen = BTreeSet::new();
    for name in params.chain(tiles).chain(&program.vars) {
        check_name(name)?;
        if !seen.insert(name) {
            return Err(Fault::DuplicateName { name: name.clone() });
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Fault> {
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if word && starts && !RESERVED.contains(&name) {
        Ok(())
    } else {
        Err(Fault::BadName { name: name.to_string() })
    }
}

fn check_declaration(tile: &Tile) -> Result<(), Fault> {
    positive("rows", tile.rows)?;
    positive("cols", tile.cols)?;
    if tile.space == Space::Fragment && tile.dtype != DType::F32 {
        return Err(Fault::FragmentType {
            tile: tile.name.clone(),
            got: tile.dtype,
        });
    }
    if tile.form == Form::MatrixPartial && tile.space != Space::Fragment {
        return Err(Fault::PartialSpace {
            tile: tile.name.clone(),
            space: tile.space,
        });
    }
    if tile.form.is_vector() && (tile.space != Space::Fragment || tile.cols != 1) {
        return Err(Fault::VectorForm {
            tile: tile.name.clone(),
            space: tile.space,
            cols: tile.cols,
        });
    }
    Ok(())
}

fn check_body(program: &TileProgram, body: &[Stmt], flow: &mut Flow) -> Result<(), TileError> {
    for (i, stmt) in body.iter().enumerate() {
        let at = |fault: Fault| TileError {
            program: program.name.clone(),
            at: stmt_text(program, stmt),
            fault: Box::new(fault),
        };
        if *stmt == Stmt::Return && i + 1 < body.len() {
            return Err(at(Fault::ReturnNotLast {
                followers: body.len() - i - 1,
            }));
        }
        check_stmt(program, stmt, flow).map_err(at)?;
        match stmt {
            Stmt::For { var, body, .. } => {
                let outside = flow.enter();
                flow.bind(program, *var, ScalarKind::Int).map_err(at)?;
                check_body(program, body, flow)?;
                flow.leave(outside);
            }
            Stmt::If { body, .. } => {
                let outside = flow.enter();
                check_body(program, body, flow)?;
                flow.leave(outside);
            }
            _ => {}
        }
    }
    Ok(())
}

fn positive(what: &'static str, got: usize) -> Result<(), Fault> {
    if got == 0 {
        Err(Fault::NotPositive { what })
    } else {
        Ok(())
    }
}

fn tile(program: &TileProgram, id: TileId) -> Result<&Tile, Fault> {
    let unknown = Fault::Unknown {
        what: "tile",
        index: id.0,
        count: program.tiles.len(),
    };
    program.tiles.get(id.0).ok_or(unknown)
}

fn param(program: &TileProgram, id: ParamId) -> Result<&Param, Fault> {
    let unknown = Fault::Unknown {
        what: "parameter",
        index: id.0,
        count: program.params.len(),
    };
    program.params.get(id.0).ok_or(unknown)
}

/// The element type of a tensor that may be accessed so.
fn tensor(program: &TileProgram, id: ParamId, expected: Access) -> Result<DType, Fault> {
    let param = param(program, id)?;
    match param.kind {
        ParamKind::Tensor { dtype, access, .. } if access == expected => Ok(dtype),
        ParamKind::Tensor { access, .. } => Err(Fault::Access {
            param: param.name.clone(),
            expected,
            got: access,
        }),
        ParamKind::Scalar(_) => Err(Fault::ParamKind {
            param: param.name.clone(),
            expected: "tensor",
            got: "scalar",
        }),
    }
}
