//! Rows that are weighted: added where they lie, scaled on their way to memory; sums that begin as zeros.

use mlafuse_codegen::tile::{BLayout, Expr, Rows, Stmt, View};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;
use proptest::prelude::*;

use crate::build::*;

/// y = f · Σ w\[z\] · x\[z\] over T parts of `rows` × `cols`, masked by their weights; `z`, if anything, is the last part.
fn combine(rows: usize, cols: usize, keep: bool) -> Build {
    let mut p = Build::new();
    let [x, w, f] = ["x", "w", "f"].map(|name| p.input(name, DType::F32));
    let [y, z] = ["y", "z"].map(|name| p.output(name, DType::F32));
    let parts = p.scalar(Symbol::T);
    let [part, sum] = [0; 2].map(|_| p.fragment(rows, cols));
    let [weight, total, factor] = [0; 3].map(|_| p.vector(rows));
    let at = p.var("at");
    let from = |view: View, size: usize| View {
        offset: Expr::from(at) * size,
        ..view
    };
    let load = |dst, cols, src| Stmt::Load { dst, cols, src };
    let map = |dst, value| Stmt::Map { dst, value };
    p.fill(sum, 0.0);
    p.fill(total, 0.0);
    let mut body = vec![
        load(weight, 0..1, from(column(w, rows), rows)),
        load(
            part,
            0..cols,
            View {
                mask: Some(weight),
                ..from(matrix(x, rows, cols), rows * cols)
            },
        ),
        map(total, Expr::from(total) + weight),
        map(sum, Expr::from(sum) + Expr::from(part) * weight),
    ];
    if keep {
        let (dst, src, cols) = (matrix(z, rows, cols), part, 0..cols);
        body.push(Stmt::Store { dst, src, cols });
    }
    p.push(Stmt::For {
        var: at,
        start: 0.into(),
        end: parts.into(),
        pipelined: false,
        body,
    });
    p.load(factor, column(f, rows));
    p.map(sum, Expr::from(sum) * factor);
    p.map(total, Expr::from(total) + 1.0f32);
    p.store(matrix(y, rows, cols), sum);
    p
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn weighted_rows_are_added(rows in 1usize..=20, cols in 1usize..=300, parts in 0usize..=4, keep: bool, seed: u64) {
        // A part without weight was never written; a weight that is no number leaves its row none.
        let mut w: Vec<f32> = values(parts * rows, seed).into_iter().map(|w| w.max(0.0)).collect();
        if seed % 3 == 0 && let Some(w) = w.last_mut() {
            *w = f32::NAN;
        }
        let mut x = values(parts * rows * cols, seed ^ 1);
        for (row, w) in x.chunks_mut(cols).zip(&w) {
            if *w == 0.0 {
                row.fill(f32::NAN);
            }
        }
        let f: Vec<f32> = values(rows, seed ^ 2).into_iter().map(|f| if f < 0.0 { 1.0 } else { f }).collect();
        let mut expected = vec![0.0f32; rows * cols];
        for (at, x) in x.iter().enumerate() {
            let weight = w[at / cols];
            let x = if weight > 0.0 { *x } else { 0.0 };
            expected[at % (rows * cols)] += x * weight;
        }
        expected.iter_mut().enumerate().for_each(|(at, y)| *y *= f[at / cols]);
        let last = |at: usize| match (parts, w.get((parts.max(1) - 1) * rows + at / cols)) {
            (1.., Some(w)) if *w > 0.0 => x[(parts - 1) * rows * cols + at],
            _ => 0.0,
        };
        let empty = vec![0; rows * cols * 4];
        let buffers = [f32_bytes(&x), f32_bytes(&w), f32_bytes(&f), empty.clone(), empty];
        let dims = Dims::new().with(Symbol::T, parts);
        let same = |a: f32, b: f32| a == b || a.is_nan() && b.is_nan();
        for (level, out) in combine(rows, cols, keep).run_all(&dims, &buffers) {
            for (at, y) in to_f32(&out[3]).into_iter().enumerate() {
                prop_assert!(same(y, expected[at]), "{level}: element {at} is {y}, not {}", expected[at]);
            }
            for (at, z) in to_f32(&out[4]).into_iter().enumerate().filter(|_| keep) {
                prop_assert!(same(z, last(at)), "{level}: element {at} of the part is {z}");
            }
        }
    }
}

