//! Loads, stores, and where variables lie.

use super::{case, each};

/// Bytes 0x80, 0x81 and so on: every element is negative where it is signed.
fn negative_bytes() -> Vec<u32> {
    each(64, |i| {
        u32::from_le_bytes([0, 1, 2, 3].map(|byte| (128 + 4 * i + byte) as u8))
    })
}

fn byte(i: usize) -> u64 {
    (128 + i as u64) & 0xff
}

/// Element `i` of `bytes` bytes, in 64 bits.
fn element(i: usize, bytes: usize, signed: bool) -> u64 {
    let value = (0..bytes).rev().fold(0, |value, at| value << 8 | byte(i * bytes + at));
    let unused = 64 - 8 * bytes as u32;
    if signed {
        ((value << unused) as i64 >> unused) as u64
    } else {
        value
    }
}

#[test]
fn elements_of_every_width_go_into_registers_of_every_width() {
    for (ty, bytes, signed) in [
        ("u8", 1, false),
        ("s8", 1, true),
        ("b8", 1, false),
        ("u16", 2, false),
        ("s16", 2, true),
        ("b16", 2, false),
        ("u32", 4, false),
        ("s32", 4, true),
        ("b32", 4, false),
        ("u64", 8, false),
        ("s64", 8, true),
    ] {
        for (register, width) in [("%h1", 2), ("%r1", 4), ("%d1", 8)] {
            if width < bytes {
                continue;
            }
            let body = format!(
                "mov.b16 %h1, -1; mov.b32 %r1, -1; mov.b64 %d1, -1;
                 mad.wide.u32 %d2, %t, {bytes}, %a1; ld.global.{ty} {register}, [%d2];
                 mad.wide.u32 %d3, %t, {width}, %a0; st.global.b{} [%d3], {register};",
                8 * width
            );
            let got = case(&body)
                .output("out", 8 * width as u64)
                .input("in", &negative_bytes())
                .run()
                .clean()
                .bytes(0);
            for lane in 0..32 {
                let expected = element(lane, bytes, signed).to_le_bytes();
                assert_eq!(
                    got[lane * width..(lane + 1) * width],
                    expected[..width],
                    "{ty} into {register}, lane {lane}"
                );
            }
        }
    }
}

#[test]
fn a_narrow_load_leaves_nothing_in_the_high_bits() {
    let out = case("ld.global.s8 %h1, [%a1]; cvt.u32.u16 %r1, %h1; st.global.u32 [%own], %r1;");
    assert_eq!(out.output("out", 32).input("in", &[0xfe]).words(), [0xfffe; 32]);
}

#[test]
fn narrow_stores_take_the_low_bits_of_wide_registers() {
    let body =
        "add.u64 %d1, %a0, 3; mov.b64 %d2, 0x1122334455667788; st.global.u8 [%d1], %d2; st.global.u16 [%d1+1], %d2;
        mov.b32 %r1, 0xaabbccdd; st.global.b8 [%d1+3], %r1; st.global.b16 [%d1+5], %r1; st.global.b32 [%d1+9], %d2;";
    let got = case(body).block(1).both("out", &[0; 16]).run().clean().bytes(0);
    assert_eq!(
        got,
        [
            0, 0, 0, 0x88, 0x88, 0x77, 0xdd, 0, 0xdd, 0xcc, 0, 0, 0x88, 0x77, 0x66, 0x55
        ]
    );
}

#[test]
fn vectors_of_every_width_are_copied() {
    let names = |prefix: &str, count: usize| each(count, |i| format!("%{prefix}{}", i + 8)).join(", ");
    for (vector, bits, prefix) in [
        (2, 8, "h"),
        (4, 8, "r"),
        (2, 16, "h"),
        (4, 16, "h"),
        (2, 32, "r"),
        (4, 32, "r"),
        (8, 32, "r"),
        (2, 64, "d"),
        (4, 64, "d"),
    ] {
        let (bytes, registers) = (vector * bits / 8, names(prefix, vector));
        let body = format!(
            "mad.wide.u32 %d1, %t, {bytes}, %a1; mad.wide.u32 %d2, %t, {bytes}, %a0;
             ld.global.v{vector}.b{bits} {{{registers}}}, [%d1]; st.global.v{vector}.b{bits} [%d2], {{{registers}}};"
        );
        let input = each(8 * bytes, |i| 0x0101_0101_u32.wrapping_mul(i as u32 + 1) ^ i as u32);
        let got = case(&body).output("out", 8 * bytes as u64).input("in", &input).words();
        assert_eq!(got, input, "v{vector}.b{bits}");
    }
}

