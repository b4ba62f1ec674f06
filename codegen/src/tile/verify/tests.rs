mod expressions;
mod gemm;
mod parts;

use super::super::example::*;
use super::super::{Axis, BLayout, Columns, Expr, ReduceOp, Rows, Unary, VarId, View};
use super::*;

/// The fault after `change`, which must be found at the statement that `change` broke or at the declarations.
fn fault(change: impl FnOnce(&mut TileProgram)) -> Fault {
    let mut program = attention();
    change(&mut program);
    *verify(&program).expect_err("a fault").fault
}

fn message(change: impl FnOnce(&mut TileProgram)) -> String {
    fault(change).to_string()
}

/// The statements of the loop.
fn step(program: &mut TileProgram) -> &mut Vec<Stmt> {
    let Stmt::For { body, .. } = &mut program.body[at::FOR] else {
        panic!("expected the loop")
    };
    body
}

fn source(stmt: &mut Stmt) -> &mut View {
    let (Stmt::Load { src: view, .. } | Stmt::Store { dst: view, .. }) = stmt else {
        panic!("expected a view")
    };
    view
}

fn set_let(value: impl Into<Expr>) -> impl FnOnce(&mut TileProgram) {
    let value = value.into();
    |p| p.body[1] = Stmt::Let { var: LEN, value }
}

fn set_map(value: impl Into<Expr>) -> impl FnOnce(&mut TileProgram) {
    let value = value.into();
    |p| step(p)[at::MAP_S] = Stmt::Map { dst: S, value }
}

fn set_load(dst: TileId, cols: Columns) -> impl FnOnce(&mut TileProgram) {
    move |p| {
        let src = source(&mut p.body[at::LOAD_Q]).clone();
        p.body[at::LOAD_Q] = Stmt::Load { dst, cols, src };
    }
}

#[test]
fn the_example_passes() {
    assert_eq!(verify(&attention()), Ok(()));
}

#[test]
fn an_error_names_the_program_and_the_statement() {
    let mut program = attention();
    step(&mut program)[at::MAX] = Stmt::Reduce {
        op: ReduceOp::Max,
        dst: M,
        src: O,
    };
    step(&mut program)[at::GEMM_S] = Stmt::Gemm {
        acc: S,
        a: Q_S,
        a_start: 0.into(),
        b: KV,
        layout: BLayout::Nk,
        b_cols: 0..64,
    };
    assert_eq!(
        verify(&program).expect_err("a fault").to_string(),
        "tile program mla_tiny, at `gemm s += q_s[:, 0..64] * transpose(kv[:, 0..64])`: columns 0..64 of `kv`, expected a \
         non-empty range within 0..48"
    );
}

#[test]
fn ids_must_name_something() {
    let unknown = |what, index, count| Fault::Unknown { what, index, count };
    assert_eq!(
        fault(|p| p.body[at::FILL_PART] = Stmt::Fill {
            dst: TileId(15),
            value: 0.0
        }),
        unknown("tile", 15, 15)
    );
    assert_eq!(fault(set_map(TileId(99))), unknown("tile", 99, 15));
    assert_eq!(fault(set_let(ParamId(12))), unknown("parameter", 12, 12));
    assert_eq!(fault(set_let(VarId(4))), unknown("variable", 4, 4));
    assert_eq!(
        fault(|p| p.body[1] = Stmt::Let {
            var: VarId(usize::MAX),
            value: 0.into()
        }),
        unknown("variable", usize::MAX, 4)
    );
    assert_eq!(
        fault(|p| source(&mut p.body[at::LOAD_Q]).param = ParamId(40)),
        unknown("parameter", 40, 12)
    );
    let no_table = |p: &mut TileProgram| {
        let Rows::Paged { table, .. } = &mut source(&mut step(p)[at::LOAD_KV]).rows else {
            panic!("expected pages")
        };
        *table = ParamId(41);
    };
    assert_eq!(fault(no_table), unknown("parameter", 41, 12));
}

#[test]
fn names_are_unique_words() {
    assert_eq!(
        fault(|p| p.vars[0] = "kv".to_string()),
        Fault::DuplicateName { name: "kv".to_string() }
    );
    for name in ["", "2x", "a b", "row", "block", "é"] {
        assert_eq!(
            fault(|p| p.tiles[0].name = name.to_string()),
            Fault::BadName { name: name.to_string() }
        );
    }
    assert_eq!(
        fault(|p| p.name = "a-b".to_string()),
        Fault::BadName {
            name: "a-b".to_string()
        }
    );
}

