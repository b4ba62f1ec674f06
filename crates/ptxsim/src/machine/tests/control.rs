//! Branches, loops, and lanes of a warp that go different ways.

use super::{Schedule, case, each};

const SCHEDULES: [Schedule; 3] = [Schedule::Fixed, Schedule::Random(7), Schedule::Starve(0)];

#[test]
fn nested_divergence_comes_together_again() {
    // The collatz number of steps, with the parity tested by nested branches; then a vote tells who is together.
    let body = "add.u32 %r1, %t, 1; mov.u32 %r2, 0;
        LOOP: setp.eq.u32 %p0, %r1, 1; @%p0 bra DONE; and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra EVEN;
        mad.lo.u32 %r1, %r1, 3, 1; setp.gt.u32 %p2, %r1, 50; @%p2 bra BIG; add.u32 %r2, %r2, 1; bra NEXT;
        BIG: add.u32 %r2, %r2, 1; bra NEXT;
        EVEN: shr.u32 %r1, %r1, 1; add.u32 %r2, %r2, 1;
        NEXT: bra LOOP;
        DONE: activemask.b32 %r4; popc.b32 %r4, %r4; mad.lo.u32 %r2, %r2, 100, %r4; st.global.u32 [%own], %r2;";
    let steps = |start: u32| {
        let (mut value, mut steps) = (start, 0);
        while value != 1 {
            value = if value % 2 == 0 { value / 2 } else { 3 * value + 1 };
            steps += 1;
        }
        steps
    };
    let got = case(body).output("out", 32).words();
    assert_eq!(got, each(32, |lane| steps(lane as u32 + 1) * 100 + 32));
}

#[test]
fn branches_to_a_table_of_labels() {
    let body = "and.b32 %r1, %t, 3; setp.ne.u32 %p0, %t, 6; mov.u32 %r2, 99;
        TABLE: .branchtargets L0, L1, L2, L1;
        @%p0 brx.idx %r1, TABLE;
        bra END;
        L0: mov.u32 %r2, 10; bra END; L1: mov.u32 %r2, 11; bra END; L2: mov.u32 %r2, 12;
        END: activemask.b32 %r3; popc.b32 %r3, %r3; mad.lo.u32 %r2, %r2, 100, %r3; st.global.u32 [%own], %r2;";
    let arm = |lane: usize| if lane == 6 { 99 } else { [10, 11, 12, 11][lane % 4] };
    assert_eq!(
        case(body).output("out", 32).words(),
        each(32, |lane| arm(lane) * 100 + 32)
    );
    let beyond = case("TABLE: .branchtargets L0, L1;\nbrx.idx %t, TABLE; L0: L1: ret;");
    assert!(
        beyond.report().message.contains("2 of 2 targets"),
        "{}",
        beyond.report()
    );
}

#[test]
fn guards_take_part_lane_by_lane() {
    let body = "setp.lt.u32 %p0, %t, 10; setp.gt.u32 %p1, %t, 4; mov.u32 %r1, 1; @%p0 mov.u32 %r1, 2; @!%p1 add.u32 %r1, %r1, 10;
        @%p0 bra A; @%p1 bra B; A: add.u32 %r1, %r1, 100; B: st.global.u32 [%own], %r1;";
    let expected = each(32, |t| {
        (if t < 10 { 2 } else { 1 }) + (if t > 4 { 0 } else { 10 }) + (if t < 10 { 100 } else { 0 })
    });
    assert_eq!(case(body).output("out", 32).words(), expected);
}

#[test]
fn lanes_of_a_warp_take_a_lock_one_after_the_other() {
    let body = "SPIN: atom.acquire.gpu.global.cas.b32 %r1, [%a1], 0, 1; setp.ne.u32 %p0, %r1, 0; @%p0 bra SPIN;
        ld.volatile.global.u32 %r2, [%a0]; mad.lo.u32 %r2, %r2, 2, 1; and.b32 %r2, %r2, 0xffff; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%a0], %r2;
        st.release.gpu.global.u32 [%a1], 0;";
    let expected = (0..64).fold(0, |value: u32, _| ((2 * value + 1) & 0xffff) + 1);
    for schedule in SCHEDULES {
        let case = case(body)
            .block(32)
            .grid(2)
            .both("count", &[0; 4])
            .both("lock", &[0; 4])
            .schedule(schedule);
        assert_eq!(case.words(), [expected], "{schedule}");
    }
}

#[test]
fn lanes_that_hold_a_lock_in_the_loop_go_first() {
    // As compilers write it: the critical section stands inside of the loop, before the branch back.
    let body = "mov.u32 %r3, 0;
        LOOP: atom.acquire.gpu.global.cas.b32 %r1, [%a1], 0, 1; setp.ne.u32 %p0, %r1, 0; @%p0 bra NEXT;
        ld.volatile.global.u32 %r2, [%a0]; add.u32 %r2, %r2, %t; st.volatile.global.u32 [%a0], %r2; st.release.gpu.global.u32 [%a1], 0; mov.u32 %r3, 1;
        NEXT: setp.eq.u32 %p1, %r3, 0; @%p1 bra LOOP;";
    for schedule in SCHEDULES {
        let case = case(body)
            .block(64)
            .both("sum", &[0; 4])
            .both("lock", &[0; 4])
            .schedule(schedule);
        assert_eq!(case.words(), [2016], "{schedule}");
    }
}

