//! Gemm: both layouts, odd bounds, cut columns, rows that are not there.

use mlafuse_codegen::tile::{Axis, BLayout, Expr, Rows, Stmt, View};
use mlafuse_cpu::{Level, Options};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;
use proptest::prelude::*;

use crate::build::*;

/// out \[m, n\] = a \[m, k\] · b over a grid of 16 × 32 tiles and a loop over 32 of k; b is \[n, k\] or \[k, n\]. Of f32 the
/// tiles are 40 × 128, and the loop is over 64 of k.
fn tiled(dtype: DType, n: usize, k: usize, layout: BLayout) -> Build {
    let mut p = Build::new();
    let (a, b, out) = (p.input("a", dtype), p.input("b", dtype), p.output("out", DType::F32));
    let m = p.scalar(Symbol::T);
    let (tm, tn, tk) = match dtype {
        DType::F32 => (40, 128, 64),
        _ => (16, 32, 32),
    };
    p.0.grid = [n.div_ceil(tn).into(), Expr::from(m).ceil_div(tm), 1.into()];
    let a_s = p.shared(dtype, tm, tk);
    let (b_rows, b_cols) = if layout == BLayout::Nk { (tn, tk) } else { (tk, tn) };
    let b_s = p.shared(dtype, b_rows, b_cols);
    let acc = p.fragment(tm, tn);
    let step = p.var("step");
    let at = |i: Axis, tile: usize| Expr::Block(i) * tile;
    let rows = |start: Expr, stride: usize, limit: Expr| Rows::Strided {
        start,
        stride: stride.into(),
        limit,
    };
    let k0 = Expr::Var(step) * tk;
    let a_view = View {
        rows: rows(at(Axis::Y, tm), k, m.into()),
        col_start: k0.clone(),
        ..matrix(a, m, k)
    };
    let b_view = match layout {
        BLayout::Nk => View {
            rows: rows(at(Axis::X, tn), k, n.into()),
            col_start: k0,
            ..matrix(b, n, k)
        },
        BLayout::Kn => View {
            rows: rows(k0, n, k.into()),
            col_start: at(Axis::X, tn),
            ..matrix(b, k, n)
        },
    };
    p.fill(acc, 0.0);
    let load = |dst, cols, src| Stmt::Load { dst, cols, src };
    p.push(Stmt::For {
        var: step,
        start: 0.into(),
        end: k.div_ceil(tk).into(),
        pipelined: true,
        body: vec![
            load(a_s, 0..tk, a_view),
            load(b_s, 0..b_cols, b_view),
            Stmt::Gemm {
                acc,
                a: a_s,
                a_start: 0.into(),
                b: b_s,
                layout,
                b_cols: 0..b_cols,
            },
        ],
    });
    let out_view = View {
        rows: rows(at(Axis::Y, tm), n, m.into()),
        col_start: at(Axis::X, tn),
        ..matrix(out, m, n)
    };
    p.store(out_view, acc);
    p
}

fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], layout: BLayout) -> Vec<f64> {
    let b_at = |j: usize, p: usize| {
        if layout == BLayout::Nk {
            b[j * k + p]
        } else {
            b[p * n + j]
        }
    };
    let element = |i: usize, j: usize| {
        (0..k)
            .map(|p| f64::from(a[i * k + p]) * f64::from(b_at(j, p)))
            .sum::<f64>()
    };
    (0..m)
        .flat_map(|i| (0..n).map(move |j| (i, j)))
        .map(|(i, j)| element(i, j))
        .collect()
}

