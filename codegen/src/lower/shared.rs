//! The places of shared tiles, and addresses in them.

use super::Cx;
use super::fragment::needs_exchange;
use super::sync::{Access, Kind, Slot};
use crate::layout::{CHUNK_BYTES, SharedLayout};
use crate::schedule::Schedule;
use crate::thread::Expr;
use crate::tile::{Form, Space, Stmt, Tile, TileId, TileProgram, VarId};
use std::ops::Range;

/// Where one shared tile lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed {
    /// Byte offset of its first stage in the block's shared memory.
    pub offset: usize,
    /// Copies of it.
    pub stages: usize,
    /// The variable of the pipelined loop whose iterations have a copy each.
    pub loop_var: Option<VarId>,
    /// The layout of one copy.
    pub layout: SharedLayout,
}

/// The shared memory of a block.
#[derive(Debug)]
pub(super) struct SharedPlan {
    /// Per tile of the program; `None` for fragments.
    tiles: Vec<Option<Placed>>,
    /// The bytes through which warps that share out the depth of products sum up their parts; none where nothing is
    /// summed up.
    pub parts: Range<usize>,
    /// Byte offset of the scratch through which warps exchange row values, f32 \[warps_n, rows\].
    pub exchange: usize,
    /// All of it.
    pub bytes: usize,
}

impl SharedPlan {
    /// Walks the program's shared tiles in order.
    pub fn new(program: &TileProgram, schedule: &Schedule) -> SharedPlan {
        let staged = pipelined_tiles(&program.body);
        let mut bytes = 0;
        let mut tiles = Vec::new();
        for (index, tile) in program.tiles.iter().enumerate() {
            if tile.space != Space::Shared {
                tiles.push(None);
                continue;
            }
            let loop_var = staged.iter().find(|(t, _)| *t == TileId(index)).map(|&(_, var)| var);
            let stages = if loop_var.is_some() { schedule.stages } else { 1 };
            let layout = SharedLayout {
                rows: tile.rows,
                cols: tile.cols,
                dtype: tile.dtype,
            };
            tiles.push(Some(Placed {
                offset: bytes,
                stages,
                loop_var,
                layout,
            }));
            bytes += layout.bytes() * stages;
        }
        let parts = match is_free_outside_pipelines(program, &program.body) {
            true => 0,
            false => bytes,
        };
        let parts = parts..parts + parts_bytes(program, &program.body, schedule);
        bytes = bytes.max(parts.end);
        let exchange = bytes;
        if needs_exchange(program, schedule) {
            let rows = program
                .tiles
                .iter()
                .filter(|t| t.form == Form::RowVector)
                .map(|t| t.rows)
                .max()
                .unwrap_or(0);
            bytes += rows * schedule.warps_n * size_of::<f32>();
        }
        SharedPlan {
            tiles,
            parts,
            exchange,
            bytes: bytes.next_multiple_of(CHUNK_BYTES),
        }
    }

    /// The tiles that have bytes in `range`.
    pub fn tiles_in(&self, range: &Range<usize>) -> impl Iterator<Item = &Placed> {
        let has_bytes = |placed: &&Placed| {
            let end = placed.offset + placed.layout.bytes() * placed.stages;
            placed.offset < range.end && range.start < end
        };
        self.tiles.iter().flatten().filter(has_bytes)
    }

    /// The place of a shared tile.
    pub fn placed(&self, tile: TileId) -> Placed {
        self.tiles[tile.0].expect("a verified program uses shared tiles where shared tiles are due")
    }
}

/// Bytes of the largest sum over the warps along the depth: each has a part of every element.
fn parts_bytes(program: &TileProgram, body: &[Stmt], schedule: &Schedule) -> usize {
    let of_stmt = |stmt: &Stmt| match stmt {
        Stmt::Finish { src, .. } if program.tile(*src).form == Form::MatrixPartial => {
            let Tile { rows, cols, .. } = program.tile(*src);
            rows * cols * size_of::<f32>() * schedule.warps_k
        }
        Stmt::For { body, .. } | Stmt::If { body, .. } => parts_bytes(program, body, schedule),
        _ => 0,
    };
    body.iter().map(of_stmt).max().unwrap_or(0)
}

