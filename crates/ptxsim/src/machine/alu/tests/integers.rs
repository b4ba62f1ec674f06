use super::*;
use crate::numeric::integer::{self, IntType};

fn a(lane: usize) -> u32 {
    corner(lane) as u32
}

fn b(lane: usize) -> u32 {
    other(lane) as u32
}

fn addend(lane: usize) -> u32 {
    corner(lane / 2) as u32
}

/// Of 32 bits: two or three operands.
#[test]
fn words_compute_as_the_host_does() {
    type Expected = fn(u32, u32, u32) -> u32;
    let cases: [(&str, Expected); 24] = [
        ("add.s32 %r0, %r1, %r2;", |a, b, _| a.wrapping_add(b)),
        ("add.u32 %r0, %r1, %r2;", |a, b, _| a.wrapping_add(b)),
        ("sub.s32 %r0, %r1, %r2;", |a, b, _| a.wrapping_sub(b)),
        ("add.sat.s32 %r0, %r1, %r2;", |a, b, _| {
            (a as i32).saturating_add(b as i32) as u32
        }),
        ("sub.sat.s32 %r0, %r1, %r2;", |a, b, _| {
            (a as i32).saturating_sub(b as i32) as u32
        }),
        ("mul.lo.s32 %r0, %r1, %r2;", |a, b, _| a.wrapping_mul(b)),
        ("mul.hi.u32 %r0, %r1, %r2;", |a, b, _| {
            ((u64::from(a) * u64::from(b)) >> 32) as u32
        }),
        ("mul.hi.s32 %r0, %r1, %r2;", |a, b, _| {
            ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
        }),
        ("mad.lo.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        ("mad.hi.u32 %r0, %r1, %r2, %r3;", |a, b, c| {
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
        }),
        ("mad.hi.sat.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
            (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32).saturating_add(c as i32) as u32
        }),
        ("mul24.lo.u32 %r0, %r1, %r2;", |a, b, _| {
            (a << 8 >> 8).wrapping_mul(b << 8 >> 8)
        }),
        ("mul24.hi.s32 %r0, %r1, %r2;", |a, b, _| {
            ((i64::from((a << 8) as i32 >> 8) * i64::from((b << 8) as i32 >> 8)) >> 16) as u32
        }),
        ("mad24.lo.u32 %r0, %r1, %r2, %r3;", |a, b, c| {
            (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c)
        }),
        ("sad.u32 %r0, %r1, %r2, %r3;", |a, b, c| a.abs_diff(b).wrapping_add(c)),
        ("sad.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
            (a as i32).abs_diff(b as i32).wrapping_add(c)
        }),
        ("div.u32 %r0, %r1, %r2;", |a, b, _| a.checked_div(b).unwrap_or(u32::MAX)),
        ("div.s32 %r0, %r1, %r2;", |a, b, _| match b {
            0 => u32::MAX,
            _ => (a as i32).wrapping_div(b as i32) as u32,
        }),
        ("rem.s32 %r0, %r1, %r2;", |a, b, _| match b {
            0 => a,
            _ => (a as i32).wrapping_rem(b as i32) as u32,
        }),
        ("min.s32 %r0, %r1, %r2;", |a, b, _| (a as i32).min(b as i32) as u32),
        ("max.u32 %r0, %r1, %r2;", |a, b, _| a.max(b)),
        ("max.relu.s32 %r0, %r1, %r2;", |a, b, _| {
            (a as i32).max(b as i32).max(0) as u32
        }),
        ("abs.s32 %r0, %r1;", |a, _, _| (a as i32).wrapping_abs() as u32),
        ("neg.s32 %r0, %r1;", |a, _, _| a.wrapping_neg()),
    ];
    for (text, expected) in cases {
        assert_eq!(
            words(text, u32::MAX),
            lanes(|lane| expected(a(lane), b(lane), addend(lane))),
            "{text}"
        );
    }
}

