//! What may be done with sums of products that are still in parts.

use super::*;

const PARTS: TileId = TileId(15);
const WHOLE: TileId = TileId(16);

/// The example with the scores summed up in parts and put together after the product.
fn summed() -> TileProgram {
    let mut program = attention();
    program.tiles.push(Tile {
        form: Form::MatrixPartial,
        ..fragment("parts", 16, 16)
    });
    program.tiles.push(fragment("whole", 16, 16));
    let body = step(&mut program);
    let Stmt::Gemm { acc, .. } = &mut body[at::GEMM_S] else {
        panic!("expected the gemm")
    };
    *acc = PARTS;
    body.insert(at::GEMM_S + 1, Stmt::Finish { dst: S, src: PARTS });
    body.insert(at::GEMM_S, Stmt::Fill { dst: PARTS, value: 0.0 });
    program
}

/// What is wrong when `stmt` follows the finished sum.
fn refused(stmt: Stmt) -> String {
    let mut program = summed();
    step(&mut program).insert(at::GEMM_S + 3, stmt);
    verify(&program).expect_err("a fault").fault.to_string()
}

#[test]
fn parts_are_filled_multiplied_into_and_finished() {
    let program = summed();
    assert_eq!(verify(&program), Ok(()));
    let text = program.to_string();
    for line in [
        "partial  parts f32[16, 16]",
        "gemm parts += q_s * transpose(kv[:, 0..48])",
        "finish s <- parts",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn parts_hold_nothing_else() {
    for stmt in [
        Stmt::Stage { dst: PROB, src: PARTS },
        Stmt::Reduce {
            op: ReduceOp::Max,
            dst: M,
            src: PARTS,
        },
        Stmt::Map {
            dst: S,
            value: PARTS.into(),
        },
        Stmt::Map {
            dst: PARTS,
            value: Expr::from(PARTS) * 2.0,
        },
        Stmt::Finish { dst: PARTS, src: PARTS },
    ] {
        let said = refused(stmt.clone());
        assert!(
            said.contains("`parts` is partial f32[16, 16], expected"),
            "{stmt:?}: {said}"
        );
    }
    let mut program = summed();
    let view = source(&mut program.body[at::LOAD_Q]).clone();
    let load = refused(Stmt::Load {
        dst: PARTS,
        cols: 0..16,
        src: view,
    });
    assert_eq!(
        load,
        "destination `parts` is partial f32[16, 16], expected a tile or row vector"
    );
    let out = source(&mut program.body[at::STORE]).clone();
    let store = refused(Stmt::Store {
        dst: out,
        src: PARTS,
        cols: 0..16,
    });
    assert_eq!(
        store,
        "source `parts` is partial f32[16, 16], expected a fragment or row vector"
    );
}

#[test]
fn parts_begin_with_zeros() {
    let fill = |value| Stmt::Fill { dst: PARTS, value };
    assert_eq!(refused(fill(1.0)), "partial `parts` is filled with 1.0, expected 0.0");
}

#[test]
fn a_finished_sum_has_the_shape_of_its_parts() {
    assert_eq!(
        refused(Stmt::Finish { dst: O, src: PARTS }),
        "destination `o` is fragment f32[16, 32], expected fragment f32[16, 16]"
    );
    assert_eq!(
        refused(Stmt::Finish { dst: WHOLE, src: S }),
        "source `s` is fragment f32[16, 16], expected partial f32[16]"
    );
}

#[test]
fn parts_are_written_before_they_are_used() {
    let mut program = summed();
    step(&mut program).remove(at::GEMM_S);
    let error = verify(&program).expect_err("a fault");
    assert!(matches!(*error.fault, Fault::Unwritten { .. }), "{error}");
}

#[test]
fn parts_are_no_shared_tile() {
    let mut program = summed();
    program.tiles[PARTS.0].space = Space::Shared;
    assert_eq!(
        verify(&program).expect_err("a fault").to_string(),
        "tile program mla_tiny, at `tile parts`: partial `parts` lives in Shared, expected Fragment"
    );
}
