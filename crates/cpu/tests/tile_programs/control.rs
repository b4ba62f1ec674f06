//! Scalars, loops, branches, early ends, grids.

use mlafuse_codegen::tile::{Axis, Expr, Stmt, View};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

use crate::build::*;

#[test]
fn every_block_of_the_grid_runs_once() {
    let mut p = Build::new();
    let y = p.output("y", DType::F32);
    let (t, b) = (p.scalar(Symbol::T), p.scalar(Symbol::B));
    p.0.grid = [t.into(), b.into(), 3.into()];
    let v = p.vector(1);
    let (x, yy, z) = (Expr::Block(Axis::X), Expr::Block(Axis::Y), Expr::Block(Axis::Z));
    p.map(v, (x.clone() + yy.clone() * 10 + z.clone() * 100).to_float());
    p.store(
        View {
            offset: x + (yy + z * b) * t,
            ..column(y, 1)
        },
        v,
    );
    let dims = Dims::new().with(Symbol::T, 4).with(Symbol::B, 2);
    for (_, out) in p.run_all(&dims, &[f32_bytes(&[-1.0; 24])]) {
        let expected: Vec<f32> = (0..24).map(|i| (i % 4 + i / 4 % 2 * 10 + i / 8 * 100) as f32).collect();
        assert_eq!(to_f32(&out[0]), expected);
    }
    for (_, out) in p.run_all(&dims.with(Symbol::T, 0), &[vec![]]) {
        assert!(out[0].is_empty());
    }
}

/// Each block b sums i² over its len\[b\] steps, four a trip, and ends early where len is 0.
#[test]
fn loops_branches_and_early_ends() {
    let mut p = Build::new();
    let (len, y) = (p.input("len", DType::I32), p.output("y", DType::F32));
    p.0.grid = [5.into(), 1.into(), 1.into()];
    let (n, i, j, s) = (p.var("n"), p.var("i"), p.var("j"), p.var("s"));
    let acc = p.vector(1);
    p.push(Stmt::Comment("Sums of squares.".to_string()));
    p.push(Stmt::Let {
        var: n,
        value: Expr::Load(len, Box::new(Expr::Block(Axis::X))),
    });
    p.push(Stmt::If {
        cond: Expr::Var(n).le(0),
        body: vec![Stmt::Return],
    });
    p.fill(acc, 0.0);
    let step = Expr::Var(i) * 4 + j;
    let add = |value: Expr| Stmt::Map {
        dst: acc,
        value: Expr::Tile(acc) + value,
    };
    p.push(Stmt::For {
        var: i,
        start: 0.into(),
        end: Expr::Var(n).ceil_div(4),
        pipelined: true,
        body: vec![Stmt::For {
            var: j,
            start: 0.into(),
            end: (Expr::Var(n) - Expr::Var(i) * 4).min(4),
            pipelined: false,
            body: vec![
                Stmt::Let {
                    var: s,
                    value: (step.clone() * step).to_float() * 0.5f32,
                },
                add(Expr::Var(s) * 2.0f32),
            ],
        }],
    });
    p.store(
        View {
            offset: Expr::Block(Axis::X),
            ..column(y, 1)
        },
        acc,
    );
    let lens = [3, 0, 10, -4, 1];
    for (_, out) in p.run_all(&Dims::new(), &[i32_bytes(&lens), f32_bytes(&[-1.0; 5])]) {
        assert_eq!(to_f32(&out[1]), [5.0, -1.0, 285.0, -1.0, 0.0]);
    }
}

#[test]
fn a_guarded_load_is_not_made() {
    let mut p = Build::new();
    let (n, y) = (p.input("n", DType::I32), p.output("y", DType::F32));
    p.0.grid = [4.into(), 1.into(), 1.into()];
    let v = p.vector(1);
    let value = p.var("value");
    let x = Expr::Block(Axis::X);
    let load = Expr::Load(n, Box::new(x.clone()));
    let small = x.clone().lt(2).and(load.clone().lt(100));
    p.push(Stmt::Let {
        var: value,
        value: small.select(load, -1),
    });
    p.map(v, Expr::Var(value).to_float());
    p.store(
        View {
            offset: x,
            ..column(y, 1)
        },
        v,
    );
    for (_, out) in p.run_all(&Dims::new(), &[i32_bytes(&[5, 100]), vec![0; 16]]) {
        assert_eq!(to_f32(&out[1]), [5.0, -1.0, -1.0, -1.0]);
    }
}

#[test]
fn sums_are_of_all_values() {
    let mut p = Build::new();
    let (n, y, count) = (p.input("n", DType::I32), p.output("y", DType::F32), p.scalar(Symbol::B));
    p.0.grid = [3.into(), 1.into(), 1.into()];
    let (sum, i) = (p.var("sum"), p.var("i"));
    let v = p.vector(1);
    p.push(Stmt::Sum {
        var: sum,
        index: i,
        count: count.into(),
        value: Expr::Load(n, Box::new(i.into())) * Expr::Block(Axis::X),
    });
    p.map(v, Expr::Var(sum).to_float());
    let place = View {
        offset: Expr::Block(Axis::X),
        ..column(y, 1)
    };
    p.store(place, v);
    let values: Vec<i32> = (0..100).map(|i| i * i - 500).collect();
    for count in [0, 1, 31, 100] {
        let expected: i32 = values[..count].iter().sum();
        let dims = Dims::new().with(Symbol::B, count);
        for (_, out) in p.run_all(&dims, &[i32_bytes(&values), vec![0; 12]]) {
            assert_eq!(to_f32(&out[1]), [0, 1, 2].map(|block| (block * expected) as f32));
        }
    }
}
