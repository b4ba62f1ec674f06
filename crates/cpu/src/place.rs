//! Where the tiles of a program lie in scratch, and in which form: what the level's products like best, where nothing else
//! uses the tile.

use mlafuse_codegen::tile::{BLayout, Expr, Softmax, Space, Stmt, Tile, TileId, TileProgram};
use mlafuse_tensor::DType;

use crate::gemm::{bf16, split};
use crate::scratch::{Elements, Slot};
use crate::{CpuError, Level};

/// f32 of scratch a thread beyond which a program is refused: 4 GiB, a thousand times what a useful one needs.
const MOST_SCRATCH: usize = 1 << 30;

/// The places of a program's tiles.
pub(crate) struct Places {
    /// By tile.
    pub(crate) slots: Vec<Slot>,
    /// f32 of all tiles.
    pub(crate) arena: usize,
    /// By tile: whether its loads may leave rows where they lie.
    pub(crate) borrows: Vec<bool>,
}

impl Places {
    /// The places of the tiles of `program`, which has been verified.
    ///
    /// # Errors
    /// [`CpuError::TileSize`] for a tile that no scratch holds.
    pub(crate) fn new(program: &TileProgram, level: Level) -> Result<Places, CpuError> {
        let elements = elements(program, level);
        let transposed = match level {
            Level::Amx => transposed(program, &elements),
            _ => vec![false; program.tiles.len()],
        };
        let (mut slots, mut arena) = (Vec::with_capacity(program.tiles.len()), 0usize);
        for (i, tile) in program.tiles.iter().enumerate() {
            let too_large = || CpuError::TileSize {
                kernel: program.name.clone(),
                tile: tile.name.clone(),
                rows: tile.rows,
                cols: tile.cols,
            };
            let slot = match (elements[i], transposed[i]) {
                (Elements::Floats, true) => Slot::of_transpose(arena, tile.rows, tile.cols),
                (Elements::Floats, false) => Slot::new(arena, tile.rows, tile.cols, tile.form.is_vector()),
                (elements, _) => Slot::of_halves(arena, tile.rows, tile.cols, elements),
            };
            let slot = slot.ok_or_else(too_large)?;
            arena = arena
                .checked_add(slot.len)
                .filter(|&n| n <= MOST_SCRATCH)
                .ok_or_else(too_large)?;
            slots.push(slot);
        }
        let borrows = borrows(program, &elements);
        Ok(Places { slots, arena, borrows })
    }
}

/// What is kept of each tile's elements. Shared ones that are only filled and multiplied are kept as the level multiplies
/// them: bf16 as its bits; f32, where that pays, as pieces.
fn elements(program: &TileProgram, level: Level) -> Vec<Elements> {
    let of_tile = |tile: &Tile| match tile.dtype {
        DType::BF16 if level.multiplies_bf16() => Elements::Halves,
        DType::F32 if level.splits_f32() => Elements::Pieces,
        _ => Elements::Floats,
    };
    let mut elements: Vec<Elements> = program
        .tiles
        .iter()
        .map(|tile| match tile.space {
            Space::Shared => of_tile(tile),
            Space::Fragment => Elements::Floats,
        })
        .collect();
    let mut pairs = Vec::new();
    other_uses(program, &program.body, &mut elements, &mut pairs);
    // A gemm takes both or none.
    while let Some(&[a, b]) = pairs.iter().find(|[a, b]| elements[a.0] != elements[b.0]) {
        (elements[a.0], elements[b.0]) = (Elements::Floats, Elements::Floats);
    }
    elements
}

