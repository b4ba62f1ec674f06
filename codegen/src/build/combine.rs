//! The splits of an attention put together, each weighted by its log-sum-exp.

use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, block_z, blocks};
use crate::tile::{Access, Expr, Stmt, TileId, TileProgram, VarId, View};
use mlafuse_ir::plan::{BufferId, CombineRegion, View as Placed};
use mlafuse_ir::size::{Size, Symbol};
use std::f32::consts::LOG2_E;

/// Writes the result of the sequences that attention has split: a block has rows (t, h) of one of them.
pub(super) fn build(mut p: ProgramBuilder, region: &CombineRegion) -> Result<TileProgram, BuildError> {
    let out = p.view(region.output)?;
    check_result(&p, out)?;
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let rows = Size::product(&out.shape[1..3]);
    let [sequences, width] = [0, 3].map(|axis| Size::one().times(out.shape[axis]));
    let acc = p.fragment("acc", block_m, block_n);
    let grid = [
        p.row_blocks::<1>(&[], &rows),
        p.extent(&sequences),
        blocks(&mut p, &width, block_n),
    ];

    let mut body = Vec::new();
    leave_whole(&mut p, region, &mut body);
    let row = p.bind(&mut body, "row_start", block_x() * block_m);
    let (limit, cols) = (p.extent(&rows), p.extent(&width));
    let of = RowsOf::Sequence(block_y());
    let combine = Combine::new(&mut p, region, of, [row.clone(), limit.clone()], block_n);
    combine.largest(&mut p, &mut body);
    let span = || Span::block(block_z(), block_n, cols.clone());
    combine.columns(&mut p, acc, span, &mut body);
    let outer = [(block_y(), out.strides[0].clone())];
    let matrix = p.matrix(out, Access::Write, &outer, &width, &Size::one());
    let dst = p.rows(&matrix, row, limit, span());
    body.push(Stmt::Store {
        dst,
        src: acc,
        cols: 0..block_n,
    });
    let doc = format!(
        "combine of attention's splits: {} heads, {} columns, {}",
        region.n_heads,
        region.columns,
        p.dtype(out)
    );
    Ok(p.finish(vec![doc], grid, body))
}

/// Ends the blocks of a sequence whose result is there already.
fn leave_whole(p: &mut ProgramBuilder, region: &CombineRegion, body: &mut Vec<Stmt>) {
    body.push(Stmt::Comment(
        "The only split of a sequence is its result, and attention has put it there.".into(),
    ));
    let placed = Placed::contiguous(region.lse, &p.plan.buffer(region.lse).shape);
    let second = p.load_float(&placed, [1.into(), block_y()]);
    let there = Expr::from(1).lt(p.symbol(Symbol::Z));
    let second = p.bind(body, "second", there.select(second, f32::INFINITY));
    body.push(Stmt::If {
        cond: second.equals(f32::INFINITY),
        body: vec![Stmt::Return],
    });
}

/// A combine's result has a buffer of its own.
pub(super) fn check_result(p: &ProgramBuilder, out: &Placed) -> Result<(), BuildError> {
    if out.shape.len() != 4 {
        let found = out.shape.len().to_string();
        return Err(p.unsupported("dimensions of the result", found, "4: B, T, H, columns"));
    }
    match out.is_contiguous() {
        true => Ok(()),
        false => Err(p.unsupported("result", "elements that lie apart".into(), "contiguous elements")),
    }
}

/// Which rows of the attention's result a block has.
pub(super) enum RowsOf {
    /// Rows (t, h) of this sequence.
    Sequence(Expr),
    /// Rows (b, t) of this head.
    Head(Expr),
}

/// Rows of the attention's result, and how a block puts them together.
pub(super) struct Combine<'a> {
    region: &'a CombineRegion,
    of: RowsOf,
    /// The first row, and one past the last that is there.
    rows: [Expr; 2],
    /// Columns that are put together at a time.
    width: usize,
    splits: Expr,
    /// Of each split that is loaded at a time.
    parts: Vec<Part>,
    /// The largest log-sum-exp of each row.
    max: TileId,
    sum: TileId,
}

/// What a split left of the rows.
#[derive(Clone, Copy)]
struct Part {
    values: TileId,
    lse: TileId,
    weight: TileId,
}

/// One split of a turn.
struct Split {
    index: Expr,
    /// Whether there is such a split; `None` for a turn's first, which is always there.
    there: Option<Expr>,
}

impl Split {
    /// `value`, but `other` where there is no such split.
    fn or(&self, value: Expr, other: impl Into<Expr>) -> Expr {
        match &self.there {
            Some(there) => there.clone().select(value, other),
            None => value,
        }
    }
}