#[test]
fn declarations_are_well_formed() {
    assert_eq!(fault(|p| p.tiles[KV.0].rows = 0), Fault::NotPositive { what: "rows" });
    assert_eq!(fault(|p| p.tiles[KV.0].cols = 0), Fault::NotPositive { what: "cols" });
    assert!(matches!(
        fault(|p| p.tiles[S.0].dtype = DType::BF16),
        Fault::FragmentType { got: DType::BF16, .. }
    ));
    assert!(matches!(
        fault(|p| p.tiles[M.0].cols = 2),
        Fault::VectorForm { cols: 2, .. }
    ));
    assert!(matches!(
        fault(|p| p.tiles[M.0].space = Space::Shared),
        Fault::VectorForm {
            space: Space::Shared,
            ..
        }
    ));
}

#[test]
fn the_grid_is_made_of_scalar_parameters() {
    for expr in [
        Expr::Block(Axis::X),
        Expr::Var(LEN),
        Expr::Row,
        Expr::Load(KV_LEN, Box::new(0.into())),
    ] {
        assert!(matches!(
            fault(|p| p.grid[1] = expr),
            Fault::Misplaced { place: "the grid", .. }
        ));
    }
    assert!(message(|p| p.grid[2] = 1.5f32.into()).ends_with("expected an integer"));
    assert!(matches!(
        fault(|p| p.grid[0] = KV_LEN.into()),
        Fault::ParamKind { got: "tensor", .. }
    ));
}

#[test]
fn views_fit_their_tensors() {
    let access = fault(|p| source(&mut p.body[at::LOAD_Q]).param = OUT);
    assert_eq!(
        access,
        Fault::Access {
            param: "out".to_string(),
            expected: Access::Read,
            got: Access::Write
        }
    );
    let access = fault(|p| source(&mut p.body[at::STORE]).param = Q);
    assert_eq!(
        access,
        Fault::Access {
            param: "q".to_string(),
            expected: Access::Write,
            got: Access::Read
        }
    );
    assert!(matches!(
        fault(|p| source(&mut p.body[at::STORE]).param = T),
        Fault::ParamKind { got: "scalar", .. }
    ));
    assert!(matches!(
        fault(|p| source(&mut p.body[at::LOAD_Q]).offset = 0.5f32.into()),
        Fault::Type { .. }
    ));
    assert_eq!(
        fault(|p| source(&mut p.body[at::STORE]).align = 0),
        Fault::NotPositive { what: "align" }
    );
    assert!(message(|p| source(&mut p.body[at::STORE]).mask = Some(O)).contains("expected row f32[16]"));
    assert!(matches!(
        fault(|p| source(&mut p.body[at::LOAD_Q]).mask = Some(L)),
        Fault::Unwritten { .. }
    ));
    let paged = |change: fn(&mut ParamId, &mut usize, &mut Expr)| {
        fault(|p| {
            let rows = &mut source(&mut step(p)[at::LOAD_KV]).rows;
            let Rows::Paged {
                table,
                page_size,
                page_stride,
                ..
            } = rows
            else {
                panic!("expected pages")
            };
            change(table, page_size, page_stride);
        })
    };
    assert_eq!(
        paged(|_, page_size, _| *page_size = 0),
        Fault::NotPositive { what: "page_size" }
    );
    assert!(matches!(
        paged(|table, _, _| *table = COS),
        Fault::TensorType {
            expected: "i32",
            got: DType::F32,
            ..
        }
    ));
    assert!(matches!(
        paged(|_, _, stride| *stride = 0.5f32.into()),
        Fault::Type { .. }
    ));
}

#[test]
fn loads_and_stores_fit_their_tiles() {
    assert_eq!(
        message(set_load(COS_S, 0..8)),
        "destination `cos_s` is shared f32[16, 8], expected shared bf16[_, _]"
    );
    assert!(message(set_load(PART, 0..1)).ends_with("expected a tile or row vector"));
    assert_eq!(
        message(set_load(Q_RAW, 0..49)),
        "columns 0..49 of `q_raw`, expected a non-empty range within 0..48"
    );
    assert!(matches!(fault(set_load(Q_RAW, 8..8)), Fault::Columns { .. }));
    assert!(matches!(fault(set_load(LIMIT, 0..2)), Fault::Columns { .. }));
    let store = |src, cols: Columns| {
        fault(|p| {
            let dst = source(&mut p.body[at::STORE]).clone();
            p.body[at::STORE] = Stmt::Store {
                dst: View { mask: None, ..dst },
                src,
                cols,
            };
        })
    };
    assert!(matches!(store(Q_RAW, 0..48), Fault::Operand { role: "source", .. }));
    assert!(matches!(store(PART, 0..1), Fault::Operand { role: "source", .. }));
    assert!(matches!(store(O, 0..33), Fault::Columns { cols: 32, .. }));
    let integers = |p: &mut TileProgram| {
        let ParamKind::Tensor { dtype, .. } = &mut p.params[OUT.0].kind else {
            panic!("expected a tensor")
        };
        *dtype = DType::I32;
    };
    assert!(matches!(
        fault(integers),
        Fault::TensorType {
            expected: "a float type",
            ..
        }
    ));
}

