//! What threads tell each other without barriers: through flags, fences and atomics.

use super::races::{clean, found};
use super::{Case, Checker, case};

/// Thread 0 publishes a value; thread 32 waits for the flag.
fn flag(store: &str, load: &str) -> Case {
    case(&format!(
        ".shared .u32 data; .shared .u32 flag; setp.ge.u32 %p0, %t, 32; @%p0 bra READ;
        setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [flag], 0; bar.sync 0; @!%p1 bra END;
        st.shared.u32 [data], 41;\n{store}\nbra END;
        READ: bar.sync 0; setp.ne.u32 %p1, %t, 32; @%p1 bra END;
        SPIN: {load} setp.eq.u32 %p2, %r2, 0; @%p2 bra SPIN;
        ld.shared.u32 %r3, [data];
        st.global.u32 [%a0], %r3; END: ret;"
    ))
    .block(64)
    .output("out", 1)
}

#[test]
fn flags_need_release_and_acquire() {
    for (store, load) in [
        (
            "st.release.cta.shared.u32 [flag], 1;",
            "ld.acquire.cta.shared.u32 %r2, [flag];",
        ),
        (
            "membar.cta; st.volatile.shared.u32 [flag], 1;",
            "ld.volatile.shared.u32 %r2, [flag]; membar.cta;",
        ),
        (
            "fence.acq_rel.cta; st.relaxed.cta.shared.u32 [flag], 1;",
            "ld.relaxed.cta.shared.u32 %r2, [flag]; fence.acq_rel.cta;",
        ),
        (
            "atom.acq_rel.cta.shared.exch.b32 %r4, [flag], 1;",
            "atom.acq_rel.cta.shared.or.b32 %r2, [flag], 0;",
        ),
    ] {
        clean(&flag(store, load));
        assert_eq!(flag(store, load).words(), [41]);
    }
    let relaxed = "ld.relaxed.cta.shared.u32 %r2, [flag];";
    found(
        &flag("st.release.cta.shared.u32 [flag], 1;", relaxed),
        "st.shared.u32 [data]",
        "ld.shared.u32 %r3",
    );
    found(
        &flag(
            "st.relaxed.cta.shared.u32 [flag], 1;",
            "ld.acquire.cta.shared.u32 %r2, [flag];",
        ),
        "st.shared.u32 [data]",
        "ld.shared.u32 %r3",
    );
}

/// The block that arrives last adds up what all have stored.
fn last_arriver(fence: &str, after: &str) -> Case {
    case(&format!(
        ".shared .u32 last; mad.wide.u32 %d1, %b, 4, %a1; setp.ne.u32 %p0, %t, 0; @%p0 bra WAIT;
        add.u32 %r1, %b, 10;\nst.global.u32 [%d1], %r1;\n{fence}
        atom.global.add.u32 %r2, [%a2], 1;\n{after}
        st.shared.u32 [last], %r2;
        WAIT: bar.sync 0; ld.shared.u32 %r3, [last]; setp.ne.u32 %p1, %r3, 7; @%p1 bra END;
        mad.wide.u32 %d2, %t, 4, %a1; setp.ge.u32 %p2, %t, 8; @%p2 bra END;
        ld.global.u32 %r4, [%d2];
        mad.wide.u32 %d3, %t, 4, %a0; st.global.u32 [%d3], %r4; END: ret;"
    ))
    .grid(8)
    .output("out", 8)
    .both("partial", &[0; 32])
    .both("count", &[0; 4])
}

#[test]
fn the_last_block_sees_the_others_results_through_fences() {
    for threads in [1, 2] {
        let parallel = |case: Case| case.with(|options| options.threads = Some(threads));
        let good = parallel(last_arriver("membar.gl;", "membar.gl;"));
        good.run().clean();
        assert_eq!(good.words(), super::each(8, |block| block as u32 + 10));
        for bad in [
            last_arriver("", "membar.gl;"),
            last_arriver("membar.gl;", ""),
            last_arriver("membar.cta;", "membar.gl;"),
        ] {
            let report = parallel(bad.clone())
                .with(|options| options.max_reports = 1)
                .run()
                .reports()[0]
                .clone();
            assert_eq!(
                (report.checker, report.ptx_line),
                (Checker::Racecheck, bad.line_of("ld.global.u32 %r4"))
            );
            assert!(
                report
                    .message
                    .contains(&format!("PTX line {},", bad.line_of("st.global.u32 [%d1]"))),
                "{report}"
            );
            assert_eq!(report.allocation.as_deref(), Some("partial"));
        }
    }
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_plain_accesses() {
    clean(&case(".shared .u32 sum; @!%p0 st.shared.u32 [sum], 0; bar.sync 0; atom.shared.add.u32 %r1, [sum], %t; red.shared.max.u32 [sum], 3;
        bar.sync 0; ld.shared.u32 %r2, [sum];").block(64));
    case("red.global.add.u32 [%a0], 1; atom.global.cas.b32 %r1, [%a0], 7, 8;")
        .grid(4)
        .both("sum", &[0; 4])
        .run()
        .clean();
    let bad = case("red.global.add.u32 [%a0], 1;\nld.global.u32 %r1, [%a0];").both("sum", &[0; 4]);
    found(&bad, "red.global", "ld.global");
    let bad = case("red.cta.global.add.u32 [%a0], 1;").grid(4).both("sum", &[0; 4]);
    assert!(bad.report().message.contains(".cta scope"), "{}", bad.report());
}

#[test]
fn blocks_may_not_read_what_others_write() {
    let body = "mad.wide.u32 %d1, %b, 4, %a0;\nst.global.u32 [%d1], %t;\nxor.b32 %r1, %b, 1; mad.wide.u32 %d1, %r1, 4, %a0;\nld.global.u32 %r2, [%d1];";
    let report = found(
        &case(body).block(1).grid(2).both("data", &[0; 8]),
        "st.global",
        "ld.global",
    );
    assert!(report.message.contains("of block"), "{report}");
}
