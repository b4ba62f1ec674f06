//! What is counted.

use super::{Case, Statistics, case, each};
use crate::machine::Class;

fn statistics(case: &Case) -> Statistics {
    case.run().clean().statistics().clone()
}

/// What a body counts more than an empty one.
fn counted(body: &str) -> Statistics {
    let run = |body: &str| statistics(&case(body).both("data", &[0; 4096]).input("in", &[0; 1024]));
    run(body)
}

fn classes(statistics: &Statistics) -> Vec<(Class, u64)> {
    Class::ALL
        .into_iter()
        .zip(statistics.total.by_class)
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn instructions_are_counted_by_class() {
    let empty = statistics(&case("").block(64));
    let full = statistics(&case(".shared .align 16 .b8 tile[1024]; .local .b32 own; add.u32 %r1, %t, 1; st.local.u32 [own], %r1; mov.u32 %r3, tile; mad.lo.u32 %r3, %t, 16, %r3;
        st.shared.v4.u32 [%r3], {%r1, %r1, %r1, %r1}; bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r3];
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r8, %r9, %r10, %r11}, {%r4, %r5, %r6, %r7}, {%r4, %r5}, {%r8, %r9, %r10, %r11};
        cp.async.commit_group; cp.async.wait_all; shfl.sync.idx.b32 %r1, %r1, 0, 31, -1; membar.cta; bar.sync 0; bra NEXT; NEXT: ret;").block(64));
    let difference = |class: Class| full.total.by_class[class as usize] - empty.total.by_class[class as usize];
    let expected = [
        (Class::Alu, 3),
        (Class::Tensor, 1),
        (Class::Global, 0),
        (Class::Shared, 2),
        (Class::OtherMemory, 1),
        (Class::Async, 2),
        (Class::Warp, 1),
        (Class::Barrier, 3),
        (Class::Control, 1),
    ];
    for (class, count) in expected {
        assert_eq!(difference(class), 2 * count, "{class:?}");
    }
    assert_eq!(full.total.instructions, full.total.by_class.iter().sum::<u64>());
    assert_eq!(full.total.tensor_flops, 2 * 2 * 16 * 8 * 16);
    assert_eq!((full.total.tensor_instructions, full.total.barriers), (2, 2));
    assert_eq!(classes(&empty).len(), 2);
}

/// Sectors, ideal sectors and bytes of one load by a warp.
fn load(body: &str) -> (u64, u64, u64) {
    let total = counted(body).total;
    assert_eq!((total.global_sectors_written, total.global_bytes_written), (0, 0));
    (
        total.global_sectors_read,
        total.global_sectors_ideal,
        total.global_bytes_read,
    )
}

#[test]
fn sectors_of_loads() {
    assert_eq!(load("ld.global.u32 %r1, [%own];"), (4, 4, 128));
    assert_eq!(
        load("mad.wide.u32 %d1, %t, 8, %a1; ld.global.u32 %r1, [%d1];"),
        (8, 4, 128)
    );
    assert_eq!(
        load("mad.wide.u32 %d1, %t, 32, %a1; ld.global.u32 %r1, [%d1];"),
        (32, 4, 128)
    );
    assert_eq!(
        load("mad.wide.u32 %d1, %t, 128, %a1; ld.global.u32 %r1, [%d1];"),
        (32, 4, 128)
    );
    assert_eq!(load("add.u64 %d1, %own, 4; ld.global.u32 %r1, [%d1];"), (5, 4, 128));
    // One word for all lanes needs one sector, not the four of 128 bytes.
    assert_eq!(load("ld.global.u32 %r1, [%a1];"), (1, 1, 128));
    assert_eq!(
        load("mad.wide.u32 %d1, %t, 16, %a1; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1];"),
        (16, 16, 512)
    );
    assert_eq!(
        load(
            "add.u64 %d1, %a1, %d9; mov.b32 %r2, 31; sub.u32 %r2, %r2, %t; mad.wide.u32 %d1, %r2, 4, %a1; ld.global.u32 %r1, [%d1];"
        ),
        (4, 4, 128)
    );
    assert_eq!(
        load("setp.lt.u32 %p0, %t, 3; @%p0 ld.global.u8 %r1, [%own];"),
        (1, 1, 3)
    );
    assert_eq!(
        load("mad.wide.u32 %d1, %t, 2, %a1; ld.global.u16 %r1, [%d1];"),
        (2, 2, 64)
    );
}

#[test]
fn sectors_of_stores_and_what_was_touched() {
    let statistics = counted(
        "mad.wide.u32 %d1, %t, 64, %a0; st.global.u16 [%d1], %t; st.global.u16 [%d1+2], %t; ld.global.u32 %r1, [%a1+4]; ld.global.u32 %r1, [%a1];",
    );
    let total = &statistics.total;
    assert_eq!(
        (
            total.global_sectors_written,
            total.global_bytes_written,
            total.global_sectors_read
        ),
        (64, 128, 2)
    );
    let traffic = each(2, |i| {
        (
            statistics.traffic[i].allocation.clone(),
            statistics.traffic[i].sectors_read,
            statistics.traffic[i].sectors_written,
        )
    });
    assert_eq!(traffic, [("data".to_owned(), 0, 32), ("in".to_owned(), 1, 0)]);
}

#[test]
fn atomics_read_and_write() {
    let total = counted("red.global.add.u32 [%own], 1;").total;
    assert_eq!((total.global_sectors_read, total.global_sectors_written), (4, 4));
}

#[test]
fn copies_count_as_loads_and_as_stores_to_shared_memory() {
    let total = counted(".shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 16, %r1; mad.wide.u32 %d1, %t, 16, %a1; cp.async.cg.shared.global [%r1], [%d1], 16; cp.async.wait_all;").total;
    assert_eq!((total.global_sectors_read, total.global_bytes_read), (16, 512));
    assert_eq!((total.shared_wavefronts, total.shared_wavefronts_ideal), (4, 4));
}

/// Passes and ideal passes of one store to shared memory at `stride · thread`.
fn store(stride: u32, vector: u32) -> (u64, u64) {
    let (suffix, value) = match vector {
        1 => ("", "%t".to_owned()),
        _ => (
            if vector == 2 { ".v2" } else { ".v4" },
            format!("{{{}}}", each(vector as usize, |_| "%t").join(", ")),
        ),
    };
    let total = counted(&format!(".shared .align 16 .b8 tile[8192]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, {stride}, %r1; st.shared{suffix}.u32 [%r1], {value};")).total;
    (total.shared_wavefronts, total.shared_wavefronts_ideal)
}

#[test]
fn passes_through_the_banks() {
    assert_eq!(store(4, 1), (1, 1));
    assert_eq!(store(8, 1), (2, 1));
    assert_eq!(store(64, 1), (16, 1));
    assert_eq!(store(132, 1), (1, 1));
    assert_eq!(store(8, 2), (2, 2));
    assert_eq!(store(16, 4), (4, 4));
    assert_eq!(store(128, 4), (32, 4));
    let rows = |stride: u32| {
        let total = counted(&format!(".shared .align 16 .b8 tile[8192]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, {stride}, %r1; st.shared.v4.u32 [%r1], {{%t, %t, %t, %t}}; bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r2, %r3, %r4, %r5}}, [%r1];")).total;
        total.shared_wavefronts / 2
    };
    assert_eq!((rows(16), rows(128), rows(144), rows(64)), (4, 32, 4, 16));
}

#[test]
fn divergent_branches() {
    let count = |body: &str| statistics(&case(body)).total.divergent_branches;
    assert_eq!(count("setp.lt.u32 %p0, %t, 5; @%p0 bra A; A: ret;"), 1);
    assert_eq!(count("setp.lt.u32 %p0, %t, 50; @%p0 bra A; A: ret;"), 0);
    assert_eq!(count("setp.gt.u32 %p0, %t, 50; @%p0 bra A; A: ret;"), 0);
    assert_eq!(
        count("and.b32 %r1, %t, 1; T: .branchtargets A, B; brx.idx %r1, T; A: B: ret;"),
        1
    );
    assert_eq!(
        count("mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; setp.lt.u32 %p0, %r1, %t; @%p0 bra L;"),
        30
    );
}

#[test]
fn lines_add_up_to_the_total() {
    let text = "mov.u32 %r1, 0;\nLOOP: add.u32 %r1, %r1, 1;\nld.global.u32 %r2, [%own];\nsetp.lt.u32 %p0, %r1, 7;\n@%p0 bra LOOP;\nst.global.u32 [%own], %r2;\nret;";
    let case = case(text)
        .block(96)
        .grid(3)
        .both("data", &[0; 1152])
        .with(|options| options.line_counters = true);
    let statistics = statistics(&case);
    let line = |piece: &str| &statistics.lines[&case.line_of(piece)];
    assert_eq!(line("LOOP: add").instructions, 63);
    assert_eq!(
        (
            line("ld.global").global_sectors_read,
            line("ld.global").global_bytes_read
        ),
        (63 * 4, 63 * 128)
    );
    assert_eq!(
        (line("st.global").global_sectors_written, line("st.global").instructions),
        (36, 9)
    );
    let mut sum = crate::machine::Counters::default();
    statistics.lines.values().for_each(|counters| sum.add(counters));
    assert_eq!(sum, statistics.total);
    assert!(super::case("").run().statistics().lines.is_empty());
}
