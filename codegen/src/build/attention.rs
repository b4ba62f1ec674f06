//! Attention over the paged latent cache, split over the cached tokens (flash-decoding on MLA's shared rows).
//!
//! Heads and new tokens are packed in the rows: row m is token m / H, head m mod H. A cached row is both key and value,
//! so that its tile is read from device memory once. Softmax runs online ([`super::online_softmax`]); each split leaves its
//! result and natural log-sum-exp for [`super::combine`]. The only split of a sequence is its result, and goes there.

use super::combine::check_result;
use super::error::BuildError;
use super::online_softmax::{KeyTile, OnlineSoftmax};
use super::program::{Pages, ProgramBuilder, Span, block_x, block_y, block_z};
use super::splits::{Split, split};
use crate::tile::{Access, Expr, Stmt, TileId, TileProgram, View};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::plan::{AttentionRegion, View as Placed};
use mlafuse_ir::size::{Size, Symbol};

/// Columns of the tiles.
struct Widths {
    /// Of a cached row.
    row: usize,
    /// Of the value accumulator: the value columns, padded to whole fragments of the warps that share a row.
    value: usize,
    /// Of the shared tiles: enough for both, and whole steps of a tensor core.
    tile: usize,
}

struct Tiles {
    q: TileId,
    kv: TileId,
    softmax: OnlineSoftmax,
}

pub(super) fn build(mut p: ProgramBuilder, region: &AttentionRegion) -> Result<TileProgram, BuildError> {
    let cache = p.view(region.cache)?;
    let batch_lengths = [p.view(region.q_len)?, p.view(region.kv_len)?];
    let table = p.view(region.block_table)?;
    let widths = widths(&p, region, cache)?;
    let tiles = declare(&mut p, &widths, cache);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let first_query = p.view(first(&p, region)?)?;
    let [batch, tokens] = [0, 1].map(|axis| first_query.shape.get(axis).copied().unwrap_or(1.into()));
    let rows = Size::constant(region.n_heads).times(tokens);
    let grid = [
        p.row_blocks::<1>(&[], &rows),
        p.extent(&Size::one().times(batch)),
        p.symbol(Symbol::Z),
    ];

    let mut body = Vec::new();
    let row = p.bind(&mut body, "row_start", block_x() * block_m);
    let [q_value, kv_value] = batch_lengths.map(|lengths| p.load_int(lengths, block_y()));
    let q_len = p.bind(&mut body, "q", q_value);
    let kv_len = p.bind(&mut body, "kv", kv_value);
    let split = split(&mut p, &mut body, batch_lengths[1], kv_len.clone(), &rows, block_z());
    let limit = p.extent(&rows);

    let lse = lse_view(&mut p, region, row.clone(), limit.clone());
    let store = |dst: View| Stmt::Store {
        dst,
        src: tiles.softmax.out,
        cols: 0..region.values.len(),
    };
    let result = result_view(&mut p, region, row.clone(), limit.clone())?.map(store);
    body.extend(without_tokens(&tiles.softmax, &split, &lse, result.as_ref()));
    load_query(
        &mut p,
        region,
        &tiles,
        widths.tile,
        [row.clone(), limit.clone()],
        &mut body,
    )?;
    // Token t sees the keys before min(kv_len, kv_len - q_len + t + 1).
    let token = (row.clone() + Expr::Row) / region.n_heads;
    let visible = kv_len.clone().min(kv_len.clone() - q_len + token + 1);
    body.extend(tiles.softmax.begin(visible.to_float()));

    let pages = p.pages(cache, table, &block_y())?;
    let tile = p.var("tile");
    let start = Expr::from(tile) * block_n;
    let src = p.paged(
        cache,
        Access::Read,
        &pages,
        [start.clone(), kv_len],
        Span::whole(widths.row),
    );
    let load = Stmt::Load {
        dst: tiles.kv,
        cols: 0..widths.tile,
        src,
    };
    // The row is both key and value.
    let keys = KeyTile {
        queries: tiles.q,
        keys: tiles.kv,
        key_cols: widths.tile,
        values: tiles.kv,
        value_cols: region.values.start..region.values.start + widths.value,
        first: start,
    };
    let step = tiles.softmax.step(keys, region.scale);
    body.push(Stmt::For {
        var: tile,
        start: split.begin,
        end: split.end,
        pipelined: true,
        body: [vec![load], step].concat(),
    });

    body.extend(tiles.softmax.finish());
    let (log_sum_exp, src) = tiles.softmax.log_sum_exp();
    body.push(log_sum_exp);
    body.push(Stmt::Store {
        dst: lse,
        src,
        cols: 0..1,
    });
    // Next to what stores the quotients, so that a backend may do the two at once.
    let divide = || tiles.softmax.divide();
    if let Some(result) = result {
        body.push(Stmt::If {
            cond: split.whole,
            body: vec![divide(), result, Stmt::Return],
        });
    }
    body.extend([divide(), store(partial_view(&mut p, region, row, limit))]);
    let doc = doc(&p, region, &widths, cache, &pages);
    Ok(p.finish(doc, grid, body))
}