impl<'a> Combine<'a> {
    pub fn new(
        p: &mut ProgramBuilder,
        region: &'a CombineRegion,
        of: RowsOf,
        rows: [Expr; 2],
        width: usize,
    ) -> Combine<'a> {
        let block_m = p.schedule.block_m;
        let part = |p: &mut ProgramBuilder| Part {
            values: p.fragment("part", block_m, width),
            lse: p.row_vector("lse_f", block_m),
            weight: p.row_vector("weight", block_m),
        };
        Combine {
            region,
            of,
            rows,
            width,
            splits: p.symbol(Symbol::Z),
            parts: (0..p.schedule.stages).map(|_| part(p)).collect(),
            max: p.row_vector("max", block_m),
            sum: p.row_vector("sum", block_m),
        }
    }

    /// Finds the largest log-sum-exp of each row; 0 where all are -inf.
    pub fn largest(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>) {
        let max = self.max;
        body.push(Stmt::Fill {
            dst: max,
            value: f32::NEG_INFINITY,
        });
        let turn = p.var("turn");
        let mut turn_body = self.load_lse(p, turn);
        turn_body.extend(self.turn(turn).map(|(split, part)| Stmt::Map {
            dst: max,
            value: Expr::from(max).max(split.or(part.lse.into(), f32::NEG_INFINITY)),
        }));
        body.push(self.each_turn(turn, turn_body));
        let empty = Expr::from(max).equals(f32::NEG_INFINITY);
        body.push(Stmt::Map {
            dst: max,
            value: empty.select(0.0f32, max),
        });
    }

    /// Puts columns `cols` of the rows together in `dst`, after [`Combine::largest`].
    pub fn columns(&self, p: &mut ProgramBuilder, dst: TileId, cols: impl Fn() -> Span, body: &mut Vec<Stmt>) {
        let (max, sum) = (self.max, self.sum);
        body.push(Stmt::Fill { dst: sum, value: 0.0 });
        body.push(Stmt::Fill { dst, value: 0.0 });
        let turn = p.var("turn");
        let mut turn_body = self.load_lse(p, turn);
        turn_body.extend(self.turn(turn).map(|(split, part)| {
            let weight = ((Expr::from(part.lse) - max) * LOG2_E).exp2();
            Stmt::Map {
                dst: part.weight,
                value: split.or(weight, 0.0),
            }
        }));
        for (split, part) in self.turn(turn) {
            let mut src = self.view(p, self.region.partial, split.index, self.rows[1].clone(), cols());
            // A split without tokens left its part unwritten: its weight is 0, and the mask keeps it from being read.
            src.mask = Some(part.weight);
            turn_body.push(Stmt::Load {
                dst: part.values,
                cols: 0..self.width,
                src,
            });
        }
        for part in &self.parts {
            turn_body.push(Stmt::Map {
                dst: sum,
                value: Expr::from(sum) + part.weight,
            });
            turn_body.push(Stmt::Map {
                dst,
                value: Expr::from(dst) + Expr::from(part.values) * part.weight,
            });
        }
        body.push(self.each_turn(turn, turn_body));
        let some = Expr::from(0.0f32).lt(sum);
        body.push(Stmt::Map {
            dst: sum,
            value: some.select(Expr::from(1.0f32) / sum, 0.0f32),
        });
        body.push(Stmt::Map {
            dst,
            value: Expr::from(dst) * sum,
        });
    }

    /// The splits of one turn.
    fn turn(&self, turn: VarId) -> impl Iterator<Item = (Split, Part)> {
        let at_a_time = self.parts.len();
        self.parts.iter().enumerate().map(move |(i, &part)| {
            let index = Expr::from(turn) * at_a_time + i;
            let there = (i > 0).then(|| index.clone().lt(self.splits.clone()));
            (Split { index, there }, part)
        })
    }

    fn each_turn(&self, turn: VarId, body: Vec<Stmt>) -> Stmt {
        Stmt::For {
            var: turn,
            start: 0.into(),
            end: self.splits.clone().ceil_div(self.parts.len()),
            pipelined: false,
            body,
        }
    }

    fn load_lse(&self, p: &mut ProgramBuilder, turn: VarId) -> Vec<Stmt> {
        let load = |(split, part): (Split, Part)| {
            let limit = split.or(self.rows[1].clone(), 0);
            let src = self.view(p, self.region.lse, split.index, limit, Span::whole(1usize));
            Stmt::Load {
                dst: part.lse,
                cols: 0..1,
                src,
            }
        };
        self.turn(turn).map(load).collect()
    }

    /// A split's part of a buffer [Z, B, T, H, ..], up to row `limit`.
    fn view(&self, p: &mut ProgramBuilder, buffer: BufferId, split: Expr, limit: Expr, cols: Span) -> View {
        let placed = Placed::contiguous(buffer, &p.plan.buffer(buffer).shape);
        let strides = &placed.strides;
        let (of, row_stride) = match &self.of {
            RowsOf::Sequence(sequence) => ((sequence.clone(), strides[1].clone()), &strides[3]),
            RowsOf::Head(head) => ((head.clone(), strides[3].clone()), &strides[2]),
        };
        let outer = [(split, strides[0].clone()), of];
        let matrix = p.matrix(&placed, Access::Read, &outer, row_stride, &Size::one());
        p.rows(&matrix, self.rows[0].clone(), limit, cols)
    }
}
