//! The parts of a cache's new rows: copied from memory, or normed or rotated on the way; and norms of other rows of the same
//! tokens.

use super::elementwise::repeated;
use super::error::BuildError;
use super::program::{Pages, ProgramBuilder, Span};
use super::rms_norm::{Norm, Tiles};
use super::rope::Rotation;
use crate::tile::{Access, Expr, Stmt, TileId, VarId, View};
use mlafuse_ir::graph::{Op, Pairing, ValueId};
use mlafuse_ir::plan;
use mlafuse_ir::size::{Dim, Size};

/// What fragments' columns are padded to, for a warp to share them out.
const COLUMNS: usize = 32;

/// The rows of a block: those of consecutive new tokens of one sequence.
pub(super) struct TokenRows {
    /// The sequence.
    pub b: Expr,
    /// The block's first new token, and one past the last that has a row.
    pub first: Expr,
    pub limit: Expr,
}

impl TokenRows {
    /// The rows of a value \[B, T, width\], or as one of that shape.
    fn of(&self, p: &mut ProgramBuilder, view: &plan::View, access: Access, cols: Span) -> Result<View, BuildError> {
        let [batch, token, col] = view.strides.as_slice() else {
            return Err(p.unsupported("dimensions of the new rows", view.strides.len().to_string(), "3"));
        };
        let matrix = p.matrix(view, access, &[(self.b.clone(), batch.clone())], token, col);
        Ok(p.rows(&matrix, self.first.clone(), self.limit.clone(), cols))
    }

    /// As `rms_norm` by itself: f32 throughout, rounded once. `write` stores a column block.
    fn norm(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        [x, gain]: [ValueId; 2],
        eps: f64,
        write: impl Fn(&mut ProgramBuilder, TileId, Expr) -> Result<Stmt, BuildError>,
    ) -> Result<(), BuildError> {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let (width, view, gain) = (width(p, x)?, p.view(x)?, p.view(gain)?);
        let stride = gain.strides.first().cloned().unwrap_or(Size::one());
        // Every row meets the same gain.
        let gains = p.matrix(gain, Access::Read, &[], &Size::constant(0), &stride);
        let read = |p: &mut ProgramBuilder, block: Expr| {
            let span = Span::block(block.clone(), block_n, width.into());
            let rows = self.of(p, view, Access::Read, span)?;
            let span = Span::block(block, block_n, width.into());
            Ok([rows, p.rows(&gains, 0.into(), block_m.into(), span)])
        };
        whole_rows(p, width, eps).rows(p, body, read, write)
    }

    /// The norm `value` of these rows, or what it divides by, inverted.
    pub fn beside(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, value: ValueId) -> Result<(), BuildError> {
        let (node, block_n) = (p.node(value), p.schedule.block_n);
        let out = p.view(value)?;
        match (&node.op, node.args.as_slice()) {
            (&Op::RmsNorm { eps }, &[x, gain]) => {
                let width = width(p, x)?;
                self.norm(p, body, [x, gain], eps, |p, src, block| {
                    let span = Span::block(block, block_n, width.into());
                    let dst = self.of(p, out, Access::Write, span)?;
                    Ok(Stmt::Store {
                        dst,
                        src,
                        cols: 0..block_n,
                    })
                })
            }
            (&Op::InvRms { eps }, &[x]) => {
                let (width, view) = (width(p, x)?, p.view(x)?);
                let norm = whole_rows(p, width, eps);
                norm.inverse(p, body, |p, block| {
                    let span = Span::block(block, block_n, width.into());
                    self.of(p, view, Access::Read, span)
                })?;
                let dst = self.of(p, &repeated(out, &view.shape), Access::Write, Span::whole(1usize))?;
                body.push(Stmt::Store {
                    dst,
                    src: norm.tiles.rstd,
                    cols: 0..1,
                });
                Ok(())
            }
            _ => Err(p.unsupported(
                "node beside a cache write",
                node.op.word().into(),
                "rms_norm or inv_rms",
            )),
        }
    }
}

/// The norm of rows of `width` elements.
fn whole_rows(p: &mut ProgramBuilder, width: usize, eps: f64) -> Norm {
    Norm {
        tiles: Tiles::new(p),
        count: width.div_ceil(p.schedule.block_n).into(),
        d: width.into(),
        eps,
    }
}

