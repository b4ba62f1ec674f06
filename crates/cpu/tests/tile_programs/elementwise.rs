//! Maps, reductions, rotations.

use mlafuse_codegen::tile::{Expr, Pairing, ReduceOp, Stmt, TileId};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

use crate::build::*;

const ROWS: usize = 5;
const COLS: usize = 37;

/// y = f(x, v) for x \[ROWS, COLS\] and a row vector v, with T = 3 and the i32 tensor n.
fn map(f: impl Fn(&Ids) -> Expr, expected: impl Fn(f64, f64, usize, usize) -> f64) {
    let mut p = Build::new();
    let (x, v, n) = (
        p.input("x", DType::F32),
        p.input("v", DType::F32),
        p.input("n", DType::I32),
    );
    let y = p.output("y", DType::F32);
    let t = p.scalar(Symbol::T);
    let (x_f, v_f, y_f) = (p.fragment(ROWS, COLS), p.vector(ROWS), p.fragment(ROWS, COLS));
    p.load(x_f, matrix(x, ROWS, COLS));
    p.load(v_f, column(v, ROWS));
    p.map(
        y_f,
        f(&Ids {
            x: x_f,
            v: v_f,
            n,
            t: t.into(),
        }),
    );
    p.store(matrix(y, ROWS, COLS), y_f);
    let (x, v) = (values(ROWS * COLS, 11), values(ROWS, 12));
    let at = |i: usize| {
        let (row, col) = (i / COLS, i % COLS);
        expected(f64::from(x[i]), f64::from(v[row]), row, col)
    };
    let exact: Vec<f64> = (0..ROWS * COLS).map(at).collect();
    let buffers = [
        f32_bytes(&x),
        f32_bytes(&v),
        i32_bytes(&[4, 0, 7]),
        vec![0; ROWS * COLS * 4],
    ];
    for (_, out) in p.run_all(&Dims::new().with(Symbol::T, 3), &buffers) {
        assert_close(&to_f32(&out[3]), &exact, 1e-6);
    }
}

struct Ids {
    x: TileId,
    v: TileId,
    n: mlafuse_codegen::tile::ParamId,
    t: Expr,
}

impl Ids {
    fn x(&self) -> Expr {
        self.x.into()
    }
    fn v(&self) -> Expr {
        self.v.into()
    }
    fn n(&self, index: impl Into<Expr>) -> Expr {
        Expr::Load(self.n, Box::new(index.into()))
    }
}

#[test]
fn float_functions() {
    map(|i| (i.x() - i.v()).exp2() * 0.5f32, |x, v, _, _| (x - v).exp2() * 0.5);
    map(
        |i| (i.x() * i.x() + 1.0f32).log2() / i.v(),
        |x, v, _, _| (x * x + 1.0).log2() / v,
    );
    map(
        |i| (i.x() * i.x() + 0.5f32).rsqrt(),
        |x, _, _, _| 1.0 / (x * x + 0.5).sqrt(),
    );
    map(
        |i| i.x().min(i.v()).max(-1.0f32) % 0.75f32,
        |x, v, _, _| x.min(v).max(-1.0) % 0.75,
    );
    map(|i| i.v(), |_, v, _, _| v);
    map(|i| i.x(), |x, _, _, _| x);
    map(|i| i.v().exp2() * i.v() + 2.0f32, |_, v, _, _| v.exp2() * v + 2.0);
}

#[test]
fn integers_of_row_and_column() {
    map(
        |i| (Expr::Col * 7 % 5 + Expr::Row / 2 - i.t.clone().wide()).to_float(),
        |_, _, r, c| (c * 7 % 5 + r / 2) as f64 - 3.0,
    );
    map(
        |i| Expr::Col.min(i.t.clone()).max(Expr::Row).to_float() * i.x(),
        |x, _, r, c| c.min(3).max(r) as f64 * x,
    );
    // A causal mask with a bound loaded from memory for each row.
    map(
        |i| {
            let seen = Expr::Col.le(Expr::Row + i.n(Expr::Row % 3)).and(Expr::Col.lt(30));
            seen.select(i.x(), i.v())
        },
        |x, v, r, c| if c <= r + [4, 0, 7][r % 3] && c < 30 { x } else { v },
    );
    map(
        |i| {
            (i.x().lt(0.0f32))
                .select(Expr::Col, Expr::Row)
                .equals(2)
                .select(1.0f32, i.x())
        },
        |x, _, r, c| if (if x < 0.0 { c } else { r }) == 2 { 1.0 } else { x },
    );
    map(
        |i| {
            let flag = Expr::Row.le(2).select(i.x().le(i.v()), Expr::Col.equals(1));
            flag.select(1.0f32, 0.0f32)
        },
        |x, v, r, c| f64::from(if r <= 2 { x <= v } else { c == 1 }),
    );
}

#[test]
fn what_is_not_chosen_is_not_evaluated() {
    // n has 3 elements and a zero: neither is touched where the condition does not hold.
    map(
        |i| Expr::Col.lt(3).select(i.n(Expr::Col), -1).to_float(),
        |_, _, _, c| if c < 3 { [4.0, 0.0, 7.0][c] } else { -1.0 },
    );
    map(
        |i| {
            let n = i.n(Expr::Row % 3);
            Expr::Int(0).lt(n.clone()).select(Expr::Col / n, 9).to_float()
        },
        |_, _, r, c| [c / 4, 9, c / 7][r % 3] as f64,
    );
    map(
        |i| Expr::Col.lt(3).and(i.n(Expr::Col).equals(7)).select(i.x(), 0.0f32),
        |x, _, _, c| if c == 2 { x } else { 0.0 },
    );
}