/// Ends a block without tokens. Its split has no weight, and the combine never reads its part; of a sequence that is whole it
/// says so, and where that has no tokens at all the first stores zeros as its `result`.
fn without_tokens(softmax: &OnlineSoftmax, split: &Split, lse: &View, result: Option<&Stmt>) -> [Stmt; 2] {
    let (words, log_sum_exp) = match result {
        Some(_) => {
            let told = split.whole.clone().and(Expr::from(0).lt(block_z()));
            (
                "A split without tokens has no weight. +inf: the first split is whole, and there is nothing to combine.",
                told.select(f32::INFINITY, f32::NEG_INFINITY),
            )
        }
        None => (
            "A split without tokens has no weight; the combine never reads its part.",
            f32::NEG_INFINITY.into(),
        ),
    };
    let (log_sum_exp, src) = softmax.empty_log_sum_exp(log_sum_exp);
    let dst = lse.clone();
    let mut body = vec![log_sum_exp, Stmt::Store { dst, src, cols: 0..1 }];
    body.extend(result.map(|result| {
        let zeros = Stmt::Fill {
            dst: softmax.out,
            value: 0.0,
        };
        Stmt::If {
            cond: block_z().equals(0),
            body: vec![zeros, result.clone()],
        }
    }));
    body.push(Stmt::Return);
    let cond = split.end.clone().le(split.begin.clone());
    [Stmt::Comment(words.into()), Stmt::If { cond, body }]
}

fn widths(p: &ProgramBuilder, region: &AttentionRegion, cache: &Placed) -> Result<Widths, BuildError> {
    let row = cache
        .shape
        .last()
        .and_then(|&dim| Size::one().times(dim).as_constant())
        .unwrap_or(0);
    let value = region.values.len().next_multiple_of(8 * p.schedule.warps_n);
    let columns = region.queries.iter().map(|part| &part.columns).chain([&region.values]);
    if let Some(columns) = columns.clone().find(|columns| columns.is_empty() || columns.end > row) {
        let found = format!("{}..{}", columns.start, columns.end);
        return Err(p.unsupported("columns of a cached row", found, &format!("a part of 0..{row}")));
    }
    if !region.values.start.is_multiple_of(8) {
        let found = region.values.start.to_string();
        return Err(p.unsupported("first value column", found, "a multiple of 8"));
    }
    if region.n_heads == 0 {
        return Err(p.unsupported("heads", "0".into(), "at least 1"));
    }
    let tile = row.max(region.values.start + value).next_multiple_of(16);
    Ok(Widths { row, value, tile })
}

fn declare(p: &mut ProgramBuilder, widths: &Widths, cache: &Placed) -> Tiles {
    let (block_m, block_n, dtype) = (p.schedule.block_m, p.schedule.block_n, p.dtype(cache));
    Tiles {
        q: p.shared("q_s", dtype, block_m, widths.tile),
        kv: p.shared("kv_s", dtype, block_n, widths.tile),
        softmax: OnlineSoftmax::declare(p, dtype, widths.value),
    }
}

fn first(p: &ProgramBuilder, region: &AttentionRegion) -> Result<ValueId, BuildError> {
    let first = region.queries.first().map(|part| part.value);
    first.ok_or_else(|| p.unsupported("query parts", "0".into(), "at least 1"))
}

