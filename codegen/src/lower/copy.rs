//! Loads from device memory.

use super::Cx;
use super::fragment::{RowSlot, counted, let_stmt};
use super::sync::{Access, Kind, Op};
use crate::layout::CHUNK_BYTES;
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
    pub(super) fn col_present(&self, view: &View, col: Expr) -> Expr {
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

    /// Device memory to a fragment or row vector.
    fn load_fragment(&self, dst: TileId, src: &View) -> Op {
        let pairs = self.has_pairs(dst) && self.program.tile(dst).form == Form::Matrix;
        let stmts = match pairs && self.dtype(src) == DType::F32 && self.in_wholes(src, 2) {
            true => self.load_pairs(dst, src),
            false => self.load_elements(dst, src),
        };
        Op {
            comment: None,
            stmts,
            accesses: vec![],
        }
    }

    /// Whether `n` neighbours from a multiple of `n` on lie side by side, aligned as one, and are all there or none.
    pub(super) fn in_wholes(&self, view: &View, n: usize) -> bool {
        let whole = |e: &tile::Expr| self.scalar(e).divided(n as i64).is_some();
        let aligned = view.align.is_multiple_of(n) && matches!(view.col_stride, tile::Expr::Int(1));
        aligned && whole(&view.col_start) && whole(&view.col_limit)
    }

    /// The two neighbours that a thread has at once, so that four lanes read a whole sector.
    fn load_pairs(&self, dst: TileId, src: &View) -> Vec<Stmt> {
        let name = self.tile_name(dst);
        self.each_row(dst, |slot| {
            let (mut body, present, start) = self.named_row(src, slot);
            body.extend(self.each_pair(dst, slot, |pair| {
                let zero = |more: usize| Stmt::Set {
                    name: name.to_string(),
                    at: pair.register.clone() + more,
                    value: Expr::Float(0.0),
                };
                let index = start.clone() + pair.col.clone().cast(Ty::I64);
                let load = Stmt::Do {
                    intrinsic: Intrinsic::LoadGlobalF32x2,
                    args: vec![
                        Expr::Array(name.to_string()),
                        pair.register.clone(),
                        self.pointer(src),
                        index,
                    ],
                };
                let present = present.and(self.col_present(src, pair.col.clone()));
                let load = Stmt::If {
                    cond: present,
                    body: vec![load],
                };
                vec![zero(0), zero(1), load]
            }));
            body
        })
    }

    fn load_elements(&self, dst: TileId, src: &View) -> Vec<Stmt> {
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
        self.each_row(dst, |slot| {
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
        })
    }

    /// The row of a view at a fragment's row, with names for whether it is there and where it starts.
    pub(super) fn named_row(&self, view: &View, slot: &RowSlot) -> (Vec<Stmt>, Expr, Expr) {
        let row = self.view_row(view, slot.row.clone(), &slot.vector);
        let mut lets = row.lets;
        lets.push(let_stmt(Ty::Bool, "in_rows", row.present));
        lets.push(let_stmt(Ty::I64, "row_start", row.start));
        (lets, Expr::name("in_rows"), Expr::name("row_start"))
    }

    /// Whether all of `cols` are known to be in the view.
    pub(super) fn certain_columns(&self, view: &View, cols: &Columns) -> bool {
        match (&view.col_start, &view.col_limit) {
            (tile::Expr::Int(start), tile::Expr::Int(limit)) => start + cols.len() as i64 <= *limit,
            _ => false,
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

    pub(super) fn dtype(&self, view: &View) -> DType {
        self.program
            .tensor_dtype(view.param)
            .expect("a verified program has views of tensors only")
    }

    pub(super) fn pointer_name(&self, view: &View) -> String {
        self.program.param(view.param).name.clone()
    }

    pub(super) fn pointer(&self, view: &View) -> Expr {
        Expr::name(self.pointer_name(view))
    }

    /// An element offset, in 64 bits throughout.
    pub(super) fn wide(&self, e: &tile::Expr) -> Expr {
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