#[test]
fn lanes_wait_for_flags_of_their_warp() {
    // Lane i waits for lane i + 1, the last for none: each schedule must let all of them go on.
    let body = "mad.wide.u32 %d1, %t, 4, %a1; setp.eq.u32 %p0, %t, 31; @%p0 bra GO;
        SPIN: ld.acquire.cta.global.u32 %r1, [%d1+4]; setp.eq.u32 %p1, %r1, 0; @%p1 bra SPIN;
        GO: add.u32 %r2, %r1, 1; @%p0 mov.u32 %r2, 1; st.release.cta.global.u32 [%d1], %r2; st.global.u32 [%own], %r2;";
    for schedule in SCHEDULES {
        let case = case(body).output("out", 32).both("flags", &[0; 128]).schedule(schedule);
        assert_eq!(case.words(), each(32, |lane| 32 - lane as u32), "{schedule}");
    }
}

#[test]
fn inner_scopes_have_names_of_their_own() {
    let body = "mov.u32 %r1, 5; mov.u32 %r2, 0;
        { .reg .b32 %r1; .reg .pred %p0; mov.u32 %r1, 100; AGAIN: add.u32 %r2, %r2, %r1; sub.u32 %r1, %r1, 50; setp.ne.u32 %p0, %r1, 0; @%p0 bra AGAIN;
          { .reg .b32 %r1; mov.u32 %r1, 7; add.u32 %r2, %r2, %r1; bra OUT; } }
        OUT: AGAIN: add.u32 %r2, %r2, %r1; sub.u32 %r1, %r1, 1; setp.ne.u32 %p0, %r1, 0; @%p0 bra AGAIN;
        { .reg .b32 tmp; mov.u32 tmp, 1000; add.u32 %r2, %r2, tmp; }
        { .reg .b64 tmp; mov.u64 tmp, 2000; cvt.u32.u64 %r3, tmp; add.u32 %r2, %r2, %r3; }
        st.global.u32 [%own], %r2;";
    assert_eq!(case(body).output("out", 32).words(), [150 + 7 + 15 + 3000; 32]);
}

#[test]
fn a_register_hides_a_variable_of_the_same_name() {
    let body = "{ .reg .b64 data; add.u64 data, %a0, 4; st.global.u32 [data], 3; mov.u64 %d1, data; }
        ld.global.u32 %r1, [data]; st.global.u32 [%a0], %r1; sub.u64 %d1, %d1, %a0; st.global.u64 [%a0+8], %d1;";
    assert_eq!(
        case(body)
            .block(1)
            .module(".global .u32 data = 8;")
            .output("out", 4)
            .words(),
        [8, 3, 4, 0]
    );
}

#[test]
fn lanes_exit_at_different_times() {
    let body = "mov.u32 %r1, 0; LOOP: setp.eq.u32 %p0, %r1, %t; @%p0 exit; activemask.b32 %r2; popc.b32 %r2, %r2; st.global.u32 [%own], %r2;
        add.u32 %r1, %r1, 1; bra LOOP;";
    let done = case(body).both("out", &[0; 128]).run();
    assert_eq!(
        done.clean().words(0),
        each(32, |lane| if lane == 0 { 0 } else { 32 - lane as u32 })
    );
}

#[test]
fn switches_of_nested_loops() {
    // For each lane the sum over i < lane of (sum over j < i of j, leaving early at 5).
    let body = "mov.u32 %r1, 0; mov.u32 %r4, 0;
        OUTER: setp.ge.u32 %p0, %r1, %t; @%p0 bra END; mov.u32 %r2, 0;
        INNER: setp.ge.u32 %p1, %r2, %r1; @%p1 bra NEXT; add.u32 %r4, %r4, %r2; setp.eq.u32 %p2, %r2, 5; @%p2 bra NEXT; add.u32 %r2, %r2, 1; bra INNER;
        NEXT: add.u32 %r1, %r1, 1; bra OUTER;
        END: st.global.u32 [%own], %r4;";
    let expected: Vec<u32> = each(32, |lane| (0..lane as u32).map(|i| (0..i.min(6)).sum::<u32>()).sum());
    for schedule in SCHEDULES {
        assert_eq!(case(body).output("out", 32).schedule(schedule).words(), expected);
    }
}

#[test]
fn the_clock_goes_on() {
    let body = "mov.u32 %r1, %clock; mov.u64 %d1, %clock64; mov.u64 %d2, %globaltimer; mov.u32 %r2, %clock; mov.u64 %d3, %globaltimer;
        setp.lt.u32 %p0, %r1, %r2; setp.lt.and.u64 %p0, %d2, %d3, %p0; selp.u32 %r3, 1, 0, %p0; st.global.u32 [%own], %r3;";
    assert_eq!(case(body).output("out", 32).words(), [1; 32]);
}
