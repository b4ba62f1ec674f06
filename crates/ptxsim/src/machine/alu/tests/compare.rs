use super::*;
use std::cmp::Ordering;

type Holds = fn(Ordering) -> bool;
type Order = fn(u64, u64) -> Ordering;

/// Relations of integers, with the orderings for which they hold.
const RELATIONS: [(&str, Holds); 6] = [
    ("eq", Ordering::is_eq),
    ("ne", Ordering::is_ne),
    ("lt", Ordering::is_lt),
    ("le", Ordering::is_le),
    ("gt", Ordering::is_gt),
    ("ge", Ordering::is_ge),
];

#[test]
fn integers_of_every_width() {
    let second = |lane: usize| {
        if lane.is_multiple_of(3) {
            corner(lane)
        } else {
            other(lane)
        }
    };
    let cases: [(&str, &str, Order); 6] = [
        ("u16", "h", |a, b| (a as u16).cmp(&(b as u16))),
        ("s16", "h", |a, b| (a as i16).cmp(&(b as i16))),
        ("u32", "r", |a, b| (a as u32).cmp(&(b as u32))),
        ("s32", "r", |a, b| (a as i32).cmp(&(b as i32))),
        ("u64", "d", |a, b| a.cmp(&b)),
        ("s64", "d", |a, b| (a as i64).cmp(&(b as i64))),
    ];
    for (ty, prefix, order) in cases {
        for (name, holds) in RELATIONS {
            let text = format!("setp.{name}.{ty} %p0|%p1, %{prefix}1, %{prefix}2;");
            let warp = Warp::new(&text)
                .set(h(1), |lane| corner(lane) as u16)
                .set(h(2), |lane| second(lane) as u16)
                .set(r(1), |lane| corner(lane) as u32)
                .set(r(2), |lane| second(lane) as u32)
                .set(d(1), corner)
                .set(d(2), second)
                .run();
            let expected = mask(|lane| holds(order(corner(lane), second(lane))));
            assert_eq!((warp.bits(0), warp.bits(1)), (expected, !expected), "{text}");
        }
    }
}

#[test]
fn immediates_masks_and_other_spellings() {
    let warp = Warp::new("setp.lt.s32 %p0, %r1, -5; setp.hi.u32 %p1, %r1, 0xfffffff0; setp.eq.b32 %p2, %r1, 7;")
        .set(r(1), |lane| (lane as u32).wrapping_sub(16))
        .predicate(0, u32::MAX)
        .run_in(0x0000_ffff);
    assert_eq!(warp.bits(0), 0xffff_07ff);
    assert_eq!(warp.bits(1), 0xfffe);
    assert_eq!(warp.bits(2), 0);
}

/// Pairs of which a third has a NaN, and subnormals.
fn floats(lane: usize) -> (f32, f32) {
    let values = [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, 1e-40, -1e-40];
    (values[lane % 8], values[(lane / 4 + lane) % 8])
}

#[test]
fn floats_with_every_relation() {
    type Holds = fn(f64, f64) -> bool;
    let unordered = |a: f64, b: f64| a.is_nan() || b.is_nan();
    let cases: [(&str, Holds); 8] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a.partial_cmp(&b).is_some_and(Ordering::is_ne)),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, holds) in cases {
        check_float(name, &holds);
        if name.len() == 2 {
            check_float(&format!("{name}u"), &|a, b| holds(a, b) || unordered(a, b));
        }
    }
}

fn check_float(name: &str, holds: &dyn Fn(f64, f64) -> bool) {
    let text = format!(
        "setp.{name}.f32 %p0, %r1, %r2; setp.{name}.ftz.f32 %p1, %r1, %r2; setp.{name}.f64 %p2, %d1, %d2; \
         setp.{name}.f16 %p3, %h1, %h2;"
    );
    let half = |value: f32| half::f16::from_f32(value * 1e34).to_bits();
    let warp = Warp::new(&text)
        .set(r(1), |lane| floats(lane).0.to_bits())
        .set(r(2), |lane| floats(lane).1.to_bits())
        .set(d(1), |lane| f64::from(floats(lane).0).to_bits())
        .set(d(2), |lane| f64::from(floats(lane).1).to_bits())
        .set(h(1), |lane| half(floats(lane).0))
        .set(h(2), |lane| half(floats(lane).1))
        .run();
    let expected = mask(|lane| holds(floats(lane).0.into(), floats(lane).1.into()));
    let flush = |value: f32| if value.is_subnormal() { 0.0 } else { f64::from(value) };
    let flushed = mask(|lane| holds(flush(floats(lane).0), flush(floats(lane).1)));
    assert_eq!(warp.bits(0), expected, "{name}");
    assert_eq!(warp.bits(1), flushed, "{name}");
    assert_eq!(warp.bits(2), expected, "{name}");
    // Scaled so that what is subnormal as an f32 is not as an f16; 1 and infinity are the same then.
    let scaled = |value: f32| f64::from(half::f16::from_bits(half(value)).to_f32());
    assert_eq!(
        warp.bits(3),
        mask(|lane| holds(scaled(floats(lane).0), scaled(floats(lane).1))),
        "{name}"
    );
}