/// Whether pipelined loops are all that uses shared tiles, and finish nothing. What such a loop has in a tile it has
/// written in the same iteration, so that outside of them no tile holds anything.
fn is_free_outside_pipelines(program: &TileProgram, body: &[Stmt]) -> bool {
    fn finishes(body: &[Stmt]) -> bool {
        body.iter().any(|stmt| match stmt {
            Stmt::Finish { .. } => true,
            Stmt::For { body, .. } | Stmt::If { body, .. } => finishes(body),
            _ => false,
        })
    }
    body.iter().all(|stmt| match stmt {
        Stmt::For {
            pipelined: true, body, ..
        } => !finishes(body),
        Stmt::For { body, .. } | Stmt::If { body, .. } => is_free_outside_pipelines(program, body),
        Stmt::Load { dst, .. } => program.tile(*dst).space != Space::Shared,
        Stmt::Stage { .. } | Stmt::Softmax(_) | Stmt::Gemm { .. } | Stmt::Rotate { .. } => false,
        _ => true,
    })
}

/// The shared tiles that loops marked pipelined load at the head of their bodies, with the loop's variable.
fn pipelined_tiles(body: &[Stmt]) -> Vec<(TileId, VarId)> {
    let mut found = Vec::new();
    for stmt in body {
        match stmt {
            Stmt::For {
                var, pipelined, body, ..
            } => {
                if *pipelined {
                    found.extend(body.iter().map_while(|s| match s {
                        Stmt::Load { dst, .. } => Some((*dst, *var)),
                        _ => None,
                    }));
                }
                found.extend(pipelined_tiles(body));
            }
            Stmt::If { body, .. } => found.extend(pipelined_tiles(body)),
            _ => {}
        }
    }
    found
}

impl Cx<'_> {
    /// Address of the first byte of the copy of `tile` that the present iteration uses.
    pub(super) fn tile_base(&self, tile: TileId) -> Expr {
        let placed = self.shared.placed(tile);
        let base = Expr::name(self.tile_name(tile));
        match placed.loop_var {
            Some(var) if placed.stages > 1 => base + Expr::name(self.stage_name(var)) * placed.layout.bytes(),
            _ => base,
        }
    }

    /// The name of the stage that the present iteration of `var`'s loop uses.
    pub(super) fn stage_name(&self, var: VarId) -> String {
        format!("stage_of_{}", self.var_name(var))
    }

    /// What a synchronisation pass sees of an op that touches `tile` in the present iteration.
    pub(super) fn access(&self, tile: TileId, kind: Kind) -> Access {
        let placed = self.shared.placed(tile);
        let slot = match placed.stages {
            1 => Slot::Any,
            stages => Slot::Ahead { offset: 0, stages },
        };
        Access {
            tile: placed.offset,
            cols: (0, placed.layout.cols),
            slot,
            kind,
        }
    }

    /// Address of an element, given its row, what the row is below eight (all that the swizzle sees), and its column.
    pub(super) fn element_address(&self, tile: TileId, base: Expr, row: Expr, row_low: &Expr, col: Expr) -> Expr {
        let layout = self.shared.placed(tile).layout;
        let per_chunk = layout.chunk_elems();
        let within = (col.clone() % per_chunk) * layout.dtype.size_bytes();
        self.chunk_address(tile, base, row, row_low, col / per_chunk) + within
    }

    /// Address of a 16-byte chunk.
    pub(super) fn chunk_address(&self, tile: TileId, base: Expr, row: Expr, row_low: &Expr, chunk: Expr) -> Expr {
        let layout = self.shared.placed(tile).layout;
        base + row * layout.pitch()
            + chunk
                .xor(self.swizzle(tile, row_low))
                .shift_left(CHUNK_BYTES.trailing_zeros() as i64)
    }

    /// What the chunk index is XOR-ed with in a row: [`SharedLayout::swizzle`] as code.
    pub(super) fn swizzle(&self, tile: TileId, row_low: &Expr) -> Expr {
        let bits = self.shared.placed(tile).layout.swizzle_bits();
        match bits {
            0 => Expr::Int(0),
            bits => row_low.clone().shift_right(3 - bits as i64).bit_and((1 << bits) - 1),
        }
    }

    pub(super) fn tile_name(&self, tile: TileId) -> &str {
        &self.program.tile(tile).name
    }
}
