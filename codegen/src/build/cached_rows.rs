//! Operands that are columns of the cached rows, read in place through the block table.

use super::error::BuildError;
use super::program::{ProgramBuilder, Span};
use crate::tile::{self, Access, Expr, Stmt};
use mlafuse_ir::graph::{Op, ValueId};
use mlafuse_ir::plan::View;
use mlafuse_ir::size::Size;
use std::ops::Range;

/// Columns of the rows of every sequence.
pub(super) struct CachedRows<'a> {
    /// The cache, from the first of the columns on.
    cache: View,
    table: &'a View,
}

impl<'a> CachedRows<'a> {
    /// Columns `columns` of `cache`, whose pages `table` names.
    pub fn new(
        p: &ProgramBuilder<'a>,
        cache: ValueId,
        table: ValueId,
        columns: &Range<usize>,
    ) -> Result<CachedRows<'a>, BuildError> {
        let mut cache = p.view(cache)?.clone();
        let row = cache.shape.last().copied().unwrap_or(0.into());
        if columns.is_empty() || Size::one().times(row).as_constant().is_none_or(|row| columns.end > row) {
            let found = format!("{}..{}", columns.start, columns.end);
            return Err(p.unsupported("columns of a cached row", found, &format!("a part of 0..{row}")));
        }
        cache.offset.push(Size::constant(columns.start));
        Ok(CachedRows {
            cache,
            table: p.view(table)?,
        })
    }

    /// Tokens `start..` of sequence `b`, up to `limit`.
    pub fn rows(
        &self,
        p: &mut ProgramBuilder,
        b: &Expr,
        [start, limit]: [Expr; 2],
        cols: Span,
    ) -> Result<tile::View, BuildError> {
        let pages = p.pages(&self.cache, self.table, b)?;
        Ok(p.paged(&self.cache, Access::Read, &pages, [start, limit], cols))
    }
}

/// The first operand, \[B, S, k\], of a contraction that reads it in place.
pub(super) struct CachedOperand<'a> {
    pub rows: CachedRows<'a>,
    kv_len: &'a View,
    /// How the operand is walked: rows of a sequence one after the other, sequences each on their own.
    pub walked: View,
}

impl<'a> CachedOperand<'a> {
    /// `operand`, if the region reads the cache for it.
    pub fn of(p: &ProgramBuilder<'a>, operand: ValueId) -> Result<Option<CachedOperand<'a>>, BuildError> {
        let shape = &p.node(operand).ty.shape;
        let Some(width) = shape.last().and_then(|&width| Size::one().times(width).as_constant()) else {
            return Ok(None);
        };
        let (mut value, mut first) = (operand, 0);
        while let (Op::Slice { axis: 2, start, .. }, &[from]) = (&p.node(value).op, p.node(value).args.as_slice()) {
            (value, first) = (from, first + start);
        }
        if p.node(value).op != Op::CacheRead || !p.region.nodes.contains(&value) {
            return Ok(None);
        }
        let [cache, table, kv_len] = p.args(value)?;
        let rows = CachedRows::new(p, cache, table, &(first..first + width))?;
        let row = rows.cache.strides.get(1).cloned().unwrap_or(Size::one());
        let walked = View {
            strides: vec![Size::constant(0), row, Size::one()],
            shape: shape.clone(),
            ..rows.cache.clone()
        };
        Ok(Some(CachedOperand {
            rows,
            kv_len: p.view(kv_len)?,
            walked,
        }))
    }

    /// The length of sequence `b`. Ends blocks of rows that all lie past it: nobody reads what they would make.
    pub fn begin(&self, p: &mut ProgramBuilder, body: &mut Vec<Stmt>, b: Expr, row: Expr) -> Expr {
        let value = p.load_int(self.kv_len, b);
        let kv_len = p.bind(body, "kv", value);
        body.push(Stmt::If {
            cond: kv_len.clone().le(row),
            body: vec![Stmt::Return],
        });
        kv_len
    }
}
