//! Malformed files: where the error is put, what it says, and that limits hold.

use super::*;
use crate::lex::MAX_TOKENS;

/// Line, column and message of the error in a whole file.
#[track_caller]
fn error_in(text: &str) -> (u32, u32, String) {
    let error = parse(text).expect_err("an error");
    (error.line, error.column, error.message)
}

/// The error of a kernel's body; its first line is line 5 of the file.
#[track_caller]
fn error(text: &str) -> (u32, u32, String) {
    error_in(&format!("{HEADER}.entry k() {{\n{text}\n}}"))
}

#[track_caller]
fn expect(found: (u32, u32, String), line: u32, column: u32, message: &str) {
    assert_eq!((found.0, found.1, found.2.as_str()), (line, column, message));
}

#[test]
fn headers() {
    expect(
        error_in(""),
        1,
        1,
        "expected `.version` at the start of the file, found the end of the file",
    );
    expect(
        error_in(".version x"),
        1,
        10,
        "expected a version such as 8.8, found `x`",
    );
    expect(
        error_in(".version 8.8\n.entry"),
        2,
        1,
        "expected `.target` after the version, found `.entry`",
    );
    let text = format!("{HEADER}.address_size 48");
    expect(error_in(&text), 4, 15, "expected an address size of 32 or 64, found 48");
    expect(error_in(&format!("{HEADER}.version 8.8")), 4, 1, {
        "expected a directive such as `.entry`, `.func`, `.global` or `.shared`, found `.version`"
    });
}

#[test]
fn places_count_characters_and_lines() {
    let text = format!("{HEADER}/* \u{e9}\n\u{e9} */ \"\u{e9}\"");
    expect(
        error_in(&text),
        5,
        6,
        "expected a directive, found the string \"\u{e9}\"",
    );
    expect(
        error("/* \u{e9}\n\u{e9} */ ret a b;"),
        6,
        12,
        "expected `,` or `;`, found `b`",
    );
}

#[test]
fn statements() {
    expect(error("\tret"), 6, 1, "expected an operand, found `}`");
    expect(error("add.s32 %r1 %r2;"), 5, 13, "expected `,` or `;`, found `%r2`");
    expect(error("add.s32 %r1,;"), 5, 13, "expected an operand, found `;`");
    expect(
        error("ld.b32 %r1, [%rd1;"),
        5,
        18,
        "expected `+`, `,` or `]` in an address, found `;`",
    );
    expect(
        error("ld.b32 %r1, [%rd1+%r2];"),
        5,
        19,
        "expected an offset in bytes, found `%r2`",
    );
    expect(
        error("mov.b32 %r1, %tid.q;"),
        5,
        18,
        "expected a component such as `.x`, found `.q`",
    );
    expect(
        error("@p bra L;"),
        5,
        2,
        "expected a predicate register, found `p`, which no `.reg` here declares",
    );
    expect(
        error("@%p1 .reg .b32 x;"),
        5,
        6,
        "expected an instruction after the guard, found `.reg`",
    );
    expect(
        error(".reg .b7 x;"),
        5,
        6,
        "expected a type, `.align` or a vector size, found `.b7`",
    );
    expect(
        error(".reg .tf32 x;"),
        5,
        6,
        "expected a type, `.align` or a vector size, found `.tf32`",
    );
    expect(error(".reg .b32 .f32 x;"), 5, 11, "a second type, `.f32` after `.b32`");
    expect(
        error(".maxntid 1"),
        5,
        1,
        "expected a statement or `}`, found `.maxntid`",
    );
    expect(error("mov.b32 %r1, #;"), 5, 14, "expected PTX, found the character '#'");
}

#[test]
fn long_names_are_cut_short() {
    let (long, cut) = ("x".repeat(1000), "x".repeat(40));
    let message = format!("expected `function_name` or `inlined_at`, found `{cut}`");
    expect(error(&format!(".loc 1 2 3, {long}")), 5, 13, &message);
    let text = format!("{HEADER}.entry k() .{long}");
    expect(
        error_in(&text),
        4,
        12,
        &format!("expected `{{`, `;` or a known function directive, found `.{cut}`"),
    );
}