#[test]
fn a_vector_drops_elements_and_may_write_its_own_address() {
    let body = "mad.wide.u32 %d1, %t, 16, %a1; ld.global.v2.b64 {%d1, _}, [%d1];
        mad.wide.u32 %d2, %t, 16, %a1; ld.global.v4.b32 {_, _, %r3, _}, [%d2];
        cvt.u32.u64 %r1, %d1; xor.b32 %r1, %r1, %r3; st.global.b32 [%own], %r1;";
    let input = each(128, |i| (i * i) as u32);
    let got = case(body).output("out", 32).input("in", &input).words();
    assert_eq!(got, each(32, |lane| input[4 * lane] ^ input[4 * lane + 2]));
}

#[test]
fn words_of_128_bits_are_copied() {
    let body =
        "mad.wide.u32 %d1, %t, 16, %a1; ld.global.b128 %q1, [%d1]; mov.b128 {%d2, %d3}, %q1; mov.b128 %q2, {%d3, %d2};
        mad.wide.u32 %d1, %t, 16, %a0; st.global.b128 [%d1], %q2;";
    let input = each(128, |i| 7 * i as u32);
    let got = case(body).output("out", 128).input("in", &input).words();
    assert_eq!(got, each(128, |i| input[i ^ 2]));
}

#[test]
fn generic_accesses_mix_spaces_between_lanes() {
    // Lanes 0, 4, 8… use shared memory, 1, 5… global, 2, 6… local, 3, 7… read parameters.
    let body = ".shared .align 4 .b8 tile[128]; .local .align 4 .b8 own[8];
        and.b32 %r1, %t, 3; setp.eq.u32 %p0, %r1, 0; setp.eq.u32 %p1, %r1, 1; setp.eq.u32 %p2, %r1, 2; setp.eq.u32 %p3, %r1, 3;
        mov.u32 %r2, tile; mad.lo.u32 %r2, %t, 4, %r2; cvt.u64.u32 %d1, %r2; cvta.shared.u64 %d1, %d1;
        mad.wide.u32 %d2, %t, 4, %a1;
        mov.u64 %d3, own; add.u64 %d3, %d3, 4; cvta.local.u64 %d3, %d3;
        mov.u64 %d4, p2; cvta.param.u64 %d4, %d4;
        selp.b64 %d5, %d1, %d2, %p0; @%p2 mov.b64 %d5, %d3; @%p3 mov.b64 %d5, %d4;
        mul.lo.u32 %r3, %t, 11;
        @!%p3 st.u32 [%d5], %r3;
        ld.u32 %r4, [%d5];
        st.global.u32 [%own], %r4;";
    let done = case(body).output("out", 32).output("other", 32).word(77).run();
    let got = done.clean().words(0);
    assert_eq!(got, each(32, |lane| if lane % 4 == 3 { 77 } else { 11 * lane as u32 }));
    assert_eq!(
        done.words(1),
        each(32, |lane| if lane % 4 == 1 { 11 * lane as u32 } else { 0 })
    );
}

