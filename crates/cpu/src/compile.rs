//! Translating a tile program that [`verify`] passed: places for tiles, statements. What it checked is trusted here.
//!
//! [`verify`]: mlafuse_codegen::tile::verify

use std::cmp::Ordering;
use std::ops::Range;

use mlafuse_codegen::tile::{
    BLayout, Binary, Expr, Form, ParamKind, Rows, Softmax, Space, Stmt, TileId, TileProgram, View,
};
use mlafuse_tensor::DType;

use crate::addends::{Weighted, addends};
use crate::block::{GemmStep, LoadStep, PackedOperand, Step};
use crate::convert::Element;
use crate::expr::{Kind, MapCode, Names, Scalar, kind};
use crate::gemm::{PACKED, bf16, split};
use crate::kernel::{CpuKernel, Options, TensorParam};
use crate::place::{Places, in_one};
use crate::rows::Rotation;
use crate::scratch::{Elements, Needs, Slot};
use crate::softmax::SoftmaxStep;
use crate::uses::Writes;
use crate::view::{Transfer, ViewCode};
use crate::{CpuError, Level, uses};

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
    let Places { slots, arena, borrows } = Places::new(program, options.level)?;
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
        borrows,
        writes: uses::writes(program),
        addends: addends(program),
        waiting: vec![None; program.tiles.len()],
        blanks: vec![false; program.tiles.len()],
        scaled: vec![None; program.tiles.len()],
        needs,
    };
    compiler.find_blanks(&program.body);
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

fn gemm(step: &Step) -> Option<&GemmStep> {
    match step {
        Step::Gemm(step) => Some(step),
        _ => None,
    }
}

/// Lets the load of a tile of pieces pack what a later gemm of the same body makes of its rows.
fn pack_loaded(steps: &mut [Step]) {
    for i in 0..steps.len() {
        let Step::Load(load) = &steps[i] else { continue };
        let tile = load.transfer.tile;
        let whole = load.transfer.cols == (0..tile.cols) && tile.rows.is_multiple_of(bf16::K_STEP);
        let packs = |next: &&GemmStep| {
            let starts = matches!(next.a_start, Scalar::Const(0)) && next.layout == BLayout::Kn;
            starts && next.b == tile && tile.elements == Elements::Pieces && whole
        };
        let next = steps[i + 1..].iter().filter_map(gemm).find(packs).cloned();
        if let Step::Load(load) = &mut steps[i] {
            load.next = next.map(Box::new);
        }
    }
}

/// Lets a gemm of halves whose product stays transposed pack what a later one of the same body makes of the same rows: packing
/// and AMX use different parts of a processor.
fn pack_ahead(steps: &mut [Step]) {
    for i in 0..steps.len() {
        let halves = |step: &&GemmStep| step.b.elements == Elements::Halves;
        let Some(step) = gemm(&steps[i]).filter(|step| step.acc.transposed).filter(halves) else {
            continue;
        };
        let side = |next: &GemmStep| next.packed.as_ref().map(|packed| packed.side);
        let packs = |next: &&GemmStep| {
            let starts = matches!(next.a_start, Scalar::Const(0));
            starts && next.b == step.b && next.layout == BLayout::Kn && side(next) == Some(bf16::Side::B)
        };
        let next = steps[i + 1..].iter().filter_map(gemm).find(packs).cloned();
        if let Step::Gemm(step) = &mut steps[i] {
            step.next = next.map(Box::new);
        }
    }
}

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
    /// By tile: whether its loads may leave rows where they lie.
    borrows: Vec<bool>,
    /// By tile: what writes it.
    writes: Vec<Writes>,
    /// By tile: whether its rows are added where they lie, and the load of it until that is met.
    addends: Vec<bool>,
    waiting: Vec<Option<Transfer>>,
    /// By tile: whether zeros that fill it are written only where something else than a gemm comes to it.
    blanks: Vec<bool>,
    /// By tile: what its rows are multiplied by on their way to memory.
    scaled: Vec<Option<TileId>>,
    needs: Needs,
}

