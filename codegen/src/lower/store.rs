//! What fragments and vectors write: device memory and shared tiles.
//!
//! The tensor core leaves a thread two neighbours of a row at most, so that a warp that stores 16-bit elements as they are
//! fills half of each sector it touches. Where the rows are aligned, lanes first exchange what they hold until each has four
//! neighbours, and four lanes a whole sector.

use super::Cx;
use super::sync::{Kind, Op};
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, Columns, Form, TileId, View};
use mlafuse_tensor::DType;

impl Cx<'_> {
    /// A fragment or row vector to device memory.
    pub(super) fn store(&self, dst: &View, src: TileId, cols: &Columns) -> Op {
        let stmts = if self.program.tile(src).form != Form::Matrix {
            self.store_vector(dst, src)
        } else if self.stores_fours(dst, src, cols) {
            self.store_fours(dst, src, cols)
        } else if self.stores_pairs(dst, src, cols) {
            self.store_pairs(dst, src, cols)
        } else {
            self.store_elements(dst, src, cols)
        };
        Op {
            comment: None,
            stmts: self.in_one_copy(stmts),
            accesses: vec![],
        }
    }

    /// Whether four neighbours can be stored at once: none of them is there without the others.
    fn stores_fours(&self, dst: &View, src: TileId, cols: &Columns) -> bool {
        self.dtype(dst).size_bytes() == 2
            && self.has_fours(src)
            && self.in_wholes(dst, 4)
            && [cols.start, cols.end].iter().all(|col| col.is_multiple_of(4))
    }

    fn stores_pairs(&self, dst: &View, src: TileId, cols: &Columns) -> bool {
        self.has_pairs(src)
            && matches!(dst.col_stride, tile::Expr::Int(1))
            && dst.align.is_multiple_of(2)
            && cols.start.is_multiple_of(2)
    }

    fn store_vector(&self, dst: &View, src: TileId) -> Vec<Stmt> {
        self.each_row(src, |slot| {
            let (mut body, present, start) = self.named_row(dst, slot);
            let value = Expr::register(self.tile_name(src), slot.vector.clone());
            let store = when(self.row_owner(src), vec![self.store_one(dst, start, value)]);
            body.push(when(present, vec![store]));
            body
        })
    }

    fn store_elements(&self, dst: &View, src: TileId, cols: &Columns) -> Vec<Stmt> {
        let name = self.tile_name(src);
        self.each_row(src, |slot| {
            let (mut body, present, start) = self.named_row(dst, slot);
            let inner = self.each_col(src, slot, |element| {
                let col = element.col.clone() - cols.start;
                let index = start.clone() + col.cast(Ty::I64) * self.wide(&dst.col_stride);
                let store = self.store_one(dst, index, Expr::register(name, element.register.clone()));
                vec![when(self.in_columns(dst, src, cols, element.col.clone()), vec![store])]
            });
            body.push(when(present, inner));
            body
        })
    }

    fn store_pairs(&self, dst: &View, src: TileId, cols: &Columns) -> Vec<Stmt> {
        let name = self.tile_name(src);
        self.each_row(src, |slot| {
            let (mut body, present, start) = self.named_row(dst, slot);
            let inner = self.each_pair(src, slot, |pair| {
                let index = || start.clone() + (pair.col.clone() - cols.start).cast(Ty::I64);
                let value = |more: usize| Expr::register(name, pair.register.clone() + more);
                let both = self.in_columns(dst, src, cols, pair.col.clone() + 1);
                let first = self.in_columns(dst, src, cols, pair.col.clone());
                let mut out = vec![when(
                    both.clone(),
                    vec![self.store_pair(dst, index(), value(0), value(1))],
                )];
                if !self.even_columns(dst, cols) {
                    let alone = first.and(both.equals(Expr::Int(0)));
                    out.push(when(alone, vec![self.store_one(dst, index(), value(0))]));
                }
                out
            });
            body.push(when(present, inner));
            body
        })
    }

    fn store_fours(&self, dst: &View, src: TileId, cols: &Columns) -> Vec<Stmt> {
        let dtype = self.dtype(dst);
        self.each_row_of_fours(src, |slot| {
            let (mut body, present, start) = self.named_row(dst, slot);
            // Lanes whose row is not there take part in the exchange all the same.
            body.extend(self.each_four(src, slot, |four| {
                let index = start + (four.col.clone() - cols.start).cast(Ty::I64);
                let pack = |at: usize| Expr::call(Intrinsic::Pack2(dtype), [four.value(at), four.value(at + 1)]);
                let store = Stmt::Do {
                    intrinsic: Intrinsic::StoreGlobal16x4,
                    args: vec![self.pointer(dst), index, pack(0), pack(2)],
                };
                vec![when(
                    present.and(self.in_columns(dst, src, cols, four.col)),
                    vec![store],
                )]
            }));
            body
        })
    }

    /// Whether column `col` of tile `src` is stored: within the columns asked for and those of the view.
    fn in_columns(&self, view: &View, src: TileId, cols: &Columns, col: Expr) -> Expr {
        let asked = match cols.end < self.program.tile(src).cols {
            true => col.clone().lt(cols.end.into()),
            false => Expr::Int(1),
        };
        let asked = match cols.start {
            0 => asked,
            start => Expr::Int(start as i64 - 1).lt(col.clone()).and(asked),
        };
        match self.certain_columns(view, cols) {
            true => asked,
            false => asked.and(self.col_present(view, col - cols.start)),
        }
    }

    /// Whether no pair of columns is cut in two.
    fn even_columns(&self, view: &View, cols: &Columns) -> bool {
        self.certain_columns(view, cols) && cols.len().is_multiple_of(2)
    }

    fn store_pair(&self, view: &View, index: Expr, low: Expr, high: Expr) -> Stmt {
        let (pointer, dtype) = (self.pointer(view), self.dtype(view));
        match dtype.size_bytes() {
            2 => {
                let word = Expr::call(Intrinsic::Pack2(dtype), [low, high]);
                Stmt::Do {
                    intrinsic: Intrinsic::StoreGlobal16x2,
                    args: vec![pointer, index, word],
                }
            }
            _ => Stmt::Do {
                intrinsic: Intrinsic::StoreGlobalF32x2,
                args: vec![pointer, index, low, high],
            },
        }
    }

    fn store_one(&self, view: &View, index: Expr, value: Expr) -> Stmt {
        let value = Expr::call(Intrinsic::FromFloat(self.dtype(view)), [value]);
        Stmt::StoreGlobal {
            pointer: self.pointer_name(view),
            index,
            value,
        }
    }

    /// A fragment to a shared tile.
    pub(super) fn stage(&self, dst: TileId, src: TileId) -> Op {
        let dtype = self.program.tile(dst).dtype;
        let name = self.tile_name(src);
        let register = |at: Expr| Expr::register(name, at);
        let pairs = self.has_pairs(src) && dtype.size_bytes() == 2;
        let stmts = self.each_row(src, |slot| {
            let address =
                |col: Expr| self.element_address(dst, self.tile_base(dst), slot.row.clone(), &slot.row_low, col);
            match pairs {
                true => self.each_pair(src, slot, |pair| {
                    let (low, high) = (register(pair.register.clone()), register(pair.register.clone() + 1));
                    let word = Expr::call(Intrinsic::Pack2(dtype), [low, high]);
                    vec![Stmt::Do {
                        intrinsic: Intrinsic::StoreShared32,
                        args: vec![address(pair.col.clone()), word],
                    }]
                }),
                false => self.each_col(src, slot, |element| {
                    let value = register(element.register.clone());
                    vec![store_shared(dtype, address(element.col.clone()), value)]
                }),
            }
        });
        Op {
            comment: None,
            stmts: self.in_one_copy(stmts),
            accesses: vec![self.access(dst, Kind::Write)],
        }
    }
}

/// `body` under a condition; without one where it is certain.
fn when(cond: Expr, body: Vec<Stmt>) -> Stmt {
    match cond {
        Expr::Int(n) if n != 0 => Stmt::Scope { body },
        cond => Stmt::If { cond, body },
    }
}

fn store_shared(dtype: DType, address: Expr, value: Expr) -> Stmt {
    match dtype.size_bytes() {
        2 => {
            let element = Expr::call(Intrinsic::FromFloat(dtype), [value]);
            Stmt::Do {
                intrinsic: Intrinsic::StoreShared16,
                args: vec![address, element],
            }
        }
        _ => Stmt::Do {
            intrinsic: Intrinsic::StoreSharedF32,
            args: vec![address, value],
        },
    }
}