#[test]
fn conversions_of_addresses_are_inverses_and_spaces_are_told_apart() {
    let body = ".shared .b8 tile[8]; .local .b8 own[8];
        mov.u64 %d1, tile; add.u64 %d1, %d1, 2; cvta.shared.u64 %d2, %d1; cvta.to.shared.u64 %d3, %d2; setp.eq.u64 %p0, %d1, %d3;
        mov.u64 %d4, own; cvta.local.u64 %d5, %d4; cvta.to.local.u64 %d6, %d5; setp.eq.and.u64 %p0, %d4, %d6, %p0;
        cvta.to.global.u64 %d7, %a0; cvta.global.u64 %d7, %d7; setp.eq.and.u64 %p0, %d7, %a0, %p0;
        mov.u64 %d8, numbers; cvta.const.u64 %d8, %d8; mov.u64 %d9, p0; cvta.param.u64 %d9, %d9;
        selp.u32 %r1, 1, 0, %p0;
        isspacep.shared %p1, %d2; @%p1 or.b32 %r1, %r1, 2; isspacep.shared::cta %p1, %d5; @%p1 or.b32 %r1, %r1, 4;
        isspacep.local %p1, %d5; @%p1 or.b32 %r1, %r1, 8; isspacep.global %p1, %d2; @%p1 or.b32 %r1, %r1, 16;
        isspacep.global %p1, %a0; @%p1 or.b32 %r1, %r1, 32; isspacep.const %p1, %d8; @%p1 or.b32 %r1, %r1, 64;
        isspacep.const %p1, %a0; @%p1 or.b32 %r1, %r1, 128; isspacep.param %p1, %d9; @%p1 or.b32 %r1, %r1, 256;
        isspacep.local %p1, %d9; @%p1 or.b32 %r1, %r1, 512;
        isspacep.global %p1, %d9; @%p1 or.b32 %r1, %r1, 1024;
        st.global.u32 [%own], %r1;";
    let got = case(body)
        .module(".const .b32 numbers[2] = {1, 2};")
        .output("out", 32)
        .words();
    assert_eq!(got, [1 + 2 + 8 + 32 + 64 + 256 + 1024; 32]);
}

#[test]
fn parameters_have_the_places_of_their_alignment() {
    let text = ".version 8.8\n.target sm_90\n.address_size 64
        .visible .entry k(.param .u8 a, .param .align 1 .b8 b[13], .param .u16 c, .param .align 8 .b8 d[20], .param .u64 out)
        { .reg .b32 %r<9>; .reg .b64 %d<9>;
          ld.param.u64 %d0, [out]; ld.param.u8 %r0, [a]; ld.param.u8 %r1, [b+12]; ld.param.u16 %r2, [c];
          ld.param.v2.u32 {%r3, %r4}, [d+8]; ld.param.s32 %r5, [d+16]; mov.b64 %d1, d; ld.param.b32 %r6, [%d1+4];
          st.global.v4.b32 [%d0], {%r0, %r1, %r2, %r3}; st.global.v2.b32 [%d0+16], {%r4, %r5}; st.global.b32 [%d0+24], %r6;
          ret; }";
    let kernel = super::Kernel::new(&crate::parse::parse(text).unwrap(), "k").unwrap();
    let places: Vec<(u32, u32)> = kernel.params.iter().map(|param| (param.offset, param.bytes)).collect();
    assert_eq!(places, [(0, 1), (1, 13), (14, 2), (16, 20), (40, 8)]);
    let mut memory = super::Memory::new();
    let out = memory
        .allocate("out", 28, super::Contents::Uninitialised, super::Access::ReadWrite)
        .unwrap();
    let d: Vec<u8> = (100..120).collect();
    let arguments = [
        vec![200],
        (0..13).collect(),
        vec![0x34, 0x12],
        d,
        out.to_le_bytes().to_vec(),
    ];
    let config = super::LaunchConfig {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
    };
    let outcome = super::launch(&kernel, config, &arguments, &mut memory, &super::Options::default()).unwrap();
    assert!(outcome.reports.is_empty(), "{:?}", outcome.reports);
    let mut got = [0; 28];
    memory.read(out, &mut got).unwrap();
    let word = |first: u8| u32::from_le_bytes([first, first + 1, first + 2, first + 3]);
    assert_eq!(
        got.to_vec(),
        super::bytes(&[200, 12, 0x1234, word(108), word(112), word(116), word(104)])
    );
}