/// The rows of a cache that a block writes.
pub(super) struct NewRows<'a> {
    pub rows: TokenRows,
    /// The first token as a position, and the sequence's length.
    pub token: Expr,
    pub kv: Expr,
    pub cache: &'a plan::View,
    pub pages: Pages,
}

impl NewRows<'_> {
    /// Writes a part of the rows, from column `column` on.
    pub fn part(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        part: ValueId,
        column: usize,
    ) -> Result<(), BuildError> {
        let node = p.node(part);
        match (&node.op, node.args.as_slice(), p.region.nodes.contains(&part)) {
            (&Op::RmsNorm { eps }, &[x, gain], true) => {
                let (width, block_n) = (width(p, x)?, p.schedule.block_n);
                let write =
                    |p: &mut ProgramBuilder, tile, block| Ok(self.write(p, tile, block_n, block, column, width));
                self.rows.norm(p, body, [x, gain], eps, write)
            }
            (&Op::Rope { pairing }, &[x, cos, sin, ..], true) => self.rotate(p, body, [x, cos, sin], pairing, column),
            _ => self.copy(p, body, part, column),
        }
    }

    fn copy(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        part: ValueId,
        column: usize,
    ) -> Result<(), BuildError> {
        let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
        let row = p.fragment("row_f", block_m, block_n);
        let width = width(p, part)?;
        let var = p.var("columns");
        let step = vec![
            Stmt::Load {
                dst: row,
                cols: 0..block_n,
                src: self
                    .rows
                    .of(p, p.view(part)?, Access::Read, Span::block(var, block_n, width.into()))?,
            },
            self.write(p, row, block_n, var.into(), column, width),
        ];
        body.push(each(var, width.div_ceil(block_n), step));
        Ok(())
    }

    /// As `rope` by itself, but that each row is another token, whose angles follow those of the row before.
    fn rotate(
        &self,
        p: &mut ProgramBuilder,
        body: &mut Vec<Stmt>,
        [x, cos, sin]: [ValueId; 3],
        pairing: Pairing,
        column: usize,
    ) -> Result<(), BuildError> {
        let d = width(p, x)?;
        let rotation = Rotation::new(p, d, [cos, sin], pairing)?;
        let (block_m, padded) = (p.schedule.block_m, d.next_multiple_of(COLUMNS));
        let dtype = p.dtype(p.view(x)?);
        let x_s = p.shared("x_s", dtype, block_m, padded);
        let rotated = p.fragment("rotated", block_m, padded);
        let src = self.rows.of(p, p.view(x)?, Access::Read, Span::whole(d))?;
        body.push(Stmt::Load {
            dst: x_s,
            cols: 0..padded,
            src,
        });
        let position = p.bind(body, "position", self.token.clone().max(0));
        let positions = rotation.positions(p);
        rotation.push(p, body, [rotated, x_s], |p, table| {
            let matrix = p.matrix(table, Access::Read, &[], &table.strides[0], &table.strides[1]);
            p.rows(&matrix, position.clone(), positions.clone(), Span::whole(d / 2))
        });
        body.push(self.write(p, rotated, d, 0.into(), column, d));
        Ok(())
    }

    /// Stores block number `block` of `step` columns of a part that begins at `column` and is `width` wide.
    fn write(
        &self,
        p: &mut ProgramBuilder,
        src: TileId,
        step: usize,
        block: Expr,
        column: usize,
        width: usize,
    ) -> Stmt {
        let span = Span {
            start: block * step + column,
            step: gcd(step, column),
            limit: (column + width).into(),
        };
        let tokens = [self.token.clone(), self.kv.clone()];
        Stmt::Store {
            dst: p.paged(self.cache, Access::Write, &self.pages, tokens, span),
            src,
            cols: 0..step,
        }
    }
}

/// Columns of a part, which a kernel is made for.
pub(super) fn width(p: &ProgramBuilder, value: ValueId) -> Result<usize, BuildError> {
    match p.plan.graph.ty(value).shape.last() {
        Some(&Dim::Const(width)) => Ok(width),
        other => Err(p.unsupported("width of the new rows", format!("{other:?}"), "a constant")),
    }
}

fn each(var: VarId, end: usize, body: Vec<Stmt>) -> Stmt {
    Stmt::For {
        var,
        start: 0.into(),
        end: end.into(),
        pipelined: false,
        body,
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
