//! The new tokens' latents and rope keys into their rows of the paged cache.

use super::error::BuildError;
use super::program::{ProgramBuilder, Span, block_x, block_y, blocks};
use crate::tile::{Access, Expr, Stmt, TileProgram};
use mlafuse_ir::graph::ValueId;
use mlafuse_ir::size::Size;

pub(super) fn build(mut p: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let args = p.node(value).args.clone();
    let ([_, parts @ .., table, q_len, kv_len], true) = (args.as_slice(), args.len() >= 5) else {
        return Err(p.unsupported("arguments", args.len().to_string(), "5 or 6"));
    };
    let cache = p.view(value)?;
    let (table, q_len, kv_len) = (p.view(*table)?, p.view(*q_len)?, p.view(*kv_len)?);
    let (block_m, block_n) = (p.schedule.block_m, p.schedule.block_n);
    let row = p.fragment("row_f", block_m, block_n);
    let latent = p.view(parts[0])?;
    let [batch, tokens] = [0, 1].map(|axis| latent.shape.get(axis).copied().unwrap_or(1.into()));
    let tokens = Size::one().times(tokens);
    let grid = [
        blocks(&mut p, &tokens, block_m),
        p.extent(&Size::one().times(batch)),
        1.into(),
    ];

    let mut body = Vec::new();
    let b = block_y();
    let (kv_value, q_value) = (p.load_int(kv_len, b.clone()), p.load_int(q_len, b.clone()));
    let kv = p.bind(&mut body, "kv", kv_value);
    let q = p.bind(&mut body, "q", q_value);
    let first = block_x() * block_m;
    body.push(Stmt::If {
        cond: q.clone().le(first.clone()),
        body: vec![Stmt::Return],
    });
    let pages = p.pages(cache, table, &b)?;
    let mut column = 0;
    for &part in parts {
        let view = p.view(part)?;
        let &[batch_stride, token_stride, col_stride] = &view.strides.iter().collect::<Vec<_>>()[..] else {
            return Err(p.unsupported("dimensions of the new rows", view.strides.len().to_string(), "3"));
        };
        let width = view
            .shape
            .last()
            .and_then(|dim| Size::one().times(*dim).as_constant())
            .unwrap_or(0);
        let matrix = p.matrix(
            view,
            Access::Read,
            &[(b.clone(), batch_stride.clone())],
            token_stride,
            col_stride,
        );
        let var = p.var("columns");
        let src = p.rows(
            &matrix,
            first.clone(),
            q.clone(),
            Span::block(var, block_n, width.into()),
        );
        let span = Span {
            start: Expr::from(var) * block_n + column,
            step: gcd(block_n, column),
            limit: (column + width).into(),
        };
        let token = kv.clone() - q.clone() + first.clone();
        let dst = p.paged(cache, Access::Write, &pages, [token, kv.clone()], span);
        let step = vec![
            Stmt::Load {
                dst: row,
                cols: 0..block_n,
                src,
            },
            Stmt::Store {
                dst,
                src: row,
                cols: 0..block_n,
            },
        ];
        let end = width.div_ceil(block_n).into();
        body.push(Stmt::For {
            var,
            start: 0.into(),
            end,
            pipelined: false,
            body: step,
        });
        column += width;
    }
    let doc = format!(
        "new rows of {column} into pages of {}, {}",
        pages.page_size,
        p.dtype(cache)
    );
    Ok(p.finish(vec![doc], grid, body))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