#[test]
fn a_fragment_may_take_integers() {
    let mut program = attention();
    let src = source(&mut program.body[at::LOAD_Q]).clone();
    program.body.push(Stmt::Load {
        dst: O,
        cols: 0..32,
        src: View { param: KV_LEN, ..src },
    });
    assert_eq!(verify(&program), Ok(()));
}

#[test]
fn stages_and_fills_fit() {
    let stage = |dst, src| message(|p| p.body[at::STAGE_Q] = Stmt::Stage { dst, src });
    assert_eq!(
        stage(PROB, Q_ROT),
        "source `q_rot` is fragment f32[16, 48], expected fragment f32[16, 16]"
    );
    assert!(stage(Q_ROT, Q_ROT).contains("expected shared"));
    assert!(stage(Q_S, Q_RAW).contains("expected fragment f32[16, 48]"));
    assert!(message(|p| p.tiles[Q_S.0].dtype = DType::I32).ends_with("expected a tile of a float type"));
    let fill = |dst, value| fault(|p| p.body[at::FILL_PART] = Stmt::Fill { dst, value });
    assert!(matches!(fill(KV, 0.0), Fault::Operand { .. }));
    assert!(matches!(fill(PART, 1.0), Fault::PartialFill { .. }));
}

#[test]
fn map_operands_fit() {
    assert_eq!(
        message(set_map(O)),
        "operand `o` is fragment f32[16, 32], expected fragment f32[16, 16] or row f32[16]"
    );
    assert!(matches!(fault(set_map(PART)), Fault::Operand { .. }));
    assert!(matches!(fault(set_map(KV)), Fault::Operand { .. }));
    let to = |dst, value: Expr| message(|p| step(p)[at::MAP_S] = Stmt::Map { dst, value });
    assert_eq!(
        to(ALPHA, S.into()),
        "operand `s` is fragment f32[16, 16], expected row f32[16]"
    );
    assert!(to(KV, 0.5f32.into()).ends_with("expected a fragment or vector"));
}

#[test]
fn row_partials_are_only_scaled() {
    let to = |value: Expr| fault(|p| step(p)[at::SCALE_PART] = Stmt::Map { dst: PART, value });
    let part = || Expr::Tile(PART);
    assert!(matches!(to(part() + ALPHA), Fault::PartialScale { .. }));
    assert!(matches!(to(ALPHA.into()), Fault::PartialScale { .. }));
    assert!(matches!(to(part() * PART), Fault::Operand { .. }));
    assert!(matches!(to(part() * S), Fault::Operand { .. }));
    assert!(matches!(to(part() * Expr::Col.to_float()), Fault::Misplaced { .. }));
    assert!(matches!(to(part() * 2), Fault::Type { .. }));
    let mut program = attention();
    step(&mut program)[at::SCALE_PART] = Stmt::Map {
        dst: PART,
        value: Expr::Tile(ALPHA) * PART,
    };
    assert_eq!(verify(&program), Ok(()));
}

#[test]
fn reductions_fit() {
    let max = |dst, src| {
        message(|p| {
            step(p)[at::MAX] = Stmt::Reduce {
                op: ReduceOp::Max,
                dst,
                src,
            }
        })
    };
    assert!(max(PART, S).ends_with("expected row f32[16]"));
    assert!(max(M, ALPHA).ends_with("expected fragment f32[_, _]"));
    assert!(max(S, S).ends_with("expected row f32[16]"));
    let sum = |dst| {
        message(|p| {
            step(p)[at::SUM] = Stmt::Reduce {
                op: ReduceOp::Sum,
                dst,
                src: S,
            }
        })
    };
    assert!(sum(O).ends_with("expected row f32[16]"));
    let finish = |dst, src| message(|p| p.body[at::FINISH] = Stmt::Finish { dst, src });
    assert!(finish(L, M).ends_with("expected partial f32[16]"));
    assert!(finish(O, PART).ends_with("expected row f32[16]"));
    assert!(message(|p| p.tiles[L.0].rows = 8).ends_with("expected row f32[16]"));
}

