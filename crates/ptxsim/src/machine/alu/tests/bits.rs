use super::*;
use proptest::prelude::*;

fn a(lane: usize) -> u32 {
    corner(lane) as u32
}

fn b(lane: usize) -> u32 {
    other(lane) as u32
}

fn c(lane: usize) -> u32 {
    corner(lane / 2) as u32
}

#[test]
fn words_compute_as_the_host_does() {
    type Expected = fn(u32, u32, u32) -> u32;
    let cases: [(&str, Expected); 25] = [
        ("and.b32 %r0, %r1, %r2;", |a, b, _| a & b),
        ("or.b32 %r0, %r1, -16;", |a, _, _| a | 0xffff_fff0),
        ("xor.b32 %r0, %r1, %r2;", |a, b, _| a ^ b),
        ("not.b32 %r0, %r1;", |a, _, _| !a),
        ("cnot.b32 %r0, %r1;", |a, _, _| u32::from(a == 0)),
        ("shl.b32 %r0, %r1, %r2;", |a, b, _| a.checked_shl(b).unwrap_or(0)),
        ("shr.u32 %r0, %r1, %r2;", |a, b, _| a.checked_shr(b).unwrap_or(0)),
        ("shr.b32 %r0, %r1, 3;", |a, _, _| a >> 3),
        ("shr.s32 %r0, %r1, %r2;", |a, b, _| (a as i32 >> b.min(31)) as u32),
        ("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", |a, b, c| match c & 31 {
            0 => b,
            n => b << n | a >> (32 - n),
        }),
        ("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", |a, b, c| match c {
            0 => a,
            1..32 => a >> c | b << (32 - c),
            _ => b,
        }),
        ("popc.b32 %r0, %r1;", |a, _, _| a.count_ones()),
        ("clz.b32 %r0, %r1;", |a, _, _| a.leading_zeros()),
        ("brev.b32 %r0, %r1;", |a, _, _| a.reverse_bits()),
        ("bfind.u32 %r0, %r1;", |a, _, _| 31u32.wrapping_sub(a.leading_zeros())),
        ("bfind.s32 %r0, %r1;", |a, _, _| {
            let a = a as i32;
            31u32.wrapping_sub((if a < 0 { !a } else { a }).leading_zeros())
        }),
        ("bfind.shiftamt.u32 %r0, %r1;", |a, _, _| match a {
            0 => u32::MAX,
            _ => a.leading_zeros(),
        }),
        ("bfe.u32 %r0, %r1, 3, 7;", |a, _, _| a >> 3 & 0x7f),
        ("bfe.s32 %r0, %r1, 8, 8;", |a, _, _| (a >> 8) as i8 as u32),
        ("bfi.b32 %r0, %r1, %r2, 4, 12;", |a, b, _| {
            b & !0xfff0 | (a & 0xfff) << 4
        }),
        ("bmsk.clamp.b32 %r0, 4, 8;", |_, _, _| 0xff0),
        ("szext.wrap.s32 %r0, %r1, 8;", |a, _, _| a as i8 as u32),
        ("szext.clamp.u32 %r0, %r1, 16;", |a, _, _| a & 0xffff),
        ("fns.b32 %r0, %r1, 0, 1;", |a, _, _| match a {
            0 => u32::MAX,
            _ => a.trailing_zeros(),
        }),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0xca;", |a, b, c| a & b | !a & c),
    ];
    for (text, expected) in cases {
        let expected = lanes(|lane| expected(a(lane), b(lane), c(lane)));
        assert_eq!(words(text, u32::MAX), expected, "{text}");
    }
}

