//! Translating a tile program that [`verify`] passed: places for tiles, statements. What it checked is trusted here.
//!
//! [`verify`]: mlafuse_codegen::tile::verify

use std::ops::Range;

use mlafuse_codegen::tile::{BLayout, Expr, ParamKind, Space, Stmt, TileId, TileProgram, VarId, View};
use mlafuse_tensor::DType;

use crate::block::{GemmStep, PackedOperand, Step};
use crate::convert::Element;
use crate::expr::{Kind, MapCode, Names, Scalar, kind};
use crate::gemm::{PACKED, bf16};
use crate::kernel::{CpuKernel, Options, TensorParam};
use crate::rows::Rotation;
use crate::scratch::{Needs, Slot};
use crate::view::{Transfer, ViewCode};
use crate::{CpuError, Level};

/// `program`, which has been verified, in executable form.
pub(crate) fn kernel(program: &TileProgram, options: Options) -> Result<CpuKernel, CpuError> {
    let (mut tensors, mut symbols, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for param in &program.params {
        match &param.kind {
            ParamKind::Tensor { dtype, access, .. } => {
                indices.push(tensors.len());
                tensors.push(TensorParam {
                    name: param.name.clone(),
                    element: element(program, &param.name, *dtype)?,
                    access: *access,
                });
            }
            ParamKind::Scalar(symbol) => {
                indices.push(symbols.len());
                symbols.push(*symbol);
            }
        }
    }
    let (slots, arena) = place_tiles(program, &halves(program, options.level))?;
    let vars = vec![Kind::Int; program.vars.len()];
    let names = Names {
        program,
        slots,
        indices,
        vars,
    };
    let grid = [0, 1, 2].map(|axis| Scalar::compile(&program.grid[axis], &names));
    let counters = Counters::new(program);
    let needs = Needs {
        arena,
        vars: program.vars.len(),
        present: counters.count,
        panel: PACKED,
        tiles: program.tiles.len(),
        ..Needs::default()
    };
    let mut compiler = Compiler {
        level: options.level,
        tensors: &tensors,
        names,
        counters,
        needs,
    };
    let steps = compiler.body(&program.body)?;
    let needs = compiler.needs;
    Ok(CpuKernel {
        name: program.name.clone(),
        options,
        tensors,
        symbols,
        grid,
        steps,
        needs,
    })
}

fn element(program: &TileProgram, name: &str, dtype: DType) -> Result<Element, CpuError> {
    let unsupported = || CpuError::ElementType {
        kernel: program.name.clone(),
        name: name.to_string(),
        dtype,
    };
    Element::of(dtype).ok_or_else(unsupported)
}

/// Gives every tile its slot, of bf16 bits where `halves` says so; also the arena's length.
fn place_tiles(program: &TileProgram, halves: &[bool]) -> Result<(Vec<Slot>, usize), CpuError> {
    let (mut slots, mut arena) = (Vec::with_capacity(program.tiles.len()), 0usize);
    for (tile, &halves) in program.tiles.iter().zip(halves) {
        let too_large = || CpuError::TileSize {
            kernel: program.name.clone(),
            tile: tile.name.clone(),
            rows: tile.rows,
            cols: tile.cols,
        };
        let slot = match (halves, tile.form.is_vector()) {
            (true, _) => Slot::of_halves(arena, tile.rows, tile.cols),
            (false, vector) => Slot::new(arena, tile.rows, tile.cols, vector),
        };
        let slot = slot.ok_or_else(too_large)?;
        arena = arena
            .checked_add(slot.len)
            .filter(|&n| n <= MOST_SCRATCH)
            .ok_or_else(too_large)?;
        slots.push(slot);
    }
    Ok((slots, arena))
}

/// The tiles that are kept as bf16 bits: shared ones of that type which are only filled and multiplied, where the level
/// multiplies them so.
fn halves(program: &TileProgram, level: Level) -> Vec<bool> {
    let mut halves: Vec<bool> = program
        .tiles
        .iter()
        .map(|tile| level.multiplies_bf16() && tile.space == Space::Shared && tile.dtype == DType::BF16)
        .collect();
    let mut pairs = Vec::new();
    other_uses(&program.body, &mut halves, &mut pairs);
    // A gemm takes both or none.
    while let Some(&[a, b]) = pairs.iter().find(|[a, b]| halves[a.0] != halves[b.0]) {
        (halves[a.0], halves[b.0]) = (false, false);
    }
    halves
}

/// Strikes out the tiles that something else than a load, a stage to them and a gemm uses; collects the gemms' operands.
fn other_uses(body: &[Stmt], halves: &mut [bool], pairs: &mut Vec<[TileId; 2]>) {
    for stmt in body {
        match stmt {
            Stmt::For { body, .. } | Stmt::If { body, .. } => other_uses(body, halves, pairs),
            Stmt::Gemm { a, b, .. } => pairs.push([*a, *b]),
            Stmt::Rotate { src, cos, sin, .. } => [src, cos, sin].iter().for_each(|tile| halves[tile.0] = false),
            _ => {}
        }
    }
}

/// f32 of scratch a thread beyond which a program is refused: 4 GiB, a thousand times what a useful one needs.
const MOST_SCRATCH: usize = 1 << 30;

/// The counters of present rows: one for each range of columns that a load writes of a shared tile, where these ranges
/// together are the whole tile and do not overlap. Other tiles have none.
struct Counters {
    /// By tile: the ranges of columns, sorted, and the first one's counter.
    tiles: Vec<(Vec<Range<usize>>, usize)>,
    count: usize,
}

impl Counters {
    fn new(program: &TileProgram) -> Counters {
        let mut loads = vec![Vec::new(); program.tiles.len()];
        find_loads(&program.body, &mut loads);
        let mut count = 0;
        let counters = program.tiles.iter().zip(loads).map(|(tile, mut ranges)| {
            ranges.sort_by_key(|r| (r.start, r.end));
            ranges.dedup();
            let end = ranges.iter().try_fold(0, |end, r| (r.start == end).then_some(r.end));
            if tile.space != Space::Shared || end != Some(tile.cols) {
                ranges.clear();
            }
            count += ranges.len();
            let first = count - ranges.len();
            (ranges, first)
        });
        let tiles = counters.collect();
        Counters { tiles, count }
    }

    /// The counters of a tile.
    fn of(&self, tile: TileId) -> Range<usize> {
        let (ranges, first) = &self.tiles[tile.0];
        *first..first + ranges.len()
    }

    /// The counter of these columns of a tile.
    fn of_columns(&self, tile: TileId, cols: &Range<usize>) -> Option<usize> {
        let (ranges, first) = &self.tiles[tile.0];
        ranges.iter().position(|r| r == cols).map(|i| first + i)
    }
}

fn find_loads(body: &[Stmt], loads: &mut [Vec<Range<usize>>]) {
    for stmt in body {
        match stmt {
            Stmt::For { body, .. } | Stmt::If { body, .. } => find_loads(body, loads),
            Stmt::Load { dst, cols, .. } => loads[dst.0].push(cols.clone()),
            _ => {}
        }
    }
}

struct Compiler<'a> {
    level: Level,
    tensors: &'a [TensorParam],
    names: Names<'a>,
    counters: Counters,
    needs: Needs,
}