#[test]
fn local_arrays_take_an_index_of_each_lane() {
    let body = ".local .align 16 .b8 other[16]; .local .align 4 .b8 array[64];
        mov.u64 %d1, array; mov.u32 %r1, 0;
        LOOP: add.u32 %r2, %r1, %t; and.b32 %r2, %r2, 15; mad.wide.u32 %d2, %r2, 4, %d1; mad.lo.u32 %r3, %r1, 100, %t;
        st.local.u32 [%d2], %r3; add.u32 %r1, %r1, 1; setp.lt.u32 %p0, %r1, 16; @%p0 bra LOOP;
        ld.local.u32 %r4, [array+20]; ld.local.v2.u16 {%h1, %h2}, [array+8]; cvt.u32.u16 %r5, %h1; add.u32 %r4, %r4, %r5;
        st.global.u32 [%own], %r4;";
    let step = |at: usize, lane: usize| ((at + 160 - lane) % 16) as u32;
    let expected = each(32, |lane| 100 * (step(5, lane) + step(2, lane)) + 2 * lane as u32);
    assert_eq!(case(body).output("out", 32).words(), expected);
}

#[test]
fn variables_have_their_initial_values_and_addresses() {
    let module = ".const .align 4 .b32 numbers[4] = {10, -20, 0x30};
        .global .align 2 .b16 shorts[3] = {1, 2}; .global .align 4 .f32 real = 0f40490FDB; .global .f64 wide = 0d3FF0000000000000;
        .global .align 8 .u64 place = shorts + 2; .global .align 8 .u64 anywhere[2] = {generic(numbers) + 8, generic(real)};
        .global .align 1 .b8 text[6] = {104, 101, 0, 255}; .global .b32 zeros[8];";
    let body = "mov.u64 %d1, place; ld.global.u64 %d1, [%d1]; ld.global.u16 %r1, [%d1];
        ld.global.u64 %d2, [anywhere]; ld.u32 %r2, [%d2]; ld.global.u64 %d3, [anywhere+8]; ld.u32 %r3, [%d3];
        ld.const.s32 %r4, [numbers+4]; ld.global.u8 %r5, [text+3]; ld.global.u32 %r6, [zeros+28]; ld.global.u64 %d4, [wide];
        mov.b64 {%r7, %r8}, %d4; ld.global.u8 %r9, [text+5]; ld.const.u32 %r10, [numbers+12];
        st.global.v4.b32 [%a0], {%r1, %r2, %r3, %r4}; st.global.v4.b32 [%a0+16], {%r5, %r6, %r7, %r8};
        st.global.v2.b32 [%a0+32], {%r9, %r10};";
    let got = case(body).block(1).module(module).output("out", 10).words();
    assert_eq!(
        got,
        [2, 0x30, 0x4049_0fdb, -20_i32 as u32, 255, 0, 0, 0x3ff0_0000, 0, 0]
    );
}

#[test]
fn variables_are_new_in_each_launch() {
    let case =
        case("ld.global.u32 %r1, [count]; add.u32 %r1, %r1, 1; st.global.u32 [count], %r1; st.global.u32 [%own], %r1;");
    let case = case.block(1).module(".global .u32 count = 6;").output("out", 1);
    assert_eq!((case.words(), case.words()), (vec![7], vec![7]));
}

#[test]
fn dynamic_shared_memory_comes_after_static() {
    let module = ".extern .shared .align 16 .b8 dynamic[]; .shared .align 4 .b8 first[20];";
    let body = ".shared .align 8 .b8 second[24]; .shared .b8 third[3];
        mov.u32 %r1, first; mov.u32 %r2, second; mov.u32 %r3, third; mov.u32 %r4, dynamic;
        st.shared.u32 [dynamic+60], %t; ld.shared.u32 %r5, [%r4+60]; mov.u32 %r6, %dynamic_smem_size; mov.u32 %r7, %total_smem_size;
        st.global.v4.b32 [%a0], {%r1, %r2, %r3, %r4}; st.global.v2.b32 [%a0+16], {%r5, %r6}; st.global.b32 [%a0+24], %r7;";
    let got = case(body).block(1).module(module).shared(64).output("out", 7).words();
    assert_eq!(got, [0, 24, 48, 64, 0, 64, 128]);
}

