//! Missing synchronisation, end to end.

use super::{Case, Checker, Report, Schedule, case};

/// One word of shared memory for each thread, at `%r1`.
const TILE: &str = ".shared .align 4 .b8 tile[1024]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1;\n";

fn shared(body: &str) -> Case {
    case(&format!("{TILE}{body}"))
}

/// Ends at the first race; what is read too early was often not written either.
fn first_race(case: &Case) -> Case {
    let case = case.clone();
    case.with(|options| (options.max_reports, options.checks.initialised) = (1, false))
}

/// A race, found under each schedule, between these two lines.
pub(super) fn found(case: &Case, first: &str, second: &str) -> Report {
    let lines = [case.line_of(first), case.line_of(second)];
    for schedule in [
        Schedule::Fixed,
        Schedule::Starve(0),
        Schedule::Random(3),
        Schedule::Random(4),
    ] {
        let case = first_race(case).schedule(schedule);
        let done = case.run();
        let report = done
            .reports()
            .first()
            .unwrap_or_else(|| panic!("nothing under {schedule}\n{}", case.text()));
        assert_eq!(report.checker, Checker::Racecheck, "{report}");
        let other = format!("at PTX line {},", lines[0]);
        let reversed = format!("at PTX line {},", lines[1]);
        let forward = report.ptx_line == lines[1] && report.message.contains(&other);
        let backward = report.ptx_line == lines[0] && report.message.contains(&reversed);
        assert!(forward || backward, "{schedule}: expected lines {lines:?} in {report}");
    }
    first_race(case).report()
}

/// No fault under any schedule.
pub(super) fn clean(case: &Case) {
    for schedule in [
        Schedule::Fixed,
        Schedule::Starve(0),
        Schedule::Starve(1),
        Schedule::Random(3),
        Schedule::Random(4),
    ] {
        case.clone().schedule(schedule).run().clean();
    }
}

#[test]
fn a_barrier_between_a_write_and_a_read() {
    let body = |barrier: &str| {
        let read = "xor.b32 %r2, %t, 32; mov.u32 %r3, tile; mad.lo.u32 %r2, %r2, 4, %r3;\nld.shared.u32 %r4, [%r2];";
        shared(&format!("st.shared.u32 [%r1], %t;\n{barrier}\n{read}")).block(64)
    };
    let report = found(&body(""), "st.shared", "ld.shared");
    assert!(
        report.message.contains("a write by thread") && report.message.contains("a read by thread"),
        "{report}"
    );
    clean(&body("bar.sync 0;"));
    clean(&body("barrier.sync 0;"));
    clean(&body("barrier.cta.sync.aligned 3, 64;"));
    found(&body("membar.cta;"), "st.shared", "ld.shared");
}

#[test]
fn a_barrier_between_a_read_and_a_write() {
    let body = |barrier: &str| {
        shared(&format!(
            "st.shared.u32 [%r1], %t; bar.sync 0; xor.b32 %r2, %t, 32; mov.u32 %r3, tile; mad.lo.u32 %r2, %r2, 4, %r3;
            ld.shared.u32 %r4, [%r2];\n{barrier}\nadd.u32 %r4, %r4, 7;\nst.shared.u32 [%r1], %r4;\n"
        ))
        .block(64)
    };
    let case = body("");
    let text = case.text();
    let writes: Vec<u32> = (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.contains("st.shared"))
        .map(|(n, _)| n)
        .collect();
    let report = case.with(|options| options.max_reports = 1).report();
    let read = body("").line_of("ld.shared");
    assert!(
        report.ptx_line == writes[1] || report.message.contains(&format!("line {},", writes[1])),
        "{report}"
    );
    assert!(
        report.ptx_line == read || report.message.contains(&format!("line {read},")),
        "{report}"
    );
    clean(&body("bar.sync 0;"));
}

#[test]
fn writes_race_unless_they_store_the_same() {
    let case = shared("setp.lt.u32 %p0, %t, 64;\nst.shared.u32 [tile], %t;").block(64);
    let report = case.report();
    assert!(report.message.contains("races with a write"), "{report}");
    clean(&shared("mov.u32 %r2, 7; st.shared.u32 [tile], %r2; bar.sync 0; ld.shared.u32 %r3, [tile];").block(64));
    let case = super::case("st.global.u32 [%a0], %b;").grid(4).output("out", 1);
    let report = case.report();
    assert!(
        report.message.contains("of block (0,0,0)") && report.message.contains("different blocks"),
        "{report}"
    );
    super::case("st.global.u32 [%a0], 5;")
        .grid(4)
        .output("out", 1)
        .run()
        .clean();
}

#[test]
fn lanes_of_a_warp_are_ordered_by_bar_warp_sync_alone() {
    let body = |barrier: &str| {
        shared(&format!(
            "st.shared.u32 [%r1], %t;\n{barrier}\nxor.b32 %r2, %r1, 4;\nld.shared.u32 %r4, [%r2];"
        ))
    };
    let report = found(&body(""), "st.shared", "ld.shared");
    assert!(report.message.contains("bar.warp.sync"), "{report}");
    found(&body("shfl.sync.idx.b32 %r5, %t, 0, 31, -1;"), "st.shared", "ld.shared");
    clean(&body("bar.warp.sync -1;"));
}

