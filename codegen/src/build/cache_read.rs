//! The cached rows of each sequence, gathered; zeros from kv_len on.

use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, block_z, blocks};
use crate::tile::{Access, Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::size::Size;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let [cache, table, kv_len] = p.args(value)?;
    let (cache, table, kv_len, out) = (p.view(cache)?, p.view(table)?, p.view(kv_len)?, p.view(value)?);
    let sizes: Vec<Size> = out.shape.iter().map(|&dim| Size::one().times(dim)).collect();
    let [batch, tokens, width] = sizes.as_slice() else {
        return Err(p.unsupported("dimensions of the cached rows", out.shape.len().to_string(), "3"));
    };
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let rows = p.fragment("rows", block_m, block_n);
    let grid = [
        blocks(&mut p, tokens, block_m),
        p.extent(batch),
        blocks(&mut p, width, block_n),
    ];

    let mut body = Vec::new();
    let b = block_y();
    let kv_value = p.load_int(kv_len, b.clone());
    let kv = p.bind(&mut body, "kv", kv_value);
    let first = block_x() * block_m;
    let (tokens, width) = (p.extent(tokens), p.extent(width));
    let pages = p.pages(cache, table, &b)?;
    let span = || Span::block(block_z(), block_n, width.clone());
    let src = p.paged(cache, Access::Read, &pages, [first.clone(), kv], span());
    body.push(Stmt::Load {
        dst: rows,
        cols: 0..block_n,
        src,
    });
    let matrix = p.matrix(
        out,
        Access::Write,
        &[(b, out.strides[0].clone())],
        &out.strides[1],
        &out.strides[2],
    );
    let dst = p.rows(&matrix, first, tokens, span());
    body.push(Stmt::Store {
        dst,
        src: rows,
        cols: 0..block_n,
    });
    let doc = format!("rows gathered from pages of {}, {}", pages.page_size, p.dtype(cache));
    Ok(p.finish(vec![doc], grid, body))
}
