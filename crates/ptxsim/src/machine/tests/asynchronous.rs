//! When `cp.async` takes effect, and what it copies.

use super::{Asynchrony, Case, Checker, Options, case, each};
use crate::machine::Checks;

const BOTH: [Asynchrony; 2] = [Asynchrony::Lazy, Asynchrony::Eager];

/// Without checks: results tell when something happened.
fn blind(case: Case, asynchrony: Asynchrony) -> Case {
    case.with(|options| (options.checks, options.asynchrony) = (Checks::NONE, asynchrony))
}

/// Each thread has four words at `%r1`, filled with 1000 and up, and copies of a[0], a[1]… to wait for.
fn steps(body: &str) -> Case {
    let text = format!(".shared .align 16 .b8 tile[4096]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 16, %r1; mov.u32 %r10, 1000; mov.u32 %r11, 1001; mov.u32 %r12, 1002;
        mov.u32 %r13, 1003; st.shared.v4.u32 [%r1], {{%r10, %r11, %r12, %r13}}; mad.wide.u32 %d1, %t, 16, %a1;\n{body}\n
        ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r1]; mad.wide.u32 %d2, %t, 16, %a0; st.global.v4.u32 [%d2], {{%r10, %r11, %r12, %r13}};");
    case(&text).output("out", 128).input("in", &each(128, |i| i as u32))
}

/// Which of the four copies had landed, for each thread.
fn landed(words: &[u32]) -> Vec<String> {
    words
        .chunks(4)
        .map(|words| words.iter().map(|word| if *word < 1000 { 'x' } else { '.' }).collect())
        .collect()
}

const COPY: [&str; 4] = [
    "cp.async.ca.shared.global [%r1], [%d1], 4;",
    "cp.async.ca.shared.global [%r1+4], [%d1+4], 4;",
    "cp.async.ca.shared.global [%r1+8], [%d1+8], 4;",
    "cp.async.ca.shared.global [%r1+12], [%d1+12], 4;",
];
const COMMIT: &str = "cp.async.commit_group;";

#[test]
fn groups_land_at_the_wait_that_includes_them() {
    let [a, b, c, d] = COPY;
    for (body, expected) in [
        (a.to_owned(), "...."),
        (format!("{a} {COMMIT}"), "...."),
        (format!("{a} cp.async.wait_group 0;"), "...."),
        (format!("{a} cp.async.wait_all;"), "x..."),
        (format!("{a} {COMMIT} cp.async.wait_group 1;"), "...."),
        (format!("{a} {COMMIT} cp.async.wait_group 0;"), "x..."),
        (
            format!("{a} {b} {COMMIT} {c} {COMMIT} {d} {COMMIT} cp.async.wait_group 2;"),
            "xx..",
        ),
        (
            format!("{a} {b} {COMMIT} {c} {COMMIT} {d} {COMMIT} cp.async.wait_group 1;"),
            "xxx.",
        ),
        (
            format!("{a} {COMMIT} {b} {COMMIT} cp.async.wait_group 1; {c} {COMMIT} cp.async.wait_group 1;"),
            "xx..",
        ),
        (
            format!("{a} {COMMIT} {COMMIT} {b} {COMMIT} cp.async.wait_group 2;"),
            "x...",
        ),
        (format!("{COMMIT} {COMMIT} {a} {COMMIT} cp.async.wait_group 1;"), "...."),
        (
            format!("{a} {COMMIT} {b} cp.async.wait_group 0; {COMMIT} {c} {COMMIT} cp.async.wait_group 1;"),
            "xx..",
        ),
        (
            format!("{a} {COMMIT} {b} {c} cp.async.wait_all; {d} {COMMIT} cp.async.wait_group 1;"),
            "xxx.",
        ),
    ] {
        let case = steps(&body);
        assert_eq!(
            landed(&blind(case.clone(), Asynchrony::Lazy).words()),
            [expected; 32],
            "{body}"
        );
        let eager = blind(case, Asynchrony::Eager).words();
        let issued = [a, b, c, d].map(|copy| if body.contains(copy) { 'x' } else { '.' });
        assert_eq!(landed(&eager), vec![issued.iter().collect::<String>(); 32], "{body}");
    }
}

#[test]
fn lanes_have_groups_of_their_own() {
    let [a, b, c, _] = COPY;
    // Odd lanes commit twice as often.
    let body = format!(
        "and.b32 %r2, %t, 1; setp.eq.u32 %p0, %r2, 1; {a} @%p0 {COMMIT} {b} {COMMIT} @%p0 bra ODD; {c} {COMMIT} bra END; ODD: {c} {COMMIT} END: cp.async.wait_group 1;"
    );
    let got = landed(&blind(steps(&body), Asynchrony::Lazy).words());
    assert_eq!(got, each(32, |_| "xx.."));
    let body = format!(
        "setp.lt.u32 %p0, %t, 9; {a} {COMMIT} @%p0 cp.async.wait_group 0; {b} {COMMIT} @!%p0 cp.async.wait_group 1;"
    );
    assert_eq!(landed(&blind(steps(&body), Asynchrony::Lazy).words()), ["x..."; 32]);
    let body = format!("setp.lt.u32 %p0, %t, 9; @%p0 {a} {COMMIT} {b} {COMMIT} @%p0 cp.async.wait_group 0;");
    let got = landed(&blind(steps(&body), Asynchrony::Lazy).words());
    assert_eq!(got, each(32, |lane| if lane < 9 { "xx.." } else { "...." }));
}

