//! Errors name the kernel, the tensor and the index.

use mlafuse_codegen::tile::{Axis, Expr, Stmt, View};
use mlafuse_cpu::{CpuBuffer, CpuError, CpuKernel, Level};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_tensor::DType;

use crate::build::*;

/// y = x for T rows of 4, one block a row.
fn copy() -> Build {
    let mut p = Build::new();
    let (x, y) = (p.input("x", DType::F32), p.output("y", DType::F32));
    let t = p.scalar(Symbol::T);
    p.0.grid = [t.into(), 1.into(), 1.into()];
    let tile = p.fragment(1, 4);
    let row = |param| View {
        offset: Expr::Block(Axis::X) * 4,
        align: 4,
        ..matrix(param, 1, 4)
    };
    p.load(tile, row(x));
    p.store(row(y), tile);
    p
}

fn message(p: &Build, dims: &Dims, buffers: &[Vec<u8>]) -> String {
    p.run(dims, buffers).unwrap_err().to_string()
}

#[test]
fn buffers_that_are_too_short() {
    let dims = Dims::new().with(Symbol::T, 300);
    let (short, long) = (vec![0; 1602], vec![0; 4800]);
    // Row 100 is the first that is not there: elements 400..404 of 400. Whatever block fails first, that one is reported.
    for _ in 0..20 {
        let error = message(&copy(), &dims, &[short.clone(), long.clone()]);
        assert_eq!(error, "kernel k: element 400 of x is outside its 400 elements");
    }
    let error = message(&copy(), &dims, &[long, short]);
    assert_eq!(error, "kernel k: element 400 of y is outside its 400 elements");
}

#[test]
fn launches_that_do_not_fit_the_parameters() {
    let one = Dims::new().with(Symbol::T, 1);
    let row = || vec![0; 16];
    assert_eq!(
        message(&copy(), &Dims::new(), &[row(), row()]),
        "kernel k: no value was given for T"
    );
    assert_eq!(message(&copy(), &one, &[row()]), "kernel k: expected 2 tensors, got 1");
    let kernel = CpuKernel::prepare(&copy().0, Level::detect()).unwrap();
    let buffer = CpuBuffer::zeroed(16);
    let alias = kernel.launch(&one, &[&buffer, &buffer]).unwrap_err();
    assert!(matches!(&alias, CpuError::Alias { first, second, .. } if first == "x" && second == "y"));
    // The locks of a failed launch are given back.
    kernel.launch(&one, &[&buffer, &CpuBuffer::zeroed(16)]).unwrap();
}

/// Memory of several buffers is locked once, and only bytes in common are refused.
#[test]
fn parts_of_one_memory() {
    let four = Dims::new().with(Symbol::T, 4);
    let kernel = CpuKernel::prepare(&copy().0, Level::detect()).unwrap();
    let whole = CpuBuffer::zeroed(192);
    whole.write_bytes(0, &[1; 64]).unwrap();
    let part = |offset, bytes| whole.part(offset, bytes).unwrap();
    kernel.launch(&four, &[&part(0, 64), &part(128, 64)]).unwrap();
    assert_eq!(whole.bytes(), [[1; 64], [0; 64], [1; 64]].concat());
    let alias = kernel.launch(&four, &[&part(0, 65), &part(64, 64)]).unwrap_err();
    assert!(matches!(alias, CpuError::Alias { .. }), "{alias}");
    let short = kernel.launch(&four, &[&part(0, 64), &part(64, 48)]).unwrap_err();
    assert_eq!(
        short.to_string(),
        "kernel k: element 12 of y is outside its 12 elements"
    );
}

#[test]
fn broken_promises_of_alignment() {
    let mut p = Build::new();
    let x = p.input("x", DType::F32);
    let tile = p.fragment(2, 4);
    p.load(
        tile,
        View {
            align: 4,
            ..matrix(x, 2, 5)
        },
    );
    let error = message(&p, &Dims::new(), &[vec![0; 40]]);
    assert_eq!(
        error,
        "kernel k: element 5 of x starts a row, but is not a multiple of 4"
    );
}

#[test]
fn arithmetic_that_has_no_result() {
    let with = |value: Expr| {
        let mut p = Build::new();
        let _ = p.scalar(Symbol::T);
        let v = p.var("v");
        p.push(Stmt::Let { var: v, value });
        message(&p, &Dims::new().with(Symbol::T, 0), &[])
    };
    let t = Expr::Param(mlafuse_codegen::tile::ParamId(0));
    assert_eq!(with(Expr::Int(3) / t.clone()), "kernel k: division by zero");
    assert_eq!(with(Expr::Int(3) % t.clone()), "kernel k: division by zero");
    assert_eq!(with((t.clone() + i64::MAX) + 1), "kernel k: integer overflow");
    let mut p = Build::new();
    let t = p.scalar(Symbol::T);
    let tile = p.fragment(2, 2);
    p.map(tile, (Expr::Col / (Expr::Row * t)).to_float());
    assert_eq!(
        message(&p, &Dims::new().with(Symbol::T, 5), &[]),
        "kernel k: division by zero"
    );
}

#[test]
fn grids_that_are_no_number_of_blocks() {
    let mut p = copy();
    p.0.grid[1] = (-1i64).into();
    let dims = Dims::new().with(Symbol::T, 1);
    assert_eq!(
        message(&p, &dims, &[vec![], vec![]]),
        "kernel k: the grid [1, -1, 1] is not a number of blocks"
    );
    p.0.grid = [i64::MAX.into(), i64::MAX.into(), 2.into()];
    assert!(matches!(p.run(&dims, &[vec![], vec![]]), Err(CpuError::Grid { .. })));
}

#[test]
fn programs_that_break_the_rules_are_refused() {
    let mut p = copy();
    p.0.body.reverse();
    assert!(matches!(p.run(&Dims::new(), &[]), Err(CpuError::Program(_))));
    let mut p = Build::new();
    let _ = p.input("x", DType::F64);
    let error = p.run(&Dims::new(), &[]).unwrap_err().to_string();
    assert_eq!(error, "kernel k: x has type f64; executed are f32, f16, bf16 and i32");
    let mut p = Build::new();
    let _ = p.fragment(1 << 40, 1 << 30);
    assert!(matches!(p.run(&Dims::new(), &[]), Err(CpuError::TileSize { .. })));
}