/// Makes floats of the tiles that something else than a load, a stage to them and a gemm uses, or a gemm of few sums; collects
/// the gemms' operands. Rows are multiplied in whole K_STEPs: a gemm of a part of them must not find what it does not multiply
/// in its last step.
fn other_uses(program: &TileProgram, body: &[Stmt], elements: &mut [Elements], pairs: &mut Vec<[TileId; 2]>) {
    for stmt in body {
        match stmt {
            Stmt::For { body, .. } | Stmt::If { body, .. } => other_uses(program, body, elements, pairs),
            Stmt::Gemm {
                acc,
                a,
                a_start,
                b,
                layout,
                b_cols,
            } => {
                pairs.push([*a, *b]);
                let depth = layout.depth(program.tile(*b), b_cols);
                let whole_a = *a_start == Expr::Int(0) && depth == program.tile(*a).cols;
                let whole_b = *layout == BLayout::Kn || *b_cols == (0..program.tile(*b).cols);
                let steps = depth.is_multiple_of(bf16::K_STEP) || whole_a && whole_b;
                let few = elements[b.0] == Elements::Pieces && !split::pays(program.tile(*acc));
                if few || !steps {
                    (elements[a.0], elements[b.0]) = (Elements::Floats, Elements::Floats);
                }
            }
            Stmt::Rotate { src, cos, sin, .. } => {
                [src, cos, sin]
                    .iter()
                    .for_each(|tile| elements[tile.0] = Elements::Floats);
            }
            _ => {}
        }
    }
}

/// Scores that gemms make of b \[n, k\], halves or pieces, and a softmax uses up: the product is of b's rows as they lie, and the
/// softmax works on many rows at a time.
fn transposed(program: &TileProgram, elements: &[Elements]) -> Vec<bool> {
    fn find(body: &[Stmt], halves: &[bool], scores: &mut [bool]) {
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } | Stmt::If { body, .. } => find(body, halves, scores),
                Stmt::Softmax(step) if in_one(step) => scores[step.scores.0] = halves[step.weights.0],
                _ => {}
            }
        }
    }
    fn strike(body: &[Stmt], halves: &[bool], scores: &mut [bool]) {
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } | Stmt::If { body, .. } => strike(body, halves, scores),
                Stmt::Gemm { b, layout, .. } if *layout == BLayout::Nk && halves[b.0] => {}
                Stmt::Load { dst: tile, .. }
                | Stmt::Store { src: tile, .. }
                | Stmt::Stage { src: tile, .. }
                | Stmt::Reduce { src: tile, .. }
                | Stmt::Rotate { dst: tile, .. }
                | Stmt::Gemm { acc: tile, .. } => scores[tile.0] = false,
                Stmt::Map { dst, value } => {
                    scores[dst.0] = false;
                    value.walk(&mut |leaf| {
                        if let Expr::Tile(tile) = leaf {
                            scores[tile.0] = false;
                        }
                    });
                }
                Stmt::Softmax(step) if !(in_one(step) && halves[step.weights.0]) => scores[step.scores.0] = false,
                _ => {}
            }
        }
    }
    let halves: Vec<bool> = elements.iter().map(|&elements| elements != Elements::Floats).collect();
    let mut scores = vec![false; program.tiles.len()];
    find(&program.body, &halves, &mut scores);
    strike(&program.body, &halves, &mut scores);
    scores
}

/// Whether the step is executed as one and not as its expansion: where the largest score is the largest scaled one.
pub(crate) fn in_one(step: &Softmax) -> bool {
    step.scale > 0.0
}

/// The tiles of bf16 bits whose rows may stay in device memory: each load is of a whole tile, and gemms alone read it, as
/// their b. Its columns are whole K_STEPs, so that a row in memory may be read as far as one in the tile.
fn borrows(program: &TileProgram, elements: &[Elements]) -> Vec<bool> {
    fn strike(program: &TileProgram, body: &[Stmt], borrows: &mut [bool]) {
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } | Stmt::If { body, .. } => strike(program, body, borrows),
                Stmt::Load { dst, cols, .. } => borrows[dst.0] &= *cols == (0..program.tile(*dst).cols),
                Stmt::Stage { dst, .. } => borrows[dst.0] = false,
                Stmt::Gemm { a, .. } => borrows[a.0] = false,
                _ => {}
            }
        }
    }
    let whole =
        |(tile, &elements): (&Tile, &Elements)| elements == Elements::Halves && tile.cols.is_multiple_of(bf16::K_STEP);
    let mut borrows = program.tiles.iter().zip(elements).map(whole).collect::<Vec<bool>>();
    strike(program, &program.body, &mut borrows);
    borrows
}