#[test]
fn only_lanes_of_the_mask_change() {
    let chosen = 0x8421_0f0f;
    let found = words("add.s32 %r0, %r1, %r2;", chosen);
    let expected = |lane| match chosen >> lane & 1 {
        1 => a(lane).wrapping_add(b(lane)),
        _ => 77,
    };
    assert_eq!(found, lanes(expected));
    let guarded = Warp::new("@!%p1 add.s32 %r0, %r1, -3;")
        .predicate(1, 0xffff_0000)
        .set(r(1), |lane| lane as u32)
        .run();
    let expected = |lane| if lane < 16 { (lane as u32).wrapping_sub(3) } else { 0 };
    assert_eq!(guarded.get::<u32>(r(0)), lanes(expected));
}

#[test]
fn results_of_twice_the_width() {
    let warp = Warp::new(
        "mul.wide.u32 %d0, %r1, %r2; mul.wide.s32 %d1, %r1, %r2; mad.wide.s32 %d2, %r1, %r2, %d5; \
         mad.wide.u32 %d3, %r1, -2, %d5; mul.wide.s16 %r3, %h1, %h2; mad.wide.u16 %r4, %h1, %h2, %r1;",
    )
    .set(r(1), a)
    .set(r(2), b)
    .set(d(5), other)
    .set(h(1), |lane| a(lane) as u16)
    .set(h(2), |lane| b(lane) as u16)
    .run();
    let signed = |lane| i64::from(a(lane) as i32) * i64::from(b(lane) as i32);
    assert_eq!(
        warp.get::<u64>(d(0)),
        lanes(|lane| u64::from(a(lane)) * u64::from(b(lane)))
    );
    assert_eq!(warp.get::<u64>(d(1)), lanes(|lane| signed(lane) as u64));
    assert_eq!(
        warp.get::<u64>(d(2)),
        lanes(|lane| (signed(lane) as u64).wrapping_add(other(lane)))
    );
    let immediate = |lane| (u64::from(a(lane)) * 0xffff_fffe).wrapping_add(other(lane));
    assert_eq!(warp.get::<u64>(d(3)), lanes(immediate));
    let halves = |lane| (i32::from(a(lane) as i16) * i32::from(b(lane) as i16)) as u32;
    assert_eq!(warp.get::<u32>(r(3)), lanes(halves));
    let sum = |lane| (u32::from(a(lane) as u16) * u32::from(b(lane) as u16)).wrapping_add(a(lane));
    assert_eq!(warp.get::<u32>(r(4)), lanes(sum));
}

#[test]
fn every_width() {
    for (name, signed) in [("u", false), ("s", true)] {
        for bits in [16, 64] {
            let (ty, prefix) = (IntType { bits, signed }, if bits == 16 { "h" } else { "d" });
            for op in ["add", "sub", "mul.lo", "mul.hi", "div", "rem", "min", "max"] {
                let text = format!("{op}.{name}{bits} %{prefix}0, %{prefix}1, %{prefix}2;");
                let found: [u64; LANES] = if bits == 16 {
                    let warp = Warp::new(&text).set(h(1), |lane| corner(lane) as u16);
                    warp.set(h(2), |lane| other(lane) as u16)
                        .run()
                        .get::<u16>(h(0))
                        .map(u64::from)
                } else {
                    Warp::new(&text).set(d(1), corner).set(d(2), other).run().get(d(0))
                };
                let expected = |lane| arithmetic(op, ty, corner(lane), other(lane));
                assert_eq!(found, lanes(expected), "{text}");
            }
        }
    }
}

/// As `i128`, cut to the width.
fn arithmetic(op: &str, ty: IntType, a: u64, b: u64) -> u64 {
    let (a, b) = (ty.decode(a), ty.decode(b));
    let value = match op {
        "add" => a + b,
        "sub" => a - b,
        "mul.lo" => a.wrapping_mul(b),
        "mul.hi" => ((a as u128).wrapping_mul(b as u128) >> ty.bits) as i128,
        "div" if b == 0 => -1,
        "div" => a / b,
        "rem" if b == 0 => a,
        "rem" => a % b,
        "min" => a.min(b),
        _ => a.max(b),
    };
    value as u64 & u64::MAX >> (64 - ty.bits)
}

