//! Accesses that no memory allows.

use super::{Access, Case, Checker, Contents, Kernel, LaunchConfig, Memory, Options, Report, case, launch};

/// Lane 5 of block 2 does it, on a buffer of 25 words.
fn lane_five(action: &str) -> Case {
    let body = format!("setp.eq.u32 %p0, %t, 5; setp.eq.and.u32 %p0, %b, 2, %p0;\n{action}");
    case(&body).grid(3).both("data", &[0; 100])
}

/// A report of memcheck by lane 5 of block 2, at the line of the access.
fn found(case: &Case, at: &str) -> Report {
    let report = case.report();
    assert_eq!(report.checker, Checker::Memcheck, "{report}");
    assert_eq!((report.block, report.thread), ([2, 0, 0], [5, 0, 0]), "{report}");
    assert_eq!(report.ptx_line, case.line_of(at));
    report
}

#[test]
fn accesses_behind_an_allocation() {
    let case = lane_five("@%p0 ld.global.u32 %r1, [%a0+100];");
    let report = found(&case, "ld.global");
    assert_eq!(report.allocation.as_deref(), Some("data"));
    assert_eq!(report.address, Some(case.run().address(0) + 100));
    assert!(report.message.contains("read of 4 bytes"), "{report}");
    assert!(
        report.message.contains("0 bytes past the end of data (100 bytes)"),
        "{report}"
    );
    let case = lane_five("@%p0 st.global.u16 [%a0+130], %r1;");
    let report = found(&case, "st.global");
    assert!(report.message.contains("write of 2 bytes"), "{report}");
    assert!(report.message.contains("30 bytes past the end of data"), "{report}");
}

#[test]
fn accesses_before_an_allocation() {
    let case = lane_five("@%p0 atom.global.add.u32 %r1, [%a1+-12], 1;").both("second", &[0; 32]);
    let report = found(&case, "atom.global");
    assert!(
        report.message.contains("12 bytes before the start of second"),
        "{report}"
    );
    assert_eq!(report.allocation.as_deref(), Some("second"));
}

#[test]
fn accesses_that_reach_past_the_end() {
    let case = lane_five("@%p0 ld.global.v2.u32 {%r1, %r2}, [%a0+96];");
    let report = found(&case, "ld.global");
    assert!(
        report.message.contains("8 bytes") && report.message.contains("past the end of data"),
        "{report}"
    );
    let case = lane_five("@%p0 ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%a0+96];");
    assert!(found(&case, "ld.global").message.contains("32 bytes"));
}

#[test]
fn misaligned_accesses() {
    for (access, bytes) in [
        ("ld.global.u16 %h1, [%a0+3]", 2),
        ("st.global.u32 [%a0+2], %r1", 4),
        ("ld.global.v2.u32 {%r1, %r2}, [%a0+4]", 8),
        ("ld.global.b128 %q1, [%a0+8]", 16),
        ("atom.global.add.u64 %d1, [%a0+4], %d1", 8),
        ("red.global.or.b32 [%a0+1], %r1", 4),
    ] {
        let case = lane_five(&format!("@%p0 {access};"));
        let report = found(&case, access);
        assert!(
            report.message.contains(&format!("not a multiple of {bytes}")),
            "{report}"
        );
    }
}

#[test]
fn stores_to_what_is_read_only() {
    let case = lane_five("@%p0 st.global.u32 [%a1+4], %r1;").input("weights", &[1, 2]);
    let report = found(&case, "st.global");
    assert!(report.message.contains("weights, which is read-only"), "{report}");
    assert_eq!(report.allocation.as_deref(), Some("weights"));
    let case = lane_five("@%p0 red.global.add.u32 [%a1], 1;").input("weights", &[1, 2]);
    found(&case, "red.global");
    let case = lane_five("mov.u64 %d1, table; cvta.const.u64 %d1, %d1;\n@%p0 st.u32 [%d1], 1;")
        .module(".const .u32 table = 3;");
    assert!(found(&case, "st.u32").message.contains("table"));
    let case = lane_five("mov.u64 %d1, p0; cvta.param.u64 %d1, %d1;\n@%p0 st.u64 [%d1], %d1;");
    assert!(found(&case, "st.u64").message.contains("parameter"));
}

#[test]
fn null_pointers() {
    for address in ["0", "8", "1024"] {
        let case = lane_five(&format!("mov.u64 %d1, {address};\n@%p0 ld.global.u32 %r1, [%d1];"));
        let report = found(&case, "ld.global");
        assert!(report.message.contains("null pointer"), "{report}");
    }
}

#[test]
fn global_accesses_with_addresses_of_other_spaces() {
    let case =
        lane_five(".shared .u32 tile; mov.u64 %d1, tile; cvta.shared.u64 %d1, %d1;\n@%p0 ld.global.u32 %r1, [%d1];");
    let report = found(&case, "ld.global");
    assert!(report.message.contains("an address of shared memory"), "{report}");
}

