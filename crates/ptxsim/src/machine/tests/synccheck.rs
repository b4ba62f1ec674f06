//! Barriers used against their rules, deadlocks, endless loops.

use super::{Case, Checker, Report, case};

fn found(case: &Case, at: &str) -> Report {
    let report = case.report();
    assert_eq!(
        (report.checker, report.ptx_line),
        (Checker::Synccheck, case.line_of(at)),
        "{report}"
    );
    report
}

#[test]
fn an_aligned_barrier_that_not_all_lanes_execute() {
    let case = case("setp.lt.u32 %p0, %t, 16;\n@%p0 bar.sync 0;");
    let report = found(&case, "bar.sync");
    assert!(
        report.message.contains("only lanes 0x0000ffff of 0xffffffff"),
        "{report}"
    );
    let case =
        super::case("setp.lt.u32 %p0, %t, 16; @%p0 bra OTHER;\nbar.sync 0; bra END;\nOTHER: bar.sync 0;\nEND: ret;");
    assert!(case.report().message.contains("deadlock"), "{}", case.report());
}

#[test]
fn divergent_lanes_meet_at_a_barrier() {
    let body =
        "mov.u32 %r1, 0; LOOP: add.u32 %r1, %r1, 1; setp.le.u32 %p0, %r1, %t; @%p0 bra LOOP; bar.sync 0; bar.sync 0;
        st.global.u32 [%own], %r1;";
    assert_eq!(
        case(body).block(64).output("out", 64).words(),
        super::each(64, |thread| thread as u32 + 1)
    );
}

#[test]
fn barriers_that_are_not_aligned_count_threads() {
    let body = "and.b32 %r1, %t, 1; setp.eq.u32 %p0, %r1, 1; @%p0 bra ODD; barrier.sync 1; bra END; ODD: barrier.sync 1; END: st.global.u32 [%own], 3;";
    assert_eq!(case(body).block(64).output("out", 64).words(), [3; 64]);
    let body = "and.b32 %r1, %t, 1; setp.eq.u32 %p0, %r1, 1; @%p0 barrier.sync 1, 32; @!%p0 barrier.sync 2, 32; st.global.u32 [%own], 3;";
    assert_eq!(case(body).block(64).output("out", 64).words(), [3; 64]);
}

#[test]
fn counts_that_differ() {
    let case =
        case("setp.lt.u32 %p0, %t, 32; @%p0 bra OTHER;\nbar.sync 0, 64;\nbra END;\nOTHER: bar.sync 0;\nEND: ret;")
            .block(64);
    let report = case.report();
    assert_eq!(report.checker, Checker::Synccheck);
    assert!(
        report.message.contains("every thread") && report.message.contains("64 threads"),
        "{report}"
    );
}

#[test]
fn counts_and_numbers_that_are_not_allowed() {
    for (barrier, message) in [
        ("bar.sync 0, 48;", "expected a multiple of 32"),
        ("bar.sync 0, 96;", "expected a multiple of 32 of at most 64"),
        ("bar.sync 0, 0;", "expected a multiple of 32"),
        ("bar.sync 16;", "there are 16"),
        ("bar.sync %t;", "differs between lanes"),
    ] {
        let case = case(barrier).block(64).with(|options| options.max_reports = 1);
        assert!(case.report().message.contains(message), "{}", case.report());
    }
}

#[test]
fn more_arrivals_than_a_barrier_is_for() {
    // 16 lanes of the first warp, then two whole warps.
    let body = "setp.lt.u32 %p0, %t, 16; setp.ge.u32 %p1, %t, 32; or.pred %p0, %p0, %p1;\n@%p0 barrier.arrive 2, 64;";
    let report = found(&case(body).block(96), "barrier.arrive");
    assert!(
        report
            .message
            .contains("80 threads arrived at barrier 2, which is for 64"),
        "{report}"
    );
}

