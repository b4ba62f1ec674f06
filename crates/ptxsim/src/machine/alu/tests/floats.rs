use super::*;
use crate::numeric::NAN_F32;
use crate::numeric::approx::Approx;
use crate::program::alu::Alu;
use proptest::prelude::*;

const VALUES: [f32; 12] = [
    0.0,
    -0.0,
    1.0,
    -2.5,
    f32::NAN,
    f32::INFINITY,
    1e-40,
    -1e-40,
    f32::MAX,
    0.3,
    1e-38,
    7.0,
];

fn a(lane: usize) -> f32 {
    VALUES[lane % 12]
}

fn b(lane: usize) -> f32 {
    VALUES[(lane + lane / 3 + 1) % 12]
}

fn c(lane: usize) -> f32 {
    VALUES[(lane * 5 + 2) % 12]
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

/// A NaN is the canonical one.
fn bits(value: f32) -> u32 {
    if value.is_nan() { NAN_F32 } else { value.to_bits() }
}

fn run(text: &str, values: [&dyn Fn(usize) -> f32; 3]) -> Lanes {
    let [a, b, c] = values;
    let warp = Warp::new(text)
        .set(r(1), |lane| a(lane).to_bits())
        .set(r(2), |lane| b(lane).to_bits())
        .set(r(3), |lane| c(lane).to_bits());
    warp.run().get(r(0))
}

#[test]
fn arithmetic_to_nearest() {
    type Expected = fn(f32, f32, f32) -> f32;
    let cases: [(&str, Expected); 9] = [
        ("add{}.f32 %r0, %r1, %r2;", |a, b, _| a + b),
        ("add.rn{}.f32 %r0, %r1, %r2;", |a, b, _| a + b),
        ("sub{}.f32 %r0, %r1, %r2;", |a, b, _| a - b),
        ("mul{}.f32 %r0, %r1, %r2;", |a, b, _| a * b),
        ("fma.rn{}.f32 %r0, %r1, %r2, %r3;", |a, b, c| {
            (f64::from(a) * f64::from(b) + f64::from(c)) as f32
        }),
        ("mad.rn{}.f32 %r0, %r1, %r2, %r3;", f32::mul_add),
        ("div.rn{}.f32 %r0, %r1, %r2;", |a, b, _| a / b),
        ("rcp.rn{}.f32 %r0, %r1;", |a, _, _| 1.0 / a),
        ("sqrt.rn{}.f32 %r0, %r1;", |a, _, _| a.sqrt()),
    ];
    for (text, f) in cases {
        let plain = run(&text.replace("{}", ""), [&a, &b, &c]);
        assert_eq!(plain, lanes(|lane| bits(f(a(lane), b(lane), c(lane)))), "{text}");
        let flushed = run(&text.replace("{}", ".ftz"), [&a, &b, &c]);
        let expected = lanes(|lane| bits(flush(f(flush(a(lane)), flush(b(lane)), flush(c(lane))))));
        assert_eq!(flushed, expected, "{text} with .ftz");
    }
}

#[test]
fn saturation_and_directed_rounding() {
    let sat = run("add.sat.f32 %r0, %r1, %r2;", [&a, &b, &c]);
    let clamp = |value: f32| if value > 0.0 { value.min(1.0) } else { 0.0 };
    assert_eq!(sat, lanes(|lane| clamp(a(lane) + b(lane)).to_bits()));
    let third = [
        ("rz", 0x3eaa_aaaa),
        ("rp", 0x3eaa_aaab),
        ("rm", 0x3eaa_aaaa),
        ("rn", 0x3eaa_aaab),
    ];
    for (rounding, expected) in third {
        let text = format!("div.{rounding}.f32 %r0, 0f3F800000, %r1;");
        assert_eq!(run(&text, [&|_| 3.0, &b, &c]), [expected; LANES], "{rounding}");
    }
    let tiny = run("fma.rp.ftz.sat.f32 %r0, %r1, %r1, %r2;", [&|_| 0.5, &|_| 1e-30, &c]);
    assert_eq!(tiny, [0x3e80_0001; LANES]);
}

#[test]
fn signs_and_extremes() {
    type Expected = fn(f32, f32) -> f32;
    let nan = f32::from_bits(NAN_F32);
    assert!(nan.is_nan());
    let least: Expected = |a, b| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => a.min(b),
    };
    let most: Expected = |a, b| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() & b.to_bits()),
        _ => a.max(b),
    };
    let cases: [(&str, Expected); 8] = [
        ("min.f32 %r0, %r1, %r2;", least),
        ("max.f32 %r0, %r1, %r2;", most),
        ("max.NaN.f32 %r0, %r1, %r2;", |a, b| match a.is_nan() || b.is_nan() {
            true => f32::NAN,
            false => b.max(a) + 0.0,
        }),
        ("max.xorsign.abs.f32 %r0, 0fC0E00000, %r1;", |a, _| {
            let most = if a.abs() > 7.0 { a.abs() } else { 7.0 };
            most.copysign(-a.signum())
        }),
        ("neg.f32 %r0, %r1;", |a, _| -a),
        ("abs.f32 %r0, %r1;", |a, _| a.abs()),
        ("abs.ftz.f32 %r0, %r1;", |a, _| flush(a).abs()),
        ("copysign.f32 %r0, %r1, %r2;", |a, b| b.copysign(a)),
    ];
    for (text, f) in cases {
        let found = run(text, [&a, &b, &c]);
        for lane in (0..LANES).filter(|lane| !(text.contains("xorsign") && a(*lane).is_nan())) {
            let expected = f(a(lane), b(lane));
            let close = if expected == 0.0 && text.contains("NaN") {
                f32::from_bits(found[lane]) == 0.0
            } else {
                bits(f32::from_bits(found[lane])) == bits(expected)
            };
            assert!(close, "{text} of {} and {}: {:x}", a(lane), b(lane), found[lane]);
        }
    }
}

