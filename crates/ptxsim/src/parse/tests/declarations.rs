//! Headers, variables, functions and what else stands at module level.

use super::*;
use crate::ast::{FunctionKind, Init, InitScalar, Linkage, Performance, Space, Type};

fn scalars(text: &str) -> Vec<InitScalar> {
    let Some(Init::Scalars(scalars)) = variable(text).init else {
        panic!("no initialiser")
    };
    scalars
}

fn ints(text: &str) -> Vec<i128> {
    let value = |scalar| match scalar {
        InitScalar::Int(value) => value,
        other => panic!("{other:?}"),
    };
    scalars(text).into_iter().map(value).collect()
}

fn address(name: &str, offset: i64, generic: bool, mask: Option<u64>) -> InitScalar {
    InitScalar::Symbol {
        name: name.to_owned(),
        offset,
        generic,
        mask,
    }
}

#[test]
fn header() {
    let module = parse("// note\n.version 7.10 /* two\nlines */ .target sm_90a, texmode_independent, debug\n").unwrap();
    assert_eq!((module.version, module.address_size), ((7, 10), 32));
    assert_eq!(module.target, "sm_90a");
    assert_eq!(module.target_options, ["texmode_independent", "debug"]);
    assert_eq!(super::module("").address_size, 64);
}

#[test]
fn files_sections_aliases_and_pragmas() {
    let module = module(
        ".file 1 \"a.cu\"\n.file 2 \"/src\" \"b.py\", 123, 456\n.file 3 \"/src\" \"/abs/c.py\"\n\
         .section .debug_abbrev\n{\n.b8 1 // tag\n.b32 .debug_str\n{ .b64 $L__tmp1-$L__tmp0 }\n}\n\
         .section .debug_loc { }\n.pragma \"x\";\n.func f() ;\n.alias g, f;",
    );
    let files: Vec<_> = module
        .files
        .iter()
        .map(|(index, path)| (*index, path.as_str()))
        .collect();
    assert_eq!(files, [(1, "a.cu"), (2, "/src/b.py"), (3, "/abs/c.py")]);
    assert_eq!(module.aliases.get("g").map(String::as_str), Some("f"));
    assert_eq!(module.items.len(), 1);
}

#[test]
fn variables_of_every_space() {
    let dynamic = variable(".extern .shared .align 128 .b8 memory[];");
    assert_eq!(
        (dynamic.space, dynamic.linkage, dynamic.align),
        (Space::Shared, Linkage::Extern, Some(128))
    );
    assert_eq!(
        (dynamic.dims.as_slice(), dynamic.bytes(), dynamic.line),
        (&[None][..], Some(0), 4)
    );
    let tile = variable(".shared .align 4 .b8 tile[2][8];");
    assert_eq!(
        (tile.linkage, tile.dims, tile.ty),
        (Linkage::None, vec![Some(2), Some(8)], Type::B8)
    );
    let vector = variable(".visible .global .v4 .f32 vector;");
    assert_eq!(
        (vector.linkage, vector.vector, vector.bytes(), vector.alignment()),
        (Linkage::Visible, 4, Some(16), 16)
    );
    assert_eq!(variable(".weak .const .u16 x;").linkage, Linkage::Weak);
    assert_eq!(
        variable(".common .global .attribute(.managed) .u16 x;").linkage,
        Linkage::Common
    );
    assert_eq!(
        variable(".global .attribute(.unified(19, 0xab)) .f64 x;").bytes(),
        Some(8)
    );
    assert_eq!(module(".global .u32 a = 1, b[2] = {2, 3}, c;").items.len(), 3);
}

#[test]
fn initialisers() {
    assert_eq!(ints(".global .u32 x = 0x10;"), [16]);
    assert_eq!(
        ints(".global .s64 x[] = {-1, 0b101, 017, 18446744073709551615, 5U, 0xFFU};"),
        [-1, 5, 15, u64::MAX.into(), 5, 255]
    );
    assert_eq!(variable(".const .u16 x[] = {1, 2, 3};").bytes(), Some(6));
    assert_eq!(ints(".const .b8 x[20] = {1, 2};"), [1, 2]);
    assert_eq!(
        scalars(".const .f32 x[2] = {0f3F800000, -0F3F800000};"),
        [InitScalar::F32(0x3F80_0000), InitScalar::F32(0xBF80_0000)]
    );
    assert_eq!(
        scalars(".const .f64 x[4] = {0d3FF0000000000000, -0.5, 1e3, 2.5E-1};"),
        [
            InitScalar::F64(1_f64.to_bits()),
            InitScalar::F64((-0.5_f64).to_bits()),
            InitScalar::F64(1e3_f64.to_bits()),
            InitScalar::F64(0.25_f64.to_bits())
        ]
    );
}

