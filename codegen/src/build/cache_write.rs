//! The new tokens' latents and rope keys into their rows of the paged cache, normed and rotated on the way where the region
//! says so; norms of other rows of the same tokens have blocks of their own.

use super::error::BuildError;
use super::new_rows::{NewRows, TokenRows, width};
use super::program::{ProgramBuilder, block_x, block_y, block_z, blocks};
use crate::tile::{Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::size::Size;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let args = p.node(value).args.clone();
    let ([_, parts @ .., table, q_len, kv_len], true) = (args.as_slice(), args.len() >= 5) else {
        return Err(p.unsupported("arguments", args.len().to_string(), "5 or 6"));
    };
    let cache = p.view(value)?;
    let (table, q_len, kv_len) = (p.view(*table)?, p.view(*q_len)?, p.view(*kv_len)?);
    let block_m = p.schedule.block_m;
    let latent = &p.plan.graph.ty(parts[0]).shape;
    let [batch, tokens] = [0, 1].map(|axis| latent.get(axis).copied().unwrap_or(1.into()));
    let tokens = Size::one().times(tokens);
    let nodes = p.region.nodes.iter().copied();
    let others: Vec<ValueId> = nodes.filter(|node| *node != value && !parts.contains(node)).collect();
    let grid = [
        blocks(&mut p, &tokens, block_m),
        p.extent(&Size::one().times(batch)),
        (1 + others.len()).into(),
    ];

    let mut body = Vec::new();
    let b = block_y();
    let first = block_x() * block_m;
    // What is read from them is of every token, new or not.
    let limit = p.extent(&tokens);
    let every = TokenRows {
        b: b.clone(),
        first: first.clone(),
        limit,
    };
    for (z, &other) in others.iter().enumerate() {
        let mut alone = Vec::new();
        every.beside(&mut p, &mut alone, other)?;
        alone.push(Stmt::Return);
        body.push(Stmt::If {
            cond: block_z().equals(1 + z),
            body: alone,
        });
    }
    let (kv_value, q_value) = (p.load_int(kv_len, b.clone()), p.load_int(q_len, b.clone()));
    let kv = p.bind(&mut body, "kv", kv_value);
    let q = p.bind(&mut body, "q", q_value);
    body.push(Stmt::If {
        cond: q.clone().le(first.clone()),
        body: vec![Stmt::Return],
    });
    let pages = p.pages(cache, table, &b)?;
    let token = kv.clone() - q.clone() + first.clone();
    let rows = NewRows {
        rows: TokenRows { b, first, limit: q },
        token,
        kv,
        cache,
        pages,
    };
    let mut column = 0;
    for &part in parts {
        rows.part(&mut p, &mut body, part, column)?;
        column += width(&p, part)?;
    }
    let doc = format!(
        "new rows of {column} into pages of {}, {}",
        rows.pages.page_size,
        p.dtype(cache)
    );
    Ok(p.finish(vec![doc], grid, body))
}
