//! Statements, instructions and operands.

use super::*;
use crate::ast::{AddressBase, Guard, RegisterNames, Space, Type};

fn operands(text: &str) -> Vec<Operand> {
    inst(&format!(".reg .pred p, q; .reg .b32 a; {text}")).operands
}

fn at(name: &str, offset: i64) -> Operand {
    Operand::Address {
        base: AddressBase::Name(name.to_owned()),
        offset,
    }
}

fn pair(first: Operand, second: Operand) -> Operand {
    Operand::Pair(Box::new(first), Box::new(second))
}

fn negated(operand: Operand) -> Operand {
    Operand::Negated(Box::new(operand))
}

#[test]
fn register_declarations() {
    let statements = body(".reg .pred %p<72>;\n.reg .v2 .f32 %v, %w<3>;");
    let range = |prefix: &str, count| RegisterNames::Range {
        prefix: prefix.to_owned(),
        count,
    };
    let predicates = Stmt::Registers {
        ty: Type::Pred,
        vector: 1,
        names: vec![range("%p", 72)],
        line: 5,
    };
    let names = vec![RegisterNames::One("%v".to_owned()), range("%w", 3)];
    assert_eq!(
        statements,
        [
            predicates,
            Stmt::Registers {
                ty: Type::F32,
                vector: 2,
                names,
                line: 6
            }
        ]
    );
}

#[test]
fn local_variables() {
    let statements = body(".local .align 16 .b8 depot[80];\n.shared .align 4 .b8 sums[128];\n.param .b64 retval0;");
    let spaces = statements.iter().map(|statement| match statement {
        Stmt::Variable(variable) => variable.space,
        other => panic!("{other:?}"),
    });
    assert_eq!(spaces.collect::<Vec<_>>(), [Space::Local, Space::Shared, Space::Param]);
}

#[test]
fn opcodes_are_split_at_dots() {
    let opcode = |text: &str| inst(text).opcode.join(" ");
    assert_eq!(
        opcode("mbarrier.init.shared::cta.b64 [%r1], %r2;"),
        "mbarrier init shared::cta b64"
    );
    assert_eq!(
        opcode("ld.global.nc.L1::evict_first.L2::128B.v4.f32 {%f1,%f2,%f3,%f4}, [%rd1];"),
        { "ld global nc L1::evict_first L2::128B v4 f32" }
    );
    assert_eq!(
        opcode("cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r1], [%rd1, {%r2, %r3}];"),
        { "cp async bulk tensor 2d shared::cluster global tile" }
    );
    assert_eq!(opcode("ret;"), "ret");
}

#[test]
fn mma_has_vectors() {
    let inst = inst(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, \
         {%f1, %f2, %f3, %f4};",
    );
    assert_eq!(inst.opcode[3], "m16n8k16");
    assert_eq!(
        inst.operands[2],
        Operand::Vector(vec![register("%r5"), register("%r6")])
    );
    assert_eq!(inst.operands[0], inst.operands[3]);
}

#[test]
fn literals() {
    assert_eq!(
        operands("f a, 0x7fffffff, -5, 0, 0f3F800000, -0f3F800000, 0dBFF0000000000000, 1.5;")[1..],
        [
            Operand::Int(0x7fff_ffff),
            Operand::Int(-5),
            Operand::Int(0),
            Operand::F32(0x3F80_0000),
            Operand::F32(0xBF80_0000),
            Operand::F64((-1_f64).to_bits()),
            Operand::F64(1.5_f64.to_bits()),
        ]
    );
}

#[test]
fn addresses() {
    let base = AddressBase::Name("%rd1".to_owned());
    assert_eq!(
        operands("f [%rd1], [%rd1+16], [%rd1+-16], [ %rd1 + 0 ], [%rd1-0x10], [table+4], [a], [64+4];"),
        [
            at("%rd1", 0),
            at("%rd1", 16),
            at("%rd1", -16),
            at("%rd1", 0),
            at("%rd1", -16),
            at("table", 4),
            at("a", 0),
            Operand::Address {
                base: AddressBase::Int(64),
                offset: 4
            },
        ]
    );
    let coordinates = vec![Operand::Vector(vec![register("%r1"), Operand::Int(0)])];
    assert_eq!(
        operands("f [%rd1, {%r1, 0}];"),
        [Operand::TensorAddress {
            base,
            offset: 0,
            coordinates
        }]
    );
}

#[test]
fn registers_and_symbols() {
    assert_eq!(operands("mov.u32 a, %tid.x;"), [register("a"), register("%tid.x")]);
    assert_eq!(operands("mov.u64 %rd1, table;"), [register("%rd1"), symbol("table")]);
    let offset = Operand::SymbolOffset {
        name: "table".to_owned(),
        offset: 8,
    };
    assert_eq!(operands("mov.u64 %rd1, table+8;"), [register("%rd1"), offset]);
    assert_eq!(operands("mov.u32 a, WARP_SZ;")[1], symbol("WARP_SZ"));
    assert_eq!(operands("bra.uni $L__BB0_1;"), [symbol("$L__BB0_1")]);
}

#[test]
fn ranges_declare_names_without_percent() {
    let operand = |name: &str| inst(&format!(".reg .b32 x<12>, y1<3>; mov.b32 {name}, 0;")).operands[0].clone();
    for declared in ["x0", "x11", "y10", "y12"] {
        assert_eq!(operand(declared), register(declared));
    }
    for other in ["x12", "x", "x01", "y13", "x4294967296", "x99999999999999999999"] {
        assert_eq!(operand(other), symbol(other));
    }
}

