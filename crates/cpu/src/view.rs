//! Views: rectangles of device memory, with bounds, block tables and row masks.

mod transfer;

use mlafuse_codegen::tile::{Rows, View};

use crate::convert::{Element, read_row, read_strided};
use crate::error::Fault;
use crate::expr::{At, Env, Names, Scalar, load_int};
use crate::gemm::bf16::ROWS;
use crate::kernel::TensorParam;
use crate::level::Level;
use crate::memory::Bound;
use crate::scratch::Slot;

pub(crate) use transfer::{Place, Transfer, add_rows, borrow, load, look_up, store};

/// A compiled view.
#[derive(Clone, Debug)]
pub(crate) struct ViewCode {
    tensor: usize,
    element: Element,
    offset: Scalar,
    rows: RowsCode,
    col_start: Scalar,
    col_limit: Scalar,
    col_stride: Scalar,
    align: usize,
    mask: Option<Slot>,
}

#[derive(Clone, Debug)]
enum RowsCode {
    Strided {
        start: Scalar,
        stride: Scalar,
        limit: Scalar,
    },
    Gathered {
        index: Scalar,
        stride: Scalar,
        limit: Scalar,
    },
    Paged {
        start: Scalar,
        limit: Scalar,
        table: usize,
        table_offset: Scalar,
        page_size: i64,
        page_stride: Scalar,
        row_stride: Scalar,
    },
}

impl ViewCode {
    /// `view`, of a program that has been verified.
    pub(crate) fn compile(view: &View, tensors: &[TensorParam], names: &Names<'_>) -> ViewCode {
        let int = |e| Scalar::compile(e, names);
        let tensor = names.indices[view.param.0];
        ViewCode {
            tensor,
            element: tensors[tensor].element,
            offset: int(&view.offset),
            rows: RowsCode::compile(&view.rows, names),
            col_start: int(&view.col_start),
            col_limit: int(&view.col_limit),
            col_stride: int(&view.col_stride),
            align: view.align,
            mask: view.mask.map(|id| names.slots[id.0]),
        }
    }

    fn resolve<'a>(&'a self, env: &'a Env<'a>, cols: usize) -> Result<Resolved<'a>, Fault> {
        let int = |e: &Scalar| e.eval(env, At::BLOCK);
        let col_start = int(&self.col_start)?;
        let col_stride = int(&self.col_stride)?;
        let present = int(&self.col_limit)?.saturating_sub(col_start).clamp(0, cols as i64) as usize;
        let first = checked(col_start.checked_mul(col_stride))?;
        let base = checked(int(&self.offset)?.checked_add(first))?;
        let rows = match &self.rows {
            RowsCode::Strided { start, stride, limit } => ResolvedRows::Strided {
                start: int(start)?,
                stride: int(stride)?,
                limit: int(limit)?,
            },
            RowsCode::Gathered { index, stride, limit } => ResolvedRows::Gathered {
                index,
                stride: int(stride)?,
                limit: int(limit)?,
            },
            RowsCode::Paged {
                start,
                limit,
                table,
                table_offset,
                page_size,
                page_stride,
                row_stride,
            } => ResolvedRows::Paged {
                start: int(start)?,
                limit: int(limit)?,
                table: *table,
                table_offset: int(table_offset)?,
                page_size: *page_size,
                page_stride: int(page_stride)?,
                row_stride: int(row_stride)?,
            },
        };
        let len = env.tensors.get(self.tensor).map_or(0, Bound::len) / self.element.size();
        Ok(Resolved {
            code: self,
            env,
            base,
            col_stride,
            present,
            rows,
            len,
        })
    }
}

impl RowsCode {
    fn compile(rows: &Rows, names: &Names<'_>) -> RowsCode {
        let int = |e| Scalar::compile(e, names);
        match rows {
            Rows::Strided { start, stride, limit } => RowsCode::Strided {
                start: int(start),
                stride: int(stride),
                limit: int(limit),
            },
            Rows::Gathered { index, stride, limit } => RowsCode::Gathered {
                index: int(index),
                stride: int(stride),
                limit: int(limit),
            },
            Rows::Paged {
                start,
                limit,
                table,
                table_offset,
                page_size,
                page_stride,
                row_stride,
            } => RowsCode::Paged {
                start: int(start),
                limit: int(limit),
                table: names.indices[table.0],
                table_offset: int(table_offset),
                page_size: i64::try_from(*page_size).unwrap_or(i64::MAX),
                page_stride: int(page_stride),
                row_stride: int(row_stride),
            },
        }
    }
}

/// A view whose expressions have their values.
struct Resolved<'a> {
    code: &'a ViewCode,
    env: &'a Env<'a>,
    /// Element index of the first column, without the row.
    base: i64,
    col_stride: i64,
    /// Leading columns that are there.
    present: usize,
    rows: ResolvedRows<'a>,
    /// Elements of the buffer.
    len: usize,
}

enum ResolvedRows<'a> {
    Strided {
        start: i64,
        stride: i64,
        limit: i64,
    },
    Gathered {
        index: &'a Scalar,
        stride: i64,
        limit: i64,
    },
    Paged {
        start: i64,
        limit: i64,
        table: usize,
        table_offset: i64,
        page_size: i64,
        page_stride: i64,
        row_stride: i64,
    },
}

fn checked(value: Option<i64>) -> Result<i64, Fault> {
    value.ok_or(Fault::Overflow)
}