#[test]
fn sums_of_128_bits_by_carries() {
    let warp = Warp::new(
        "add.cc.u64 %d0, %d2, %d4; addc.u64 %d1, %d3, %d5; sub.cc.s64 %d6, %d2, %d4; subc.cc.s64 %d7, %d3, %d5; \
         addc.u32 %r0, 0, 0; mad.lo.cc.u32 %r1, %r3, %r4, %r5; madc.hi.u32 %r2, %r3, %r4, 0;",
    )
    .set(d(2), corner)
    .set(d(3), other)
    .set(d(4), other)
    .set(d(5), |lane| corner(31 - lane))
    .set(r(3), a)
    .set(r(4), b)
    .set(r(5), addend)
    .run();
    let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
    let x = |lane| wide(corner(lane), other(lane));
    let y = |lane| wide(other(lane), corner(31 - lane));
    let pair = |low, high| {
        let (low, high) = (warp.get::<u64>(low), warp.get::<u64>(high));
        lanes(|lane| wide(low[lane], high[lane]))
    };
    assert_eq!(pair(d(0), d(1)), lanes(|lane| x(lane).wrapping_add(y(lane))));
    assert_eq!(pair(d(6), d(7)), lanes(|lane| x(lane).wrapping_sub(y(lane))));
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| u32::from(x(lane) < y(lane))));
    let product = |lane| u64::from(a(lane)) * u64::from(b(lane)) + u64::from(addend(lane));
    assert_eq!(warp.get::<u32>(r(1)), lanes(|lane| product(lane) as u32));
    assert_eq!(warp.get::<u32>(r(2)), lanes(|lane| (product(lane) >> 32) as u32));
}

#[test]
fn a_carry_belongs_to_its_lane() {
    let warp = Warp::new("add.cc.u32 %r0, %r1, %r1; @%p0 add.cc.u32 %r2, 1, 1; addc.u32 %r3, 0, 0;")
        .set(r(1), |lane| if lane % 2 == 0 { 0x8000_0000u32 } else { 1 })
        .predicate(0, 0xff)
        .run();
    assert_eq!(
        warp.get::<u32>(r(3)),
        lanes(|lane| u32::from(lane >= 8 && lane % 2 == 0))
    );
}

#[test]
fn pairs_of_halves_and_dot_products() {
    let halves = |f: fn(i16, i16) -> i16| {
        move |lane: usize| {
            let low = f(a(lane) as i16, b(lane) as i16) as u16;
            let high = f((a(lane) >> 16) as i16, (b(lane) >> 16) as i16) as u16;
            u32::from(high) << 16 | u32::from(low)
        }
    };
    let all = u32::MAX;
    assert_eq!(words("add.s16x2 %r0, %r1, %r2;", all), lanes(halves(i16::wrapping_add)));
    assert_eq!(words("add.u16x2 %r0, %r1, %r2;", all), lanes(halves(i16::wrapping_add)));
    assert_eq!(words("min.s16x2 %r0, %r1, %r2;", all), lanes(halves(i16::min)));
    let unsigned = |a: i16, b: i16| (a as u16).max(b as u16) as i16;
    assert_eq!(words("max.u16x2 %r0, %r1, %r2;", all), lanes(halves(unsigned)));
    assert_eq!(
        words("max.relu.s16x2 %r0, %r1, %r2;", all),
        lanes(halves(|a, b| a.max(b).max(0)))
    );
    let dot = |lane: usize| {
        let products = (0..4).map(|i| {
            let (x, y) = (a(lane).to_le_bytes()[i] as i8, b(lane).to_le_bytes()[i]);
            i64::from(x) * i64::from(y)
        });
        (products.sum::<i64>() + i64::from(addend(lane))) as u32
    };
    assert_eq!(words("dp4a.s32.u32 %r0, %r1, %r2, %r3;", all), lanes(dot));
    let high = |lane| integer::dp2a(false, true, true, a(lane), b(lane), addend(lane));
    assert_eq!(words("dp2a.hi.u32.s32 %r0, %r1, %r2, %r3;", all), lanes(high));
}
