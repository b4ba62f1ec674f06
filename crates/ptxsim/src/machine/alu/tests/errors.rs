use super::*;

#[test]
fn modifiers_that_an_instruction_does_not_have() {
    let cases = [
        "add.rn.s32 %r0, %r1, %r2;",
        "add.sat.u32 %r0, %r1, %r2;",
        "add.b32 %r0, %r1, %r2;",
        "add.ftz.ftz.f32 %r0, %r1, %r2;",
        "add.rna.f32 %r0, %r1, %r2;",
        "mul.s32 %r0, %r1, %r2;",
        "mul.wide.s64 %d0, %d1, %d2;",
        "mad.f32 %r0, %r1, %r2, %r3;",
        "fma.f32 %r0, %r1, %r2, %r3;",
        "add.sat.f32x2 %d0, %d1, %d2;",
        "max.xorsign.f32 %r0, %r1, %r2;",
        "ex2.f32 %r0, %r1;",
        "tanh.approx.ftz.f32 %r0, %r1;",
        "add.ftz.f64 %d0, %d1, %d2;",
        "rcp.approx.f64 %d0, %d1;",
        "add.ftz.bf16 %h0, %h1, %h2;",
        "fma.rz.f16 %h0, %h1, %h2, %h3;",
        "ex2.approx.bf16 %h0, %h1;",
        "and.u32 %r0, %r1, %r2;",
        "popc.b16 %r0, %h1;",
        "shf.l.b32 %r0, %r1, %r2, %r3;",
        "shf.l.wrap.b64 %d0, %d1, %d2, %r3;",
        "bfe.u16 %h0, %h1, 1, 2;",
        "lop3.xor.b32 %r0|%p0, %r1, %r2, %r3, 1, %p1;",
        "setp.ltu.s32 %p0, %r1, %r2;",
        "setp.lo.s32 %p0, %r1, %r2;",
        "setp.lt.b32 %p0, %r1, %r2;",
        "setp.lo.f32 %p0, %r1, %r2;",
        "setp.f32 %p0, %r1, %r2;",
        "set.lt.u64.s32 %d0, %r1, %r2;",
        "selp.pred %p0, %p1, %p2, %p3;",
        "mov.u8 %h0, %h1;",
        "mov.v2.u32 %r0, %r1;",
        "mov.and.pred %p0, %p1;",
        "cvt.rs.f16x2.f32 %r0, %r1, %r2, %r3;",
        "cvt.pack.sat.u16.s32.b32 %r0, %r1, %r2, %r3;",
        "cvta.tex.u64 %d0, %d1;",
        "add.cc.u16 %h0, %h1, %h2;",
        "mad.wide.cc.u32 %d0, %r1, %r2, %d3;",
        "vadd4.u32.u32.u32 %r0, %r1, %r2, %r3;",
    ];
    for text in cases {
        let message = error(text);
        let opcode = text.split(' ').next().expect("an opcode");
        assert_eq!(message, format!("line 6: `{opcode}` is not implemented"), "{text}");
    }
}

#[test]
fn operands_that_do_not_fit() {
    let cases = [
        ("add.s32 %r0, %r1, %d2;", "has 64 bits, expected 32"),
        ("add.s64 %d0, %d1, %r2;", "has 32 bits, expected 64"),
        ("add.s32 %h0, %r1, %r2;", "16 bits, expected at least 32"),
        ("add.s64 %r0, %d1, %d2;", "32 bits, expected"),
        ("add.s32 %d0, %r1, %r2;", "the destination has 64 bits, expected 32"),
        ("add.s32 %r0, %r1;", "takes 3 operands, found 2"),
        ("add.s32 %r0, %r1, %p0;", "is a predicate"),
        ("add.s16 %h0, %h1, 70000;", "does not fit"),
        ("setp.eq.s32 %r0, %r1, %r2;", "no predicate"),
        ("setp.eq.and.s32 %p0, %r1, %r2;", "takes 4 operands, found 3"),
        ("setp.eq.f16x2 %p0, %r1, %r2;", "two results"),
        ("selp.b32 %r0, %r1, %r2, %r3;", "no predicate"),
        ("mov.b64 %d0, {%r1, %d2};", "has 64 bits, expected 32"),
        ("mov.b64 %d0, {%r1, %r2, %r3};", "`mov.b64` of 3 registers"),
        ("mov.u32 %tid.x, %r1;", "cannot be written"),
        ("cvt.u64.u32 %r0, %r1;", "expected at least 64"),
        ("cvt.u32.u64 %r0, %r1;", "expected at least 64"),
        ("cvt.u32.u16 %q0, %h1;", "at most 64 bits"),
        ("lop3.b32 %r0, %r1, %r2, %r3, 256;", "more than 8 bits"),
        (
            "lop3.and.b32 %r0, %r1, %r2, %r3, 1, %p0;",
            "expected a register and a predicate",
        ),
        ("mov.u32 %r0, nothing;", "nothing"),
    ];
    for (text, expected) in cases {
        let message = error(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}