#[test]
fn extremes_of_three() {
    let values = [&a as &dyn Fn(usize) -> f32, &b, &c];
    let sorted = |lane: usize, f: fn(f32) -> f32| {
        let mut numbers: Vec<f32> = [a(lane), b(lane), c(lane)]
            .map(f)
            .into_iter()
            .filter(|x| !x.is_nan())
            .collect();
        numbers.sort_by(f32::total_cmp);
        numbers
    };
    let ends = |f: fn(f32) -> f32, last: bool| {
        lanes(|lane| {
            let numbers = sorted(lane, f);
            let end = if last { numbers.last() } else { numbers.first() };
            end.map_or(NAN_F32, |value| value.to_bits())
        })
    };
    assert_eq!(run("max.f32 %r0, %r1, %r2, %r3;", values), ends(|x| x, true));
    assert_eq!(run("min.abs.f32 %r0, %r1, %r2, %r3;", values), ends(f32::abs, false));
    let found = run("min.NaN.f32 %r0, %r1, %r2, %r3;", values);
    let expected = ends(|x| x, false);
    assert_eq!(
        found,
        lanes(|lane| if sorted(lane, |x| x).len() < 3 {
            NAN_F32
        } else {
            expected[lane]
        })
    );
}

#[test]
fn approximations() {
    type Expected = fn(f64, f64) -> f64;
    let x = |lane: usize| 0.25 + lane as f32 * 0.37;
    let y = |lane: usize| 1.0 + lane as f32;
    let cases: [(&str, Expected); 11] = [
        ("ex2.approx.f32 %r0, %r1;", |x, _| x.exp2()),
        ("ex2.approx.ftz.f32 %r0, %r1;", |x, _| x.exp2()),
        ("lg2.approx.f32 %r0, %r1;", |x, _| x.log2()),
        ("rcp.approx.ftz.f32 %r0, %r1;", |x, _| 1.0 / x),
        ("rsqrt.approx.f32 %r0, %r1;", |x, _| 1.0 / x.sqrt()),
        ("sqrt.approx.f32 %r0, %r1;", |x, _| x.sqrt()),
        ("sin.approx.f32 %r0, %r1;", |x, _| x.sin()),
        ("cos.approx.ftz.f32 %r0, %r1;", |x, _| x.cos()),
        ("tanh.approx.f32 %r0, %r1;", |x, _| x.tanh()),
        ("div.full.f32 %r0, %r1, %r2;", |x, y| x / y),
        ("div.approx.ftz.f32 %r0, %r1, %r2;", |x, y| x / y),
    ];
    for (text, f) in cases {
        let expected = lanes(|lane| (f(x(lane).into(), y(lane).into()) as f32).to_bits());
        assert_eq!(run(text, [&x, &y, &c]), expected, "{text}");
        let mut warp = Warp::new(text)
            .set(r(1), |lane| x(lane).to_bits())
            .set(r(2), |lane| y(lane).to_bits());
        warp.options.approx = Approx::Perturb(7);
        let moved = warp.run().get::<u32>(r(0));
        assert_ne!(moved, expected, "{text}");
        assert!(
            (0..LANES).all(|lane| moved[lane].abs_diff(expected[lane]) <= 2),
            "{text}"
        );
    }
}