#[test]
fn literals() {
    expect(error("f 0f3F80;"), 5, 3, "`0f3F80` needs 8 hexadecimal digits");
    expect(error("f 0d+F80000000000000;"), 5, 3, "`0d` needs 16 hexadecimal digits");
    expect(
        error("f 18446744073709551616;"),
        5,
        3,
        "`18446744073709551616` passes 64 bits",
    );
    for text in ["f 09;", "f 0x;", "f 0b2;", "f 12ab;", "f 1.2.3;", "f 1e;"] {
        assert!(parse(&format!("{HEADER}.entry k() {{ {text} }}")).is_err(), "{text}");
    }
    expect(
        error("ld.b8 %r1, [a+9223372036854775808];"),
        5,
        14,
        "the offset 9223372036854775808 passes 64 bits",
    );
    expect(
        error(".loc 1 4294967296 0"),
        5,
        8,
        "expected a source line, found 4294967296",
    );
}

#[test]
fn unclosed() {
    expect(error_in(&format!("{HEADER}.entry k() {{ {{")), 4, 14, {
        "expected `}` to end this block, found the end of the file"
    });
    expect(error_in(&format!("{HEADER}.section .debug_x {{ {{ }}")), 4, 19, {
        "expected `}` to end this section, found the end of the file"
    });
    expect(
        error_in("/* .version 8.8"),
        1,
        1,
        "expected `*/` to end this comment, found the end of the file",
    );
    expect(
        error_in(&format!("{HEADER}.file 1 \"a\n\"")),
        4,
        9,
        "expected `\"` to end this string before the end of the line",
    );
}

#[test]
fn initialisers() {
    let error = |text: &str| try_module(text).expect_err(text).message;
    assert_eq!(
        error(".global .u32 x[2] = {1, 2, 3};"),
        "expected at most 2 initial values, found 3"
    );
    assert_eq!(
        error(".global .u32 x[2][1] = {{1, 2}};"),
        "expected at most 1 values in these braces, found 2"
    );
    assert!(error(".global .u32 x[2] = {{1}};").starts_with("expected a value, as the array has no further dimension"));
    assert!(error(".global .u32 x[2][] = {{1}};").starts_with("only the first dimension"));
    assert_eq!(
        error(".global .u32 x[2][9999999] = {{1}};"),
        "short braces leave more than 1048576 values out"
    );
    assert_eq!(
        error(".global .align 3 .u32 x;"),
        "expected an alignment that is a power of two up to 65536, found 3"
    );
}

#[test]
fn huge_counts() {
    let message = error(".reg .b32 %r<4294967296>;").2;
    assert_eq!(message, "with `%r` the function declares more than 1048576 registers");
    let many = ".reg .b32 %r<1000000>;".repeat(2);
    assert!(error(&many).2.contains("more than 1048576 registers"));
    for size in ["x[18446744073709551615][2]", "x[1099511627777]"] {
        let message = try_module(&format!(".global .b8 {size};")).expect_err(size).message;
        assert_eq!(message, "`x` has more than 1099511627776 bytes");
    }
    let dimensions = "[1]".repeat(100_000);
    assert!(try_module(&format!(".global .b8 x{dimensions};")).is_err());
}

#[test]
fn deep_nesting() {
    let blocks = |depth: usize| format!("{}{}", "{".repeat(depth), "}".repeat(depth));
    assert_eq!(error(&blocks(1_000_000)).2, "nested more than 64 deep");
    assert_eq!(body(&blocks(60)).len(), 1);
    let vectors = |depth: usize| format!("f {}a{};", "{".repeat(depth), "}".repeat(depth));
    assert_eq!(error(&vectors(100_000)).2, "nested more than 64 deep");
    assert_eq!(body(&vectors(60)).len(), 1);
    let braces = format!(".global .b8 x{} = {};", "[1]".repeat(64), "{".repeat(100_000));
    assert!(try_module(&braces).is_err());
    assert!(try_module(&format!(".section .x {}", "{".repeat(1_000_000))).is_err());
    for repeated in ["!", "-", "@", "[", "a|", "+"] {
        assert!(parse(&format!("{HEADER}.entry k() {{ f {} }}", repeated.repeat(100_000))).is_err());
    }
}

#[test]
fn too_many_tokens() {
    let text = format!("{HEADER}.entry k() {{ {} }}", ";".repeat(MAX_TOKENS as usize));
    assert_eq!(error_in(&text).2, format!("the file has more than {MAX_TOKENS} tokens"));
}
