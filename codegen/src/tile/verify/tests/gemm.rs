//! What a gemm asks of its operands.

use super::*;

#[test]
fn gemm_shapes_fit() {
    let nk = |acc, a, b, b_cols| {
        message(|p| {
            step(p)[at::GEMM_S] = Stmt::Gemm {
                acc,
                a,
                a_start: 0.into(),
                b,
                layout: BLayout::Nk,
                b_cols,
            }
        })
    };
    assert_eq!(
        nk(O, Q_S, KV, 0..48),
        "b `kv` is shared bf16[16, 48], expected shared bf16[32, _]"
    );
    assert!(nk(Q_S, Q_S, KV, 0..48).starts_with("acc `q_s`"));
    assert!(nk(S, S, KV, 0..48).starts_with("a `s`"));
    assert!(nk(O, KV, KV, 0..48).starts_with("b `kv`"));
    assert!(message(|p| p.tiles[PROB.0].dtype = DType::F32).ends_with("expected shared f32[_, _]"));
    assert_eq!(
        message(|p| p.tiles[Q_S.0].cols = 64),
        "source `q_rot` is fragment f32[16, 48], expected fragment f32[16, 64]"
    );
    let kn = |b, b_cols| {
        message(|p| {
            step(p)[at::GEMM_O] = Stmt::Gemm {
                acc: O,
                a: PROB,
                a_start: 0.into(),
                b,
                layout: BLayout::Kn,
                b_cols,
            }
        })
    };
    assert_eq!(kn(KV, 0..48), "b's columns are 0..48, expected 32 of them");
    assert_eq!(
        kn(KV, 20..52),
        "columns 20..52 of `kv`, expected a non-empty range within 0..48"
    );
    assert!(kn(COS_S, 0..32).ends_with("expected shared bf16[_, _]"));
}

/// A product of as many columns of q as the 16 of `b_cols`, from `a_start` on.
fn part_of_q(a_start: Expr, b_cols: Columns) -> impl FnOnce(&mut TileProgram) {
    move |p| {
        step(p)[at::GEMM_S] = Stmt::Gemm {
            acc: S,
            a: Q_S,
            a_start,
            b: KV,
            layout: BLayout::Nk,
            b_cols,
        }
    }
}

#[test]
fn a_gemm_may_use_part_of_the_columns_of_a() {
    let passes = |a_start: Expr, b_cols| {
        let mut program = attention();
        part_of_q(a_start, b_cols)(&mut program);
        verify(&program)
    };
    assert_eq!(passes(32.into(), 0..16), Ok(()));
    assert_eq!(passes(0.into(), 32..48), Ok(()));
    assert_eq!(passes(Expr::from(TILE) * 16, 0..16), Ok(()));
    assert_eq!(
        message(part_of_q(40.into(), 0..16)),
        "columns 40..56 of `q_s`, expected a non-empty range within 0..48"
    );
    assert_eq!(
        message(part_of_q((-16).into(), 0..16)),
        "a's columns start at -16, expected at least 0"
    );
    assert_eq!(
        message(part_of_q(0.5f32.into(), 0..16)),
        "`0.5` is a float, expected an integer"
    );
}

#[test]
fn the_columns_of_a_that_a_gemm_uses_are_written() {
    let part_loaded = |a_start: Expr| {
        let mut program = attention();
        part_of_q(a_start, 0..16)(&mut program);
        // q_s is not staged but loaded, in its first columns only.
        let stage = program
            .body
            .iter_mut()
            .find(|s| matches!(s, Stmt::Stage { dst, .. } if *dst == Q_S));
        let src = View {
            param: ParamId(0),
            offset: 0.into(),
            rows: Rows::Strided {
                start: 0.into(),
                stride: 48.into(),
                limit: 1.into(),
            },
            col_start: 0.into(),
            col_limit: 16.into(),
            col_stride: 1.into(),
            align: 1,
            mask: None,
        };
        *stage.expect("a stage") = Stmt::Load {
            dst: Q_S,
            cols: 0..16,
            src,
        };
        verify(&program)
    };
    assert_eq!(part_loaded(0.into()), Ok(()));
    let unwritten = |cols| Fault::Unwritten {
        tile: "q_s".into(),
        cols,
    };
    assert_eq!(*part_loaded(16.into()).expect_err("a fault").fault, unwritten(16..32));
    let unknown = part_loaded(Expr::from(TILE) * 16);
    assert_eq!(*unknown.expect_err("a fault").fault, unwritten(0..48));
}

#[test]
fn a_gemm_may_use_later_columns_of_b() {
    let mut program = attention();
    step(&mut program)[at::GEMM_O] = Stmt::Gemm {
        acc: O,
        a: PROB,
        a_start: 0.into(),
        b: KV,
        layout: BLayout::Kn,
        b_cols: 16..48,
    };
    assert_eq!(verify(&program), Ok(()));
}
