//! Loads, stores, stages: types, bounds, pages, masks, strides.

use half::f16;
use mlafuse_codegen::tile::{Expr, Rows, Stmt, View};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

use crate::build::*;

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn what_is_not_there_is_zero_and_not_written() {
    // A 3 × 5 corner of a 4 × 6 matrix at rows 2.. and columns 4.., from f16 to bf16.
    let mut p = Build::new();
    let (x, y) = (p.input("x", DType::F16), p.output("y", DType::BF16));
    let tile = p.fragment(3, 5);
    let corner = |param, limit: usize| View {
        rows: Rows::Strided {
            start: 2.into(),
            stride: 6.into(),
            limit: limit.into(),
        },
        col_start: 4.into(),
        ..matrix(param, 4, 6)
    };
    p.load(tile, corner(x, 4));
    p.map(tile, Expr::Tile(tile) + 1.0f32);
    let whole = View {
        col_limit: 5.into(),
        ..matrix(y, 3, 6)
    };
    p.store(whole, tile);
    p.store(
        View {
            offset: 18.into(),
            ..corner(y, 4)
        },
        tile,
    );
    let x = values(24, 1);
    let rounded = |i: usize| f16::from_f32(x[i]).to_f32();
    let mut expected = vec![9.0; 42];
    for (i, j) in (0..3).flat_map(|i| (0..5).map(move |j| (i, j))) {
        let there = i < 2 && j < 2;
        let value = 1.0 + if there { rounded((2 + i) * 6 + 4 + j) } else { 0.0 };
        expected[i * 6 + j] = half::bf16::from_f32(value).to_f32();
        if there {
            expected[18 + (2 + i) * 6 + 4 + j] = half::bf16::from_f32(value).to_f32();
        }
    }
    for (_, out) in p.run_all(&Dims::new(), &[f16_bytes(&x), bf16_bytes(&[9.0; 42])]) {
        assert_eq!(bf16_to_f32(&out[1]), expected);
    }
}

#[test]
fn columns_may_be_strided_either_way_and_rows_repeated() {
    let mut p = Build::new();
    let (x, y) = (p.input("x", DType::F32), p.output("y", DType::F32));
    let (turned, back, same) = (p.fragment(4, 3), p.fragment(4, 3), p.fragment(2, 3));
    // x is 3 × 4: its transpose, its rows backwards from the end, its first row twice.
    let rows = |stride: usize| Rows::Strided {
        start: 0.into(),
        stride: stride.into(),
        limit: 4.into(),
    };
    p.load(
        turned,
        View {
            rows: rows(1),
            col_stride: 4.into(),
            ..matrix(x, 4, 3)
        },
    );
    let last = View {
        offset: 11.into(),
        col_stride: (-1i64).into(),
        ..matrix(x, 4, 3)
    };
    p.load(back, View { rows: rows(0), ..last });
    p.load(
        same,
        View {
            rows: rows(0),
            ..matrix(x, 2, 3)
        },
    );
    p.store(matrix(y, 4, 3), turned);
    let at = |offset: usize| View {
        offset: offset.into(),
        ..matrix(y, 4, 3)
    };
    p.store(
        View {
            offset: 14.into(),
            col_stride: (-1i64).into(),
            rows: rows(3),
            ..at(0)
        },
        back,
    );
    p.store(at(24), same);
    let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let mut expected: Vec<f32> = (0..12).map(|i| (i / 3 + i % 3 * 4) as f32).collect();
    expected.extend([[9.0, 10.0, 11.0]; 4].concat());
    expected.extend([0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&x), vec![0; 30 * 4]]) {
        assert_eq!(to_f32(&out[1]), expected);
    }
}