#[test]
fn vectors_run_down_their_rows() {
    let mut p = Build::new();
    let (v, n, y) = (
        p.input("v", DType::F32),
        p.input("n", DType::I32),
        p.output("y", DType::F32),
    );
    let (v_f, y_f) = (p.vector(20), p.vector(20));
    p.load(v_f, column(v, 20));
    let chosen = Expr::Row
        .lt(3)
        .select(Expr::Load(n, Box::new(Expr::Row)), Expr::Row * 2);
    p.map(y_f, Expr::Tile(v_f) * 2.0f32 + chosen.to_float() + Expr::Col.to_float());
    p.map(y_f, Expr::Tile(y_f) - 1.0f32);
    p.store(column(y, 20), y_f);
    let v = values(20, 13);
    let at = |i: usize| f64::from(v[i]) * 2.0 + [4.0, 0.0, 7.0].get(i).unwrap_or(&(i as f64 * 2.0)) - 1.0;
    let exact: Vec<f64> = (0..20).map(at).collect();
    for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&v), i32_bytes(&[4, 0, 7]), vec![0; 80]]) {
        assert_close(&to_f32(&out[2]), &exact, 1e-6);
    }
}

#[test]
fn reductions_join_what_the_vector_held() {
    for cols in [1, 15, 16, 37, 64] {
        let mut p = Build::new();
        let (x, y) = (p.input("x", DType::F32), p.output("y", DType::F32));
        let (x_f, max, sum) = (p.fragment(4, cols), p.vector(4), p.vector(4));
        let (part, whole) = (p.partial(4), p.vector(4));
        p.load(x_f, matrix(x, 4, cols));
        p.fill(max, 0.5);
        p.fill(sum, 3.0);
        p.fill(part, 0.0);
        let reduce = |op, dst| Stmt::Reduce { op, dst, src: x_f };
        p.push(reduce(ReduceOp::Max, max));
        p.push(reduce(ReduceOp::Sum, sum));
        p.push(reduce(ReduceOp::Sum, part));
        p.map(part, Expr::Tile(part) * max);
        p.push(reduce(ReduceOp::Sum, part));
        p.push(Stmt::Finish { dst: whole, src: part });
        for (i, v) in [max, sum, whole].into_iter().enumerate() {
            p.store(
                mlafuse_codegen::tile::View {
                    offset: (4 * i).into(),
                    ..column(y, 4)
                },
                v,
            );
        }
        let x = values(4 * cols, 14);
        let rows: Vec<(f64, f64)> = x
            .chunks(cols)
            .map(|row| {
                let max = row.iter().fold(0.5f32, |a, &b| a.max(b));
                (f64::from(max), row.iter().map(|&x| f64::from(x)).sum())
            })
            .collect();
        let mut exact: Vec<f64> = rows.iter().map(|r| r.0).collect();
        exact.extend(rows.iter().map(|r| r.1 + 3.0));
        exact.extend(rows.iter().map(|r| r.1 * r.0 + r.1));
        for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&x), vec![0; 48]]) {
            assert_close(&to_f32(&out[1]), &exact, 1e-5);
        }
    }
}

#[test]
fn rotation_of_pairs_and_halves() {
    let (rows, d, cols) = (3, 10, 14);
    for pairing in [Pairing::Interleaved, Pairing::Halves] {
        let mut p = Build::new();
        let (x, angles) = (p.input("x", DType::F32), p.input("angles", DType::F32));
        let y = p.output("y", DType::F32);
        let (src, dst) = (p.shared(DType::F32, rows, cols), p.fragment(rows, cols));
        let (cos, sin) = (p.shared(DType::F32, rows, d / 2), p.shared(DType::F32, rows, d / 2));
        p.load(src, matrix(x, rows, cols));
        p.load(cos, matrix(angles, rows, d / 2));
        let second = (rows * d / 2).into();
        p.load(
            sin,
            mlafuse_codegen::tile::View {
                offset: second,
                ..matrix(angles, rows, d / 2)
            },
        );
        p.push(Stmt::Rotate {
            dst,
            src,
            cos,
            sin,
            pairing,
            d,
        });
        p.store(matrix(y, rows, cols), dst);
        let (x, angle) = (values(rows * cols, 15), values(rows * d / 2, 16));
        let tables: Vec<f32> = angle
            .iter()
            .map(|a| a.cos())
            .chain(angle.iter().map(|a| a.sin()))
            .collect();
        let mut exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for (row, pair) in (0..rows).flat_map(|r| (0..d / 2).map(move |p| (r, p))) {
            let (i, j) = match pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Halves => (pair, pair + d / 2),
            };
            let (i, j) = (row * cols + i, row * cols + j);
            let (sin, cos) = f64::from(angle[row * d / 2 + pair]).sin_cos();
            let (a, b) = (f64::from(x[i]), f64::from(x[j]));
            (exact[i], exact[j]) = (a * cos - b * sin, a * sin + b * cos);
        }
        for (_, out) in p.run_all(
            &Dims::new(),
            &[f32_bytes(&x), f32_bytes(&tables), vec![0; rows * cols * 4]],
        ) {
            assert_close(&to_f32(&out[2]), &exact, 1e-6);
        }
    }
}