impl Compiler<'_> {
    fn body(&mut self, body: &[Stmt]) -> Result<Vec<Step>, CpuError> {
        let mut steps = Vec::with_capacity(body.len());
        for (i, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Softmax(step) if !in_one(step) => steps.extend(self.body(&step.expansion())?),
                Stmt::Map { dst, value } if self.is_stored_next(*dst, value, &body[i + 1..]) => {
                    self.scaled[dst.0] = self.factor(*dst, value);
                }
                _ => {
                    steps.extend(self.settle(stmt));
                    steps.extend(self.stmt(stmt)?);
                }
            }
        }
        pack_ahead(&mut steps);
        pack_loaded(&mut steps);
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
                pipelined,
                body,
            } => {
                self.names.vars[var.0] = Kind::Int;
                let (start, end) = (self.scalar(start), self.scalar(end));
                let body = self.body(body)?;
                Step::For {
                    var: var.0,
                    start,
                    end,
                    fetches: if *pipelined { self.fetches(&body) } else { 0 },
                    body,
                }
            }
            Stmt::If { cond, body } => Step::If {
                cond: self.scalar(cond),
                body: self.body(body)?,
            },
            Stmt::Return => Step::Return,
            Stmt::Load { dst, cols, src } if self.is_added(*dst, src) => {
                self.waiting[dst.0] = Some(self.transfer(*dst, cols, src));
                return Ok(None);
            }
            Stmt::Load { dst, cols, src } => Step::Load(Box::new(LoadStep {
                transfer: self.transfer(*dst, cols, src),
                present: self.counters.of_columns(*dst, cols),
                tile: dst.0,
                load: self.next_load(),
                borrows: self.borrows[dst.0],
                next: None,
                keeps: self.keeps(*dst) && matches!(src.rows, Rows::Strided { .. }) && src.mask.is_none(),
            })),
            Stmt::Store { dst, src, cols } => Step::Store {
                transfer: Box::new(self.transfer(*src, cols, dst)),
                by: self.scaled[src.0].take().map(|by| self.slot(by)),
            },
            Stmt::Stage { dst, src } => self.stage(*dst, *src)?,
            Stmt::Fill { dst, value } if value.to_bits() == 0 && self.blanks[dst.0] => Step::Blank { tile: dst.0 },
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
            Stmt::Softmax(step) => self.softmax(step)?,
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

    /// The parts in which what a loop's load borrows in the next round is fetched beside the products of its body.
    fn fetches(&self, body: &[Step]) -> usize {
        let borrows = matches!(body.first(), Some(Step::Load(load)) if load.borrows);
        match borrows && self.level == Level::Amx {
            true => body.iter().filter_map(gemm).map(GemmStep::fetches).sum(),
            false => 0,
        }
    }

    /// Finds the tiles whose sums a gemm can begin.
    fn find_blanks(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } | Stmt::If { body, .. } => self.find_blanks(body),
                Stmt::Gemm { acc, a, b, layout, .. } => {
                    self.blanks[acc.0] |= self.can_begin([*acc, *a, *b], *layout);
                }
                _ => {}
            }
        }
    }

    /// Writes the zeros of tiles that `stmt` cannot do without.
    fn settle(&self, stmt: &Stmt) -> Vec<Step> {
        let mut steps = Vec::new();
        let does_without = match stmt {
            Stmt::Fill { dst, value } => Some(*dst).filter(|_| value.to_bits() == 0),
            Stmt::Gemm { acc, a, b, layout, .. } => Some(*acc).filter(|_| self.can_begin([*acc, *a, *b], *layout)),
            Stmt::Map { dst, value } => self.factor(*dst, value).map(|_| *dst),
            _ => None,
        };
        uses::tiles_of(stmt, &mut |tile| {
            if self.blanks[tile.0] && does_without != Some(tile) {
                let (dst, tile) = (self.slot(tile), tile.0);
                steps.push(Step::Settle { dst, tile });
            }
        });
        steps
    }

    /// Whether a map multiplies the rows of a tile that is stored next, by factors that stay until then.
    fn is_stored_next(&self, dst: TileId, value: &Expr, rest: &[Stmt]) -> bool {
        let Some(by) = self.factor(dst, value) else {
            return false;
        };
        let stays = |stmt: &&Stmt| match stmt {
            Stmt::Map { dst: of, .. } | Stmt::Fill { dst: of, .. } => *of != by && !uses::names(stmt, dst),
            Stmt::Store { src, .. } => *src != dst,
            Stmt::Comment(_) => true,
            _ => false,
        };
        let next = rest.iter().find(|stmt| !stays(stmt));
        matches!(next, Some(Stmt::Store { src, dst: view, .. }) if *src == dst && view.mask.is_none())
    }

    /// Whether a tile still has what a load brought when the load comes again: loads alone write it, each its own columns.
    fn keeps(&self, id: TileId) -> bool {
        let Writes { loads, stages, .. } = self.writes[id.0];
        let apart = loads == 1 || self.counters.of(id).len() == loads;
        self.names.program.tile(id).space == Space::Shared && apart && stages == 0
    }

    fn next_load(&mut self) -> usize {
        self.needs.loads += 1;
        self.needs.loads - 1
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

    fn softmax(&self, step: &Softmax) -> Result<Step, CpuError> {
        let weights = self.names.program.tile(step.weights);
        let step_of = SoftmaxStep {
            scores: self.slot(step.scores),
            scale: step.scale,
            first: self.scalar(&step.first),
            visible: self.slot(step.visible),
            max: self.slot(step.max),
            sum: self.slot(step.sum),
            decay: self.slot(step.decay),
            weights: self.slot(step.weights),
            element: element(self.names.program, &weights.name, weights.dtype)?,
        };
        Ok(Step::Softmax {
            step: Box::new(step_of),
            present: self.counters.of(step.weights),
            tile: step.weights.0,
        })
    }

    /// Whether a gemm can write its sums instead of adding them to zeros.
    fn can_begin(&self, [acc, a, b]: [TileId; 3], layout: BLayout) -> bool {
        let straight = self.slot(acc).transposed || self.packed_side([acc, a, b], layout) != bf16::Side::A;
        self.level == Level::Amx && self.slot(b).elements != Elements::Floats && straight
    }

    /// The operand that a gemm of halves or pieces packs.
    fn packed_side(&self, [acc, a, b]: [TileId; 3], layout: BLayout) -> bf16::Side {
        let acc = self.slot(acc);
        let stays = match self.writes[a.0].loops.cmp(&self.writes[b.0].loops) {
            Ordering::Less => Some(bf16::Side::A),
            Ordering::Equal => None,
            Ordering::Greater => Some(bf16::Side::B),
        };
        match (acc.transposed, self.slot(b).elements) {
            (true, _) => bf16::Side::A,
            (false, Elements::Pieces) => bf16::Side::B,
            (false, _) => bf16::packed_side(self.level, layout, acc.rows, stays),
        }
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
            b_borrowed: self.borrows[b.0].then_some(b.0),
            begins: self.can_begin([acc, a, b], layout).then_some(acc.0),
            packed,
            next: None,
        }))
    }

    /// Room for the packed operand of a gemm of halves or pieces.
    fn packed(&mut self, [acc, a, b]: [TileId; 3], layout: BLayout) -> Option<PackedOperand> {
        let elements = self.slot(b).elements;
        if elements == Elements::Floats {
            return None;
        }
        let ([m, n], depth) = (self.slot(acc).shape(), self.slot(a).cols);
        let side = self.packed_side([acc, a, b], layout);
        let (tile, columns) = match side {
            bf16::Side::A => (a, m),
            bf16::Side::B => (b, n),
            bf16::Side::Neither => (b, 0),
        };
        let start = self.needs.packed;
        self.needs.packed += match elements {
            Elements::Pieces => split::packed_len(layout, side, columns, depth),
            _ => bf16::packed_len(columns, depth),
        };
        self.needs.products += 1;
        Some(PackedOperand {
            product: self.needs.products - 1,
            tile: tile.0,
            side,
            words: start..self.needs.packed,
        })
    }

    /// The row vector by which a map multiplies each row of a matrix, where that is all it does.
    fn factor(&self, dst: TileId, value: &Expr) -> Option<TileId> {
        let form = |tile: TileId| self.names.program.tile(tile).form;
        match value {
            Expr::Binary(Binary::Mul, x, by) if **x == Expr::Tile(dst) && form(dst) == Form::Matrix => match **by {
                Expr::Tile(by) if form(by) == Form::RowVector => Some(by),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the rows of a load are added where they lie.
    fn is_added(&self, tile: TileId, src: &View) -> bool {
        let element = self.tensors[self.names.indices[src.param.0]].element;
        self.addends[tile.0] && element == Element::F32 && src.col_stride == Expr::Int(1)
    }

    /// The rows that a map adds where they lie.
    fn added(&mut self, dst: TileId, value: &Expr) -> Option<Step> {
        let Weighted { rows, by } = Weighted::of(self.names.program, dst, value)?;
        let rows = self.waiting[rows.0].take()?;
        let (dst, by) = (self.slot(dst), self.slot(by));
        Some(Step::AddRows {
            rows: Box::new(rows),
            dst,
            by,
        })
    }

    fn map(&mut self, dst: TileId, value: &Expr) -> Step {
        if let Some(step) = self.added(dst, value) {
            return step;
        }
        if let Some(by) = self.factor(dst, value) {
            let (tile, dst, by) = (dst.0, self.slot(dst), self.slot(by));
            return Step::Scale { dst, by, tile };
        }
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