fn check([m, n, k]: [usize; 3], layout: BLayout) {
    let of_bf16 = [bf16_values(m * k, 1), bf16_values(n * k, 2)];
    let of_f32 = [values(m * k, 1), values(n * k, 2)];
    for (dtype, [a, b]) in [(DType::BF16, of_bf16), (DType::F32, of_f32)] {
        let bytes = if dtype == DType::F32 { f32_bytes } else { bf16_bytes };
        let buffers = [bytes(&a), bytes(&b), vec![0xff; m * n * 4]];
        let exact = product(&a, &b, [m, n, k], layout);
        for (_, out) in tiled(dtype, n, k, layout).run_all(&Dims::new().with(Symbol::T, m), &buffers) {
            assert_close(&to_f32(&out[2]), &exact, 1e-5 * (k as f64).sqrt());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn tiles_of_any_shape(m in 1usize..90, n in 1usize..80, k in 1usize..100, kn in any::<bool>()) {
        check([m, n, k], if kn { BLayout::Kn } else { BLayout::Nk });
    }
}

#[test]
fn one_row_and_one_element() {
    for layout in [BLayout::Nk, BLayout::Kn] {
        check([1, 33, 65], layout);
        check([1, 1, 1], layout);
    }
}

#[test]
fn no_rows_at_all() {
    let out = tiled(DType::BF16, 8, 8, BLayout::Nk)
        .run(
            &Dims::new().with(Symbol::T, 0),
            &[vec![], bf16_bytes(&[0.0; 64]), vec![7; 4]],
        )
        .unwrap();
    assert_eq!(out[2], [7; 4]);
}

/// Tiles and packed operands are kept from block to block; the next launch has other matrices at the same places.
#[test]
fn nothing_is_kept_from_launch_to_launch() {
    let (m, n, k) = (70, 40, 32);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (level, layout) in Level::available().flat_map(|level| [(level, BLayout::Nk), (level, BLayout::Kn)]) {
        let options = Options { level, poison: false };
        for seed in [1, 5, 9] {
            let (a, b) = (bf16_values(m * k, seed), bf16_values(n * k, seed + 1));
            for dtype in [DType::BF16, DType::F32] {
                let bytes = if dtype == DType::F32 { f32_bytes } else { bf16_bytes };
                let buffers = [bytes(&a), bytes(&b), vec![0xff; m * n * 4]];
                let program = tiled(dtype, n, k, layout);
                let dims = Dims::new().with(Symbol::T, m);
                let out = pool.install(|| program.run_with(options, &dims, &buffers)).unwrap();
                assert_close(&to_f32(&out[2]), &product(&a, &b, [m, n, k], layout), 1e-4);
            }
        }
    }
}

#[test]
fn b_cut_to_columns_in_its_middle() {
    let (m, n, k, wide, first) = (5, 20, 16, 56, 13);
    let mut p = Build::new();
    let (a, b, out) = (
        p.input("a", DType::F32),
        p.input("b", DType::F32),
        p.output("out", DType::F32),
    );
    let (a_s, b_s, acc) = (
        p.shared(DType::F32, m, k),
        p.shared(DType::F32, k, wide),
        p.fragment(m, n),
    );
    p.load(a_s, matrix(a, m, k));
    p.load(b_s, matrix(b, k, wide));
    p.fill(acc, 1.0);
    let b_cols = first..first + n;
    p.push(Stmt::Gemm {
        acc,
        a: a_s,
        a_start: 0.into(),
        b: b_s,
        layout: BLayout::Kn,
        b_cols,
    });
    p.store(matrix(out, m, n), acc);
    let (a, b) = (values(m * k, 3), values(k * wide, 4));
    let cut: Vec<f32> = (0..k).flat_map(|i| b[i * wide + first..][..n].to_vec()).collect();
    let exact: Vec<f64> = product(&a, &cut, [m, n, k], BLayout::Kn)
        .iter()
        .map(|x| x + 1.0)
        .collect();
    for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&a), f32_bytes(&b), vec![0; m * n * 4]]) {
        assert_close(&to_f32(&out[2]), &exact, 1e-5);
    }
}