#[test]
fn inner_braces_are_filled_with_zeros() {
    assert_eq!(ints(".global .s32 x[3][2] = {{1}, {2, 3}};"), [1, 0, 2, 3]);
    assert_eq!(
        ints(".global .s32 x[2][2][2] = {{{1}, {2}}, {{3, 4}}};"),
        [1, 0, 2, 0, 3, 4, 0, 0]
    );
    assert_eq!(ints(".global .v2 .s32 x[] = {{1}, {2, 3}};"), [1, 0, 2, 3]);
    assert_eq!(variable(".global .v2 .s32 x[] = {{1}, {2, 3}};").bytes(), Some(16));
}

#[test]
fn addresses_in_initialisers() {
    assert_eq!(
        scalars(".global .u64 x[5] = {a, a+4, generic(a), generic(a)+8, generic(a+-8)};"),
        [
            address("a", 0, false, None),
            address("a", 4, false, None),
            address("a", 0, true, None),
            address("a", 8, true, None),
            address("a", -8, true, None),
        ]
    );
    assert_eq!(
        scalars(".global .u8 x[2] = {7, 0xFF00(generic(a)+8)};")[1],
        address("a", 8, true, Some(0xFF00))
    );
}

#[test]
fn kernel_parameters() {
    let kernel = function(
        ".visible .entry k(.param .u64 .ptr .global .align 16 a, .param .u64 .ptr .align 1 b,\n\
         .param .align 8 .b8 c[16], .param .b8 d, .param .align 64 .b8 e[128], .param .b64 f) { ret; }",
    );
    assert_eq!(
        (kernel.kind, kernel.linkage, kernel.line),
        (FunctionKind::Entry, Linkage::Visible, 4)
    );
    let layout: Vec<_> = kernel
        .params
        .iter()
        .map(|param| (param.bytes().unwrap(), param.alignment()))
        .collect();
    assert_eq!(layout, [(8, 8), (8, 8), (16, 8), (1, 1), (128, 64), (8, 8)]);
    assert!(kernel.params.iter().all(|param| param.space == Space::Param));
    assert!(function(".entry k { ret; }").params.is_empty());
}

#[test]
fn performance_directives() {
    let performance = |text: &str| function(&format!(".entry k() {text} {{ ret; }}")).performance;
    assert_eq!(performance(".maxntid 128, 2, 1").maxntid, Some([128, 2, 1]));
    assert_eq!(performance(".maxntid 128").maxntid, Some([128, 1, 1]));
    assert_eq!(performance(".reqntid 32, 4").reqntid, Some([32, 4, 1]));
    assert_eq!(performance(".maxnctapersm 4").maxnctapersm, Some(4));
    let many = performance(
        ".minnctapersm 2 .maxnreg 96 .reqnctapercluster 2, 1, 1 .explicitcluster .maxclusterrank 8 .pragma \"nounroll\";",
    );
    let expected = Performance {
        minnctapersm: Some(2),
        maxnreg: Some(96),
        reqnctapercluster: Some([2, 1, 1]),
        explicitcluster: true,
        maxclusterrank: Some(8),
        pragmas: vec!["nounroll".to_owned()],
        ..Performance::default()
    };
    assert_eq!(many, expected);
    assert!(function(".func f() .noreturn ;").performance.noreturn);
}

#[test]
fn device_functions() {
    let declared = function(".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b) ;");
    assert_eq!((declared.kind, declared.linkage), (FunctionKind::Func, Linkage::Extern));
    assert_eq!(
        (declared.returns.len(), declared.params.len(), declared.body),
        (1, 2, None)
    );
    let structure = function(".visible .func (.param .align 16 .b8 r[16]) f(.param .align 8 .b8 p[24]) { ret; }");
    assert_eq!(
        (structure.returns[0].bytes(), structure.params[0].bytes()),
        (Some(16), Some(24))
    );
    let registers = function(".func (.reg .u32 r) f (.reg .u32 a) { mov.u32 r, a; ret; }");
    assert_eq!(registers.params[0].space, Space::Reg);
    let Some(Stmt::Inst(mov)) = registers.body.unwrap().into_iter().next() else {
        panic!("no instruction")
    };
    assert_eq!(mov.operands, [register("r"), register("a")]);
}
