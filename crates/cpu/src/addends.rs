//! Tiles that are loaded only to be weighted and added to another: their rows are added where they lie.

use mlafuse_codegen::tile::{Binary, Columns, Expr, Form, Rows, Stmt, TileId, TileProgram, View};

use crate::uses;

/// The sum that a map makes if that is to\[i, j\] + rows\[i, j\] · by\[i\].
pub(crate) struct Weighted {
    pub(crate) rows: TileId,
    pub(crate) by: TileId,
}

impl Weighted {
    /// What the map of `dst` to `value` makes, if it is such a sum.
    pub(crate) fn of(program: &TileProgram, dst: TileId, value: &Expr) -> Option<Weighted> {
        let Expr::Binary(Binary::Add, to, product) = value else {
            return None;
        };
        let (Expr::Tile(to), Expr::Binary(Binary::Mul, rows, by)) = (&**to, &**product) else {
            return None;
        };
        let (&Expr::Tile(rows), &Expr::Tile(by)) = (&**rows, &**by) else {
            return None;
        };
        let forms = [dst, rows, by].map(|tile| program.tile(tile).form);
        let fits = *to == dst && rows != dst && forms == [Form::Matrix, Form::Matrix, Form::RowVector];
        fits.then_some(Weighted { rows, by })
    }
}

/// By tile: whether it is whole rows, masked by the weights of the one map that uses them, between which nothing happens that
/// the load depends on.
pub(crate) fn addends(program: &TileProgram) -> Vec<bool> {
    let mut uses = vec![0; program.tiles.len()];
    uses::count(&program.body, &mut uses);
    let mut addends = vec![false; program.tiles.len()];
    find(program, &program.body, &uses, &mut addends);
    addends
}

fn find(program: &TileProgram, body: &[Stmt], uses: &[usize], addends: &mut [bool]) {
    for (i, stmt) in body.iter().enumerate() {
        match stmt {
            Stmt::For { body, .. } | Stmt::If { body, .. } => find(program, body, uses, addends),
            // The load and the map.
            Stmt::Load { dst, cols, src } if uses[dst.0] == 2 => {
                addends[dst.0] = waits(program, *dst, cols, src, &body[i + 1..]);
            }
            _ => {}
        }
    }
}

/// Whether a load may wait for the map that adds its rows.
fn waits(program: &TileProgram, tile: TileId, cols: &Columns, src: &View, rest: &[Stmt]) -> bool {
    let whole = *cols == (0..program.tile(tile).cols) && matches!(src.rows, Rows::Strided { .. });
    let sum = |stmt: &Stmt| match stmt {
        Stmt::Map { dst, value } => Weighted::of(program, *dst, value).filter(|sum| sum.rows == tile),
        _ => None,
    };
    let waits = |stmt: &&Stmt| match stmt {
        Stmt::Load { dst, .. } | Stmt::Map { dst, .. } => Some(*dst) != src.mask && sum(stmt).is_none(),
        _ => false,
    };
    let next = rest.iter().find(|stmt| !waits(stmt)).and_then(sum);
    whole && next.is_some_and(|sum| Some(sum.by) == src.mask)
}
