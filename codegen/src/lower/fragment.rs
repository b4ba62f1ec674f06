//! Layouts of fragments, and loops over their registers.

use super::{Cx, LowerError};
use crate::layout::FragmentLayout;
use crate::schedule::Schedule;
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, Form, ReduceOp, Space, Tile, TileId, TileProgram};

/// How fragments are spread over the warps.
///
/// Of a matrix partial each warp along the depth has a part of every element. Of everything else these warps share out the
/// rows as far as there are pieces for them, and the others hold copies.
#[derive(Debug)]
pub(super) struct Fragments {
    /// The layout of every fragment; `None` for shared tiles. A vector has the layout of the matrices whose rows it follows.
    layouts: Vec<Option<FragmentLayout>>,
    /// How many of the warps along the depth share out the rows.
    pub shares: usize,
}

impl Fragments {
    /// A program of products has all fragments as the tensor core leaves them, any other whole rows a warp.
    pub fn assign(program: &TileProgram, schedule: &Schedule) -> Result<Fragments, LowerError> {
        let sums = program.tiles.iter().any(|tile| tile.form == Form::MatrixPartial);
        let mma = sums || has_gemm(&program.body);
        let whole = program
            .tiles
            .iter()
            .filter(|tile| tile.space == Space::Fragment && tile.form != Form::MatrixPartial);
        let shares = whole.map(|tile| schedule.row_shares(tile.rows)).min().unwrap_or(1);
        let layouts = program.tiles.iter().map(|tile| match tile.space {
            Space::Shared => Ok(None),
            Space::Fragment if mma => mma_layout(program, tile, schedule, shares).map(Some),
            Space::Fragment => rows_layout(program, tile, schedule).map(Some),
        });
        Ok(Fragments {
            layouts: layouts.collect::<Result<_, _>>()?,
            shares,
        })
    }

    pub fn layout(&self, tile: TileId) -> FragmentLayout {
        self.layouts[tile.0].expect("a verified program uses fragments where fragments are due")
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
            tile::Stmt::Finish { dst, .. } => program.tile(*dst).form == Form::RowVector,
            tile::Stmt::Softmax(step) => exchanges(program, &step.expansion()),
            tile::Stmt::For { body, .. } | tile::Stmt::If { body, .. } => exchanges(program, body),
            _ => false,
        })
    }
    schedule.warps_n > 1 && has_gemm(&program.body) && exchanges(program, &program.body)
}

fn mma_layout(
    program: &TileProgram,
    tile: &Tile,
    schedule: &Schedule,
    shares: usize,
) -> Result<FragmentLayout, LowerError> {
    let Schedule { warps_n, .. } = *schedule;
    let warps_m = match tile.form {
        Form::MatrixPartial => schedule.warps_m,
        _ => schedule.warps_m * shares,
    };
    let [tile_rows, tile_cols] = schedule.tensor_tile();
    let (rows_each, cols_each) = (tile_rows * warps_m, tile_cols * warps_n);
    let cols = if tile.form.is_vector() { cols_each } else { tile.cols };
    if !tile.rows.is_multiple_of(rows_each) || !cols.is_multiple_of(cols_each) {
        let rule = format!("rows must be a multiple of {rows_each}, columns of {cols_each}");
        return Err(fragment_error(program, tile, schedule, rule));
    }
    let tiles = [tile.rows / rows_each, cols / cols_each];
    Ok(FragmentLayout::mma(schedule.transposed, [warps_m, warps_n], tiles))
}

fn rows_layout(program: &TileProgram, tile: &Tile, schedule: &Schedule) -> Result<FragmentLayout, LowerError> {
    let warps = schedule.warps();
    let cols = if tile.form.is_vector() { 32 } else { tile.cols };
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
    /// The tile of the thread's that the row is in; for whole rows a warp, the row.
    tile_m: Expr,
    /// The row's first register within a tile of the tensor core.
    within: Expr,
}

/// One element that a thread holds.
pub(super) struct Slot {
    /// Logical column in the tile.
    pub col: Expr,
    /// The element's register in the matrix.
    pub register: Expr,
}

