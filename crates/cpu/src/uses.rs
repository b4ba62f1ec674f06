//! The tiles that statements name, and those that they write.

use mlafuse_codegen::tile::{Expr, Rows, Stmt, TileId, TileProgram};

/// Visits each place of `stmt` that names a tile, but none in its body.
pub(crate) fn tiles_of(stmt: &Stmt, visit: &mut impl FnMut(TileId)) {
    match stmt {
        Stmt::Load {
            dst: tile, src: view, ..
        }
        | Stmt::Store {
            src: tile, dst: view, ..
        } => {
            visit(*tile);
            view.mask.into_iter().for_each(&mut *visit);
            if let Rows::Gathered { index, .. } = &view.rows {
                leaves(index, visit);
            }
        }
        Stmt::Map { dst, value } => {
            visit(*dst);
            leaves(value, visit);
        }
        Stmt::Stage { dst, src } | Stmt::Reduce { dst, src, .. } | Stmt::Finish { dst, src } => {
            [*dst, *src].into_iter().for_each(visit);
        }
        Stmt::Fill { dst, .. } => visit(*dst),
        Stmt::Gemm { acc, a, b, .. } => [*acc, *a, *b].into_iter().for_each(visit),
        Stmt::Softmax(step) => step.tiles().into_iter().for_each(visit),
        Stmt::Rotate { dst, src, cos, sin, .. } => [*dst, *src, *cos, *sin].into_iter().for_each(visit),
        Stmt::For { .. } | Stmt::If { .. } | Stmt::Comment(_) | Stmt::Let { .. } | Stmt::Sum { .. } | Stmt::Return => {}
    }
}

fn leaves(value: &Expr, visit: &mut impl FnMut(TileId)) {
    value.walk(&mut |leaf| {
        if let Expr::Tile(tile) = leaf {
            visit(*tile);
        }
    });
}

/// Whether `stmt` or its body names `tile`.
pub(crate) fn names(stmt: &Stmt, tile: TileId) -> bool {
    let mut named = false;
    tiles_of(stmt, &mut |of| named |= of == tile);
    let inside = |body: &[Stmt]| body.iter().any(|stmt| names(stmt, tile));
    named || matches!(stmt, Stmt::For { body, .. } | Stmt::If { body, .. } if inside(body))
}

/// Adds up how often statements name each tile.
pub(crate) fn count(body: &[Stmt], uses: &mut [usize]) {
    for stmt in body {
        tiles_of(stmt, &mut |tile| uses[tile.0] += 1);
        if let Stmt::For { body, .. } | Stmt::If { body, .. } = stmt {
            count(body, uses);
        }
    }
}

/// The statements that write a shared tile.
#[derive(Clone, Copy, Default)]
pub(crate) struct Writes {
    pub(crate) loads: usize,
    pub(crate) stages: usize,
    /// Loops around the innermost of them.
    pub(crate) loops: usize,
}

/// By tile: what writes it.
pub(crate) fn writes(program: &TileProgram) -> Vec<Writes> {
    fn count(body: &[Stmt], loops: usize, writes: &mut [Writes]) {
        for stmt in body {
            let (tile, [loads, stages]) = match stmt {
                Stmt::For { body, .. } => {
                    count(body, loops + 1, writes);
                    continue;
                }
                Stmt::If { body, .. } => {
                    count(body, loops, writes);
                    continue;
                }
                Stmt::Load { dst, .. } => (dst, [1, 0]),
                Stmt::Stage { dst, .. } => (dst, [0, 1]),
                Stmt::Softmax(step) => (&step.weights, [0, 1]),
                _ => continue,
            };
            let of_tile = &mut writes[tile.0];
            of_tile.loads += loads;
            of_tile.stages += stages;
            of_tile.loops = of_tile.loops.max(loops);
        }
    }
    let mut writes = vec![Writes::default(); program.tiles.len()];
    count(&program.body, 0, &mut writes);
    writes
}