#[test]
fn pairs_compute_each_half() {
    let warp = Warp::new("add.f32x2 %d0, %d1, %d2; fma.rn.ftz.f32x2 %d3, %d1, %d2, %d1; mul.rz.f32x2 %d4, %d1, %d2;")
        .set(d(1), |lane| {
            u64::from(a(lane).to_bits()) | u64::from(b(lane).to_bits()) << 32
        })
        .set(d(2), |lane| {
            u64::from(b(lane).to_bits()) | u64::from(c(lane).to_bits()) << 32
        })
        .run();
    let pair = |low: f32, high: f32| u64::from(bits(low)) | u64::from(bits(high)) << 32;
    assert_eq!(
        warp.get::<u64>(d(0)),
        lanes(|lane| pair(a(lane) + b(lane), b(lane) + c(lane)))
    );
    let fused = |x: f32, y: f32| flush(flush(x).mul_add(flush(y), flush(x)));
    assert_eq!(
        warp.get::<u64>(d(3)),
        lanes(|lane| pair(fused(a(lane), b(lane)), fused(b(lane), c(lane))))
    );
}

#[test]
fn halves_with_floats() {
    let x = |lane: usize| half::bf16::from_f32(lane as f32 * 0.5 - 3.0);
    let y = |lane: usize| half::f16::from_f32(1.5 - lane as f32);
    let warp = Warp::new(
        "add.f32.bf16 %r0, %h1, %r3; sub.rn.f32.f16 %r1, %h2, %r3; fma.rn.f32.f16 %r2, %h2, %h2, %r3; \
         add.rn.sat.f32.bf16 %r4, %h1, %r3;",
    )
    .set(h(1), |lane| x(lane).to_bits())
    .set(h(2), |lane| y(lane).to_bits())
    .set(r(3), |_| 0.1f32.to_bits())
    .run();
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| (x(lane).to_f32() + 0.1).to_bits()));
    assert_eq!(warp.get::<u32>(r(1)), lanes(|lane| (y(lane).to_f32() - 0.1).to_bits()));
    let fused = |lane| y(lane).to_f32().mul_add(y(lane).to_f32(), 0.1);
    assert_eq!(warp.get::<u32>(r(2)), lanes(|lane| fused(lane).to_bits()));
    let clamped = |lane: usize| (x(lane).to_f32() + 0.1).clamp(0.0, 1.0);
    assert_eq!(warp.get::<u32>(r(4)), lanes(|lane| clamped(lane).to_bits()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The processor's fused operation gives what the general one gives.
    #[test]
    fn fused_operations_agree(a: u32, b: u32, c: u32, near in 0u32..64, ftz: bool) {
        let c = if near < 32 { c } else { (f32::from_bits(a) * -f32::from_bits(b)).to_bits() ^ (near - 32) };
        let mode = crate::numeric::float::FloatMode { ftz, ..Default::default() };
        let text = format!("fma.rn{}.f32 %r0, %r1, %r2, %r3;", if ftz { ".ftz" } else { "" });
        let found = run(&text, [&|_| f32::from_bits(a), &|_| f32::from_bits(b), &|_| f32::from_bits(c)]);
        prop_assert_eq!(found, [crate::numeric::float::fma_f32(a, b, c, mode); LANES]);
    }
}

#[test]
fn literals_are_converted() {
    let kernel = decode("mul.f32 %r0, %r1, 0f40000000; fma.rn.f32 %r0, %r1, 2.0, %r1;").expect("a kernel");
    assert!(matches!(kernel.code[1].op, Op::Alu(Alu::Float(_))));
    assert!(kernel.constants.iter().all(|(_, word)| *word == 2f32.to_bits()));
}