/// A tile loaded in two parts, the first of which has fewer rows, and one that is staged after it was loaded with fewer.
#[test]
fn absent_rows_of_one_part_do_not_hide_another() {
    let (m, k) = (12, 32);
    let mut p = Build::new();
    let (a, b, out) = (
        p.input("a", DType::F32),
        p.input("b", DType::F32),
        p.output("out", DType::F32),
    );
    let (a_s, b_s) = (p.shared(DType::F32, m, k), p.shared(DType::F32, 16, k));
    let (acc, ones, acc2) = (p.fragment(m, 16), p.fragment(m, k), p.fragment(m, 16));
    let part = |rows: usize, col: usize| View {
        col_start: col.into(),
        ..matrix(a, rows, k)
    };
    p.push(Stmt::Load {
        dst: a_s,
        cols: 0..16,
        src: part(3, 0),
    });
    p.push(Stmt::Load {
        dst: a_s,
        cols: 16..32,
        src: part(7, 16),
    });
    p.load(b_s, matrix(b, 16, k));
    p.fill(acc, 0.0);
    p.gemm(acc, a_s, b_s, BLayout::Nk);
    p.store(matrix(out, m, 16), acc);
    p.fill(ones, 1.0);
    p.push(Stmt::Stage { dst: a_s, src: ones });
    p.fill(acc2, 0.0);
    p.gemm(acc2, a_s, b_s, BLayout::Nk);
    p.store(
        View {
            offset: (m * 16).into(),
            ..matrix(out, m, 16)
        },
        acc2,
    );
    let (a, b) = (values(m * k, 5), values(16 * k, 6));
    let mut cut = a.clone();
    cut.iter_mut().enumerate().for_each(|(i, x)| {
        let there = if i % k < 16 { 3 } else { 7 };
        *x = if i / k < there { *x } else { 0.0 };
    });
    let mut exact = product(&cut, &b, [m, 16, k], BLayout::Nk);
    exact.extend(product(&vec![1.0; m * k], &b, [m, 16, k], BLayout::Nk));
    for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&a), f32_bytes(&b), vec![0; m * 32 * 4]]) {
        assert_close(&to_f32(&out[2]), &exact, 1e-5);
    }
}

/// out = a · b piece by piece, where all of a lies in one tile.
fn resident([m, n, k]: [usize; 3], layout: BLayout, first: Expr) -> Build {
    let mut p = Build::new();
    let (a, b, out) = (
        p.input("a", DType::F32),
        p.input("b", DType::F32),
        p.output("out", DType::F32),
    );
    let piece = 16;
    let steps = k.div_ceil(piece);
    let a_s = p.shared(DType::F32, m, steps * piece);
    let (b_rows, b_width) = if layout == BLayout::Nk { (n, piece) } else { (piece, n) };
    let b_s = p.shared(DType::F32, b_rows, b_width);
    let acc = p.fragment(m, n);
    let step = p.var("step");
    p.load(a_s, matrix(a, m, k));
    p.fill(acc, 0.0);
    let start = Expr::from(step) * piece;
    let src = match layout {
        BLayout::Nk => View {
            col_start: start.clone(),
            ..matrix(b, n, k)
        },
        BLayout::Kn => View {
            rows: Rows::Strided {
                start: start.clone(),
                stride: n.into(),
                limit: k.into(),
            },
            ..matrix(b, k, n)
        },
    };
    p.push(Stmt::For {
        var: step,
        start: 0.into(),
        end: steps.into(),
        pipelined: true,
        body: vec![
            Stmt::Load {
                dst: b_s,
                cols: 0..b_width,
                src,
            },
            Stmt::Gemm {
                acc,
                a: a_s,
                a_start: start + first,
                b: b_s,
                layout,
                b_cols: 0..b_width,
            },
        ],
    });
    p.store(matrix(out, m, n), acc);
    p
}

#[test]
fn a_stays_whole_while_b_streams() {
    for (sizes, layout) in [
        ([5, 20, 70], BLayout::Nk),
        ([1, 33, 16], BLayout::Nk),
        ([7, 17, 41], BLayout::Kn),
    ] {
        let [m, n, k] = sizes;
        let (a, b) = (values(m * k, 7), values(n * k, 8));
        let exact = product(&a, &b, sizes, layout);
        let buffers = [f32_bytes(&a), f32_bytes(&b), vec![0xff; m * n * 4]];
        for (_, out) in resident(sizes, layout, 0.into()).run_all(&Dims::new(), &buffers) {
            assert_close(&to_f32(&out[2]), &exact, 1e-5);
        }
    }
}