#[test]
fn a_barrier_that_others_never_reach() {
    let case =
        case("setp.lt.u32 %p0, %t, 64; @%p0 bra OTHER;\nbar.sync 1, 128;\nOTHER: bar.sync 2, 96;\nret;").block(128);
    let report = case.report();
    assert!(report.message.starts_with("deadlock: "), "{report}");
    for warp in 0..4 {
        let (barrier, at) = if warp < 2 { (2, "OTHER:") } else { (1, "bar.sync 1") };
        let expected = format!(
            "warp {warp} lanes 0xffffffff waits at barrier {barrier} at PTX line {}",
            case.line_of(at)
        );
        assert!(report.message.contains(&expected), "{expected}: {report}");
    }
    let case = super::case("setp.lt.u32 %p0, %t, 64; @%p0 exit;\nbar.sync 1, 128;").block(128);
    let report = found(&case, "bar.sync");
    assert!(report.message.contains("2 warps have exited"), "{report}");
}

#[test]
fn threads_that_exited_are_not_waited_for() {
    let body = "setp.lt.u32 %p0, %t, 32; @%p0 exit; setp.eq.u32 %p1, %t, 40; @%p1 exit; bar.sync 0; bar.warp.sync -1; st.global.u32 [%own], 5;";
    let expected = super::each(64, |thread| if thread < 32 || thread == 40 { 0 } else { 5 });
    assert_eq!(case(body).block(64).output("out", 64).words(), expected);
    let late = "setp.ge.u32 %p0, %t, 32; @%p0 bra LATE; bar.sync 0; st.global.u32 [%own], 5; ret;
        LATE: mov.u32 %r1, 0; LOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 9999; @%p1 bra LOOP; exit;";
    assert_eq!(case(late).block(64).output("out", 64).words()[..32], [5; 32]);
}

#[test]
fn reductions_of_barriers() {
    let body = "setp.lt.u32 %p0, %t, 40; bar.red.popc.u32 %r1, 0, %p0; bar.red.and.pred %p1, 0, %p0; bar.red.or.pred %p2, 0, %p0;
        barrier.cta.red.popc.aligned.u32 %r2, 1, 64, !%p0; setp.lt.u32 %p3, %t, 64; bar.red.and.pred %p4, 0, %p3; bar.red.or.pred %p5, 0, !%p3;
        selp.u32 %r3, 1, 0, %p1; @%p2 or.b32 %r3, %r3, 2; @%p4 or.b32 %r3, %r3, 4; @%p5 or.b32 %r3, %r3, 8;
        mad.lo.u32 %r1, %r1, 1000, %r2; mad.lo.u32 %r1, %r1, 100, %r3; st.global.u32 [%own], %r1;";
    assert_eq!(
        case(body).block(64).output("out", 64).words(),
        [(40 * 1000 + 24) * 100 + 6; 64]
    );
}

#[test]
fn shuffles_with_missing_members() {
    let case = case("setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r1, %t, 16, 31, -1;")
        .with(|options| options.max_reports = 1);
    found(&case, "shfl");
    let case =
        super::case("setp.lt.u32 %p0, %t, 16; @%p0 bra END;\nvote.sync.ballot.b32 %r1, %p0, -1;\nEND: bar.sync 0;");
    assert!(case.report().message.contains("deadlock"), "{}", case.report());
    let case = super::case("mov.u32 %r2, 0xffff;\nvote.sync.ballot.b32 %r1, %p0, %r2;");
    assert!(found(&case, "vote").message.contains("member mask is 0x0000ffff"));
}

#[test]
fn lanes_that_exited_are_not_members_any_more() {
    let body = "setp.ge.u32 %p0, %t, 20; @%p0 exit; setp.lt.u32 %p1, %t, 5; vote.sync.ballot.b32 %r1, %p1, -1; redux.sync.add.u32 %r2, %t, -1;
        mad.lo.u32 %r1, %r1, 1000, %r2; st.global.u32 [%own], %r1;";
    let got = case(body).output("out", 32).words();
    assert_eq!(got[..20], [31 * 1000 + 190; 20]);
    let shuffle = case("setp.ge.u32 %p0, %t, 20; @%p0 exit;\nshfl.sync.down.b32 %r1, %t, 4, 31, -1;");
    assert!(found(&shuffle, "shfl").message.contains("lane 16 reads lane 20"));
}

