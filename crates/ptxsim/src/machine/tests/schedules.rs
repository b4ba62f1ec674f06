//! The order of warps and blocks.

use super::{Case, Schedule, case, each};
use crate::machine::Checks;

const SCHEDULES: [Schedule; 6] = [
    Schedule::Fixed,
    Schedule::Random(0),
    Schedule::Random(1),
    Schedule::Random(99),
    Schedule::Starve(0),
    Schedule::Starve(3),
];

/// A sum of each block through shared memory, by halves.
fn tree() -> Case {
    let body = ".shared .align 4 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1; mul.lo.u32 %r2, %g, %g; st.shared.u32 [%r1], %r2; mov.u32 %r3, 64;
        LOOP: bar.sync 0; setp.ge.u32 %p0, %t, %r3; @%p0 bra NEXT; mad.lo.u32 %r4, %r3, 4, %r1; ld.shared.u32 %r5, [%r4]; ld.shared.u32 %r6, [%r1]; add.u32 %r5, %r5, %r6; st.shared.u32 [%r1], %r5;
        NEXT: shr.u32 %r3, %r3, 1; setp.ne.u32 %p1, %r3, 0; @%p1 bra LOOP; setp.eq.u32 %p2, %t, 0; mad.wide.u32 %d1, %b, 4, %a0; @%p2 ld.shared.u32 %r7, [tile]; @%p2 st.global.u32 [%d1], %r7;";
    case(body).block(128).grid(6).output("out", 6)
}

#[test]
fn a_correct_kernel_gives_the_same_in_every_order() {
    let sum =
        |block: u32| (128 * block..128 * (block + 1)).fold(0_u32, |sum, thread| sum.wrapping_add(thread * thread));
    for schedule in SCHEDULES {
        for threads in [Some(1), Some(2), Some(5), None] {
            let case = tree().schedule(schedule).with(|options| options.threads = threads);
            assert_eq!(
                case.words(),
                each(6, |block| sum(block as u32)),
                "{schedule} {threads:?}"
            );
        }
    }
}

#[test]
fn counts_do_not_depend_on_the_order() {
    let counts = |threads: usize| {
        tree()
            .with(|options| (options.threads, options.line_counters) = (Some(threads), true))
            .run()
            .statistics()
            .clone()
    };
    assert_eq!(counts(1), counts(4));
}

#[test]
fn a_kernel_that_depends_on_the_order_shows_it() {
    let body = ".shared .u32 last; st.shared.u32 [last], %t; bar.sync 0; ld.shared.u32 %r1, [last]; shr.u32 %r1, %r1, 5; st.global.u32 [%own], %r1;";
    let winner = |schedule: Schedule| {
        case(body)
            .block(128)
            .output("out", 128)
            .schedule(schedule)
            .with(|options| options.checks = Checks::NONE)
            .words()[0]
    };
    assert_eq!(winner(Schedule::Fixed), 3);
    assert_eq!(winner(Schedule::Starve(1)), 1);
    let winners: std::collections::BTreeSet<u32> = (0..20).map(|seed| winner(Schedule::Random(seed))).collect();
    assert!(winners.len() > 1, "{winners:?}");
}

#[test]
fn a_seed_gives_the_same_order_each_time() {
    let body = "atom.global.add.u32 %r1, [%a1], 1; st.global.u32 [%own], %r1;";
    let order = |seed: u64| {
        case(body)
            .block(256)
            .output("out", 256)
            .both("count", &[0; 4])
            .schedule(Schedule::Random(seed))
            .words()
    };
    assert_eq!(order(5), order(5));
    assert_ne!(order(5), order(6));
}

#[test]
fn a_starved_warp_still_comes_to_its_end() {
    // The others wait for warp 2.
    let body = ".shared .u32 flag; setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [flag], 0; bar.sync 0; shr.u32 %r1, %t, 5; setp.eq.u32 %p1, %r1, 2; @%p1 bra SET;
        bar.sync 1; bra END; SET: bar.sync 1; END: st.global.u32 [%own], %r1;";
    for schedule in SCHEDULES {
        assert_eq!(
            case(body).block(128).output("out", 128).schedule(schedule).words(),
            each(128, |thread| thread as u32 / 32)
        );
    }
}

/// Every block waits until all have come, by spinning, `rounds` times.
fn grid_barrier(rounds: u32) -> Case {
    let body = format!("mov.u32 %r1, 0; mov.u32 %r7, %nctaid.x;
        ROUND: add.u32 %r1, %r1, 1; mul.lo.u32 %r2, %r1, %r7; setp.ne.u32 %p0, %t, 0; mad.wide.u32 %d1, %b, 4, %a1; @%p0 bra WAIT; st.global.u32 [%d1], %r1; fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%a2], 1;
        SPIN: ld.acquire.gpu.global.u32 %r3, [%a2]; setp.lt.u32 %p1, %r3, %r2; @%p1 bra SPIN; WAIT: bar.sync 0;
        add.u32 %r4, %b, 1; rem.u32 %r4, %r4, %r7; mad.wide.u32 %d2, %r4, 4, %a1; ld.global.u32 %r5, [%d2]; bar.sync 0; add.u32 %r6, %r6, %r5;
        @%p0 bra NEXT; fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%a2+4], 1;
        AGAIN: ld.acquire.gpu.global.u32 %r3, [%a2+4]; setp.lt.u32 %p1, %r3, %r2; @%p1 bra AGAIN; NEXT: bar.sync 0;
        setp.lt.u32 %p2, %r1, {rounds}; @%p2 bra ROUND; st.global.u32 [%own], %r6;");
    case(&body)
        .block(64)
        .grid(8)
        .output("out", 512)
        .output("round", 8)
        .both("count", &[0; 8])
}

#[test]
fn blocks_that_wait_for_each_other_come_to_their_end() {
    for threads in [1, 2, 8] {
        for schedule in [Schedule::Fixed, Schedule::Random(4)] {
            let case = grid_barrier(3)
                .schedule(schedule)
                .with(|options| (options.threads, options.step_limit) = (Some(threads), 1 << 28));
            assert_eq!(case.words(), [6; 512]);
        }
    }
}

#[test]
fn names_of_schedules() {
    for schedule in SCHEDULES {
        assert_eq!(schedule.to_string().parse(), Ok(schedule));
    }
    for text in ["", "random", "random:x", "starve:-1", "fixed:1"] {
        assert!(
            text.parse::<Schedule>()
                .unwrap_err()
                .to_string()
                .contains("expected fixed, random:SEED or starve:WARP")
        );
    }
}