#[test]
fn columns_that_a_does_not_have_are_refused() {
    let run = |first: i64| {
        let buffers = [vec![0; 3 * 64 * 4], vec![0; 5 * 64 * 4], vec![0; 3 * 5 * 4]];
        resident([3, 5, 64], BLayout::Nk, first.into())
            .run(&Dims::new(), &buffers)
            .map(drop)
    };
    assert_eq!(run(0), Ok(()));
    for (first, start) in [(1, 49), (-1, -1)] {
        let error = run(first).expect_err("an error").to_string();
        let expected = format!("kernel k: a gemm uses 16 columns from column {start} on of a tile of 64");
        assert_eq!(error, expected);
    }
}

/// What lies beside the columns that are multiplied, in the tile and in memory, is no number.
#[test]
fn parts_of_rows_are_multiplied_and_nothing_beside_them() {
    let (m, n, part, cols) = (3, 32, 16, 32);
    let mut p = Build::new();
    let (a, b) = (p.input("a", DType::BF16), p.input("b", DType::BF16));
    let out = p.output("out", DType::F32);
    let (a_s, b_s, acc) = (
        p.shared(DType::BF16, m, cols),
        p.shared(DType::BF16, n, cols),
        p.fragment(m, n),
    );
    p.load(a_s, matrix(a, m, cols));
    p.load(b_s, matrix(b, n, cols));
    p.fill(acc, 0.0);
    p.push(Stmt::Gemm {
        acc,
        a: a_s,
        a_start: part.into(),
        b: b_s,
        layout: BLayout::Nk,
        b_cols: part..cols,
    });
    p.store(matrix(out, m, n), acc);
    let beside = |x: Vec<f32>| -> Vec<f32> {
        let all = x.into_iter().enumerate();
        all.map(|(i, x)| if i % cols < part { f32::NAN } else { x }).collect()
    };
    let (x, y) = (bf16_values(m * cols, 3), bf16_values(n * cols, 4));
    let buffers = [
        bf16_bytes(&beside(x.clone())),
        bf16_bytes(&beside(y.clone())),
        vec![0xff; m * n * 4],
    ];
    let right = |x: &[f32]| -> Vec<f32> { x.chunks(cols).flat_map(|row| row[part..].to_vec()).collect() };
    let exact = product(&right(&x), &right(&y), [m, n, part], BLayout::Nk);
    for (_, got) in p.run_all(&Dims::new(), &buffers) {
        assert_close(&to_f32(&got[2]), &exact, 1e-5);
    }
}

/// Masked rows between others that are there are zeros, whatever lies in memory.
#[test]
fn masked_rows_are_not_multiplied() {
    let (m, n, k) = (2, 32, 32);
    let mut p = Build::new();
    let (a, b) = (p.input("a", DType::BF16), p.input("b", DType::BF16));
    let (keep, out) = (p.input("keep", DType::I32), p.output("out", DType::F32));
    let (mask, a_s) = (p.vector(n), p.shared(DType::BF16, m, k));
    let (b_s, acc) = (p.shared(DType::BF16, n, k), p.fragment(m, n));
    p.load(mask, column(keep, n));
    p.load(a_s, matrix(a, m, k));
    p.load(
        b_s,
        View {
            mask: Some(mask),
            ..matrix(b, n, k)
        },
    );
    p.fill(acc, 0.0);
    p.gemm(acc, a_s, b_s, BLayout::Nk);
    p.store(matrix(out, m, n), acc);
    let (x, mut y) = (bf16_values(m * k, 5), bf16_values(n * k, 6));
    let masked = [5, 20];
    let kept: Vec<i32> = (0..n).map(|row| i32::from(!masked.contains(&row))).collect();
    let mut exact = product(&x, &y, [m, n, k], BLayout::Nk);
    for row in masked {
        y[row * k..(row + 1) * k].fill(f32::NAN);
        (0..m).for_each(|i| exact[i * n + row] = 0.0);
    }
    let buffers = [bf16_bytes(&x), bf16_bytes(&y), i32_bytes(&kept), vec![0xff; m * n * 4]];
    for (_, got) in p.run_all(&Dims::new(), &buffers) {
        assert_close(&to_f32(&got[3]), &exact, 1e-5);
    }
}