#[test]
fn a_warp_barrier_of_some_lanes_orders_those_only() {
    let body = |distance: u32| {
        shared(&format!(
            "st.shared.u32 [%r1], %t; and.b32 %r2, %t, 28; mov.u32 %r3, 15; shl.b32 %r3, %r3, %r2;
            bar.warp.sync %r3;\nxor.b32 %r2, %r1, {distance};\nld.shared.u32 %r4, [%r2];"
        ))
    };
    clean(&body(4));
    clean(&body(12));
    found(&body(16), "st.shared", "ld.shared");
}

#[test]
fn sub_words_of_neighbours_do_not_race() {
    clean(&case(".shared .align 4 .b8 tile[64]; mov.u32 %r1, tile; add.u32 %r1, %r1, %t; st.shared.u8 [%r1], %t; ld.shared.u8 %r2, [%r1];").block(64));
}

/// Copies a buffer's word of each thread and reads another thread's.
fn copy(between: &str) -> Case {
    shared(&format!(
        "mad.wide.u32 %d1, %t, 4, %a0;\ncp.async.ca.shared.global [%r1], [%d1], 4;\n{between}\nxor.b32 %r2, %r1, 128;
        ld.shared.u32 %r4, [%r2];"
    ))
    .block(64)
    .input("in", &[5; 64])
}

#[test]
fn copies_are_waited_for_before_a_barrier() {
    for eager in [false, true] {
        let copy = |between: &str| if eager { copy(between).eager() } else { copy(between) };
        let unchecked = |case: Case| case.with(|options| options.checks.initialised = false);
        let report = found(&unchecked(copy("bar.sync 0;")), "cp.async.ca", "ld.shared");
        assert!(report.message.contains("asynchronous copy"), "{report}");
        found(&unchecked(copy("cp.async.wait_all;")), "cp.async.ca", "ld.shared");
        found(
            &unchecked(copy("bar.sync 0; cp.async.wait_all;")),
            "cp.async.ca",
            "ld.shared",
        );
        found(
            &unchecked(copy("cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;")),
            "cp.async.ca",
            "ld.shared",
        );
        found(
            &unchecked(copy("cp.async.wait_group 0; bar.sync 0;")),
            "cp.async.ca",
            "ld.shared",
        );
        clean(&copy("cp.async.wait_all; bar.sync 0;"));
        clean(&copy("cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;"));
    }
}

/// Two buffers in turn: the next step's copy goes where the last step was read.
fn double_buffer(barrier: &str) -> Case {
    let body = format!(".shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1; xor.b32 %r2, %r1, 128;
        mad.wide.u32 %d1, %t, 4, %a1; mov.u32 %r3, 0; mov.u32 %r4, 0; cp.async.ca.shared.global [%r1], [%d1], 4; cp.async.commit_group;
        LOOP: add.u32 %r3, %r3, 1; and.b32 %r5, %r3, 1; mad.lo.u32 %r5, %r5, 256, %r1; add.u64 %d1, %d1, 256;
        cp.async.ca.shared.global [%r5], [%d1], 4;
        cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;
        xor.b32 %r6, %r3, 1; and.b32 %r6, %r6, 1; mad.lo.u32 %r6, %r6, 256, %r2;
        ld.shared.u32 %r7, [%r6];
        add.u32 %r4, %r4, %r7;\n{barrier}\nsetp.lt.u32 %p0, %r3, 6; @%p0 bra LOOP;
        cp.async.wait_all; st.global.u32 [%own], %r4;");
    let input = super::each(448, |i| i as u32);
    case(&body).block(64).output("out", 64).input("in", &input)
}

#[test]
fn double_buffers_need_a_barrier_before_the_next_copy() {
    let good = double_buffer("bar.sync 0;");
    let expected = super::each(64, |thread| {
        (0..6).map(|step| 64 * step + (thread as u32 ^ 32)).sum::<u32>()
    });
    for case in [good.clone(), good.clone().eager()] {
        clean(&case);
        assert_eq!(case.words(), expected);
    }
    let loop_copy = "cp.async.ca.shared.global [%r5]";
    found(&double_buffer(""), loop_copy, "ld.shared");
    found(&double_buffer("").eager(), loop_copy, "ld.shared");
}

/// Warp 0 produces, warp 1 consumes, twice; the other two warps have no part in it.
fn producer_consumer(full: &str, empty: &str) -> Case {
    shared(&format!(
        "setp.ge.u32 %p2, %t, 64; @%p2 bra END; setp.ge.u32 %p0, %t, 32; @%p0 bra CONSUME;
        st.shared.u32 [%r1], %t; bar.arrive 1, 64; {empty}
        st.shared.u32 [%r1], 9; bar.arrive 1, 64; bra END;
        CONSUME: {full}
        ld.shared.u32 %r2, [%r1+-128]; bar.arrive 2, 64;\nbar.sync 1, 64; ld.shared.u32 %r3, [%r1+-128];
        add.u32 %r2, %r2, %r3; st.global.u32 [%own], %r2; END: bar.sync 0;"
    ))
    .block(128)
    .output("out", 128)
}

#[test]
fn named_barriers_order_producer_and_consumer() {
    let good = producer_consumer("bar.sync 1, 64;", "bar.sync 2, 64;");
    clean(&good);
    assert_eq!(good.words()[32..64], super::each(32, |lane| lane as u32 + 9));
    let bad = producer_consumer("", "bar.sync 2, 64;").with(|options| options.max_reports = 1);
    assert_eq!(bad.run().reports()[0].checker, Checker::Racecheck);
}

#[test]
fn the_check_can_be_switched_off() {
    let case = shared("st.shared.u32 [tile], %t;")
        .block(64)
        .with(|options| options.checks.races = false);
    case.run().clean();
}
