//! Causal attention over keys and values that each head has its own of: the unabsorbed form, for many new tokens.
//!
//! A block has the new tokens `row_start..` of one head of one sequence. It walks the keys that its last token sees, so that
//! the upper triangle of the scores is never computed. A tile of keys is put together from each head's own and from the
//! columns of the cached rows that the heads share; softmax runs online ([`super::online_softmax`]).

use super::cached_rows::CachedRows;
use super::error::BuildError;
use super::online_softmax::{KeyTile, OnlineSoftmax};
use super::program::{ProgramBuilder, Span, block_x, block_y, block_z};
use crate::tile::{self, Access, Expr, Stmt, TileId, TileProgram};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::plan::{Keys, PrefillRegion, ScoreTerm, View};
use mlafuse_ir::size::Size;
use std::ops::Range;

/// Columns that every copy of 16 bytes divides, for every element type.
const CHUNK: usize = 8;

/// Where the terms of the scores lie side by side, in queries and keys alike.
struct Parts {
    /// The tile's columns of each term, the padding after it included.
    columns: Vec<Range<usize>>,
    /// Columns of the tile: whole steps of a tensor core.
    width: usize,
}

struct Tiles {
    q: TileId,
    k: TileId,
    v: TileId,
    /// Columns of `v` that are summed: whole fragments of the warps that share a row.
    value_width: usize,
    softmax: OnlineSoftmax,
}

/// The block's place.
struct At {
    row: Expr,
    q_len: Expr,
    kv_len: Expr,
}

pub(super) fn build(mut p: ProgramBuilder, region: &PrefillRegion) -> Result<TileProgram, BuildError> {
    let (out, values) = (p.view(region.output)?, p.view(region.values)?);
    let lengths = [p.view(region.q_len)?, p.view(region.kv_len)?];
    let [batch, tokens, heads, _] = sizes(&p, out)?;
    let columns = columns(&p, values)?;
    let parts = parts(&p, region)?;
    let tiles = declare(&mut p, &parts, values, columns);
    let softmax = &tiles.softmax;
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let row_blocks = p.row_blocks::<1>(&[], &tokens);
    let grid = [row_blocks.clone(), p.extent(&heads), p.extent(&batch)];

    let mut body = Vec::new();
    // The last tokens see the most keys: their blocks begin first.
    let row = p.bind(&mut body, "row_start", (row_blocks - 1 - block_x()) * block_m);
    let [q_value, kv_value] = lengths.map(|lengths| p.load_int(lengths, block_z()));
    let q_len = p.bind(&mut body, "q", q_value);
    let kv_len = p.bind(&mut body, "kv", kv_value);
    let at = At { row, q_len, kv_len };
    let store = store(&mut p, out, &at, &tokens, softmax.out, columns);
    let zeros = Stmt::Fill {
        dst: softmax.out,
        value: 0.0,
    };
    body.push(Stmt::If {
        cond: at.q_len.clone().le(at.row.clone()),
        body: vec![zeros, store.clone(), Stmt::Return],
    });
    for (term, cols) in region.terms.iter().zip(&parts.columns) {
        let rows = [at.row.clone(), at.q_len.clone()];
        body.push(load_head(&mut p, term.query, tiles.q, cols, rows)?);
    }
    // Token t sees the keys before kv_len - q_len + t + 1; tokens that are not there see none.
    let token = at.row.clone() + Expr::Row;
    let visible = (at.kv_len.clone() - at.q_len.clone() + token.clone() + 1).to_float();
    body.extend(softmax.begin(token.lt(at.q_len.clone()).select(visible, 0.0f32)));

    let last = (at.row.clone() + block_m).min(at.q_len.clone());
    let seen = p.bind(&mut body, "seen", (at.kv_len.clone() - at.q_len.clone() + last).max(0));
    let tile = p.var("tile");
    let step = step(&mut p, region, &parts, &tiles, [Expr::from(tile) * block_n, at.kv_len])?;
    body.push(Stmt::For {
        var: tile,
        start: 0.into(),
        end: seen.ceil_div(block_n),
        pipelined: true,
        body: step,
    });
    body.extend(softmax.finish());
    body.extend([softmax.divide(), store]);
    let doc = doc(&p, region, &heads, columns)?;
    Ok(p.finish(doc, grid, body))
}

fn declare(p: &mut ProgramBuilder, parts: &Parts, values: &View, columns: usize) -> Tiles {
    let (block_m, block_n, dtype) = (p.schedule.block_m, p.schedule.block_n, p.dtype(values));
    let value_width = columns.next_multiple_of(8 * p.schedule.warps_n);
    Tiles {
        q: p.shared("q_s", dtype, block_m, parts.width),
        k: p.shared("k_s", dtype, block_n, parts.width),
        v: p.shared("v_s", dtype, block_n, value_width.next_multiple_of(16)),
        value_width,
        softmax: OnlineSoftmax::declare(p, dtype, value_width),
    }
}

