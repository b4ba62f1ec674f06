//! Fills, maps, reductions over rows and rotations.

use super::Cx;
use super::fragment::{RowSlot, Slot as ElementSlot, let_stmt, unrolled};
use super::scalar::Element;
use super::sync::{Access, Kind, Op, Slot};
use crate::thread::{Binary, Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, Form, Pairing, ReduceOp, TileId};

impl Cx<'_> {
    pub(super) fn fill(&self, dst: TileId, value: f32) -> Op {
        local(self.each_element(dst, &|_, _| Expr::Float(value)))
    }

    pub(super) fn map(&self, dst: TileId, value: &tile::Expr) -> Op {
        local(self.each_element(dst, &|row, element| {
            let operand = |tile: TileId| {
                let matrix = self.program.tile(tile).form == Form::Matrix;
                let at = match element {
                    Some(element) if matrix => element.register.clone(),
                    _ => row.vector.clone(),
                };
                Expr::register(self.tile_name(tile), at)
            };
            let col = element.map_or(Expr::Int(0), |element| element.col.clone());
            self.expr(
                value,
                Some(&Element {
                    row: row.row.clone(),
                    col,
                    tile: &operand,
                }),
            )
        }))
    }

    /// Sets every register of a fragment or vector to what `value` says of its row and, in a matrix, its element.
    fn each_element(&self, dst: TileId, value: &dyn Fn(&RowSlot, Option<&ElementSlot>) -> Expr) -> Vec<Stmt> {
        let name = self.tile_name(dst);
        let set = |at: &Expr, value: Expr| {
            vec![Stmt::Set {
                name: name.to_string(),
                at: at.clone(),
                value,
            }]
        };
        self.each_row(dst, |row| match self.program.tile(dst).form.is_vector() {
            false => self.each_col(dst, row, |element| set(&element.register, value(row, Some(element)))),
            true => set(&row.vector, value(row, None)),
        })
    }

    /// dst = op(dst, rows of src). A partial sum stays in its thread.
    pub(super) fn reduce(&self, op: ReduceOp, dst: TileId, src: TileId) -> Vec<Op> {
        let from = self.tile_name(src);
        let into = self.tile_name(dst);
        let fold = |row: &RowSlot, first: Expr| {
            let mut body = vec![array("reduced", 1), set("reduced", Expr::Int(0), first)];
            body.extend(self.each_col(src, row, |element| {
                let value = combine(
                    op,
                    Expr::register("reduced", Expr::Int(0)),
                    Expr::register(from, element.register.clone()),
                );
                vec![set("reduced", Expr::Int(0), value)]
            }));
            body
        };
        if self.program.tile(dst).form == Form::RowPartial {
            return vec![local(self.each_row(dst, |row| {
                let mut body = fold(row, Expr::register(into, row.vector.clone()));
                body.push(set(into, row.vector.clone(), Expr::register("reduced", Expr::Int(0))));
                vec![Stmt::Scope { body }]
            }))];
        }
        self.across(op, dst, true, &|row| fold(row, neutral(op)))
    }

    /// dst = the sums of a row partial.
    pub(super) fn finish(&self, dst: TileId, src: TileId) -> Vec<Op> {
        let from = self.tile_name(src);
        self.across(ReduceOp::Sum, dst, false, &|row| {
            vec![
                array("reduced", 1),
                set("reduced", Expr::Int(0), Expr::register(from, row.vector.clone())),
            ]
        })
    }

    /// Reduces `reduced`, which `begin` declares and sets in every thread, over the threads that share a row, into dst.
    fn across(&self, op: ReduceOp, dst: TileId, accumulate: bool, begin: &dyn Fn(&RowSlot) -> Vec<Stmt>) -> Vec<Op> {
        let into = self.tile_name(dst);
        let reduced = || Expr::register("reduced", Expr::Int(0));
        let result = |row: &RowSlot, value: Expr| {
            let value = if accumulate {
                combine(op, Expr::register(into, row.vector.clone()), value)
            } else {
                value
            };
            set(into, row.vector.clone(), value)
        };
        let lanes = self.lanes_of_a_row(dst);
        let warps = self.warps_of_a_row(dst);
        let in_warp = |row: &RowSlot, last: Stmt| {
            let mut body = begin(row);
            body.extend((0..5).map(|bit| 1 << bit).filter(|mask| lanes & mask != 0).map(|mask| {
                let other = Expr::call(Intrinsic::ShuffleXor, [reduced(), Expr::Int(mask)]);
                set("reduced", Expr::Int(0), combine(op, reduced(), other))
            }));
            body.push(last);
            vec![Stmt::Scope { body }]
        };
        if warps == 1 {
            return vec![local(self.each_row(dst, |row| in_warp(row, result(row, reduced()))))];
        }
        // Warps that share rows leave their part in shared memory, [warps_n, rows], and read all parts.
        let rows = self.program.tile(dst).rows;
        let place = |warp: Expr, row: &RowSlot| {
            Expr::name("shared") + self.shared.exchange + (warp * rows + row.row.clone()) * size_of::<f32>()
        };
        let leave = self.each_row(dst, |row| {
            let args = vec![place(Expr::name("warp_n"), row), reduced()];
            let store = Stmt::Do {
                intrinsic: Intrinsic::StoreSharedF32,
                args,
            };
            in_warp(
                row,
                Stmt::If {
                    cond: self.first_lane(dst),
                    body: vec![store],
                },
            )
        });
        let gather = self.each_row(dst, |row| {
            let mut body = vec![array("reduced", 1), set("reduced", Expr::Int(0), neutral(op))];
            body.extend(unrolled("w", warps, |w| {
                let part = Expr::call(Intrinsic::LoadSharedF32, [place(w, row)]);
                vec![set("reduced", Expr::Int(0), combine(op, reduced(), part))]
            }));
            body.push(result(row, reduced()));
            vec![Stmt::Scope { body }]
        });
        let access = |kind| {
            vec![Access {
                tile: self.shared.exchange,
                cols: (0, 1),
                slot: Slot::Any,
                kind,
            }]
        };
        vec![
            Op {
                comment: None,
                stmts: self.in_one_copy(leave),
                accesses: access(Kind::Write),
            },
            Op {
                comment: None,
                stmts: gather,
                accesses: access(Kind::Read),
            },
        ]
    }

    /// dst = src with pairs rotated by the angles of the same row.
    pub(super) fn rotate(&self, dst: TileId, src: TileId, cos_sin: [TileId; 2], pairing: Pairing, d: usize) -> Op {
        let name = self.tile_name(dst);
        let half = d / 2;
        let stmts = self.each_row(dst, |row| {
            self.each_col(dst, row, |element| {
                let col = || element.col.clone();
                let (partner, pair, is_first) = match pairing {
                    Pairing::Interleaved => (
                        col().xor(Expr::Int(1)),
                        col() / 2,
                        col().bit_and(1).equals(Expr::Int(0)),
                    ),
                    Pairing::Halves => (
                        col().lt(half.into()).select(col() + half, col() - half),
                        col() % half,
                        col().lt(half.into()),
                    ),
                };
                let load = |tile, col| self.load_element(tile, row.row.clone(), &row.row_low, col);
                let [cos, sin] = cos_sin.map(|tile| load(tile, pair.clone()));
                let turned = Expr::name("partner") * sin;
                let minus = Expr::Float(0.0) - turned.clone();
                let rotated = load(src, col()) * cos + is_first.select(minus, turned);
                let body = vec![
                    let_stmt(Ty::F32, "partner", load(src, partner)),
                    set(name, element.register.clone(), rotated),
                ];
                let copied = set(name, element.register.clone(), load(src, col()));
                vec![
                    copied,
                    Stmt::If {
                        cond: col().lt(d.into()),
                        body,
                    },
                ]
            })
        });
        let accesses = [src, cos_sin[0], cos_sin[1]]
            .map(|tile| self.access(tile, Kind::Read))
            .to_vec();
        Op {
            comment: None,
            stmts,
            accesses,
        }
    }
}

/// An op of registers alone.
fn local(stmts: Vec<Stmt>) -> Op {
    Op {
        comment: None,
        stmts,
        accesses: vec![],
    }
}

fn array(name: &str, len: usize) -> Stmt {
    Stmt::Array {
        ty: Ty::F32,
        name: name.to_string(),
        len,
    }
}

fn set(name: &str, at: Expr, value: Expr) -> Stmt {
    Stmt::Set {
        name: name.to_string(),
        at,
        value,
    }
}

fn combine(op: ReduceOp, a: Expr, b: Expr) -> Expr {
    Expr::binary(if op == ReduceOp::Max { Binary::FMax } else { Binary::Add }, a, b)
}

fn neutral(op: ReduceOp) -> Expr {
    Expr::Float(if op == ReduceOp::Max { f32::NEG_INFINITY } else { 0.0 })
}