/// y = y · f + a · b, T times, a \[m, 32\], b \[32, n\]; y is filled with zeros and then with `begin`, if that is another value.
fn scaled_sums(m: usize, n: usize, begin: f32) -> Build {
    let mut p = Build::new();
    let [a, b] = ["a", "b"].map(|name| p.input(name, DType::BF16));
    let f = p.input("f", DType::F32);
    let y = p.output("y", DType::F32);
    let steps = p.scalar(Symbol::T);
    let (a_s, b_s) = (p.shared(DType::BF16, m, 32), p.shared(DType::BF16, 32, n));
    let (sum, factor, step) = (p.fragment(m, n), p.vector(m), p.var("step"));
    p.load(factor, column(f, m));
    p.load(a_s, matrix(a, m, 32));
    p.fill(sum, 0.0);
    if begin != 0.0 {
        p.fill(sum, begin);
    }
    let gemm = Stmt::Gemm {
        acc: sum,
        a: a_s,
        a_start: 0.into(),
        b: b_s,
        layout: BLayout::Kn,
        b_cols: 0..n,
    };
    let load = Stmt::Load {
        dst: b_s,
        cols: 0..n,
        src: matrix(b, 32, n),
    };
    let scale = Stmt::Map {
        dst: sum,
        value: Expr::from(sum) * factor,
    };
    p.push(Stmt::For {
        var: step,
        start: 0.into(),
        end: steps.into(),
        pipelined: false,
        body: vec![load, scale, gemm],
    });
    p.store(matrix(y, m, n), sum);
    p
}

#[test]
fn sums_begin_as_zeros_whatever_comes_first() {
    let (m, n) = (48, 64);
    let (a, b) = (bf16_values(m * 32, 1), bf16_values(32 * n, 2));
    let mut f = values(m, 3);
    f[7] = f32::INFINITY;
    let product = |at: usize| -> f64 {
        let terms = (0..32).map(|k| f64::from(a[at / n * 32 + k]) * f64::from(b[k * n + at % n]));
        terms.sum()
    };
    for (steps, begin) in (0..3).flat_map(|steps| [(steps, 0.0), (steps, 2.5)]) {
        // Zero times infinity is no number.
        let step = |at: usize, y: f64| y * f64::from(f[at / n]) + product(at);
        let expected = |at: usize| (0..steps).fold(f64::from(begin), |y, _| step(at, y));
        let buffers = [bf16_bytes(&a), bf16_bytes(&b), f32_bytes(&f), vec![1; m * n * 4]];
        let dims = Dims::new().with(Symbol::T, steps);
        for (level, out) in scaled_sums(m, n, begin).run_all(&dims, &buffers) {
            for (at, y) in to_f32(&out[3]).into_iter().enumerate() {
                let (y, expected) = (f64::from(y), expected(at));
                let close = y == expected || (y - expected).abs() <= 1e-4 * (1.0 + expected.abs());
                assert!(
                    close || y.is_nan() && expected.is_nan(),
                    "{level}, {steps} steps: {at} is {y}"
                );
            }
        }
    }
}

#[test]
fn vectors_are_loaded_from_rows_apart() {
    // Element i from row i of two columns, the second of them first; there are 3 of 5 rows.
    let mut p = Build::new();
    let (x, y) = (p.input("x", DType::BF16), p.output("y", DType::F32));
    let vector = p.vector(5);
    let rows = Rows::Strided {
        start: 1.into(),
        stride: 2.into(),
        limit: 4.into(),
    };
    for offset in [1usize, 0] {
        p.load(
            vector,
            View {
                offset: offset.into(),
                rows: rows.clone(),
                ..column(x, 5)
            },
        );
        let offset = (5 * (1 - offset)).into();
        p.store(View { offset, ..column(y, 5) }, vector);
    }
    let buffers = [bf16_bytes(&values(8, 1)), vec![9; 40]];
    let x = bf16_to_f32(&buffers[0]);
    let expected = [x[3], x[5], x[7], 0.0, 0.0, x[2], x[4], x[6], 0.0, 0.0];
    for (_, out) in p.run_all(&Dims::new(), &buffers) {
        assert_eq!(to_f32(&out[1]), expected);
    }
}