#[test]
fn predicates() {
    assert_eq!(
        operands("setp.eq.and.s32 p|q, a, 0, !p;"),
        [
            pair(register("p"), register("q")),
            register("a"),
            Operand::Int(0),
            negated(register("p")),
        ]
    );
    assert_eq!(
        operands("f _|q, p|_, _, -a;"),
        [
            pair(Operand::Sink, register("q")),
            pair(register("p"), Operand::Sink),
            Operand::Sink,
            negated(register("a")),
        ]
    );
    let guard = |text: &str| inst(text).guard;
    let expected = |negated| {
        Some(Guard {
            register: "%p1".to_owned(),
            negated,
        })
    };
    assert_eq!(
        (guard("@%p1 bra L;"), guard("@!%p1 bra L;"), guard("bra L;")),
        (expected(false), expected(true), None)
    );
}

#[test]
fn scopes_have_their_own_registers_and_labels() {
    let text = "{\n.reg .pred p;\nwait:\n@p bra done;\nbra wait;\ndone:\n}\n{ ; }\nmov.b32 %r1, p;";
    let statements = body(text);
    let Stmt::Block(inner) = &statements[0] else {
        panic!("{statements:?}")
    };
    assert_eq!(
        inner[1],
        Stmt::Label {
            name: "wait".to_owned(),
            line: 7
        }
    );
    let Stmt::Inst(bra) = &inner[2] else {
        panic!("{inner:?}")
    };
    assert_eq!((bra.guard.as_ref().unwrap().register.as_str(), bra.line), ("p", 8));
    assert_eq!(statements[1], Stmt::Block(vec![]));
    let Stmt::Inst(after) = &statements[2] else {
        panic!("{statements:?}")
    };
    assert_eq!(after.operands[1], symbol("p"), "the register is gone after its scope");
}

#[test]
fn locations_and_pragmas() {
    let statements = body(
        ".loc 1 20 3\n.loc 2 7 0, function_name $L__info_string0, inlined_at 1 20 3 // k.cu:7\n\
         .loc 2 8 1, function_name $L__info_string0+16, inlined_at 1 20 3\n.pragma \"nounroll\", \"x\";",
    );
    let location = |file, line, column| Stmt::Loc { file, line, column };
    let pragma = |text: &str| Stmt::Pragma(text.to_owned());
    let expected = [
        location(1, 20, 3),
        location(2, 7, 0),
        location(2, 8, 1),
        pragma("nounroll"),
        pragma("x"),
    ];
    assert_eq!(statements, expected);
}

#[test]
fn direct_calls() {
    let call = |text: &str| match operands(text).pop() {
        Some(Operand::Call {
            returns,
            target,
            params,
            prototype,
        }) => (returns, *target, params, prototype),
        other => panic!("{other:?}"),
    };
    let expected = (
        vec![symbol("retval0")],
        symbol("f"),
        vec![symbol("param0"), symbol("param1")],
        None,
    );
    assert_eq!(call("call.uni (retval0), \nf, \n(\nparam0, \nparam1\n);"), expected);
    assert_eq!(
        call("call (a), f, (1, a);"),
        (
            vec![register("a")],
            symbol("f"),
            vec![Operand::Int(1), register("a")],
            None
        )
    );
    assert_eq!(call("call.uni f;"), (vec![], symbol("f"), vec![], None));
    assert_eq!(call("call f, ();"), (vec![], symbol("f"), vec![], None));
    let (returns, target, params, prototype) = call("call (_), %rd5, (param0), prototype_1;");
    assert_eq!((returns, target), (vec![Operand::Sink], register("%rd5")));
    assert_eq!((params.len(), prototype.as_deref()), (1, Some("prototype_1")));
    assert_eq!(call("call %rd5, targets;").3.as_deref(), Some("targets"));
}

#[test]
fn tables_and_prototypes() {
    let statements = body(
        "prototype_1 : .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[16]) .noreturn;\n\
         other: .callprototype ()_ ();\ntable: .branchtargets $L1, $L2;\nfns: .calltargets f, g;\nbrx.idx %r1, table;",
    );
    let Stmt::CallPrototype {
        name,
        returns,
        params,
        line,
    } = &statements[0]
    else {
        panic!("{statements:?}")
    };
    assert_eq!(
        (name.as_str(), returns.len(), params[1].bytes(), *line),
        ("prototype_1", 1, Some(16), 5)
    );
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(
        statements[2],
        Stmt::BranchTargets {
            name: "table".to_owned(),
            labels: names(["$L1", "$L2"])
        }
    );
    assert_eq!(
        statements[3],
        Stmt::CallTargets {
            name: "fns".to_owned(),
            functions: names(["f", "g"])
        }
    );
}

#[test]
fn type_names_read_back() {
    for name in ["b8", "b128", "f16x2", "bf16x2", "tf32", "e4m3x2", "ue8m0x2", "pred"] {
        assert_eq!(name.parse::<Type>().map(|ty| ty.to_string()).as_deref(), Ok(name));
    }
    assert!("b7".parse::<Type>().is_err());
    assert_eq!([Type::B128, Type::F16x2, Type::S8].map(Type::bytes), [16, 4, 1]);
}