#[test]
fn bounds_of_shared_memory() {
    let case = lane_five(".shared .align 4 .b8 tile[24]; mov.u32 %r1, tile;\n@%p0 st.shared.u32 [%r1+32], %r1;");
    let report = found(&case, "st.shared");
    assert_eq!(report.address, Some(32));
    assert_eq!(report.allocation, None);
    assert!(report.message.contains("shared memory, which has 32 bytes"), "{report}");
    let case = lane_five(".shared .align 4 .b8 tile[32]; mov.u32 %r1, tile;\n@%p0 ld.shared.u32 %r1, [%r1+-4];");
    found(&case, "ld.shared");
    let case = lane_five(
        ".shared .align 16 .b8 tile[64]; mov.u32 %r1, tile;\n@%p0 st.shared.v4.b32 [%r1+8], {%r1, %r1, %r1, %r1};",
    );
    assert!(found(&case, "st.shared").message.contains("not a multiple of 16"));
}

#[test]
fn bounds_of_local_memory_and_parameters() {
    let case = lane_five(".local .align 8 .b8 own[16]; mov.u64 %d1, own;\n@%p0 st.local.u64 [%d1+16], %d1;");
    assert!(
        found(&case, "st.local")
            .message
            .contains("local memory, which has 16 bytes")
    );
    let case = lane_five("mov.u64 %d1, p0;\n@%p0 ld.param.u32 %r1, [%d1+8];");
    assert!(
        found(&case, "ld.param.u32")
            .message
            .contains("parameter memory, which has 8 bytes")
    );
}

#[test]
fn atomics_outside_of_global_and_shared_memory() {
    let case = lane_five(
        ".local .u32 own; mov.u64 %d1, own; cvta.local.u64 %d1, %d1; st.local.u32 [own], 0;\n@%p0 atom.add.u32 %r1, [%d1], 1;",
    );
    assert!(found(&case, "atom.add").message.contains("local memory"));
}

#[test]
fn copies_that_are_misplaced() {
    let tile = ".shared .align 16 .b8 tile[64]; mov.u32 %r1, tile;\n";
    let case = lane_five(&format!("{tile}@%p0 cp.async.cg.shared.global [%r1], [%a0+96], 16;"));
    assert!(found(&case, "cp.async").message.contains("past the end of data"));
    let case = lane_five(&format!("{tile}@%p0 cp.async.ca.shared.global [%r1+4], [%a0], 8;"));
    found(&case, "cp.async");
    let case = lane_five(&format!("{tile}@%p0 cp.async.ca.shared.global [%r1], [%a0+4], 8;"));
    found(&case, "cp.async");
    let case = lane_five(&format!(
        "{tile}mov.u32 %r2, 9;\n@%p0 cp.async.ca.shared.global [%r1], [%a0], 8, %r2;"
    ));
    found(&case, "cp.async");
}

#[test]
fn use_of_freed_memory() {
    let case = case("ld.global.u32 %r1, [%a0];").both("data", &[0; 4]);
    let mut memory = Memory::new();
    let freed = memory
        .allocate("freed", 64, Contents::Zeros, Access::ReadWrite)
        .unwrap();
    memory
        .allocate("later", 64, Contents::Zeros, Access::ReadWrite)
        .unwrap();
    memory.free(freed);
    let config = LaunchConfig {
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_shared: 0,
    };
    let kernel: Kernel = case.decode().unwrap();
    let outcome = launch(
        &kernel,
        config,
        &[freed.to_le_bytes().to_vec()],
        &mut memory,
        &Options::default(),
    )
    .unwrap();
    assert!(!outcome.completed);
    let [report] = outcome.reports.as_slice() else {
        panic!("{:?}", outcome.reports)
    };
    assert_eq!((report.checker, report.address), (Checker::Memcheck, Some(freed)));
    assert!(report.message.contains("in no allocation"), "{report}");
}

#[test]
fn reports_name_the_source_line() {
    let text =
        "ld.global.u32 %r1, [%a0];\n.loc 1 17 3\nld.global.u32 %r1, [%a0+4];\n.loc 1 18 3\nld.global.u32 %r1, [%a0+8];";
    let case = case(text).module(".file 1 \"kernel.cu\"").both("data", &[0; 4]);
    let report = case.report();
    assert_eq!(
        report.source.as_ref().map(ToString::to_string).as_deref(),
        Some("kernel.cu:17")
    );
    assert_eq!(report.ptx_line, case.line_of("%a0+4"));
    let text = report.to_string();
    assert!(text.starts_with("memcheck: read of 4 bytes"), "{text}");
    assert!(text.contains("(kernel.cu:17), block (0,0,0), thread (0,0,0)"), "{text}");
}

#[test]
fn a_launch_ends_at_the_first_fault() {
    let case = case("st.global.u32 [%own], %b; setp.eq.u32 %p0, %b, 3; @%p0 st.global.u32 [%a0+-4], 1;");
    let done = case.grid(64).output("out", 64 * 32).run();
    assert_eq!(done.reports().len(), 1);
    assert!(!done.outcome.completed);
}