/// a · b + c, checked.
fn multiply_add(a: i64, b: i64, c: i64) -> Result<i64, Fault> {
    checked(a.checked_mul(b).and_then(|ab| ab.checked_add(c)))
}

impl Resolved<'_> {
    /// The row's part of the element index; `None` where tile row `i` is not there.
    fn row(&self, i: usize, arena: &[f32]) -> Result<Option<i64>, Fault> {
        // NaN is not > 0 either.
        if self
            .code
            .mask
            .is_some_and(|mask| arena[mask.start + i] <= 0.0 || arena[mask.start + i].is_nan())
        {
            return Ok(None);
        }
        match self.rows {
            ResolvedRows::Strided { start, stride, limit } => {
                let row = checked(start.checked_add(i as i64))?;
                if row < limit {
                    multiply_add(row, stride, 0).map(Some)
                } else {
                    Ok(None)
                }
            }
            ResolvedRows::Gathered { index, stride, limit } => {
                let at = At { arena, row: i, col: 0 };
                match index.eval(self.env, at)? {
                    row if row < limit => multiply_add(row, stride, 0).map(Some),
                    _ => Ok(None),
                }
            }
            ResolvedRows::Paged {
                start,
                limit,
                table,
                table_offset,
                page_size,
                page_stride,
                row_stride,
            } => {
                let token = checked(start.checked_add(i as i64))?;
                if token >= limit {
                    return Ok(None);
                }
                let entry = checked(table_offset.checked_add(token.div_euclid(page_size)))?;
                let page = load_int(self.env, table, entry)?;
                if page < 0 || token < 0 {
                    return Err(Fault::Page { table, entry, page });
                }
                let in_page = multiply_add(token % page_size, row_stride, 0)?;
                multiply_add(page, page_stride, in_page).map(Some)
            }
        }
    }

    /// Element index of the first column of tile row `i`, all of whose columns that are there are inside the buffer; `None`
    /// where nothing of the row is there.
    fn first(&self, i: usize, arena: &[f32]) -> Result<Option<usize>, Fault> {
        let Some(row) = self.row(i, arena)? else {
            return Ok(None);
        };
        if self.present == 0 {
            return Ok(None);
        }
        let tensor = self.code.tensor;
        let first = checked(self.base.checked_add(row))?;
        let last = multiply_add(self.present as i64 - 1, self.col_stride, first)?;
        for index in [first, last] {
            if usize::try_from(index).map_or(true, |i| i >= self.len) {
                return Err(Fault::OutOfBounds { tensor, index });
            }
        }
        let align = self.code.align;
        match usize::try_from(first) {
            Ok(at) if at.is_multiple_of(align) => Ok(Some(at)),
            _ => Err(Fault::Misaligned {
                tensor,
                index: first,
                align,
            }),
        }
    }

    /// The neighbours of element `first` in a row, as many as `out` has.
    fn read(&self, level: Level, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (element, size) = (self.code.element, self.code.element.size());
        let apart = self.col_stride.unsigned_abs() as usize;
        match self.col_stride {
            1 => read_row(level, element, &bytes[first * size..(first + out.len()) * size], out),
            0.. => read_strided(element, &bytes[first * size..], apart * size, out),
            _ => {
                let last = first - (out.len() - 1) * apart;
                read_strided(element, &bytes[last * size..], apart * size, out);
                out.reverse();
            }
        }
    }

    /// The columns that are there from element `first` on, where they are f32 and neighbours.
    fn floats<'b>(&self, bytes: &'b [u8], first: usize) -> Option<&'b [f32]> {
        let neighbours = self.col_stride == 1 && self.code.element == Element::F32;
        let row = bytes[first * size_of::<f32>()..].get(..self.present * size_of::<f32>());
        row.filter(|_| neighbours)
            .and_then(|row| bytemuck::try_cast_slice(row).ok())
    }

    /// How many rows from tile row `i` on are there and lie [`Resolved::stride`] apart.
    fn run(&self, i: usize) -> i64 {
        match self.rows {
            ResolvedRows::Strided { start, limit, .. } => limit.saturating_sub(start.saturating_add(i as i64)),
            ResolvedRows::Paged {
                start,
                limit,
                page_size,
                ..
            } => {
                let token = start.saturating_add(i as i64);
                limit.saturating_sub(token).min(page_size - token.rem_euclid(page_size))
            }
            ResolvedRows::Gathered { .. } => 0,
        }
    }

    /// Elements between the rows of a [`Resolved::run`].
    fn stride(&self) -> Option<usize> {
        match self.rows {
            ResolvedRows::Strided { stride, .. } | ResolvedRows::Gathered { stride, .. } => {
                usize::try_from(stride).ok()
            }
            ResolvedRows::Paged { row_stride, .. } => usize::try_from(row_stride).ok(),
        }
    }

    /// The first element of tile row `i` where [`ROWS`] rows from it on, of `cols` columns that are neighbours, may be read
    /// where they lie.
    fn group(&self, i: usize, cols: usize, arena: &[f32]) -> Result<Option<usize>, Fault> {
        let unmasked = self.code.mask.is_none();
        let whole = unmasked && self.present == cols && self.col_stride == 1 && self.run(i) >= ROWS as i64;
        if !whole || self.stride().is_none() {
            return Ok(None);
        }
        let (first, last) = (self.first(i, arena)?, self.first(i + ROWS - 1, arena)?);
        Ok(first.filter(|_| last.is_some()))
    }
}