/// The parts of the query side by side, zeros where a cached row has columns that no part meets.
fn load_query(
    p: &mut ProgramBuilder,
    region: &AttentionRegion,
    tiles: &Tiles,
    width: usize,
    [row, limit]: [Expr; 2],
    body: &mut Vec<Stmt>,
) -> Result<(), BuildError> {
    let mut covered = 0;
    for (i, part) in region.queries.iter().enumerate() {
        let view = p.view(part.value)?;
        let &[batch, token, head, col] = &view.strides.iter().collect::<Vec<_>>()[..] else {
            return Err(p.unsupported("dimensions of a query part", view.strides.len().to_string(), "4"));
        };
        let heads = view.shape.get(2).copied().unwrap_or(1.into());
        if *token != head.clone().times(heads) && view.shape.get(1) != Some(&1.into()) {
            let found = format!("tokens {token} and heads {head} elements apart");
            return Err(p.unsupported("query part", found, "tokens as far apart as their heads reach"));
        }
        let matrix = p.matrix(view, Access::Read, &[(block_y(), batch.clone())], head, col);
        let (start, end) = (part.columns.start, part.columns.end);
        if covered < start {
            let src = p.rows(&matrix, row.clone(), limit.clone(), Span::whole(0usize));
            body.push(Stmt::Load {
                dst: tiles.q,
                cols: covered..start,
                src,
            });
        }
        // A part also fills what is between it and the next, with the zeros of columns that are not there.
        let next = region.queries.get(i + 1).map_or(width, |next| next.columns.start);
        let span = Span {
            start: 0.into(),
            step: start,
            limit: (end - start).into(),
        };
        let src = p.rows(&matrix, row.clone(), limit.clone(), span);
        body.push(Stmt::Load {
            dst: tiles.q,
            cols: start..next,
            src,
        });
        covered = next;
    }
    Ok(())
}

/// This split's part of a buffer [Z, B, T, H, ..], as rows.
fn split_view(p: &mut ProgramBuilder, placed: &Placed, row: Expr, limit: Expr, width: usize) -> View {
    let strides = &placed.strides;
    let outer = [(block_z(), strides[0].clone()), (block_y(), strides[1].clone())];
    let (row_stride, col_stride) = match strides.get(4) {
        Some(col) => (strides[3].clone(), col.clone()),
        None => (strides[3].clone(), Size::one()),
    };
    let matrix = p.matrix(placed, Access::Write, &outer, &row_stride, &col_stride);
    p.rows(&matrix, row, limit, Span::whole(width))
}

fn lse_view(p: &mut ProgramBuilder, region: &AttentionRegion, row: Expr, limit: Expr) -> View {
    let placed = Placed::contiguous(region.lse, &p.plan.buffer(region.lse).shape);
    split_view(p, &placed, row, limit, 1)
}

fn partial_view(p: &mut ProgramBuilder, region: &AttentionRegion, row: Expr, limit: Expr) -> View {
    let placed = Placed::contiguous(region.partial, &p.plan.buffer(region.partial).shape);
    split_view(p, &placed, row, limit, region.values.len())
}

/// This sequence's part of the result \[B, T, H, values\] as rows, where attention may write it.
fn result_view(
    p: &mut ProgramBuilder,
    region: &AttentionRegion,
    row: Expr,
    limit: Expr,
) -> Result<Option<View>, BuildError> {
    let Some(result) = region.result else {
        return Ok(None);
    };
    let placed = p.view(result)?;
    check_result(p, placed)?;
    let strides = &placed.strides;
    let outer = [(block_y(), strides[0].clone())];
    let matrix = p.matrix(placed, Access::Write, &outer, &strides[2], &strides[3]);
    Ok(Some(p.rows(&matrix, row, limit, Span::whole(region.values.len()))))
}

fn doc(p: &ProgramBuilder, region: &AttentionRegion, widths: &Widths, cache: &Placed, pages: &Pages) -> Vec<String> {
    let (heads, d_latent, dtype) = (region.n_heads, region.values.len(), p.dtype(cache));
    let d_rope = widths.row - d_latent.min(widths.row);
    let page = pages.page_size;
    vec![
        format!(
            "attention over the paged latent cache: {heads} heads, d_latent {d_latent}, d_rope {d_rope}, {dtype}, \
             page {page}"
        ),
        format!(
            "rows are tokens × heads; scale {:?}; f32 partials, natural log-sum-exp",
            region.scale as f32
        ),
    ]
}
