//! Whole files as NVRTC and Triton wrote them.

use super::*;
use crate::ast::{self, Item, Stmt};

const FILES: [&str; 5] = [
    include_str!("../../../../testdata/ptx/tile_sm80_nvrtc12.ptx"),
    include_str!("../../../../testdata/ptx/tile_sm120_nvrtc13_lineinfo.ptx"),
    include_str!("../../../../testdata/ptx/calls_sm90_nvrtc12.ptx"),
    include_str!("../../../../testdata/ptx/calls_sm100_nvrtc13.ptx"),
    include_str!("../../../../testdata/ptx/softmax_sm80_triton.ptx"),
];

/// Opcodes of the files that other families decode.
const OTHERS: [&str; 22] = [
    "ld",
    "st",
    "atom",
    "red",
    "bra",
    "brx",
    "call",
    "ret",
    "exit",
    "trap",
    "bar",
    "barrier",
    "shfl",
    "vote",
    "mma",
    "ldmatrix",
    "cp",
    "mbarrier",
    "fence",
    "membar",
    "activemask",
    "brkpt",
];

fn instructions<'m>(statements: &'m [Stmt], found: &mut Vec<&'m ast::Inst>) {
    for statement in statements {
        match statement {
            Stmt::Inst(inst) => found.push(inst),
            Stmt::Block(inner) => instructions(inner, found),
            _ => {}
        }
    }
}

/// Operands of each register that an opcode's text names do not matter here: each opcode is written with operands of its
/// own widths.
#[test]
fn every_opcode_of_real_files_decodes() {
    let mut checked = std::collections::BTreeSet::new();
    for text in FILES {
        let module = crate::parse::parse(text).expect("a module");
        for item in &module.items {
            let Item::Function(function) = item else { continue };
            let mut found = Vec::new();
            instructions(function.body.as_deref().unwrap_or_default(), &mut found);
            for inst in found {
                let opcode = inst.opcode.join(".");
                if !OTHERS.contains(&inst.opcode[0].as_str()) && checked.insert(opcode.clone()) {
                    let message = error(&format!("{opcode};"));
                    let known = message.contains("operands, found 0") || message.starts_with("no error");
                    assert!(known, "{opcode}: {message}");
                }
            }
        }
    }
    assert!(checked.len() > 50, "{checked:?}");
}