#[test]
fn rows_may_be_gathered() {
    // Row i of the tile is the row of x that `at` names at i / 2; x has 3 rows.
    let mut p = Build::new();
    let (x, at, y) = (
        p.input("x", DType::F32),
        p.input("at", DType::I32),
        p.output("y", DType::F32),
    );
    let tile = p.fragment(6, 2);
    let index = Expr::Load(at, Box::new(Expr::Row / 2));
    let rows = Rows::Gathered {
        index,
        stride: 2.into(),
        limit: 3.into(),
    };
    p.load(
        tile,
        View {
            rows,
            ..matrix(x, 6, 2)
        },
    );
    p.store(matrix(y, 6, 2), tile);
    let x: Vec<f32> = (1..7).map(|i| i as f32).collect();
    let at: Vec<u8> = [2i32, 0, 3].iter().flat_map(|i| i.to_ne_bytes()).collect();
    // There is no fourth row.
    let expected = [5.0, 6.0, 5.0, 6.0, 1.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0];
    for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&x), at, vec![0; 12 * 4]]) {
        assert_eq!(to_f32(&out[2]), expected);
    }
}

/// Copies `len` tokens from `first` on of one sequence; pages of 4 rows, 3 wide, 16 elements a page.
fn paged_copy(rows: usize) -> Build {
    let mut p = Build::new();
    let (cache, table) = (p.input("cache", DType::BF16), p.input("table", DType::I32));
    let len = p.input("len", DType::I32);
    let y = p.output("y", DType::F32);
    let tile = p.shared(DType::BF16, rows, 3);
    let copy = p.fragment(rows, 3);
    let view = View {
        rows: Rows::Paged {
            start: 2.into(),
            limit: Expr::Load(len, Box::new(0.into())),
            table,
            table_offset: 1.into(),
            page_size: 4,
            page_stride: 16.into(),
            row_stride: 4.into(),
        },
        ..matrix(cache, 0, 3)
    };
    p.load(tile, view.clone());
    p.load(copy, view);
    p.store(matrix(y, rows, 3), copy);
    p
}

#[test]
fn pages_are_found_by_the_table_and_garbage_past_the_limit_is_not_read() {
    let cache = bf16_values(6 * 16, 7);
    let table = [i32::MIN, 5, 0, 3, -1, i32::MAX];
    for (len, rows) in [(10, 12), (9, 12), (2, 12), (0, 12), (12, 3), (7, 1)] {
        let buffers = [
            bf16_bytes(&cache),
            i32_bytes(&table),
            i32_bytes(&[len]),
            vec![1; rows * 12],
        ];
        let element = |i: usize, j: usize| {
            let token = 2 + i;
            let page = table[1 + token / 4] as usize;
            if token < len as usize {
                cache[page * 16 + token % 4 * 4 + j]
            } else {
                0.0
            }
        };
        let expected: Vec<f32> = (0..rows)
            .flat_map(|i| (0..3).map(move |j| (i, j)))
            .map(|(i, j)| if 2 + i < len as usize { element(i, j) } else { 0.0 })
            .collect();
        for (_, out) in paged_copy(rows).run_all(&Dims::new(), &buffers) {
            assert_eq!(to_f32(&out[3]), expected);
        }
    }
}

#[test]
fn a_needed_entry_that_is_no_page_is_an_error() {
    for (page, what) in [
        (-1, "kernel k: entry 2 of table is -1, which is no page"),
        (6, "kernel k: element 96 of cache is outside its 96 elements"),
        (
            i32::MAX,
            "kernel k: element 34359738352 of cache is outside its 96 elements",
        ),
    ] {
        let table = i32_bytes(&[0, 5, page, 3]);
        let buffers = [bf16_bytes(&[0.0; 96]), table, i32_bytes(&[10]), vec![0; 144]];
        let error = paged_copy(12).run(&Dims::new(), &buffers).unwrap_err();
        assert_eq!(error.to_string(), what);
    }
    let short = [
        bf16_bytes(&[0.0; 96]),
        i32_bytes(&[0, 5]),
        i32_bytes(&[10]),
        vec![0; 144],
    ];
    let error = paged_copy(12).run(&Dims::new(), &short).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel k: element 2 of table is outside its 2 elements"
    );
}