#[test]
fn rotations_fit() {
    let rotate = |change: fn([&mut TileId; 4], &mut usize)| {
        message(|p| {
            let Stmt::Rotate {
                dst, src, cos, sin, d, ..
            } = &mut p.body[at::ROTATE]
            else {
                panic!("expected rotate")
            };
            change([dst, src, cos, sin], d);
        })
    };
    assert_eq!(
        rotate(|_, d| *d = 15),
        "15 columns are rotated, expected an even number in 2..=48"
    );
    assert!(rotate(|_, d| *d = 0).starts_with("0 columns"));
    assert!(rotate(|_, d| *d = 50).starts_with("50 columns"));
    assert!(rotate(|_, d| *d = 18).starts_with("columns 0..9 of `cos_s`"));
    assert!(rotate(|[_, _, _, sin], _| *sin = KV).ends_with("expected shared f32[16, _]"));
    assert!(rotate(|[_, _, cos, _], _| *cos = Q_RAW).ends_with("expected shared f32[16, _]"));
    assert!(rotate(|[dst, ..], _| *dst = S).ends_with("expected fragment f32[16, 48]"));
    assert!(rotate(|[_, src, ..], _| *src = S).ends_with("expected shared _[_, _]"));
}

#[test]
fn nothing_is_read_before_it_is_written() {
    let mut unwritten = BTreeSet::new();
    for i in 0..attention().body.len() {
        let mut program = attention();
        program.body.remove(i);
        let found = verify(&program).err().map(|error| *error.fault);
        if let Some(Fault::Unwritten { tile, .. }) = found {
            unwritten.insert(tile);
        }
    }
    let expected = [
        "cos_s", "l", "limit", "m", "o", "part", "q_raw", "q_rot", "q_s", "sin_s",
    ];
    assert_eq!(unwritten, expected.map(str::to_string).into());
}

#[test]
fn bodies_that_may_not_run_write_nothing_for_what_follows() {
    let unwritten = |tile: &str, cols| Fault::Unwritten {
        tile: tile.to_string(),
        cols,
    };
    let after_loop = |p: &mut TileProgram| p.body.push(Stmt::Stage { dst: PROB, src: S });
    assert_eq!(fault(after_loop), unwritten("s", 0..16));
    let inside_if = |p: &mut TileProgram| {
        let load = p.body[at::LOAD_Q].clone();
        p.body[at::LOAD_Q] = Stmt::If {
            cond: Expr::from(LEN).lt(9),
            body: vec![load],
        };
    };
    assert_eq!(fault(inside_if), unwritten("q_raw", 0..48));
    // Written late in the body and read early in it: the first time round it is not written.
    assert_eq!(fault(|p| step(p).rotate_left(1)), unwritten("kv", 0..48));
}

#[test]
fn columns_add_up() {
    let load = |program: &mut TileProgram, cols: Columns| {
        let src = source(&mut program.body[at::LOAD_Q]).clone();
        program.body.insert(at::LOAD_Q, Stmt::Load { dst: Q_RAW, cols, src });
    };
    let with = |parts: &[Columns]| {
        let mut program = attention();
        for cols in parts {
            load(&mut program, cols.clone());
        }
        program.body.remove(at::LOAD_Q + parts.len());
        verify(&program)
    };
    assert_eq!(with(&[32..48, 0..16, 16..32]), Ok(()));
    assert_eq!(with(&[0..30, 20..48]), Ok(()));
    let gap = with(&[0..16, 17..48]).expect_err("a gap");
    assert!(matches!(*gap.fault, Fault::Unwritten { .. }));
}

#[test]
fn return_ends_its_body() {
    let early = |p: &mut TileProgram| {
        p.body[at::IF] = Stmt::If {
            cond: Expr::from(LEN).le(0),
            body: vec![Stmt::Return, Stmt::Return],
        };
    };
    assert_eq!(fault(early), Fault::ReturnNotLast { followers: 1 });
    assert_eq!(
        fault(|p| p.body.insert(0, Stmt::Return)),
        Fault::ReturnNotLast { followers: 17 }
    );
    let mut program = attention();
    program.body.push(Stmt::Return);
    assert_eq!(verify(&program), Ok(()));
}