#[test]
fn shared_memory_of_other_kernels_counts_for_nothing() {
    let module = ".shared .b8 huge[200000]; .visible .entry other() { st.shared.b8 [huge], 1; ret; }";
    let case = case(".shared .b8 mine[64000]; mov.u32 %r1, mine; st.shared.u32 [%r1], %t; st.global.u32 [%own], %r1;");
    assert_eq!(case.block(1).module(module).output("out", 1).words(), [0]);
}

#[test]
fn neighbours_store_parts_of_a_word() {
    for (bits, bytes) in [(8, 1), (16, 2)] {
        let body = format!(
            ".shared .align 4 .b8 tile[256];
             mov.u32 %r1, tile; mad.lo.u32 %r1, %t, {bytes}, %r1; mad.wide.u32 %d1, %g, {bytes}, %a0; mul.lo.u32 %r2, %t, 517;
             st.shared.b{bits} [%r1], %r2; bar.sync 0; ld.shared.b{bits} %r3, [%r1]; st.global.b{bits} [%d1], %r3;"
        );
        let got = case(&body)
            .block(96)
            .grid(3)
            .output("out", 72 * bytes)
            .run()
            .clean()
            .bytes(0);
        let value = |thread: usize| (517 * (thread % 96) as u32).to_le_bytes();
        let expected: Vec<u8> = (0..288)
            .flat_map(|thread| value(thread)[..bytes as usize].to_vec())
            .collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn threads_of_three_dimensions_are_numbered() {
    let text = ".version 8.8\n.target sm_90\n.address_size 64
        .visible .entry k(.param .u64 out) { .reg .b32 %r<12>; .reg .b64 %d<4>; ld.param.u64 %d0, [out];
          mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %ctaid.z;
          mov.u32 %r6, %nctaid.x; mov.u32 %r7, %nctaid.y; mad.lo.u32 %r8, %r5, %r7, %r4; mad.lo.u32 %r8, %r8, %r6, %r3;
          mad.lo.u32 %r9, %r2, 4, %r1; mad.lo.u32 %r9, %r9, 5, %r0; mad.lo.u32 %r9, %r8, 60, %r9;
          mul.lo.u32 %r3, %r3, 1000; mad.lo.u32 %r3, %r4, 100000, %r3; mad.lo.u32 %r3, %r5, 10000000, %r3;
          mad.lo.u32 %r3, %r1, 10, %r3; mad.lo.u32 %r3, %r2, 100, %r3; add.u32 %r3, %r3, %r0;
          mad.wide.u32 %d1, %r9, 4, %d0; st.global.u32 [%d1], %r3; ret; }";
    let kernel = super::Kernel::new(&crate::parse::parse(text).unwrap(), "k").unwrap();
    let mut memory = super::Memory::new();
    let out = memory
        .allocate(
            "out",
            4 * 60 * 24,
            super::Contents::Uninitialised,
            super::Access::ReadWrite,
        )
        .unwrap();
    let config = super::LaunchConfig {
        grid: [2, 3, 4],
        block: [5, 4, 3],
        dynamic_shared: 0,
    };
    let argument = out.to_le_bytes().to_vec();
    let outcome = super::launch(&kernel, config, &[argument], &mut memory, &super::Options::default()).unwrap();
    assert!(outcome.reports.is_empty(), "{:?}", outcome.reports);
    for block in 0..24 {
        for thread in 0..60 {
            let mut word = [0; 4];
            memory.read(out + 4 * (60 * block + thread), &mut word).unwrap();
            let expected = thread % 5
                + thread / 5 % 4 * 10
                + thread / 20 * 100
                + block % 2 * 1000
                + block / 2 % 3 * 100_000
                + block / 6 * 10_000_000;
            assert_eq!(
                u64::from(u32::from_le_bytes(word)),
                expected,
                "block {block}, thread {thread}"
            );
        }
    }
}