#[test]
fn masked_rows_are_not_read_and_not_written() {
    let mut p = Build::new();
    let (x, keep) = (p.input("x", DType::F32), p.input("keep", DType::I32));
    let y = p.output("y", DType::F32);
    let (mask, tile) = (p.vector(6), p.fragment(6, 2));
    p.load(mask, column(keep, 6));
    // Rows 3 and beyond of x are outside its buffer.
    let masked = |param| View {
        mask: Some(mask),
        ..matrix(param, 6, 2)
    };
    p.load(tile, masked(x));
    p.map(tile, Expr::Tile(tile) + 5.0f32);
    p.store(masked(y), tile);
    let buffers = [
        f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        i32_bytes(&[0, 1, 2, -1, 0, 0]),
        f32_bytes(&[0.0; 12]),
    ];
    for (_, out) in p.run_all(&Dims::new(), &buffers) {
        let expected = [0.0, 0.0, 8.0, 9.0, 10.0, 11.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(to_f32(&out[2]), expected);
    }
    // A masked store of a whole tile: absent rows keep what they had.
    let mut q = Build::new();
    let (keep, y) = (q.input("keep", DType::F32), q.output("y", DType::F32));
    let (mask, tile) = (q.vector(3), q.fragment(3, 2));
    q.load(mask, column(keep, 3));
    q.fill(tile, 5.0);
    q.store(
        View {
            mask: Some(mask),
            ..matrix(y, 3, 2)
        },
        tile,
    );
    for (_, out) in q.run_all(&Dims::new(), &[f32_bytes(&[1.0, f32::NAN, 0.0]), f32_bytes(&[9.0; 6])]) {
        assert_eq!(to_f32(&out[1]), [5.0, 5.0, 9.0, 9.0, 9.0, 9.0]);
    }
}

#[test]
fn staging_rounds_to_the_tile_type() {
    for (dtype, round) in [
        (DType::BF16, (|x| half::bf16::from_f32(x).to_f32()) as fn(f32) -> f32),
        (DType::F16, |x| f16::from_f32(x).to_f32()),
        (DType::F32, |x| x),
    ] {
        // Multiplied by the identity, so that the shared tile's values come back.
        let mut p = Build::new();
        let (x, one, y) = (
            p.input("x", DType::F32),
            p.input("one", dtype),
            p.output("y", DType::F32),
        );
        let (f, s, id, acc) = (
            p.fragment(4, 16),
            p.shared(dtype, 4, 16),
            p.shared(dtype, 16, 16),
            p.fragment(4, 16),
        );
        p.load(f, matrix(x, 4, 16));
        p.push(Stmt::Stage { dst: s, src: f });
        p.load(id, matrix(one, 16, 16));
        p.fill(acc, 0.0);
        p.gemm(acc, s, id, mlafuse_codegen::tile::BLayout::Kn);
        p.store(matrix(y, 4, 16), acc);
        let identity: Vec<f32> = (0..256).map(|i| f32::from(i % 17 == 0)).collect();
        let one = match dtype {
            DType::BF16 => bf16_bytes(&identity),
            DType::F16 => f16_bytes(&identity),
            _ => f32_bytes(&identity),
        };
        let mut x = values(64, 9);
        // Ties: 1 + 2^-8 to even 1, 1 + 3 · 2^-8 to even 1 + 2^-6, for bf16; the same for f16 at 2^-11.
        let tie = |halves: f32, bits: i32| 1.0 + halves * 2f32.powi(-bits);
        x[..4].copy_from_slice(&[tie(1.0, 8), tie(3.0, 8), tie(1.0, 11), tie(3.0, 11)]);
        let expected: Vec<f32> = x.iter().map(|&x| round(x)).collect();
        for (_, out) in p.run_all(&Dims::new(), &[f32_bytes(&x), one, vec![0; 256]]) {
            assert_close(&to_f32(&out[2]), &widen(&expected), 0.0);
        }
    }
}

#[test]
fn a_dimension_bounds_the_rows() {
    let mut p = Build::new();
    let (x, y) = (p.input("x", DType::BF16), p.output("y", DType::BF16));
    let t = p.scalar(Symbol::T);
    let tile = p.vector(8);
    p.load(tile, column(x, t));
    p.store(column(y, t), tile);
    let x = bf16_values(5, 3);
    for (_, out) in p.run_all(&Dims::new().with(Symbol::T, 5), &[bf16_bytes(&x), vec![0; 10]]) {
        assert_eq!(bf16_to_f32(&out[1]), x);
    }
}
