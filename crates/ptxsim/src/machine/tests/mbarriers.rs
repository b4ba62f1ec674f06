//! Mbarriers: phases, tokens, drops, and arrivals of copies.

use super::{Case, Checker, Schedule, case};

/// Thread 0 sets an mbarrier up for `count` arrivals; everyone waits until it has.
fn with_mbarrier(count: u32, body: &str) -> Case {
    case(&format!(
        ".shared .align 16 .b8 tile[1024]; .shared .align 8 .b64 bar; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1;
        setp.eq.u32 %p0, %t, 0; @%p0 mbarrier.init.shared.b64 [bar], {count}; bar.sync 0;\n{body}"
    ))
}

fn clean(case: &Case) {
    for schedule in [
        Schedule::Fixed,
        Schedule::Starve(0),
        Schedule::Random(1),
        Schedule::Random(2),
    ] {
        case.clone().schedule(schedule).run().clean();
        case.clone().schedule(schedule).eager().run().clean();
    }
}

const WAIT: &str = "WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra WAIT;";

#[test]
fn arrivals_order_what_came_before() {
    let body = |arrive: &str, wait: &str| {
        let text = format!(
            "st.shared.u32 [%r1], %t; {arrive} {wait} xor.b32 %r2, %r1, 128;\nld.shared.u32 %r3, [%r2]; st.global.u32 [%own], %r3;"
        );
        with_mbarrier(64, &text).block(64).output("out", 64)
    };
    let arrive = "mbarrier.arrive.shared.b64 %d1, [bar];";
    clean(&body(arrive, WAIT));
    assert_eq!(body(arrive, WAIT).words(), super::each(64, |thread| thread as u32 ^ 32));
    clean(&body(
        arrive,
        "WAIT: mbarrier.test_wait.shared::cta.b64 %p1, [bar], %d1; @!%p1 bra WAIT;",
    ));
    clean(&body(
        "mbarrier.arrive.release.cta.shared::cta.b64 _, [bar];",
        "WAIT: mbarrier.try_wait.parity.acquire.cta.shared.b64 %p1, [bar], 0, 1000; @!%p1 bra WAIT;",
    ));
    let relaxed = body("mbarrier.arrive.relaxed.cta.shared.b64 %d1, [bar];", WAIT);
    assert_eq!(relaxed.report().checker, Checker::Racecheck);
    let unwaited = body(arrive, "");
    assert_eq!(
        unwaited
            .with(|options| (options.max_reports, options.checks.initialised) = (1, false))
            .report()
            .checker,
        Checker::Racecheck
    );
}

#[test]
fn a_divergent_waiter_lets_its_warp_arrive() {
    // Lane 0 waits for the others of its warp, which take longer than a turn to arrive.
    let body = format!(
        "@%p0 bra WAIT; mov.u32 %r4, 0; LOOP: add.u32 %r4, %r4, 1; setp.lt.u32 %p3, %r4, 3000; @%p3 bra LOOP;
        mbarrier.arrive.shared.b64 _, [bar]; bra END; {WAIT} st.global.u32 [%a0], 1; END: ret;"
    );
    let case = with_mbarrier(31, &body).output("out", 1);
    clean(&case);
    assert_eq!(case.words(), [1]);
}

#[test]
fn phases_follow_each_other() {
    let body = "mov.u32 %r4, 0; mov.u32 %r5, 0;
        LOOP: and.b32 %r6, %r4, 1; st.shared.u32 [%r1], %r4; mbarrier.arrive.shared.b64 _, [bar];
        WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [bar], %r6; @!%p1 bra WAIT;
        xor.b32 %r2, %r1, 128; ld.shared.u32 %r3, [%r2]; add.u32 %r5, %r5, %r3; bar.sync 0;
        add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 5; @%p2 bra LOOP; st.global.u32 [%own], %r5;";
    let case = with_mbarrier(64, body).block(64).output("out", 64);
    clean(&case);
    assert_eq!(case.words(), [10; 64]);
}

#[test]
fn counts_drops_and_pending_counts() {
    let body = "@!%p0 bra END; mbarrier.arrive.shared.b64 %d1, [bar], 3; mbarrier.pending_count.b64 %r2, %d1;
        mbarrier.arrive_drop.shared.b64 %d2, [bar]; mbarrier.pending_count.b64 %r3, %d2;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1; selp.u32 %r4, 1, 0, %p1;
        mbarrier.arrive.shared.b64 %d3, [bar]; mbarrier.test_wait.shared.b64 %p1, [bar], %d1; selp.u32 %r5, 1, 0, %p1;
        mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 1; mbarrier.pending_count.b64 %r6, %d4;
        st.global.v4.u32 [%a0], {%r2, %r3, %r4, %r5}; st.global.u32 [%a0+16], %r6; END: ret;";
    assert_eq!(with_mbarrier(5, body).output("out", 5).words(), [5, 2, 0, 1, 4]);
}

