//! Whole files as NVRTC and Triton wrote them; their sources lie beside them in testdata/ptx.

use super::*;
use crate::ast::{Init, InitScalar, Type};

pub(super) const TILE_SM80: &str = include_str!("../../../testdata/ptx/tile_sm80_nvrtc12.ptx");
pub(super) const TILE_SM120: &str = include_str!("../../../testdata/ptx/tile_sm120_nvrtc13_lineinfo.ptx");
pub(super) const CALLS_SM90: &str = include_str!("../../../testdata/ptx/calls_sm90_nvrtc12.ptx");
pub(super) const CALLS_SM100: &str = include_str!("../../../testdata/ptx/calls_sm100_nvrtc13.ptx");
pub(super) const SOFTMAX_SM80: &str = include_str!("../../../testdata/ptx/softmax_sm80_triton.ptx");

/// A function of a file, by name, with a body.
fn defined(module: &Module, name: &str) -> Function {
    let mut functions = module.items.iter().filter_map(|item| match item {
        Item::Function(function) if function.name == name && function.body.is_some() => Some(function),
        _ => None,
    });
    functions.next_back().expect(name).clone()
}

fn global(module: &Module, name: &str) -> Variable {
    let mut variables = module.items.iter().filter_map(|item| match item {
        Item::Variable(variable) if variable.name == name => Some(variable),
        _ => None,
    });
    variables.next_back().expect(name).clone()
}

/// Calls `visit` with every statement, scopes included.
fn walk(statements: &[Stmt], visit: &mut impl FnMut(&Stmt)) {
    for statement in statements {
        visit(statement);
        if let Stmt::Block(inner) = statement {
            walk(inner, visit);
        }
    }
}

fn opcodes(function: &Function) -> Vec<(String, u32)> {
    let mut opcodes = Vec::new();
    walk(function.body.as_ref().expect("a body"), &mut |statement| {
        if let Stmt::Inst(inst) = statement {
            opcodes.push((inst.opcode.join("."), inst.line));
        }
    });
    opcodes
}

/// Every line that ends with `;` and is no directive starts an instruction at that line, once.
fn check_every_instruction_line(text: &str, module: &Module) {
    let parsed: std::collections::BTreeSet<u32> = module
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Function(function) if function.body.is_some() => Some(opcodes(function)),
            _ => None,
        })
        .flatten()
        .map(|(_, line)| line)
        .collect();
    let mut expected = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or("").trim();
        let word = line.trim_start_matches(|c: char| c == '@' || c == '!' || c == '{' || c.is_whitespace());
        let is_directive = word.starts_with('.') || word.contains(" .callprototype ") || word.is_empty();
        if line.ends_with(';') && !is_directive && !word.starts_with([')', ',', ';']) {
            assert!(parsed.contains(&(index as u32 + 1)), "line {}: {line}", index + 1);
            expected += 1;
        }
    }
    assert!(expected > 40, "the check looked at only {expected} lines");
}

#[test]
fn every_instruction_of_every_file_is_there() {
    for text in [TILE_SM80, TILE_SM120, CALLS_SM90, CALLS_SM100, SOFTMAX_SM80] {
        check_every_instruction_line(text, &parse(text).unwrap());
    }
}

#[test]
fn tile_in_both_dialects() {
    for (text, target) in [(TILE_SM80, "sm_80"), (TILE_SM120, "sm_120")] {
        let module = parse(text).unwrap();
        assert_eq!((module.target.as_str(), module.address_size), (target, 64));
        let kernel = defined(&module, "tile");
        assert_eq!(
            (kernel.performance.maxntid, kernel.performance.minnctapersm),
            (Some([128, 1, 1]), Some(2))
        );
        assert_eq!(
            kernel.params.iter().map(|param| param.ty.bytes()).collect::<Vec<_>>(),
            [8, 8, 8, 4, 4]
        );
        let opcodes = opcodes(&kernel);
        let count = |name: &str| opcodes.iter().filter(|(opcode, _)| opcode == name).count();
        let mmas = count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
        assert!(mmas > 0);
        assert_eq!(count("mbarrier.test_wait.parity.shared::cta.b64"), mmas);
        assert_eq!(count("cp.async.cg.shared.global.L2::128B"), mmas);
        assert_eq!(count("mbarrier.init.shared::cta.b64"), 1);
        assert_eq!(global(&module, "dynamic_memory").align, Some(128));
    }
}

#[test]
fn dialects_differ_in_register_types() {
    let has_f32_registers = |text: &str| {
        let mut found = false;
        walk(
            &defined(&parse(text).unwrap(), "tile").body.unwrap(),
            &mut |statement| {
                found |= matches!(statement, Stmt::Registers { ty: Type::F32, .. });
            },
        );
        found
    };
    assert_eq!([TILE_SM80, TILE_SM120].map(has_f32_registers), [true, false]);
}

#[test]
fn line_information() {
    let module = parse(TILE_SM120).unwrap();
    assert_eq!(module.files.get(&1).map(String::as_str), Some("tile.cu"));
    let mut lines = std::collections::BTreeSet::new();
    walk(&defined(&module, "tile").body.unwrap(), &mut |statement| {
        if let Stmt::Loc { file: 1, line, .. } = statement {
            lines.insert(*line);
        }
    });
    assert!(lines.len() > 10 && lines.contains(&14), "{lines:?}");
    let triton = parse(SOFTMAX_SM80).unwrap();
    assert_eq!(triton.files.len(), 2);
    assert!(triton.files[&2].ends_with("standard.py"));
}

#[test]
fn calls_and_data() {
    for text in [CALLS_SM90, CALLS_SM100] {
        let module = parse(text).unwrap();
        let kernel = defined(&module, "calls");
        assert_eq!(kernel.performance.maxnreg, Some(96));
        assert_eq!((kernel.params[0].bytes(), kernel.params[0].alignment()), (Some(16), 16));
        assert!(
            opcodes(&kernel)
                .iter()
                .filter(|(opcode, _)| opcode.starts_with("call"))
                .count()
                >= 4
        );
        let mut prototypes = 0;
        walk(kernel.body.as_ref().unwrap(), &mut |statement| {
            prototypes += usize::from(matches!(statement, Stmt::CallPrototype { .. }));
        });
        assert_eq!(prototypes, 1);
        let Some(Init::Scalars(packed)) = global(&module, "packed").init else {
            panic!("no initialiser")
        };
        assert_eq!((packed.len(), &packed[0]), (9, &InitScalar::Int(7)));
        let last = InitScalar::Symbol {
            name: "counters".to_owned(),
            offset: 8,
            generic: true,
            mask: Some(0xFF00_0000_0000_0000),
        };
        assert_eq!(packed[8], last);
        assert_eq!(global(&module, "table").bytes(), Some(20));
    }
}

#[test]
fn triton() {
    let kernel = defined(&parse(SOFTMAX_SM80).unwrap(), "softmax");
    assert_eq!((kernel.performance.reqntid, kernel.params.len()), (Some([32, 1, 1]), 6));
    let guarded = opcodes(&kernel)
        .iter()
        .filter(|(opcode, _)| opcode == "ld.global.b32")
        .count();
    assert_eq!(guarded, 2);
}