#[test]
fn warp_barriers() {
    let case = case("setp.lt.u32 %p0, %t, 16;\n@%p0 bar.warp.sync -1;\nbar.sync 0;");
    let report = case.report();
    assert!(
        report.message.contains("deadlock") && report.message.contains("bar.warp.sync for lanes"),
        "{report}"
    );
    let case = super::case("mov.u32 %r1, 0xff;\nbar.warp.sync %r1;").with(|options| options.max_reports = 1);
    found(&case, "bar.warp.sync");
    let apart = "setp.lt.u32 %p0, %t, 16; @%p0 bra A; bar.warp.sync -1; bra END; A: bar.warp.sync -1; END: st.global.u32 [%own], 1;";
    assert_eq!(super::case(apart).output("out", 32).words(), [1; 32]);
}

#[test]
fn matrices_need_the_whole_warp() {
    let case = case(".shared .align 16 .b8 tile[128]; mov.u32 %r1, tile;\nst.shared.v4.u32 [%r1], {%t, %t, %t, %t}; setp.lt.u32 %p0, %t, 9;\n@%p0 movmatrix.sync.aligned.m8n8.trans.b16 %r2, %t;").block(1);
    found(&case, "movmatrix");
}

#[test]
fn endless_loops() {
    for (body, at) in [
        ("LOOP: add.u32 %r1, %r1, 1;\nbra LOOP;", None),
        (
            "SPIN: ld.volatile.global.u32 %r1, [%a0]; setp.eq.u32 %p0, %r1, 0;\n@%p0 bra SPIN;",
            None,
        ),
        (
            "SPIN: ld.acquire.gpu.global.u32 %r1, [%a0]; nanosleep.u32 20; setp.eq.u32 %p0, %r1, 0;\n@%p0 bra SPIN;",
            Some(()),
        ),
    ] {
        let case = case(body)
            .both("flag", &[0; 4])
            .with(|options| options.step_limit = 20_000);
        let report = case.report();
        assert_eq!(report.checker, Checker::Steplimit, "{report}");
        assert!(report.message.contains("20000 instructions"), "{report}");
        let _ = at;
    }
}

#[test]
fn traps_and_assertions() {
    let case = case("setp.eq.u32 %p0, %t, 9;\n@%p0 trap;").block(64);
    let report = case.report();
    assert_eq!(
        (report.checker, report.thread, report.ptx_line),
        (Checker::Fault, [9, 0, 0], case.line_of("trap;"))
    );
    let module = ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e) .noreturn;";
    let body = "setp.eq.u32 %p0, %t, 40; @!%p0 bra END; { .param .b64 q0; st.param.b64 [q0], %a0; .param .b64 q1; st.param.b64 [q1], %a0;
        .param .b32 q2; st.param.b32 [q2], 7; .param .b64 q3; st.param.b64 [q3], %a0; .param .b64 q4; st.param.b64 [q4], 1;
        call.uni __assertfail, (q0, q1, q2, q3, q4); } END: ret;";
    let report = super::case(body).module(module).block(64).output("out", 1).report();
    assert_eq!((report.checker, report.thread), (Checker::Fault, [40, 0, 0]));
    assert!(report.message.contains("assertion"), "{report}");
}

#[test]
fn checks_can_be_switched_off_but_not_deadlock() {
    let off = |case: Case| case.with(|options| options.checks.synchronisation = false);
    off(case("setp.lt.u32 %p0, %t, 16; @%p0 bar.sync 0;")).run();
    let case = off(case("setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 1, 64;").block(64));
    assert!(case.report().message.contains("deadlock"));
}
