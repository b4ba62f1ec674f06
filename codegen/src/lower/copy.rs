//! Loads, stores and staging.

use super::Cx;
use super::fragment::{RowSlot, counted, let_stmt};
use super::sync::{Access, Kind, Op};
use crate::layout::{CHUNK_BYTES, FragmentLayout};
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, Columns, Form, Rows, Space, TileId, View};
use mlafuse_tensor::DType;

/// How often a copy loop is unrolled at most: enough loads in flight, little code.
const COPY_UNROLL: u32 = 4;

/// One row of a view, as code: whether it is there, and where its first column lies (in elements).
struct ViewRow {
    lets: Vec<Stmt>,
    present: Expr,
    start: Expr,
}

impl Cx<'_> {
    /// A load on its own; asynchronous copies are a group of their own.
    pub(super) fn load(&self, dst: TileId, cols: &Columns, src: &View) -> Op {
        if self.program.tile(dst).space == Space::Fragment {
            return self.load_fragment(dst, src);
        }
        let mut op = self.load_shared(dst, cols, src);
        if op.accesses.iter().any(|a| a.kind == Kind::AsyncWrite) {
            op.stmts.push(Stmt::Do {
                intrinsic: Intrinsic::CopyCommit,
                args: vec![],
            });
        }
        op
    }

    /// Device memory to a shared tile: asynchronous where the alignment allows at least 4 bytes at a time. Asynchronous
    /// copies are left uncommitted.
    pub(super) fn load_shared(&self, dst: TileId, cols: &Columns, src: &View) -> Op {
        let dtype = self.dtype(src);
        let elems = self.copy_width(dtype, cols, src);
        let bytes = elems * dtype.size_bytes();
        let per_row = cols.len() / elems;
        let rows = self.program.tile(dst).rows;
        let each = |at: Expr| {
            let (row, piece) = (Expr::name("row"), Expr::name("piece"));
            let mut body = vec![
                let_stmt(Ty::I32, "row", at.clone() / per_row),
                let_stmt(Ty::I32, "piece", at % per_row),
            ];
            let from = self.view_row(src, row.clone(), &row);
            body.extend(from.lets);
            let col = piece * elems;
            let base = self.tile_base(dst);
            let to = self.element_address(dst, base, row.clone(), &row.bit_and(7), col.clone() + cols.start);
            let pointer = self.pointer(src);
            body.extend(match bytes >= 4 {
                true => {
                    let index = from.start + col.clone().cast(Ty::I64) * self.wide(&src.col_stride);
                    copy_async(
                        dtype,
                        bytes,
                        to,
                        pointer,
                        index,
                        from.present,
                        self.there(src, cols, col, elems),
                    )
                }
                false => self.copy_plain(dtype, to, src, from.start, from.present, col),
            });
            body
        };
        let kind = if bytes >= 4 { Kind::AsyncWrite } else { Kind::Write };
        let access = Access {
            cols: (cols.start, cols.end),
            ..self.access(dst, kind)
        };
        Op {
            comment: None,
            stmts: self.over_threads(rows * per_row, each),
            accesses: vec![access],
        }
    }

    /// Elements copied at a time: as many of 16 bytes as the source's rows, the columns and the place in the tile keep
    /// aligned.
    fn copy_width(&self, dtype: DType, cols: &Columns, src: &View) -> usize {
        let most = CHUNK_BYTES / dtype.size_bytes();
        let fits =
            |n: &usize| src.align.is_multiple_of(*n) && cols.start.is_multiple_of(*n) && cols.len().is_multiple_of(*n);
        match src.col_stride {
            tile::Expr::Int(1) => [most, most / 2, most / 4]
                .into_iter()
                .filter(|&n| n > 0)
                .find(fits)
                .unwrap_or(1),
            _ => 1,
        }
    }

    /// Runs `each` for 0..count, spread over the block's threads.
    fn over_threads(&self, count: usize, each: impl FnOnce(Expr) -> Vec<Stmt>) -> Vec<Stmt> {
        let threads = self.schedule.threads();
        let turns = count.div_ceil(threads);
        let index = if turns == 1 {
            Expr::Thread
        } else {
            Expr::name("turn") * threads + Expr::Thread
        };
        let mut body = vec![let_stmt(Ty::I32, "at", index)];
        let work = each(Expr::name("at"));
        match count.is_multiple_of(threads) {
            true => body.extend(work),
            false => body.push(Stmt::If {
                cond: Expr::name("at").lt(count.into()),
                body: work,
            }),
        }
        match turns {
            1 => body,
            _ => vec![counted("turn", turns, COPY_UNROLL.min(turns as u32), body)],
        }
    }

    /// One element by way of a register.
    fn copy_plain(&self, dtype: DType, to: Expr, src: &View, start: Expr, present: Expr, col: Expr) -> Vec<Stmt> {
        let present = present.and(self.col_present(src, col.clone()));
        let index = start + col.cast(Ty::I64) * self.wide(&src.col_stride);
        let element = present.select(Expr::Global(self.pointer_name(src), Box::new(index)), Expr::Int(0));
        let store = match dtype.size_bytes() {
            2 => Intrinsic::StoreShared16,
            _ => Intrinsic::StoreSharedF32,
        };
        vec![Stmt::Do {
            intrinsic: store,
            args: vec![to, element],
        }]
    }

    /// Whether column `col` of a view is there.
    fn col_present(&self, view: &View, col: Expr) -> Expr {
        let (start, limit) = (self.scalar(&view.col_start), self.scalar(&view.col_limit));
        (start + col).lt(limit)
    }

    /// How many of `count` elements from column `col` on are there; `count` itself where that is certain.
    fn there(&self, view: &View, cols: &Columns, col: Expr, count: usize) -> Expr {
        use crate::thread::Binary::{Max, Min};
        if self.certain_columns(view, cols) {
            return count.into();
        }
        let left = self.scalar(&view.col_limit) - self.scalar(&view.col_start) - col;
        Expr::binary(Max, Expr::binary(Min, left, count.into()), Expr::Int(0))
    }

    /// Row `row` (an i32 name) of a view. `vector` is the row's register in a row vector, for masks.
    fn view_row(&self, view: &View, row: Expr, vector: &Expr) -> ViewRow {
        let base = self.wide(&view.offset) + self.wide(&view.col_start) * self.wide(&view.col_stride);
        let mut view_row = match &view.rows {
            Rows::Strided { start, stride, limit } => {
                let index = self.scalar(start) + row;
                let present = index.clone().lt(self.scalar(limit));
                let start = base + self.wide(stride) * index.cast(Ty::I64);
                ViewRow {
                    lets: vec![],
                    present,
                    start,
                }
            }
            Rows::Gathered { index, stride, limit } => {
                let gathered = || Expr::name("gathered");
                ViewRow {
                    lets: vec![let_stmt(Ty::I32, "gathered", self.of_row(index, row))],
                    present: gathered().lt(self.scalar(limit)),
                    start: base + self.wide(stride) * gathered().cast(Ty::I64),
                }
            }
            Rows::Paged {
                start,
                limit,
                table,
                table_offset,
                page_size,
                page_stride,
                row_stride,
            } => {
                let token = || Expr::name("token");
                let present = || Expr::name("present");
                let entry = self.wide(table_offset) + (token() / *page_size).cast(Ty::I64);
                let page = Expr::Global(self.program.param(*table).name.clone(), Box::new(entry));
                let lets = vec![
                    let_stmt(Ty::I32, "token", self.scalar(start) + row),
                    let_stmt(Ty::Bool, "present", token().lt(self.scalar(limit))),
                    // The table is read for rows that are there only: other entries may hold anything.
                    let_stmt(Ty::I64, "page", present().select(page, Expr::Int(0))),
                ];
                let start = base
                    + Expr::name("page") * self.wide(page_stride)
                    + (token() % *page_size).cast(Ty::I64) * self.wide(row_stride);
                ViewRow {
                    lets,
                    present: present(),
                    start,
                }
            }
        };
        if let Some(mask) = view.mask {
            let kept = Expr::Float(0.0).lt(Expr::register(self.tile_name(mask), vector.clone()));
            view_row.present = view_row.present.and(kept);
        }
        view_row
    }

    /// Device memory to a fragment or row vector, element by element.
    fn load_fragment(&self, dst: TileId, src: &View) -> Op {
        let dtype = self.dtype(src);
        let name = self.tile_name(dst);
        let value = |present: Expr, index: Expr| {
            let element = Expr::Global(self.pointer_name(src), Box::new(index));
            present.select(Expr::call(Intrinsic::ToFloat(dtype), [element]), Expr::Float(0.0))
        };
        let set = |at: Expr, value: Expr| Stmt::Set {
            name: name.to_string(),
            at,
            value,
        };
        let stmts = self.each_row(dst, |slot| {
            let (mut body, present, start) = self.named_row(src, slot);
            body.extend(match self.program.tile(dst).form {
                Form::Matrix => self.each_col(dst, slot, |element| {
                    let col = || element.col.clone();
                    let present = present.clone().and(self.col_present(src, col()));
                    let index = start.clone() + col().cast(Ty::I64) * self.wide(&src.col_stride);
                    vec![set(element.register.clone(), value(present, index))]
                }),
                _ => vec![set(slot.vector.clone(), value(present, start))],
            });
            body
        });
        Op {
            comment: None,
            stmts,
            accesses: vec![],
        }
    }

    /// A fragment or row vector to device memory.
    pub(super) fn store(&self, dst: &View, src: TileId, cols: &Columns) -> Op {
        let dtype = self.dtype(dst);
        let name = self.tile_name(src);
        let form = self.program.tile(src).form;
        let paired = form == Form::Matrix
            && matches!(self.fragments.layout(src), FragmentLayout::Mma { .. })
            && matches!(dst.col_stride, tile::Expr::Int(1))
            && dst.align.is_multiple_of(2)
            && cols.start.is_multiple_of(2);
        let register = |at: Expr| Expr::register(name, at);
        let stmts = self.each_row(src, |slot| {
            let (mut body, present, start) = self.named_row(dst, slot);
            let inner = match form {
                Form::Matrix if paired => self.each_pair(src, slot, |pair| {
                    let col = || pair.col.clone() - cols.start;
                    let index = || start.clone() + col().cast(Ty::I64);
                    let (low, high) = (register(pair.register.clone()), register(pair.register.clone() + 1));
                    let both = self.in_columns(dst, src, cols, pair.col.clone() + 1);
                    let first = self.in_columns(dst, src, cols, pair.col.clone());
                    let mut out = vec![when(
                        both.clone(),
                        vec![self.store_pair(dst, dtype, index(), low.clone(), high)],
                    )];
                    if !self.even_columns(dst, cols) {
                        let alone = first.and(both.equals(Expr::Int(0)));
                        out.push(when(alone, vec![self.store_one(dst, dtype, index(), low)]));
                    }
                    out
                }),
                Form::Matrix => self.each_col(src, slot, |element| {
                    let col = element.col.clone() - cols.start;
                    let index = start.clone() + col.cast(Ty::I64) * self.wide(&dst.col_stride);
                    let store = self.store_one(dst, dtype, index, register(element.register.clone()));
                    vec![when(self.in_columns(dst, src, cols, element.col.clone()), vec![store])]
                }),
                _ => vec![when(
                    self.row_owner(src),
                    vec![self.store_one(dst, dtype, start.clone(), register(slot.vector.clone()))],
                )],
            };
            body.push(when(present, inner));
            body
        });
        Op {
            comment: None,
            stmts,
            accesses: vec![],
        }
    }

    /// The row of a view at a fragment's row, with names for whether it is there and where it starts.
    fn named_row(&self, view: &View, slot: &RowSlot) -> (Vec<Stmt>, Expr, Expr) {
        let row = self.view_row(view, slot.row.clone(), &slot.vector);
        let mut lets = row.lets;
        lets.push(let_stmt(Ty::Bool, "in_rows", row.present));
        lets.push(let_stmt(Ty::I64, "row_start", row.start));
        (lets, Expr::name("in_rows"), Expr::name("row_start"))
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

    /// Whether all of `cols` are known to be in the view.
    fn certain_columns(&self, view: &View, cols: &Columns) -> bool {
        match (&view.col_start, &view.col_limit) {
            (tile::Expr::Int(start), tile::Expr::Int(limit)) => start + cols.len() as i64 <= *limit,
            _ => false,
        }
    }

    /// Whether no pair of columns is cut in two.
    fn even_columns(&self, view: &View, cols: &Columns) -> bool {
        self.certain_columns(view, cols) && cols.len().is_multiple_of(2)
    }

    fn store_pair(&self, view: &View, dtype: DType, index: Expr, low: Expr, high: Expr) -> Stmt {
        let pointer = self.pointer(view);
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

    fn store_one(&self, view: &View, dtype: DType, index: Expr, value: Expr) -> Stmt {
        let value = Expr::call(Intrinsic::FromFloat(dtype), [value]);
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
        let pairs = matches!(self.fragments.layout(src), FragmentLayout::Mma { .. }) && dtype.size_bytes() == 2;
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
            stmts,
            accesses: vec![self.access(dst, Kind::Write)],
        }
    }

    /// One element of a shared tile as f32.
    pub(super) fn load_element(&self, tile: TileId, row: Expr, row_low: &Expr, col: Expr) -> Expr {
        let address = self.element_address(tile, self.tile_base(tile), row, row_low, col);
        match self.program.tile(tile).dtype {
            DType::F32 => Expr::call(Intrinsic::LoadSharedF32, [address]),
            dtype => Expr::call(
                Intrinsic::ToFloat(dtype),
                [Expr::call(Intrinsic::LoadShared16, [address])],
            ),
        }
    }

    fn dtype(&self, view: &View) -> DType {
        self.program
            .tensor_dtype(view.param)
            .expect("a verified program has views of tensors only")
    }

    fn pointer_name(&self, view: &View) -> String {
        self.program.param(view.param).name.clone()
    }

    fn pointer(&self, view: &View) -> Expr {
        Expr::name(self.pointer_name(view))
    }

    /// An element offset, in 64 bits throughout.
    fn wide(&self, e: &tile::Expr) -> Expr {
        use tile::{Binary, Expr as T, Unary};
        match e {
            T::Int(n) => Expr::Int(*n),
            T::Unary(Unary::Wide, a) => self.wide(a),
            T::Binary(op @ (Binary::Add | Binary::Sub | Binary::Mul), a, b) => {
                let op = match op {
                    Binary::Add => crate::thread::Binary::Add,
                    Binary::Sub => crate::thread::Binary::Sub,
                    _ => crate::thread::Binary::Mul,
                };
                Expr::binary(op, self.wide(a), self.wide(b))
            }
            narrow => self.scalar(narrow).cast(Ty::I64),
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

/// One piece by an asynchronous copy; what is not there becomes zero without being read.
fn copy_async(
    dtype: DType,
    bytes: usize,
    to: Expr,
    pointer: Expr,
    index: Expr,
    present: Expr,
    there: Expr,
) -> Vec<Stmt> {
    let there = present.select(there * dtype.size_bytes(), Expr::Int(0));
    let index = Expr::name("there").equals(Expr::Int(0)).select(Expr::Int(0), index);
    vec![
        let_stmt(Ty::I32, "there", there),
        Stmt::Do {
            intrinsic: Intrinsic::CopyAsync(dtype, bytes as u8),
            args: vec![to, pointer, index, Expr::name("there")],
        },
    ]
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
