//! Names of a program that the lowered code can keep, and those it must change.

use crate::tile::TileProgram;

/// Names that the lowering gives, and words of CUDA C++.
const RESERVED: &[&str] = &[
    // The lowering's own.
    "a_chunk",
    "a_regs",
    "a_row",
    "a_value",
    "at",
    "b_chunk",
    "b_regs",
    "b_row",
    "first",
    "four",
    "gathered",
    "got",
    "half",
    "i",
    "in_rows",
    "j",
    "k",
    "lane",
    "low",
    "mt",
    "next",
    "next_stage",
    "np",
    "nt",
    "odd",
    "page",
    "partner",
    "piece",
    "present",
    "reduced",
    "row",
    "row_start",
    "second",
    "shared",
    "shared_memory",
    "there",
    "token",
    "turn",
    "w",
    "warp",
    "warp_m",
    "warp_n",
    "warps_turn",
    // CUDA C++.
    "abs",
    "alignas",
    "and",
    "asm",
    "auto",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "const",
    "continue",
    "default",
    "delete",
    "do",
    "double",
    "else",
    "enum",
    "exp2_approx",
    "explicit",
    "extern",
    "false",
    "float",
    "fmaxf",
    "fminf",
    "for",
    "friend",
    "goto",
    "i64",
    "if",
    "inline",
    "int",
    "log2f",
    "long",
    "max",
    "min",
    "namespace",
    "new",
    "not",
    "operator",
    "or",
    "private",
    "protected",
    "public",
    "register",
    "return",
    "rsqrtf",
    "short",
    "signed",
    "sizeof",
    "static",
    "struct",
    "switch",
    "template",
    "this",
    "throw",
    "true",
    "try",
    "typedef",
    "typename",
    "u16",
    "u32",
    "union",
    "unsigned",
    "using",
    "virtual",
    "void",
    "volatile",
    "while",
    "xor",
];

/// `program` with an underscore after each name that the lowering or CUDA C++ has a use of its own for. Names that end in
/// one get another, so that different names stay different.
pub(super) fn renamed(program: &TileProgram) -> TileProgram {
    let mut program = program.clone();
    let names = program.params.iter_mut().map(|p| &mut p.name);
    let names = names
        .chain(program.tiles.iter_mut().map(|t| &mut t.name))
        .chain(&mut program.vars);
    for name in names {
        if RESERVED.contains(&name.as_str())
            || name.ends_with('_')
            || ["stage_of_", "lane_of_"].iter().any(|own| name.starts_with(own))
        {
            name.push('_');
        }
    }
    program
}
