//! `atom` and `red`: every function, type and space.

use super::{Case, Schedule, case, each};

/// One thread's atomic on 8 bytes of a space that hold `old`; what is there after it, and what was returned.
fn once(space: &str, operation: &str, width: u32, old: u64, operands: &[u64]) -> (u64, u64) {
    let bits = 8 * width;
    let register = |number: usize| match width {
        2 => format!("%h{number}"),
        4 => format!("%r{number}"),
        _ => format!("%d{number}"),
    };
    let loads: String = (0..operands.len())
        .map(|i| format!("ld.global.b{bits} {}, [%a0+{}]; ", register(i + 1), 8 * i + 16))
        .collect();
    let operand_list = each(operands.len(), |i| register(i + 1)).join(", ");
    let (place, around) = match space {
        "shared" => (
            ".shared .b64 cell; ld.global.b64 %d10, [%a0]; st.shared.b64 [cell], %d10; mov.u64 %d11, cell;",
            "ld.shared.b64 %d10, [cell]; st.global.b64 [%a0], %d10;",
        ),
        _ => ("mov.u64 %d11, %a0;", ""),
    };
    let spelt = if space.is_empty() {
        String::new()
    } else {
        format!(".{space}")
    };
    let result = register(9);
    let body = format!(
        "{place} {loads} atom{spelt}.{operation} {result}, [%d11], {operand_list}; st.global.b{bits} [%a0+8], {result}; {around}"
    );
    let contents: Vec<u8> = [old, 0]
        .iter()
        .chain(operands)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let bytes = case(&body).block(1).both("data", &contents).run().clean().bytes(0);
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}

/// Checks an atomic in each space, with the other bytes of the word left alone.
fn check(operation: &str, width: u32, old: u64, operands: &[u64], expected: u64) {
    let mask = u64::MAX >> (64 - 8 * width);
    let junk = 0xa5a5_a5a5_a5a5_a5a5 & !mask;
    for space in ["global", "shared", ""] {
        let (new, returned) = once(space, operation, width, old | junk, operands);
        assert_eq!(
            (new, returned & mask),
            (expected | junk, old),
            "atom.{space}.{operation} of {old:#x} with {operands:#x?}"
        );
    }
}

#[test]
fn integers() {
    let (a, b) = (0x8000_0005_u64, 7_u64);
    check("add.u32", 4, a, &[0x8000_0001], 6);
    check("add.s32", 4, a, &[b], a + 7);
    check("add.u64", 8, u64::MAX - 3, &[10], 6);
    check("min.u32", 4, a, &[b], b);
    check("min.s32", 4, a, &[b], a);
    check("max.u32", 4, a, &[b], a);
    check("max.s32", 4, a, &[b], b);
    let (c, d) = (0x8000_0000_0000_0001_u64, 3_u64);
    check("min.u64", 8, c, &[d], d);
    check("min.s64", 8, c, &[d], c);
    check("max.u64", 8, c, &[d], c);
    check("max.s64", 8, c, &[d], d);
}

#[test]
fn bits_and_exchanges() {
    check("and.b32", 4, 0xf0f0, &[0xff00], 0xf000);
    check("or.b32", 4, 0xf0f0, &[0xff00], 0xfff0);
    check("xor.b32", 4, 0xf0f0, &[0xff00], 0x0ff0);
    check("and.b64", 8, 0xf0f0 << 40, &[0xff00 << 40], 0xf000 << 40);
    check("or.b64", 8, 0xf0f0, &[0xff00 << 40], 0xf0f0 | 0xff00 << 40);
    check("xor.b64", 8, u64::MAX, &[1 << 63], u64::MAX >> 1);
    check("exch.b32", 4, 5, &[6], 6);
    check("exch.b64", 8, 5 << 33, &[6 << 33], 6 << 33);
    check("cas.b32", 4, 5, &[5, 9], 9);
    check("cas.b32", 4, 5, &[4, 9], 5);
    check("cas.b64", 8, 5 << 40, &[5 << 40, 9], 9);
    check("cas.b64", 8, 5 << 40, &[5, 9], 5 << 40);
    check("cas.b16", 2, 0xfffe, &[0xfffe, 0x1234], 0x1234);
    check("cas.b16", 2, 0xfffe, &[0x7ffe, 0x1234], 0xfffe);
}

#[test]
fn increments_and_decrements_wrap() {
    for (old, bound, up, down) in [
        (3, 5, 4, 2),
        (5, 5, 0, 4),
        (7, 5, 0, 5),
        (0, 5, 1, 5),
        (0, 0, 0, 0),
        (u64::from(u32::MAX), 0xffff_ffff, 0, 0xffff_fffe),
    ] {
        check("inc.u32", 4, old, &[bound], up);
        check("dec.u32", 4, old, &[bound], down);
    }
}