fn copies(count: u32, arrive: &str) -> Case {
    let body = format!(
        "mad.wide.u32 %d1, %t, 4, %a1;\ncp.async.ca.shared.global [%r1], [%d1], 4;\n{arrive} {WAIT}
        xor.b32 %r2, %r1, 128;\nld.shared.u32 %r3, [%r2]; st.global.u32 [%own], %r3;"
    );
    let input = super::each(64, |i| 3 * i as u32);
    with_mbarrier(count, &body)
        .block(64)
        .output("out", 64)
        .input("in", &input)
}

#[test]
fn copies_arrive_when_they_have_landed() {
    let expected = super::each(64, |thread| 3 * (thread as u32 ^ 32));
    for (count, arrive) in [
        (64, "cp.async.mbarrier.arrive.noinc.shared.b64 [bar];"),
        (
            64,
            "cp.async.mbarrier.arrive.shared.b64 [bar]; mbarrier.arrive.shared.b64 _, [bar];",
        ),
    ] {
        let case = copies(count, arrive);
        clean(&case);
        assert_eq!(case.words(), expected);
        assert_eq!(case.eager().words(), expected);
    }
    // The arrivals of the threads say nothing of their copies.
    let case = copies(64, "mbarrier.arrive.shared.b64 _, [bar];").with(|options| options.checks.initialised = false);
    assert_eq!(case.report().checker, Checker::Racecheck);
    let wrong = case.with(|options| options.checks = super::super::Checks::NONE);
    assert_ne!(wrong.words(), expected);
    assert_eq!(wrong.eager().words(), expected);
}

#[test]
fn a_missing_arrival_is_a_deadlock() {
    let case = with_mbarrier(65, &format!("mbarrier.arrive.shared.b64 _, [bar];\n{WAIT}")).block(64);
    let report = case.report();
    assert_eq!(report.checker, Checker::Synccheck);
    assert!(
        report.message.contains("deadlock") && report.message.contains("mbarrier"),
        "{report}"
    );
    let line = format!("PTX line {}", case.line_of("WAIT:"));
    assert_eq!(report.message.matches(&line).count(), 2, "{report}");
    // A wait without suspension spins.
    let spin = with_mbarrier(
        65,
        "mbarrier.arrive.shared.b64 %d1, [bar];\nWAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d1; @!%p1 bra WAIT;",
    );
    let spin = spin.block(64).with(|options| options.step_limit = 20_000);
    assert_eq!(spin.report().checker, Checker::Steplimit);
}

#[test]
fn misuse_is_reported() {
    let report = case(".shared .b64 bar;\nmbarrier.arrive.shared.b64 _, [bar];").report();
    assert!(report.message.contains("no mbarrier was initialised"), "{report}");
    let report = with_mbarrier(5, "mbarrier.arrive.shared.b64 _, [bar], 6;").report();
    assert!(
        report.message.contains("6 arrivals at an mbarrier whose phase lacks 5"),
        "{report}"
    );
    let report = with_mbarrier(0, "").report();
    assert!(report.message.contains("an mbarrier for 0 arrivals"), "{report}");
    let report = with_mbarrier(
        1,
        "@%p0 mbarrier.inval.shared.b64 [bar]; bar.sync 0; mbarrier.arrive.shared.b64 _, [bar];",
    )
    .report();
    assert!(report.message.contains("no mbarrier was initialised"), "{report}");
    let report = case("mbarrier.init.b64 [%a0], 1;")
        .block(1)
        .both("out", &[0; 8])
        .report();
    assert_eq!(report.checker, Checker::Memcheck);
}

#[test]
fn setting_up_is_not_ordered_by_itself() {
    let case = case(".shared .b64 bar; setp.eq.u32 %p0, %t, 0;\n@%p0 mbarrier.init.shared.b64 [bar], 64;\nmbarrier.arrive.shared.b64 _, [bar];").block(64);
    assert_eq!(
        case.with(|options| options.max_reports = 1).run().reports()[0].checker,
        Checker::Racecheck
    );
}
