//! Streaming attention over a paged cache, one block a sequence: all of a kernel's statements together.

use mlafuse_codegen::tile::{Axis, BLayout, Expr, ReduceOp, Rows, Stmt, View};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

use crate::build::*;

const HEADS: usize = 5;
const D_LATENT: usize = 48;
const D_ROPE: usize = 16;
const D: usize = D_LATENT + D_ROPE;
const TOKENS: usize = 40;
const MOST: usize = 100;
const SCALE: f32 = 0.25;

fn program(page_size: usize) -> Build {
    let mut p = Build::new();
    let (q, cache) = (p.input("q", DType::BF16), p.input("cache", DType::BF16));
    let (table, kv_len) = (p.input("table", DType::I32), p.input("kv_len", DType::I32));
    let out = p.output("out", DType::F32);
    let b = p.scalar(Symbol::B);
    p.0.grid = [b.into(), 1.into(), 1.into()];
    let (len, t) = (p.var("len"), p.var("t"));
    let rows = 16;
    let (q_s, kv, prob) = (
        p.shared(DType::BF16, rows, D),
        p.shared(DType::BF16, TOKENS, D),
        p.shared(DType::BF16, rows, TOKENS),
    );
    let (s, o) = (p.fragment(rows, TOKENS), p.fragment(rows, D_LATENT));
    let (m, old, alpha, part, l) = (
        p.vector(rows),
        p.vector(rows),
        p.vector(rows),
        p.partial(rows),
        p.vector(rows),
    );
    let block = || Expr::Block(Axis::X);
    p.push(Stmt::Let {
        var: len,
        value: Expr::Load(kv_len, Box::new(block())),
    });
    p.load(
        q_s,
        View {
            offset: block() * HEADS * D,
            align: 8,
            ..matrix(q, HEADS, D)
        },
    );
    p.fill(o, 0.0);
    p.fill(m, -1e30);
    p.fill(part, 0.0);
    let tokens = View {
        rows: Rows::Paged {
            start: Expr::Var(t) * TOKENS,
            limit: len.into(),
            table,
            table_offset: block() * MOST.div_ceil(page_size),
            page_size,
            page_stride: (page_size * D).into(),
            row_stride: D.into(),
        },
        align: 8,
        ..matrix(cache, 0, D)
    };
    let visible = (Expr::Var(t) * TOKENS + Expr::Col).lt(len);
    let scaled = Expr::Tile(s) * (SCALE * std::f32::consts::LOG2_E);
    let map = |dst, value| Stmt::Map { dst, value };
    let body = vec![
        Stmt::Load {
            dst: kv,
            cols: 0..D,
            src: tokens,
        },
        Stmt::Fill { dst: s, value: 0.0 },
        Stmt::Gemm {
            acc: s,
            a: q_s,
            a_start: 0.into(),
            b: kv,
            layout: BLayout::Nk,
            b_cols: 0..D,
        },
        map(s, visible.select(scaled, f32::NEG_INFINITY)),
        map(old, m.into()),
        Stmt::Reduce {
            op: ReduceOp::Max,
            dst: m,
            src: s,
        },
        map(alpha, (Expr::Tile(old) - m).exp2()),
        map(s, (Expr::Tile(s) - m).exp2()),
        map(part, Expr::Tile(part) * alpha),
        map(o, Expr::Tile(o) * alpha),
        Stmt::Reduce {
            op: ReduceOp::Sum,
            dst: part,
            src: s,
        },
        Stmt::Stage { dst: prob, src: s },
        Stmt::Gemm {
            acc: o,
            a: prob,
            a_start: 0.into(),
            b: kv,
            layout: BLayout::Kn,
            b_cols: 0..D_LATENT,
        },
    ];
    let end = Expr::Var(len).ceil_div(TOKENS);
    p.push(Stmt::For {
        var: t,
        start: 0.into(),
        end,
        pipelined: true,
        body,
    });
    p.push(Stmt::Finish { dst: l, src: part });
    p.map(o, Expr::Tile(o) / Expr::Tile(l).max(1e-30f32));
    p.store(
        View {
            offset: block() * HEADS * D_LATENT,
            ..matrix(out, HEADS, D_LATENT)
        },
        o,
    );
    p
}

fn reference(q: &[f32], rows: &[&[f32]]) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let weights: Vec<f64> = rows.iter().map(|row| (dot(q, row) * f64::from(SCALE)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let element = |j: usize| -> f64 {
        let weighted = rows.iter().zip(&weights).map(|(row, w)| f64::from(row[j]) * w);
        if rows.is_empty() {
            0.0
        } else {
            weighted.sum::<f64>() / sum
        }
    };
    (0..D_LATENT).map(element).collect()
}

/// In pages that are smaller than a group of rows that may be read where it lies, as large, and no multiple of one.
#[test]
fn paged_attention_is_softmax_attention() {
    [8, 16, 32, 56].into_iter().for_each(check);
}

fn check(page_size: usize) {
    let lens = [0, 1, 7, 8, 9, 16, 17, 41, 48, 64, 79, MOST];
    let (pages, entries) = (300, MOST.div_ceil(page_size));
    let q = bf16_values(lens.len() * HEADS * D, 21);
    let mut cache = bf16_values(pages * page_size * D, 22);
    // Shuffled pages; entries that no token needs are garbage, rows that no sequence has are NaN.
    let mut table = vec![i32::MIN; lens.len() * entries];
    let mut used = vec![false; pages * page_size];
    for (b, &len) in lens.iter().enumerate() {
        for token in 0..len {
            let page = (b * 13 + token / page_size) * 37 % pages;
            table[b * entries + token / page_size] = page as i32;
            used[page * page_size + token % page_size] = true;
        }
    }
    cache
        .chunks_mut(D)
        .zip(&used)
        .filter(|(_, used)| !**used)
        .for_each(|(row, _)| row.fill(f32::NAN));
    let row = |b: usize, token: usize| {
        let page = table[b * entries + token / page_size] as usize;
        &cache[(page * page_size + token % page_size) * D..][..D]
    };
    let exact: Vec<f64> = lens
        .iter()
        .enumerate()
        .flat_map(|(b, &len)| {
            let rows: Vec<&[f32]> = (0..len).map(|token| row(b, token)).collect();
            let of_head = |h: usize| reference(&q[(b * HEADS + h) * D..][..D], &rows);
            (0..HEADS).flat_map(of_head).collect::<Vec<f64>>()
        })
        .collect();
    let kv_len: Vec<i32> = lens.iter().map(|&n| n as i32).collect();
    let buffers = [
        bf16_bytes(&q),
        bf16_bytes(&cache),
        i32_bytes(&table),
        i32_bytes(&kv_len),
        vec![0xff; lens.len() * HEADS * D_LATENT * 4],
    ];
    for (_, out) in program(page_size).run_all(&Dims::new().with(Symbol::B, lens.len()), &buffers) {
        // The probabilities are rounded to bf16.
        assert_close(&to_f32(&out[4]), &exact, 6e-3);
    }
}