/// One tile of keys and their values: tokens `first..` up to `limit`.
fn step(
    p: &mut ProgramBuilder,
    region: &PrefillRegion,
    parts: &Parts,
    tiles: &Tiles,
    [first, limit]: [Expr; 2],
) -> Result<Vec<Stmt>, BuildError> {
    let rows = || [first.clone(), limit.clone()];
    let mut step = Vec::new();
    for (term, cols) in region.terms.iter().zip(&parts.columns) {
        step.push(match &term.keys {
            Keys::PerHead(keys) => load_head(p, *keys, tiles.k, cols, rows())?,
            Keys::Cached {
                cache,
                block_table,
                columns,
            } => {
                let shared = CachedRows::new(p, *cache, *block_table, columns)?;
                let src = shared.rows(p, &block_z(), rows(), Span::whole(columns.len()))?;
                Stmt::Load {
                    dst: tiles.k,
                    cols: cols.clone(),
                    src,
                }
            }
        });
    }
    let v_cols = 0..p.cols(tiles.v);
    step.push(load_head(p, region.values, tiles.v, &v_cols, rows())?);
    let keys = KeyTile {
        queries: tiles.q,
        keys: tiles.k,
        key_cols: parts.width,
        values: tiles.v,
        value_cols: 0..tiles.value_width,
        first,
    };
    step.extend(tiles.softmax.step(keys, region.scale));
    Ok(step)
}

/// The dimensions of a value per head: \[B, tokens, H, columns\].
fn sizes(p: &ProgramBuilder, view: &View) -> Result<[Size; 4], BuildError> {
    let sizes: Vec<Size> = view.shape.iter().map(|&dim| Size::one().times(dim)).collect();
    let found = sizes.len().to_string();
    sizes
        .try_into()
        .map_err(|_| p.unsupported("dimensions of a value per head", found, "4: B, tokens, H, columns"))
}

/// The last dimension of a value per head.
fn columns(p: &ProgramBuilder, view: &View) -> Result<usize, BuildError> {
    let [_, _, _, columns] = sizes(p, view)?;
    columns
        .as_constant()
        .ok_or_else(|| p.unsupported("columns of a value per head", columns.to_string(), "a constant"))
}

fn parts(p: &ProgramBuilder, region: &PrefillRegion) -> Result<Parts, BuildError> {
    let mut starts = vec![0];
    for term in &region.terms {
        let end = starts.last().copied().unwrap_or(0) + columns(p, p.view(term.query)?)?;
        starts.push(end.next_multiple_of(CHUNK));
    }
    let end = starts
        .last_mut()
        .ok_or_else(|| p.unsupported("terms of the scores", "0".into(), "at least 1"))?;
    *end = end.next_multiple_of(16);
    let width = *end;
    let columns = starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    Ok(Parts { columns, width })
}

/// The block's head of a value \[B, tokens, H, columns\], as a matrix of `rows` tokens.
fn head(p: &mut ProgramBuilder, view: &View, access: Access, [start, limit]: [Expr; 2], cols: usize) -> tile::View {
    let strides = &view.strides;
    let outer = [(block_z(), strides[0].clone()), (block_y(), strides[2].clone())];
    let matrix = p.matrix(view, access, &outer, &strides[1], &strides[3]);
    p.rows(&matrix, start, limit, Span::whole(cols))
}

/// Loads rows of the block's head; columns of the tile that the value does not have become zeros.
fn load_head(
    p: &mut ProgramBuilder,
    value: ValueId,
    dst: TileId,
    cols: &Range<usize>,
    rows: [Expr; 2],
) -> Result<Stmt, BuildError> {
    let view = p.view(value)?;
    let width = columns(p, view)?;
    let src = head(p, view, Access::Read, rows, width);
    Ok(Stmt::Load {
        dst,
        cols: cols.clone(),
        src,
    })
}

fn store(p: &mut ProgramBuilder, out: &View, at: &At, tokens: &Size, src: TileId, columns: usize) -> Stmt {
    let limit = p.extent(tokens);
    let dst = head(p, out, Access::Write, [at.row.clone(), limit], columns);
    Stmt::Store {
        dst,
        src,
        cols: 0..columns,
    }
}

fn doc(p: &ProgramBuilder, region: &PrefillRegion, heads: &Size, d_v: usize) -> Result<Vec<String>, BuildError> {
    let term = |term: &ScoreTerm| -> Result<String, BuildError> {
        let width = columns(p, p.view(term.query)?)?;
        Ok(match term.keys {
            Keys::PerHead(_) => format!("{width} of a head's own"),
            Keys::Cached { .. } => format!("{width} cached and shared"),
        })
    };
    let terms: Vec<String> = region.terms.iter().map(term).collect::<Result<_, _>>()?;
    let dtype = p.dtype(p.view(region.values)?);
    Ok(vec![
        format!("causal attention, a head at a time: {heads} heads, d_v {d_v}, {dtype}"),
        format!(
            "columns of a key: {}; scale {:?}",
            terms.join(" + "),
            region.scale as f32
        ),
    ])
}
