//! Variables, sums and expressions: scopes, types, and where each may stand.

use super::*;

#[test]
fn variables_are_bound_once_and_used_in_scope() {
    let unbound = Fault::Unbound { var: "t".to_string() };
    let rebound = Fault::Rebound { var: "t".to_string() };
    assert_eq!(fault(set_let(TILE)), unbound);
    assert_eq!(
        fault(|p| p.body.push(Stmt::If {
            cond: Expr::from(TILE).lt(1),
            body: vec![]
        })),
        unbound
    );
    assert_eq!(
        fault(|p| p.body.push(Stmt::Let {
            var: TILE,
            value: 0.into()
        })),
        rebound
    );
    assert_eq!(
        fault(|p| step(p).push(Stmt::Let {
            var: TILE,
            value: 0.into()
        })),
        rebound
    );
    let own_bound = |p: &mut TileProgram| {
        let Stmt::For { end, .. } = &mut p.body[at::FOR] else {
            panic!("expected the loop")
        };
        *end = TILE.into();
    };
    assert_eq!(fault(own_bound), unbound);
    let bound_inside = |p: &mut TileProgram| {
        p.body[1] = Stmt::If {
            cond: Expr::from(T).lt(1),
            body: vec![Stmt::Let {
                var: LEN,
                value: 0.into(),
            }],
        };
    };
    assert_eq!(fault(bound_inside), Fault::Unbound { var: "len".to_string() });
}

#[test]
fn sums_are_of_integers_and_keep_their_index_to_themselves() {
    let sum = |change: fn(&mut VarId, &mut Expr, &mut Expr)| {
        fault(|p| {
            let Stmt::Sum {
                index, count, value, ..
            } = &mut p.body[at::TOTAL]
            else {
                panic!("expected the sum")
            };
            change(index, count, value);
        })
    };
    assert!(matches!(sum(|_, count, _| *count = 1.0f32.into()), Fault::Type { .. }));
    assert!(matches!(sum(|_, _, value| *value = 1.0f32.into()), Fault::Type { .. }));
    assert!(matches!(sum(|_, _, value| *value = Expr::Row), Fault::Misplaced { .. }));
    let unbound = |var: &str| Fault::Unbound { var: var.to_string() };
    assert_eq!(sum(|_, count, _| *count = SEQUENCE.into()), unbound("b"));
    assert_eq!(sum(|_, _, value| *value = TOTAL.into()), unbound("total"));
    assert_eq!(
        sum(|index, _, _| *index = LEN),
        Fault::Rebound { var: "len".to_string() }
    );
    let after = |value: Expr| {
        move |p: &mut TileProgram| {
            p.body.push(Stmt::If {
                cond: value.lt(1),
                body: vec![],
            })
        }
    };
    assert_eq!(fault(after(SEQUENCE.into())), unbound("b"));
    let mut program = attention();
    after(TOTAL.into())(&mut program);
    assert_eq!(verify(&program), Ok(()));
}

#[test]
fn expressions_have_consistent_types() {
    let int = || Expr::from(T);
    let float = || Expr::from(0.5f32);
    let truth = || int().lt(1);
    let wrong = [
        (int() + float(), "`0.5` is a float, expected an integer"),
        (float() * int(), "`T` is an integer, expected a float"),
        (
            truth() + truth(),
            "`T < 1` is a truth value, expected an integer or a float",
        ),
        (
            truth().lt(truth()),
            "`T < 1` is a truth value, expected an integer or a float",
        ),
        (int().and(truth()), "`T` is an integer, expected a truth value"),
        (truth().and(int()), "`T` is an integer, expected a truth value"),
        (int().select(1, 2), "`T` is an integer, expected a truth value"),
        (truth().select(1, 2.0f32), "`2.0` is a float, expected an integer"),
        (int().exp2(), "`T` is an integer, expected a float"),
        (float().to_float(), "`0.5` is a float, expected an integer"),
        (
            Expr::Unary(Unary::Wide, Box::new(float())),
            "`0.5` is a float, expected an integer",
        ),
        (
            Expr::Load(KV_LEN, Box::new(float())),
            "`0.5` is a float, expected an integer",
        ),
        (Expr::from(KV_LEN), "parameter `kv_len` is a tensor, expected a scalar"),
        (
            Expr::Load(T, Box::new(0.into())),
            "parameter `T` is a scalar, expected a tensor",
        ),
        (
            Expr::Load(Q, Box::new(0.into())),
            "tensor `q` has elements of bf16, expected i32 or f32",
        ),
        (
            Expr::Load(OUT, Box::new(0.into())),
            "tensor `out` is declared write, used to read",
        ),
    ];
    for (expr, expected) in wrong {
        assert_eq!(message(set_let(expr)), expected);
    }
    // The type of a let is its value's, and what uses it must agree.
    assert_eq!(message(set_let(float())), "`0` is an integer, expected a float");
    assert_eq!(message(set_map(Expr::Col)), "`col` is an integer, expected a float");
    assert!(
        message(|p| p.body[at::IF] = Stmt::If {
            cond: LEN.into(),
            body: vec![]
        })
        .contains("a truth value")
    );
    let float_start = |p: &mut TileProgram| {
        let Stmt::For { start, .. } = &mut p.body[at::FOR] else {
            panic!("expected the loop")
        };
        *start = float();
    };
    assert!(message(float_start).contains("expected an integer"));
}

#[test]
fn elements_are_known_only_in_maps() {
    for expr in [Expr::Row, Expr::Col, Expr::Tile(M)] {
        assert!(matches!(
            fault(set_let(expr.clone() + 1)),
            Fault::Misplaced {
                place: "a scalar expression",
                ..
            }
        ));
        let in_view = |p: &mut TileProgram| source(&mut p.body[at::STORE]).col_start = expr;
        assert!(matches!(fault(in_view), Fault::Misplaced { .. }));
    }
}

#[test]
fn gathered_rows_depend_on_the_row_alone() {
    let gather = |index: Expr| {
        move |p: &mut TileProgram| {
            source(&mut p.body[at::LOAD_Q]).rows = Rows::Gathered {
                index,
                stride: 48.into(),
                limit: 7.into(),
            };
        }
    };
    let mut program = attention();
    gather(Expr::Row / 2)(&mut program);
    verify(&program).unwrap();
    assert!(
        program.to_string().contains(" gathered(row row / 2 < 7, row 48), "),
        "{program}"
    );
    for expr in [Expr::Col, Expr::Tile(M)] {
        assert!(matches!(
            fault(gather(expr)),
            Fault::Misplaced {
                place: "the index of a gathered row",
                ..
            }
        ));
    }
}