#[test]
fn floats() {
    let f32 = |value: f32| u64::from(value.to_bits());
    check("add.f32", 4, f32(1.5), &[f32(2.25)], f32(3.75));
    check("add.f32", 4, f32(16_777_216.0), &[f32(1.0)], f32(16_777_216.0));
    check(
        "add.f64",
        8,
        0.1_f64.to_bits(),
        &[0.2_f64.to_bits()],
        (0.1_f64 + 0.2).to_bits(),
    );
    let f16 = |value: f32| u64::from(half::f16::from_f32(value).to_bits());
    let bf16 = |value: f32| u64::from(half::bf16::from_f32(value).to_bits());
    check(
        "add.noftz.f16x2",
        4,
        f16(1.5) | f16(-2.0) << 16,
        &[f16(0.25) | f16(5.0) << 16],
        f16(1.75) | f16(3.0) << 16,
    );
    check(
        "add.noftz.bf16x2",
        4,
        bf16(1.5) | bf16(-2.0) << 16,
        &[bf16(0.25) | bf16(5.0) << 16],
        bf16(1.75) | bf16(3.0) << 16,
    );
    check("add.noftz.f16", 2, f16(1.5), &[f16(0.25)], f16(1.75));
    check("add.noftz.bf16", 2, bf16(-1.5), &[bf16(0.25)], bf16(-1.25));
}

#[test]
fn half_words_leave_their_neighbour_alone() {
    let body =
        "mad.wide.u32 %d1, %t, 2, %a0; cvt.u16.u32 %h1, %t; mov.b16 %h2, 0; atom.global.cas.b16 %h3, [%d1], %h2, %h1;";
    let got = case(body).both("data", &[0; 64]).run().clean().bytes(0);
    assert_eq!(got, (0..32_u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>());
}

#[test]
fn reductions_and_vectors() {
    let body = "mov.b32 %r1, 0f3F800000; mov.b32 %r2, 0f40000000; red.global.add.v2.f32 [%a0], {%r1, %r2};
        atom.global.v4.f32.add {%r3, %r4, %r5, %r6}, [%a0+16], {%r1, %r2, %r1, %r2}; st.global.v4.b32 [%a0+32], {%r3, %r4, %r5, %r6};";
    let floats = |values: &[f32]| super::bytes(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    let before = [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0];
    let after = [2.0, 4.0, 0.0, 0.0, 4.0, 6.0, 6.0, 8.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(
        case(body)
            .block(1)
            .both("data", &floats(&before))
            .run()
            .clean()
            .bytes(0),
        floats(&after)
    );
    let halves = "mov.b32 %r1, 0x3C003C00; red.global.add.noftz.v4.f16x2 [%a0], {%r1, %r1, %r1, %r1};";
    let got = case(halves).block(1).both("data", &[0; 16]).run().clean().words(0);
    assert_eq!(got, [0x3c00_3c00; 4]);
}

fn contended(body: &str) -> Case {
    case(body).block(96).grid(12).both("sum", &[0; 16])
}

#[test]
fn contention_loses_nothing() {
    let threads = 96 * 12_u32;
    let body = ".shared .u32 sum; setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [sum], 0; bar.sync 0; atom.shared.add.u32 %r1, [sum], %t; bar.sync 0;
        @%p0 ld.shared.u32 %r2, [sum]; @%p0 red.global.add.u32 [%a0], %r2; red.global.inc.u32 [%a0+4], 999; cvt.u64.u32 %d1, %g; mul.lo.u64 %d1, %d1, 0x100000001; red.global.add.u64 [%a0+8], %d1;";
    let sum: u32 = (0..threads).sum();
    let expected = [12 * (0..96).sum::<u32>(), threads - 1000, sum, sum];
    for threads in [1, 4] {
        for schedule in [Schedule::Fixed, Schedule::Random(2)] {
            let case = contended(body)
                .with(|options| options.threads = Some(threads))
                .schedule(schedule);
            assert_eq!(case.words(), expected);
        }
    }
}

#[test]
fn each_lane_gets_a_ticket_of_its_own() {
    let body = "atom.global.add.u32 %r1, [%a1], 1; mad.wide.u32 %d1, %r1, 4, %a0; st.global.u32 [%d1], 1; atom.global.max.u32 %r2, [%a1+4], %g;";
    for threads in [1, 3] {
        let case = case(body)
            .block(64)
            .grid(6)
            .output("seen", 384)
            .both("count", &[0; 8])
            .with(|options| options.threads = Some(threads));
        let done = case.run();
        assert_eq!(done.clean().words(0), [1; 384]);
        assert_eq!(done.words(1), [384, 383]);
    }
}

#[test]
fn a_loop_of_compare_and_swap_adds_up() {
    let body = "ld.relaxed.gpu.global.u64 %d1, [%a0]; LOOP: mov.u64 %d2, %d1; add.u64 %d3, %d1, 3; atom.global.cas.b64 %d1, [%a0], %d2, %d3; setp.ne.u64 %p0, %d1, %d2; @%p0 bra LOOP;";
    for threads in [1, 4] {
        let case = contended(body).with(|options| options.threads = Some(threads));
        assert_eq!(case.words()[..2], [3 * 96 * 12, 0]);
    }
}