/// Four neighbours of a row, which a thread has after exchanges with others.
pub(super) struct Four {
    /// Logical column of the first.
    pub col: Expr,
}

impl Four {
    const REGISTERS: &str = "four";

    /// The one in column `col + at`.
    pub fn value(&self, at: usize) -> Expr {
        Expr::register(Four::REGISTERS, at.into())
    }
}

/// Lets the lanes that differ in the bit `mask` exchange halves of what they hold: the one without the bit ends with both
/// lanes' `x`, the other with both lanes' `y`, each the lower lane's first, in registers `into`.
fn exchange(into: &str, mask: i64, x: &[Expr], y: &[Expr]) -> Vec<Stmt> {
    let low = || Expr::name("low");
    let set = |at: usize, value: Expr| Stmt::Set {
        name: into.to_string(),
        at: at.into(),
        value,
    };
    let count = x.len();
    let mut body = vec![let_stmt(
        Ty::Bool,
        "low",
        Expr::name("lane").bit_and(mask).equals(Expr::Int(0)),
    )];
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let given = low().select(y.clone(), x.clone());
        let got = || Expr::name("got");
        body.push(Stmt::Scope {
            body: vec![
                let_stmt(
                    Ty::F32,
                    "got",
                    Expr::call(Intrinsic::ShuffleXor, [given, Expr::Int(mask)]),
                ),
                set(i, low().select(x.clone(), got())),
                set(count + i, low().select(got(), y.clone())),
            ],
        });
    }
    let registers = Stmt::Array {
        ty: Ty::F32,
        name: into.to_string(),
        len: 2 * count,
    };
    vec![registers, Stmt::Scope { body }]
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
        let mut out = vec![
            let_stmt(Ty::I32, "lane", thread().bit_and(31)),
            let_stmt(Ty::I32, "warp", thread().shift_right(5)),
        ];
        if self.uses_mma() {
            out.extend(self.warps());
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
                    let len = if tile.form.is_vector() {
                        layout.row_registers()
                    } else {
                        layout.registers()
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
            .layouts
            .iter()
            .flatten()
            .any(|layout| !matches!(layout, FragmentLayout::Rows { .. }))
    }

    /// The warp's place. Warps are numbered by (copy of the rows, row, column): those that share out rows are neighbours.
    fn warps(&self) -> Vec<Stmt> {
        let Schedule {
            warps_m,
            warps_n,
            warps_k,
            ..
        } = self.schedule;
        let shares = self.fragments.shares;
        let (of_rows, copies) = (warps_m * shares, warps_k / shares);
        let warp = || Expr::name("warp");
        let warp_m = match (of_rows, copies) {
            (1, _) => Expr::Int(0),
            (_, 1) => warp() / warps_n,
            _ => warp() / warps_n % of_rows,
        };
        let warp_n = if warps_n == 1 { Expr::Int(0) } else { warp() % warps_n };
        let mut out = vec![let_stmt(Ty::I32, "warp_m", warp_m), let_stmt(Ty::I32, "warp_n", warp_n)];
        if warps_k > 1 {
            let copy = match copies {
                1 => Expr::Int(0),
                _ => warp() / (of_rows * warps_n) * shares,
            };
            out.push(let_stmt(Ty::I32, "warp_k", copy + self.share()));
        }
        out
    }

    /// Which share of the rows of its part a warp has.
    pub(super) fn share(&self) -> Expr {
        Expr::name("warp_m") % self.fragments.shares
    }

    /// The warp's place along the rows of a tile.
    pub(super) fn warp_m(&self, tile: TileId) -> Expr {
        match (self.program.tile(tile).form, self.schedule.warps_m) {
            (Form::MatrixPartial, 1) => Expr::Int(0),
            (Form::MatrixPartial, _) => Expr::name("warp_m") / self.fragments.shares,
            _ => Expr::name("warp_m"),
        }
    }

    /// `stmts` in one of the warps that hold copies of the same rows.
    pub(super) fn in_one_copy(&self, stmts: Vec<Stmt>) -> Vec<Stmt> {
        let shares = self.fragments.shares;
        match self.uses_mma() && shares < self.schedule.warps_k {
            true => vec![Stmt::If {
                cond: Expr::name("warp_k").lt(shares.into()),
                body: stmts,
            }],
            false => stmts,
        }
    }

    /// Unrolled loops over the rows of a fragment or vector.
    pub(super) fn each_row(&self, tile: TileId, body: impl FnOnce(&RowSlot) -> Vec<Stmt>) -> Vec<Stmt> {
        let warp_m = self.warp_m(tile);
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { tiles_m, .. } => unrolled("mt", tiles_m, |mt| {
                unrolled("half", 2, |half| {
                    let low = Expr::name("lane").shift_right(2);
                    body(&RowSlot {
                        row: warp_m * (16 * tiles_m) + mt.clone() * 16 + half.clone() * 8 + low.clone(),
                        row_low: low,
                        vector: mt.clone() * 2 + half.clone(),
                        tile_m: mt,
                        within: half * 2,
                    })
                })
            }),
            FragmentLayout::MmaTransposed { tiles_m, .. } => unrolled("mt", tiles_m, |mt| {
                unrolled("odd", 2, |odd| {
                    let low = Expr::name("lane").bit_and(3) * 2 + odd.clone();
                    body(&RowSlot {
                        row: warp_m * (8 * tiles_m) + mt.clone() * 8 + low.clone(),
                        row_low: low,
                        vector: mt.clone() * 2 + odd.clone(),
                        tile_m: mt,
                        within: odd,
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
                    within: Expr::Int(0),
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
            FragmentLayout::MmaTransposed { tiles_n, .. } => unrolled("nt", tiles_n, |nt| {
                unrolled("half", 2, |half| {
                    let low = half.clone() * 8 + Expr::name("lane").shift_right(2);
                    body(&Slot {
                        col: Expr::name("warp_n") * (16 * tiles_n) + nt.clone() * 16 + low,
                        register: (row.tile_m.clone() * tiles_n + nt) * 4 + half * 2 + row.within.clone(),
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

    /// Unrolled loops over the pairs of adjacent columns of one row, for the tensor core's layout that has them
    /// ([`Cx::has_pairs`]); the slot is the first of the pair.
    pub(super) fn each_pair(&self, tile: TileId, row: &RowSlot, body: impl FnOnce(&Slot) -> Vec<Stmt>) -> Vec<Stmt> {
        let FragmentLayout::Mma { tiles_n, .. } = self.fragments.layout(tile) else {
            unreachable!("pairs of columns are asked for where there are some");
        };
        unrolled("nt", tiles_n, |nt| {
            body(&Slot {
                col: Expr::name("warp_n") * (8 * tiles_n) + nt.clone() * 8 + Expr::name("lane").bit_and(3) * 2,
                register: (row.tile_m.clone() * tiles_n + nt) * 4 + row.within.clone(),
            })
        })
    }

    /// Whether lanes can exchange what they hold for four neighbours each: [`Cx::each_four`].
    pub(super) fn has_fours(&self, tile: TileId) -> bool {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { tiles_n, .. } => tiles_n.is_multiple_of(2),
            FragmentLayout::MmaTransposed { .. } => true,
            FragmentLayout::Rows { .. } => false,
        }
    }

    /// Unrolled loops over the rows of which a thread has fours.
    pub(super) fn each_row_of_fours(&self, tile: TileId, body: impl FnOnce(&RowSlot) -> Vec<Stmt>) -> Vec<Stmt> {
        let FragmentLayout::MmaTransposed { tiles_m, .. } = self.fragments.layout(tile) else {
            return self.each_row(tile, body);
        };
        // Of its two rows of a tile a lane keeps the first, its neighbour in the columns the second.
        let odd = Expr::name("lane").shift_right(2).bit_and(1);
        unrolled("mt", tiles_m, |mt| {
            let low = Expr::name("lane").bit_and(3) * 2 + odd.clone();
            body(&RowSlot {
                row: Expr::name("warp_m") * (8 * tiles_m) + mt.clone() * 8 + low.clone(),
                row_low: low,
                vector: mt.clone() * 2 + odd,
                tile_m: mt,
                within: Expr::Int(0),
            })
        })
    }

    /// Unrolled loops over the fours of a row of [`Cx::each_row_of_fours`]. All lanes must come here.
    pub(super) fn each_four(&self, tile: TileId, row: &RowSlot, body: impl FnOnce(Four) -> Vec<Stmt>) -> Vec<Stmt> {
        let lane = || Expr::name("lane");
        let register = |nt: Expr, tiles_n: usize, at: usize| {
            let first = (row.tile_m.clone() * tiles_n + nt) * 4 + row.within.clone();
            Expr::register(self.tile_name(tile), first + at)
        };
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { tiles_n, .. } => unrolled("np", tiles_n / 2, |np| {
                let pair = |nt: Expr| [0, 1].map(|at| register(nt.clone(), tiles_n, at));
                let mut out = exchange(Four::REGISTERS, 1, &pair(np.clone() * 2), &pair(np.clone() * 2 + 1));
                let within = lane().bit_and(1) * 8 + lane().shift_right(1).bit_and(1) * 4;
                out.extend(body(Four {
                    col: Expr::name("warp_n") * (8 * tiles_n) + np * 16 + within,
                }));
                out
            }),
            FragmentLayout::MmaTransposed { tiles_n, .. } => unrolled("nt", tiles_n, |nt| {
                let one = |at: usize| [register(nt.clone(), tiles_n, at)];
                let pair = |name: &str| [0, 1].map(|at| Expr::register(name, Expr::Int(at)));
                let mut out = exchange("first", 4, &one(0), &one(1));
                out.extend(exchange("second", 4, &one(2), &one(3)));
                out.extend(exchange(Four::REGISTERS, 8, &pair("first"), &pair("second")));
                let within = lane().shift_right(3).bit_and(1) * 8 + lane().shift_right(4).bit_and(1) * 4;
                out.extend(body(Four {
                    col: Expr::name("warp_n") * (16 * tiles_n) + nt * 16 + within,
                }));
                out
            }),
            FragmentLayout::Rows { .. } => unreachable!("fours are asked for where there are some"),
        }
    }

    /// Whether a thread has neighbours of a row in neighbouring registers.
    pub(super) fn has_pairs(&self, tile: TileId) -> bool {
        matches!(self.fragments.layout(tile), FragmentLayout::Mma { .. })
    }

    /// The bits of the lane's number in which the owners of a row's columns differ.
    pub(super) fn lanes_of_a_row(&self, tile: TileId) -> i64 {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { .. } => 0b00011,
            FragmentLayout::MmaTransposed { .. } => 0b11100,
            FragmentLayout::Rows { .. } => 0b11111,
        }
    }

    /// Warps that have columns of the same row.
    pub(super) fn warps_of_a_row(&self, tile: TileId) -> usize {
        match self.fragments.layout(tile) {
            FragmentLayout::Mma { warps_n, .. } | FragmentLayout::MmaTransposed { warps_n, .. } => warps_n,
            FragmentLayout::Rows { .. } => 1,
        }
    }

    /// The condition that holds for one lane of each warp that has columns of a row.
    pub(super) fn first_lane(&self, tile: TileId) -> Expr {
        let lane = match self.lanes_of_a_row(tile) {
            0b11111 => Expr::name("lane"),
            bits => Expr::name("lane").bit_and(bits),
        };
        lane.equals(Expr::Int(0))
    }

    /// The condition that holds for one owner of each row.
    pub(super) fn row_owner(&self, tile: TileId) -> Expr {
        let first = self.first_lane(tile);
        match self.warps_of_a_row(tile) {
            1 => first,
            _ => first.and(Expr::name("warp_n").equals(Expr::Int(0))),
        }
    }
}
