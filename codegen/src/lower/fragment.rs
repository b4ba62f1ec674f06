//! Layouts of fragments, and loops over their registers.

use super::{Cx, LowerError};
use crate::layout::FragmentLayout;
use crate::schedule::Schedule;
use crate::thread::{Expr, Stmt, Ty};
use crate::tile::{self, Form, ReduceOp, Space, Tile, TileId, TileProgram};

/// The layout of every fragment; `None` for shared tiles. A vector has the layout of the matrices whose rows it follows.
#[derive(Debug)]
pub(super) struct Fragments(Vec<Option<FragmentLayout>>);

impl Fragments {
    /// A program with a gemm has all fragments as the tensor core leaves them, any other whole rows a warp.
    pub fn assign(program: &TileProgram, schedule: &Schedule) -> Result<Fragments, LowerError> {
        let mma = has_gemm(&program.body);
        program
            .tiles
            .iter()
            .map(|tile| match tile.space {
                Space::Shared => Ok(None),
                Space::Fragment if mma => mma_layout(program, tile, schedule).map(Some),
                Space::Fragment => rows_layout(program, tile, schedule).map(Some),
            })
            .collect::<Result<_, _>>()
            .map(Fragments)
    }

    pub fn layout(&self, tile: TileId) -> FragmentLayout {
        self.0[tile.0].expect("a verified program uses fragments where fragments are due")
    }
}

fn has_gemm(body: &[tile::Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        tile::Stmt::Gemm { .. } => true,
        tile::Stmt::For { body, .. } | tile::Stmt::If { body, .. } => has_gemm(body),
        _ => false,
    })
}

/// Whether warps that share rows exchange row values through shared memory.
pub(super) fn needs_exchange(program: &TileProgram, schedule: &Schedule) -> bool {
    fn exchanges(program: &TileProgram, body: &[tile::Stmt]) -> bool {
        body.iter().any(|stmt| match stmt {
            tile::Stmt::Reduce { op, dst, .. } => *op == ReduceOp::Max || program.tile(*dst).form == Form::RowVector,
            tile::Stmt::Finish { .. } => true,
            tile::Stmt::For { body, .. } | tile::Stmt::If { body, .. } => exchanges(program, body),
            _ => false,
        })
    }
    schedule.warps_n > 1 && has_gemm(&program.body) && exchanges(program, &program.body)
}

fn mma_layout(program: &TileProgram, tile: &Tile, schedule: &Schedule) -> Result<FragmentLayout, LowerError> {
    let Schedule { warps_m, warps_n, .. } = *schedule;
    let cols = if tile.form == Form::Matrix {
        tile.cols
    } else {
        8 * warps_n
    };
    if !tile.rows.is_multiple_of(16 * warps_m) || !cols.is_multiple_of(8 * warps_n) {
        let rule = format!(
            "rows must be a multiple of {}, columns of {}",
            16 * warps_m,
            8 * warps_n
        );
        return Err(fragment_error(program, tile, schedule, rule));
    }
    Ok(FragmentLayout::Mma {
        warps_m,
        warps_n,
        tiles_m: tile.rows / (16 * warps_m),
        tiles_n: cols / (8 * warps_n),
    })
}

fn rows_layout(program: &TileProgram, tile: &Tile, schedule: &Schedule) -> Result<FragmentLayout, LowerError> {
    let warps = schedule.warps_m * schedule.warps_n;
    let cols = if tile.form == Form::Matrix { tile.cols } else { 32 };
    if !tile.rows.is_multiple_of(warps) || !cols.is_multiple_of(32) {
        let rule = format!("rows must be a multiple of {warps}, columns of 32");
        return Err(fragment_error(program, tile, schedule, rule));
    }
    Ok(FragmentLayout::Rows {
        warps,
        rows: tile.rows / warps,
        cols: cols / 32,
    })
}

fn fragment_error(program: &TileProgram, tile: &Tile, schedule: &Schedule, rule: String) -> LowerError {
    LowerError::Fragment {
        kernel: program.name.clone(),
        tile: tile.name.clone(),
        rows: tile.rows,
        cols: tile.cols,
        schedule: Box::new(*schedule),
        rule,
    }
}

/// One row that a thread holds a part of.
pub(super) struct RowSlot {
    /// Logical row in the tile.
    pub row: Expr,
    /// What the row is below eight.
    pub row_low: Expr,
    /// The row's register in a row vector.
    pub vector: Expr,
    /// First register of the row in a matrix of `cols` columns a thread.
    tile_m: Expr,
    half: Expr,
}

/// One element that a thread holds.
pub(super) struct Slot {
    /// Logical column in the tile.
    pub col: Expr,
    /// The element's register in the matrix.
    pub register: Expr,
}

/// A fully unrolled loop over `count` values of `var`; no loop where there is but one.
pub(super) fn unrolled(var: &str, count: usize, body: impl FnOnce(Expr) -> Vec<Stmt>) -> Vec<Stmt> {
    match count {
        1 => body(Expr::Int(0)),
        _ => vec![counted(var, count, 0, body(Expr::name(var)))],
    }
}

/// A loop over 0..count.
pub(super) fn counted(var: &str, count: usize, unroll: u32, body: Vec<Stmt>) -> Stmt {
    Stmt::For {
        var: var.to_string(),
        start: Expr::Int(0),
        end: count.into(),
        unroll,
        body,
    }
}

