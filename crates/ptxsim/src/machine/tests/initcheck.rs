//! Reads of bytes that nothing wrote.

use super::{Case, Checker, Report, case};

fn found(case: &Case, at: &str) -> Report {
    let report = case.report();
    assert_eq!(
        (report.checker, report.ptx_line),
        (Checker::Initcheck, case.line_of(at)),
        "{report}"
    );
    report
}

#[test]
fn global_memory() {
    let case = case("st.global.u32 [%own], %t; bar.warp.sync -1;\nld.global.u32 %r1, [%own+4];").output("out", 33);
    let report = found(&case, "ld.global");
    assert_eq!(report.thread, [31, 0, 0]);
    assert_eq!(report.address, Some(case.run().address(0) + 128));
    assert_eq!(report.allocation.as_deref(), Some("out"));
}

#[test]
fn words_written_in_part() {
    for (stores, clean) in [
        ("st.global.u16 [%a0], 1; st.global.u8 [%a0+3], 1;", false),
        ("st.global.u16 [%a0], 1; st.global.u16 [%a0+2], 1;", true),
    ] {
        let case = case(&format!("{stores}\nld.global.u32 %r1, [%a0];"))
            .block(1)
            .output("out", 1);
        if clean {
            case.run().clean();
        } else {
            found(&case, "ld.global");
        }
    }
}

#[test]
fn shared_memory() {
    let case =
        case(".shared .align 8 .b8 tile[16]; mov.u32 %r1, tile; st.shared.u32 [%r1], 5;\nld.shared.u64 %d1, [%r1];")
            .block(1);
    assert_eq!(found(&case, "ld.shared").address, Some(0));
}

#[test]
fn local_memory() {
    let case = case(
        ".local .align 4 .b8 own[8]; setp.ne.u32 %p0, %t, 3; @%p0 st.local.u32 [own+4], %t;\nld.local.u32 %r1, [own+4];",
    );
    assert_eq!(found(&case, "ld.local").thread, [3, 0, 0]);
}

#[test]
fn atomics_and_vectors() {
    let case = case("atom.global.add.u32 %r1, [%a0], 1;").output("out", 1);
    found(&case, "atom.global");
    let case = super::case("st.global.u32 [%a0], 1;\nld.global.v4.u32 {%r1, _, _, _}, [%a0];")
        .block(1)
        .output("out", 4);
    found(&case, "ld.global.v4");
}

#[test]
fn the_source_of_a_copy() {
    let body = ".shared .align 16 .b8 tile[16];\ncp.async.ca.shared.global [tile], [%a0], 16;\ncp.async.wait_all;";
    let case = case(body).block(1).output("in", 4);
    assert_eq!(found(&case, "cp.async.ca").allocation.as_deref(), Some("in"));
}

#[test]
fn copied_zeros_count_as_written() {
    let body = ".shared .align 16 .b8 tile[16]; mov.u32 %r1, 3; cp.async.ca.shared.global [tile], [%a1], 16, %r1; cp.async.wait_all;
        ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [tile]; st.global.v4.u32 [%a0], {%r2, %r3, %r4, %r5};";
    let got = case(body).block(1).output("out", 4).input("in", &[0x0403_0201]).words();
    assert_eq!(got, [0x0003_0201, 0, 0, 0]);
}

#[test]
fn matrices() {
    let body = ".shared .align 16 .b8 tile[128]; mov.u32 %r1, tile; mad.lo.u32 %r2, %t, 16, %r1; setp.lt.u32 %p0, %t, 7;
        @%p0 st.shared.v4.u32 [%r2], {%t, %t, %t, %t}; bar.warp.sync -1; and.b32 %r3, %t, 7; mad.lo.u32 %r2, %r3, 16, %r1;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r2];";
    let case = case(body);
    let report = found(&case, "ldmatrix");
    assert_eq!((report.thread, report.address), ([7, 0, 0], Some(112)));
}

#[test]
fn frames_of_calls_are_new() {
    let module = ".func (.param .b32 result) f(.param .b32 x) { .reg .b32 %r<4>; .local .b32 kept; .reg .pred %p;
        ld.param.b32 %r1, [x]; setp.eq.u32 %p, %r1, 0; @%p st.local.u32 [kept], 9;
        ld.local.u32 %r2, [kept]; st.param.b32 [result], %r2; ret; }";
    let call = |x: u32| {
        format!("{{ .param .b32 x; .param .b32 y; st.param.b32 [x], {x}; call (y), f, (x); ld.param.b32 %r1, [y]; }}")
    };
    let case = case(&format!("{}{}", call(0), call(1))).module(module);
    found(&case, "ld.local");
}

#[test]
fn the_check_can_be_switched_off_and_reports_each_instruction_once() {
    let body = "mov.u32 %r2, 0;\nLOOP: ld.global.u32 %r1, [%own]; add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 5; @%p0 bra LOOP;\nld.global.u32 %r1, [%own+0];";
    let case = case(body).block(64).output("out", 64);
    let lines: Vec<u32> = case.run().reports().iter().map(|report| report.ptx_line).collect();
    assert_eq!(lines, [case.line_of("LOOP:"), case.line_of("%own+0")]);
    case.with(|options| options.checks.initialised = false).run().clean();
}