#[test]
fn wide_and_narrow_values() {
    let warp = Warp::new(
        "and.b64 %d0, %d1, %d2; shl.b64 %d3, %d1, %r1; shr.s64 %d4, %d1, %r1; shr.u16 %h0, %h1, 3; shl.b16 %h2, %h1, 4; \
         popc.b64 %r2, %d1; clz.b64 %r3, %d1; brev.b64 %d5, %d1; not.b16 %h3, %h1; bfind.s64 %r4, %d1; \
         bfe.s64 %d6, %d1, 8, 16; bfi.b64 %d7, %d2, %d1, 32, 16; shr.s16 %h4, %h1, 20;",
    )
    .set(d(1), corner)
    .set(d(2), other)
    .set(r(1), |lane| 2 * lane as u32 + 3)
    .set(h(1), |lane| corner(lane) as u16)
    .run();
    let shift = |lane: usize| 2 * lane as u32 + 3;
    let wide = |reg, expected: &dyn Fn(usize) -> u64| assert_eq!(warp.get::<u64>(reg), lanes(expected));
    let word = |reg, expected: &dyn Fn(usize) -> u32| assert_eq!(warp.get::<u32>(reg), lanes(expected));
    wide(d(0), &|lane| corner(lane) & other(lane));
    wide(d(3), &|lane| corner(lane).checked_shl(shift(lane)).unwrap_or(0));
    wide(d(4), &|lane| (corner(lane) as i64 >> shift(lane).min(63)) as u64);
    wide(d(5), &|lane| corner(lane).reverse_bits());
    wide(d(6), &|lane| (corner(lane) >> 8) as i16 as u64);
    wide(d(7), &|lane| {
        corner(lane) & !(0xffff << 32) | (other(lane) & 0xffff) << 32
    });
    word(r(2), &|lane| corner(lane).count_ones());
    word(r(3), &|lane| corner(lane).leading_zeros());
    word(r(4), &|lane| {
        let value = corner(lane) as i64;
        63u32.wrapping_sub((if value < 0 { !value } else { value }).leading_zeros())
    });
    // Whole slots, whose upper bits must stay zero.
    let half = |lane| corner(lane) as u16;
    word(h(0), &|lane| u32::from(half(lane) >> 3));
    word(h(2), &|lane| u32::from(half(lane) << 4));
    word(h(3), &|lane| u32::from(!half(lane)));
    word(h(4), &|lane| u32::from((half(lane) as i16 >> 15) as u16));
}

#[test]
fn permutations() {
    let bytes = |lane: usize| {
        let (x, y) = (a(lane).to_le_bytes(), b(lane).to_le_bytes());
        [x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]]
    };
    let all = u32::MAX;
    let picked = |places: [usize; 4]| lanes(|lane| u32::from_le_bytes(places.map(|place| bytes(lane)[place])));
    assert_eq!(words("prmt.b32 %r0, %r1, %r2, 0x7610;", all), picked([0, 1, 6, 7]));
    assert_eq!(words("prmt.b32 %r0, %r1, %r2, 0x3254;", all), picked([4, 5, 2, 3]));
    assert_eq!(words("prmt.b32.f4e %r0, %r1, %r2, 1;", all), picked([1, 2, 3, 4]));
    assert_eq!(words("prmt.b32.rc16 %r0, %r1, %r2, 1;", all), picked([2, 3, 2, 3]));
    let sign = |lane: usize| if a(lane) >> 31 == 1 { 0xff } else { 0 };
    let extended = lanes(|lane| a(lane) & 0xff | (sign(lane) * 0x0101_0100));
    assert_eq!(words("prmt.b32 %r0, %r1, %r2, 0xbbb0;", all), extended);
    let by_lane = Warp::new("prmt.b32 %r0, %r1, %r2, %r3;")
        .set(r(1), a)
        .set(r(2), b)
        .set(r(3), |lane| lane as u32 % 8)
        .run();
    let expected = lanes(|lane| {
        let low = u32::from(bytes(lane)[0]);
        u32::from(bytes(lane)[lane % 8]) | low << 8 | low << 16 | low << 24
    });
    assert_eq!(by_lane.get::<u32>(r(0)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_table(table: u8) {
        let found = words(&format!("lop3.b32 %r0, %r1, %r2, %r3, {table};"), u32::MAX);
        let expected = |lane: usize| (0..32).fold(0, |word, bit| {
            let [x, y, z] = [a(lane), b(lane), c(lane)].map(|word| word >> bit & 1);
            word | (u32::from(table) >> (x << 2 | y << 1 | z) & 1) << bit
        });
        prop_assert_eq!(found, lanes(expected));
    }

    #[test]
    fn constant_selectors(selector: u16) {
        let constant = words(&format!("prmt.b32 %r0, %r1, %r2, {selector};"), u32::MAX);
        let variable = words(&format!("mov.b32 %r4, {selector}; prmt.b32 %r0, %r1, %r2, %r4;"), u32::MAX);
        prop_assert_eq!(constant, variable);
    }
}

#[test]
fn a_table_with_a_predicate() {
    let text = "lop3.or.b32 %r0|%p0, %r1, %r2, %r3, 0xc0, %p1; lop3.and.b32 _|%p2, %r1, %r2, %r3, 0xc0, !%p1;";
    let warp = Warp::new(text)
        .set(r(1), a)
        .set(r(2), b)
        .predicate(1, 0xff)
        .run_in(0x7fff_ffff);
    let nonzero = mask(|lane| a(lane) & b(lane) != 0);
    assert_eq!(
        warp.get::<u32>(r(0)),
        lanes(|lane| if lane < 31 { a(lane) & b(lane) } else { 0 })
    );
    assert_eq!(warp.bits(0), (nonzero | 0xff) & 0x7fff_ffff);
    assert_eq!(warp.bits(2), nonzero & !0xff & 0x7fff_ffff);
}
