//! The step of an online softmax, against its expansion.

use mlafuse_codegen::tile::{BLayout, Expr, Rows, Softmax, Stmt, TileId, View};
use mlafuse_ir::size::Dims;
use mlafuse_tensor::DType;
use proptest::prelude::*;

use crate::build::*;

/// Tiles of keys that a program takes in.
const TILES: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    keys: usize,
    depth: usize,
    dtype: DType,
    scale: f32,
}

/// Attention of `rows` queries to TILES · `keys` keys that are values too; its results are the weighted sums, and of each
/// row the largest score, the sum and the last decay. `first` is the number of the first key.
fn program(shape: Shape, first: i64, whole: bool) -> Build {
    let Shape {
        rows,
        keys,
        depth,
        dtype,
        scale,
    } = shape;
    let mut p = Build::new();
    let (q, kv, seen) = (p.input("q", dtype), p.input("kv", dtype), p.input("seen", DType::F32));
    let [out, of_rows] = ["out", "of_rows"].map(|name| p.output(name, DType::F32));
    let [q_s, kv_s] = [rows, keys].map(|rows| p.shared(dtype, rows, depth));
    let weights = p.shared(dtype, rows, keys);
    let (scores, o) = (p.fragment(rows, keys), p.fragment(rows, depth));
    let [visible, max, decay, max_before, base, total] = std::array::from_fn(|_| p.vector(rows));
    let sum = p.partial(rows);
    let t = p.var("t");
    p.load(q_s, matrix(q, rows, depth));
    p.load(visible, column(seen, rows));
    for (tile, value) in [(max, f32::NEG_INFINITY), (sum, 0.0), (o, 0.0), (decay, 0.0)] {
        p.fill(tile, value);
    }
    let view = View {
        rows: Rows::Strided {
            start: Expr::Var(t) * keys,
            stride: depth.into(),
            limit: (TILES * keys).into(),
        },
        ..matrix(kv, 0, depth)
    };
    let step = Softmax {
        scores,
        scale,
        first: Expr::Var(t) * keys + first,
        visible,
        max,
        sum,
        decay,
        weights,
        max_before,
        base,
    };
    let product = |acc: TileId, a: TileId, layout: BLayout| Stmt::Gemm {
        acc,
        a,
        a_start: 0.into(),
        b: kv_s,
        layout,
        b_cols: 0..depth,
    };
    let load = Stmt::Load {
        dst: kv_s,
        cols: 0..depth,
        src: view,
    };
    let fill = Stmt::Fill {
        dst: scores,
        value: 0.0,
    };
    let mut body = vec![load, fill, product(scores, q_s, BLayout::Nk)];
    match whole {
        true => body.push(Stmt::Softmax(Box::new(step))),
        false => body.extend(step.expansion()),
    }
    let rescale = Stmt::Map {
        dst: o,
        value: Expr::Tile(o) * decay,
    };
    body.extend([rescale, product(o, weights, BLayout::Kn)]);
    p.push(Stmt::For {
        var: t,
        start: 0.into(),
        end: TILES.into(),
        pipelined: true,
        body,
    });
    p.push(Stmt::Finish { dst: total, src: sum });
    p.store(matrix(out, rows, depth), o);
    for (i, vector) in [max, total, decay].into_iter().enumerate() {
        let place = View {
            offset: (i * rows).into(),
            ..column(of_rows, rows)
        };
        p.store(place, vector);
    }
    p
}

fn bytes(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::BF16 => bf16_bytes(values),
        DType::F16 => f16_bytes(values),
        _ => f32_bytes(values),
    }
}

fn close(x: f32, y: f32, tolerance: f32) -> bool {
    x == y || (x - y).abs() <= tolerance * (1.0 + y.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_step_is_its_expansion(
        rows in 1usize..=70,
        keys in prop_oneof![2 => 1usize..=80, 1 => Just(128), 1 => 129usize..140],
        depth in prop_oneof![1usize..=70, 128usize..=140],
        dtype in prop_oneof![Just(DType::BF16), Just(DType::F16), Just(DType::F32)],
        scale in prop_oneof![Just(0.5f32), Just(3.0), Just(-0.5), Just(0.0)],
        first in prop_oneof![Just(0i64), Just(1000), Just((1 << 24) - 100)],
        seed in 0u64..1000,
    ) {
        let shape = Shape { rows, keys, depth, dtype, scale };
        let (q, kv) = (values(rows * depth, seed + 1), values(TILES * keys * depth, seed + 2));
        // Nothing, some and all of the keys.
        let all = (TILES * keys) as f32;
        let seen: Vec<f32> = (0..rows)
            .map(|row| match (row as u64 + seed) % 4 {
                0 => first as f32 - 1.0,
                1 => first as f32 + (all * row as f32 / rows as f32).floor(),
                2 => first as f32 + all,
                _ => f32::INFINITY,
            })
            .collect();
        let buffers = [
            bytes(dtype, &q),
            bytes(dtype, &kv),
            f32_bytes(&seen),
            vec![0xff; 4 * rows * depth],
            vec![0xff; 4 * 3 * rows],
        ];
        let [step, expansion] = [true, false].map(|whole| program(shape, first, whole).run_all(&Dims::new(), &buffers));
        // A weight may round the other way.
        let sums = match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        for ((level, x), (_, y)) in step.iter().zip(&expansion) {
            for (of, tolerance) in [(3, sums * keys as f32), (4, 2e-5)] {
                let (x, y) = (to_f32(&x[of]), to_f32(&y[of]));
                for (i, (x, y)) in x.into_iter().zip(y).enumerate() {
                    prop_assert!(close(x, y, tolerance), "{level:?} {shape:?}: result {of}, element {i} is {x}, not {y}");
                }
            }
        }
    }
}
