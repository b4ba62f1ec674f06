use super::*;

const VALUES: [f64; 10] = [0.0, -0.0, 1.0, -2.5, f64::INFINITY, 1e-310, f64::MAX, 0.1, 3.0, -1e300];

fn a(lane: usize) -> f64 {
    VALUES[lane % 10]
}

fn b(lane: usize) -> f64 {
    VALUES[(lane + lane / 2 + 1) % 10]
}

fn c(lane: usize) -> f64 {
    VALUES[(lane * 3 + 2) % 10]
}

fn run(text: &str) -> [u64; LANES] {
    Warp::new(text)
        .set(d(1), |lane| a(lane).to_bits())
        .set(d(2), |lane| b(lane).to_bits())
        .set(d(3), |lane| c(lane).to_bits())
        .run()
        .get(d(0))
}

#[test]
fn arithmetic_to_nearest() {
    type Expected = fn(f64, f64, f64) -> f64;
    let cases: [(&str, Expected); 12] = [
        ("add.f64 %d0, %d1, %d2;", |a, b, _| a + b),
        ("sub.rn.f64 %d0, %d1, %d2;", |a, b, _| a - b),
        ("mul.f64 %d0, %d1, %d2;", |a, b, _| a * b),
        ("fma.rn.f64 %d0, %d1, %d2, %d3;", f64::mul_add),
        ("mad.rn.f64 %d0, %d1, %d2, %d3;", f64::mul_add),
        ("div.rn.f64 %d0, %d1, %d2;", |a, b, _| a / b),
        ("rcp.rn.f64 %d0, %d1;", |a, _, _| 1.0 / a),
        ("sqrt.rn.f64 %d0, %d1;", |a, _, _| a.sqrt()),
        ("rsqrt.approx.f64 %d0, %d1;", |a, _, _| 1.0 / a.sqrt()),
        ("abs.f64 %d0, %d1;", |a, _, _| a.abs()),
        ("neg.f64 %d0, %d1;", |a, _, _| -a),
        ("copysign.f64 %d0, %d1, %d2;", |a, b, _| b.copysign(a)),
    ];
    for (text, f) in cases {
        let bits = |value: f64| {
            if value.is_nan() {
                crate::numeric::NAN_F64
            } else {
                value.to_bits()
            }
        };
        assert_eq!(run(text), lanes(|lane| bits(f(a(lane), b(lane), c(lane)))), "{text}");
    }
}

#[test]
fn extremes_and_literals() {
    let found = run("min.f64 %d0, %d1, %d2;");
    let same = |lane: usize| f64::from_bits(found[lane]) == a(lane).min(b(lane));
    assert!((0..LANES).all(same));
    let found = run("max.f64 %d0, %d1, 0d7FF8000000000000;");
    assert_eq!(found, lanes(|lane| a(lane).to_bits()));
}

#[test]
fn directed_rounding() {
    let third = [
        ("rz", 0x3fd5_5555_5555_5555),
        ("rp", 0x3fd5_5555_5555_5556),
        ("rm", 0x3fd5_5555_5555_5555),
    ];
    for (rounding, expected) in third {
        let text = format!("div.{rounding}.f64 %d0, 0d3FF0000000000000, 0d4008000000000000;");
        assert_eq!(run(&text), [expected; LANES], "{rounding}");
    }
}

#[test]
fn upper_words_of_approximations() {
    let warp = Warp::new("rcp.approx.ftz.f64 %d0, %d1; rsqrt.approx.ftz.f64 %d2, %d1;")
        .set(d(1), |lane| (lane as f64 + 1.0).to_bits())
        .run();
    let upper = |value: f64| value.to_bits() & !0xffff_ffff;
    assert_eq!(warp.get::<u64>(d(0)), lanes(|lane| upper(1.0 / (lane as f64 + 1.0))));
    assert_eq!(
        warp.get::<u64>(d(2)),
        lanes(|lane| upper(1.0 / (lane as f64 + 1.0).sqrt()))
    );
}