pub(super) fn let_stmt(ty: Ty, name: &str, value: Expr) -> Stmt {
    Stmt::Let {
        ty,
        name: name.to_string(),
        value,
    }
}

impl Cx<'_> {
    /// Names that every thread program begins with: lane, warps, places of shared tiles, registers of fragments.
    pub(super) fn prelude(&self) -> Vec<Stmt> {
        let thread = || Expr::Thread;
        let Schedule { warps_m, warps_n, .. } = self.schedule;
        let mut out = vec![
            let_stmt(Ty::I32, "lane", thread().bit_and(31)),
            let_stmt(Ty::I32, "warp", thread().shift_right(5)),
        ];
        if self.uses_mma() {
            let warp = || Expr::name("warp");
            let warp_m = if warps_m == 1 { Expr::Int(0) } else { warp() / warps_n };
            let warp_n = if warps_n == 1 { Expr::Int(0) } else { warp() % warps_n };
            out.push(let_stmt(Ty::I32, "warp_m", warp_m));
            out.push(let_stmt(Ty::I32, "warp_n", warp_n));
        }
        if self.shared.bytes > 0 {
            out.push(let_stmt(Ty::U32, "shared", Expr::Shared));
        }
        for (index, tile) in self.program.tiles.iter().enumerate() {
            match tile.space {
                Space::Shared => {
                    let offset = self.shared.placed(TileId(index)).offset;
                    out.push(let_stmt(Ty::U32, &tile.name, Expr::name("shared") + offset));
                }
                Space::Fragment => {
                    let layout = self.fragments.layout(TileId(index));
                    let len = if tile.form == Form::Matrix {
                        layout.registers()
                    } else {
                        layout.row_registers()
                    };
                    out.push(Stmt::Array {
                        ty: Ty::F32,
                        name: tile.name.clone(),
                        len,
                    });
                }
            }
        }
        out
    }

    pub(super) fn uses_mma(&self) -> bool {
        self.fragments
            .0
            .iter()
            .flatten()
            .any(|layout| matches!(layout, FragmentLayout::Mma { .. }))
    }

    /// Unrolled loops over the rows of a fragment or vector.
    pub(super) fn each_row(&self, tile: TileId, body: impl FnOnce(&RowSlot) -> Vec<Stmt>) -> Vec<Stmt> {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { tiles_m, .. } => unrolled("mt", tiles_m, |mt| {
                unrolled("half", 2, |half| {
                    let low = Expr::name("lane").shift_right(2);
                    body(&RowSlot {
                        row: Expr::name("warp_m") * (16 * tiles_m) + mt.clone() * 16 + half.clone() * 8 + low.clone(),
                        row_low: low,
                        vector: mt.clone() * 2 + half.clone(),
                        tile_m: mt,
                        half,
                    })
                })
            }),
            FragmentLayout::Rows { rows, .. } => unrolled("i", rows, |i| {
                let row = Expr::name("warp") * rows + i.clone();
                body(&RowSlot {
                    row_low: row.clone().bit_and(7),
                    row,
                    vector: i.clone(),
                    tile_m: i,
                    half: Expr::Int(0),
                })
            }),
        }
    }

    /// Unrolled loops over the elements of one row of a fragment.
    pub(super) fn each_col(&self, tile: TileId, row: &RowSlot, body: impl FnOnce(&Slot) -> Vec<Stmt>) -> Vec<Stmt> {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { .. } => self.each_pair(tile, row, |pair| {
                unrolled("odd", 2, |odd| {
                    body(&Slot {
                        col: pair.col.clone() + odd.clone(),
                        register: pair.register.clone() + odd,
                    })
                })
            }),
            FragmentLayout::Rows { cols, .. } => unrolled("j", cols, |j| {
                body(&Slot {
                    col: Expr::name("lane") + j.clone() * 32,
                    register: row.tile_m.clone() * cols + j,
                })
            }),
        }
    }

    /// Unrolled loops over the pairs of adjacent columns of one row, for the tensor core's layout; the slot is the first of
    /// the pair.
    pub(super) fn each_pair(&self, tile: TileId, row: &RowSlot, body: impl FnOnce(&Slot) -> Vec<Stmt>) -> Vec<Stmt> {
        let FragmentLayout::Mma { tiles_n, .. } = self.fragments.layout(tile) else {
            unreachable!("pairs of columns are asked for in the tensor core's layout only");
        };
        unrolled("nt", tiles_n, |nt| {
            body(&Slot {
                col: Expr::name("warp_n") * (8 * tiles_n) + nt.clone() * 8 + Expr::name("lane").bit_and(3) * 2,
                register: (row.tile_m.clone() * tiles_n + nt) * 4 + row.half.clone() * 2,
            })
        })
    }

    /// The condition that holds for one owner of each row.
    pub(super) fn row_owner(&self, tile: TileId) -> Expr {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { warps_n: 1, .. } => Expr::name("lane").bit_and(3).equals(Expr::Int(0)),
            FragmentLayout::Mma { .. } => Expr::name("lane")
                .bit_and(3)
                .equals(Expr::Int(0))
                .and(Expr::name("warp_n").equals(Expr::Int(0))),
            FragmentLayout::Rows { .. } => Expr::name("lane").equals(Expr::Int(0)),
        }
    }
}