#[test]
fn results_combined_with_a_predicate() {
    let text = "setp.lt.and.u32 %p0|%p1, %r1, 8, %p7; setp.lt.or.u32 %p2, %r1, 8, !%p7; setp.lt.xor.u32 %p3, %r1, 8, %p7; \
                set.lt.and.u32.u32 %r2, %r1, 8, !%p7;";
    let warp = Warp::new(text)
        .set(r(1), |lane| lane as u32)
        .predicate(7, 0x0f0f_0f0f)
        .run();
    assert_eq!((warp.bits(0), warp.bits(1)), (0x0f, 0x0f0f_0f00));
    assert_eq!(warp.bits(2), 0xf0f0_f0ff);
    assert_eq!(warp.bits(3), 0x0f0f_0ff0);
    assert_eq!(
        warp.get::<u32>(r(2)),
        lanes(|lane| if (4..8).contains(&lane) { u32::MAX } else { 0 })
    );
}

#[test]
fn pairs_of_halves() {
    let text = "setp.gt.bf16x2 %p0|%p1, %r1, %r2; set.gt.u32.bf16x2 %r3, %r1, %r2; set.gt.bf16x2.bf16x2 %r4, %r1, %r2;";
    let bits = |value: f32| u32::from(half::bf16::from_f32(value).to_bits());
    let warp = Warp::new(text)
        .set(r(1), |lane| bits(lane as f32) | bits(-(lane as f32)) << 16)
        .set(r(2), |_| bits(4.0) | bits(-20.0) << 16)
        .run();
    let (low, high) = (mask(|lane| lane > 4), mask(|lane| lane < 20));
    assert_eq!((warp.bits(0), warp.bits(1)), (low, high));
    let both = |value: u32| lanes(|lane| ((low >> lane & 1) * value) | ((high >> lane & 1) * (value << 16)));
    assert_eq!(warp.get::<u32>(r(3)), both(0xffff));
    assert_eq!(warp.get::<u32>(r(4)), both(0x3f80));
}

#[test]
fn results_in_registers() {
    let text = "set.ge.f32.s32 %r0, %r1, 16; set.ge.s32.f64 %r2, %d1, %d2; set.lt.f16.f16 %h0, %h1, %h2; set.lt.u16.f16 %h3, %h1, %h2;";
    let warp = Warp::new(text)
        .set(r(1), |lane| lane as u32)
        .set(d(1), |lane| (lane as f64).to_bits())
        .set(d(2), |_| 16f64.to_bits())
        .set(h(1), |lane| lane as u16)
        .set(h(2), |_| 16u16)
        .run();
    let upper = |value: u32| lanes(|lane| if lane >= 16 { value } else { 0 });
    assert_eq!(warp.get::<u32>(r(0)), upper(1f32.to_bits()));
    assert_eq!(warp.get::<u32>(r(2)), upper(u32::MAX));
    let lower = |value: u32| lanes(|lane| if lane < 16 { value } else { 0 });
    assert_eq!(warp.get::<u32>(h(0)), lower(0x3c00));
    assert_eq!(warp.get::<u32>(h(3)), lower(0xffff));
}

#[test]
fn classes() {
    let text = "testp.finite.f32 %p0, %r1; testp.infinite.f32 %p1, %r1; testp.notanumber.f64 %p2, %d1; testp.subnormal.f32 %p3, %r1;";
    let warp = Warp::new(text)
        .set(r(1), |lane| floats(lane).0.to_bits())
        .set(d(1), |lane| f64::from(floats(lane).0).to_bits())
        .run();
    assert_eq!(warp.bits(0), mask(|lane| floats(lane).0.is_finite()));
    assert_eq!(warp.bits(1), mask(|lane| floats(lane).0.is_infinite()));
    assert_eq!(warp.bits(2), mask(|lane| floats(lane).0.is_nan()));
    assert_eq!(warp.bits(3), mask(|lane| floats(lane).0.is_subnormal()));
}