#[test]
fn a_missing_wait_is_seen_only_where_copies_are_late() {
    let case = steps(COPY[2]);
    assert_ne!(
        blind(case.clone(), Asynchrony::Lazy).words(),
        blind(case.clone(), Asynchrony::Eager).words()
    );
    for asynchrony in BOTH {
        let report = case.clone().with(|options| options.asynchrony = asynchrony).report();
        assert_eq!(report.checker, Checker::Racecheck);
    }
}

#[test]
fn bytes_that_are_not_read_become_zero() {
    for (kind, size) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for asynchrony in BOTH {
            // Lane i reads min(i, size) bytes.
            let body = format!(".shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, {size}, %r1; mad.wide.u32 %d1, %t, {size}, %a1;
                min.u32 %r2, %t, {size}; cp.async.{kind}.shared.global [%r1], [%d1], {size}, %r2; cp.async.wait_all; mad.wide.u32 %d2, %t, {size}, %a0; mov.u32 %r3, 0;
                LOOP: ld.shared.u8 %r4, [%r1]; st.global.u8 [%d2], %r4; add.u32 %r1, %r1, 1; add.u64 %d2, %d2, 1; add.u32 %r3, %r3, 1; setp.lt.u32 %p0, %r3, {size}; @%p0 bra LOOP;");
            let input = each(8 * size, |i| 0x0403_0201 + 0x0404_0404 * (i as u32 % 60));
            let case = case(&body)
                .output("out", 8 * size as u64)
                .input("in", &input)
                .with(|options| options.asynchrony = asynchrony);
            let bytes = super::bytes(&input);
            let expected: Vec<u8> = (0..32 * size)
                .map(|i| if i % size < i / size { bytes[i] } else { 0 })
                .collect();
            assert_eq!(case.run().clean().bytes(0), expected, "{kind} {size}");
        }
    }
}

#[test]
fn a_copy_that_reads_nothing_needs_no_source() {
    for asynchrony in BOTH {
        let body = ".shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 16, %r1; setp.lt.u32 %p0, %t, 4; selp.u32 %r2, 16, 0, %p0;
            mad.wide.u32 %d1, %t, 16, %a1; cp.async.cg.shared.global.L2::128B [%r1], [%d1], 16, %r2; cp.async.wait_all; ld.shared.u32 %r3, [%r1+12]; st.global.u32 [%own], %r3;";
        let case = case(body)
            .output("out", 32)
            .input("in", &each(16, |i| i as u32 + 1))
            .with(|options| options.asynchrony = asynchrony);
        assert_eq!(
            case.words(),
            each(32, |lane| if lane < 4 { 4 * lane as u32 + 4 } else { 0 })
        );
    }
}

#[test]
fn a_predicate_may_ignore_the_source() {
    for asynchrony in BOTH {
        let body = ".shared .align 16 .b8 tile[128]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 4, %r1; setp.ge.u32 %p0, %t, 4; mad.wide.u32 %d1, %t, 4, %a1;
            cp.async.ca.shared.global [%r1], [%d1], 4, %p0; cp.async.wait_all; ld.shared.u32 %r3, [%r1]; st.global.u32 [%own], %r3;";
        let case = case(body)
            .output("out", 32)
            .input("in", &[5, 6, 7, 8])
            .with(|options| options.asynchrony = asynchrony);
        assert_eq!(
            case.words(),
            each(32, |lane| if lane < 4 { lane as u32 + 5 } else { 0 })
        );
    }
}

#[test]
fn copies_read_memory_at_some_time_between_issue_and_wait() {
    let body = format!(
        ".shared .align 16 .b8 tile[16];\n{}\nst.global.u32 [%a1], 8;\ncp.async.wait_all; ld.shared.u32 %r3, [tile]; st.global.u32 [%own], %r3;",
        "cp.async.ca.shared.global [tile], [%a1], 4;"
    );
    let case = case(&body).block(1).output("out", 1).both("in", &[7, 0, 0, 0]);
    assert_eq!(case.report().checker, Checker::Racecheck);
    assert_eq!(blind(case.clone(), Asynchrony::Lazy).words(), [8]);
    assert_eq!(blind(case, Asynchrony::Eager).words(), [7]);
}

#[test]
fn copies_are_the_default_laziness() {
    assert_eq!(Options::default().asynchrony, Asynchrony::Lazy);
}