impl Compiler<'_> {
    fn body(&mut self, body: &[Stmt]) -> Result<Vec<Step>, CpuError> {
        let mut steps = Vec::with_capacity(body.len());
        for stmt in body {
            steps.extend(self.stmt(stmt)?);
        }
        Ok(steps)
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<Option<Step>, CpuError> {
        Ok(Some(match stmt {
            Stmt::Comment(_) => return Ok(None),
            Stmt::Let { var, value } => {
                self.names.vars[var.0] = kind(value, &self.names);
                Step::Let {
                    var: var.0,
                    value: self.scalar(value),
                }
            }
            Stmt::Sum {
                var,
                index,
                count,
                value,
            } => {
                self.names.vars[var.0] = Kind::Int;
                self.names.vars[index.0] = Kind::Int;
                Step::Sum {
                    var: var.0,
                    index: index.0,
                    count: self.scalar(count),
                    value: self.scalar(value),
                }
            }
            Stmt::For {
                var,
                start,
                end,
                pipelined: _,
                body,
            } => {
                self.names.vars[var.0] = Kind::Int;
                self.repeat(*var, start, end, body)?
            }
            Stmt::If { cond, body } => Step::If {
                cond: self.scalar(cond),
                body: self.body(body)?,
            },
            Stmt::Return => Step::Return,
            Stmt::Load { dst, cols, src } => Step::Load {
                transfer: Box::new(self.transfer(*dst, cols, src)),
                present: self.counters.of_columns(*dst, cols),
                tile: dst.0,
            },
            Stmt::Store { dst, src, cols } => Step::Store(Box::new(self.transfer(*src, cols, dst))),
            Stmt::Stage { dst, src } => self.stage(*dst, *src)?,
            Stmt::Fill { dst, value } => Step::Fill {
                dst: self.slot(*dst),
                value: *value,
            },
            Stmt::Gemm {
                acc,
                a,
                a_start,
                b,
                layout,
                b_cols,
            } => self.gemm([*acc, *a, *b], a_start, *layout, b_cols),
            Stmt::Map { dst, value } => self.map(*dst, value),
            Stmt::Reduce { op, dst, src } => Step::Reduce {
                op: *op,
                dst: self.slot(*dst),
                src: self.slot(*src),
            },
            Stmt::Finish { dst, src } => Step::Copy {
                dst: self.slot(*dst),
                src: self.slot(*src),
            },
            Stmt::Rotate {
                dst,
                src,
                cos,
                sin,
                pairing,
                d,
            } => Step::Rotate(Box::new(Rotation {
                dst: self.slot(*dst),
                src: self.slot(*src),
                cos: self.slot(*cos),
                sin: self.slot(*sin),
                pairing: *pairing,
                d: *d,
            })),
        }))
    }

    fn repeat(&mut self, var: VarId, start: &Expr, end: &Expr, body: &[Stmt]) -> Result<Step, CpuError> {
        let (start, end) = (self.scalar(start), self.scalar(end));
        Ok(Step::For {
            var: var.0,
            start,
            end,
            body: self.body(body)?,
        })
    }

    fn slot(&self, id: TileId) -> Slot {
        self.names.slots[id.0]
    }

    fn scalar(&self, expr: &Expr) -> Scalar {
        Scalar::compile(expr, &self.names)
    }

    fn transfer(&self, tile: TileId, cols: &Range<usize>, view: &View) -> Transfer {
        Transfer {
            tile: self.slot(tile),
            cols: cols.clone(),
            view: ViewCode::compile(view, self.tensors, &self.names),
        }
    }

    fn stage(&self, dst: TileId, src: TileId) -> Result<Step, CpuError> {
        let program = self.names.program;
        let tile = program.tile(dst);
        Ok(Step::Stage {
            dst: self.slot(dst),
            src: self.slot(src),
            element: element(program, &tile.name, tile.dtype)?,
            present: self.counters.of(dst),
            tile: dst.0,
        })
    }

    fn gemm(&mut self, [acc, a, b]: [TileId; 3], a_start: &Expr, layout: BLayout, b_cols: &Range<usize>) -> Step {
        let packed = self.packed([acc, a, b], layout);
        Step::Gemm(Box::new(GemmStep {
            acc: self.slot(acc),
            a: self.slot(a),
            a_start: self.scalar(a_start),
            b: self.slot(b),
            layout,
            depth: layout.depth(self.names.program.tile(b), b_cols),
            b_col: b_cols.start,
            a_present: self.counters.of(a),
            b_present: self.counters.of(b),
            packed,
        }))
    }

    /// Room for the packed operand of a gemm of bf16 tiles.
    fn packed(&mut self, [acc, a, b]: [TileId; 3], layout: BLayout) -> Option<PackedOperand> {
        if !self.slot(b).halves {
            return None;
        }
        let (acc, depth) = (self.slot(acc), self.slot(a).cols);
        let (tile, columns) = match bf16::packed_side(self.level, layout) {
            bf16::Side::A => (a, acc.rows),
            bf16::Side::B => (b, acc.cols),
        };
        let start = self.needs.packed;
        self.needs.packed += bf16::packed_len(columns, depth);
        self.needs.products += 1;
        Some(PackedOperand {
            product: self.needs.products - 1,
            tile: tile.0,
            words: start..self.needs.packed,
        })
    }

    fn map(&mut self, dst: TileId, value: &Expr) -> Step {
        let code = MapCode::compile(dst, value, &self.names);
        let needs = code.needs();
        self.needs.floats = self.needs.floats.max(needs.floats);
        self.needs.ints = self.needs.ints.max(needs.ints);
        self.needs.masks = self.needs.masks.max(needs.masks);
        self.needs.scalars = self.needs.scalars.max(needs.scalars);
        self.needs.line = self.needs.line.max(needs.line);
        Step::Map(Box::new(code))
    }
}
