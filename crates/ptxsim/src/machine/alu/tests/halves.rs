use super::*;
use crate::numeric::NAN_HALF;
use half::{bf16, f16};

const VALUES: [f32; 10] = [0.0, -0.0, 1.0, -2.5, f32::NAN, f32::INFINITY, 6e-8, 0.3, 1000.0, -0.7];

fn a(lane: usize) -> f32 {
    VALUES[lane % 10]
}

fn b(lane: usize) -> f32 {
    VALUES[(lane + lane / 3 + 1) % 10]
}

fn c(lane: usize) -> f32 {
    VALUES[(lane * 3 + 2) % 10]
}

/// A format as the `half` crate has it.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    round: fn(f64) -> u16,
    value: fn(u16) -> f64,
}

const FORMATS: [Format; 2] = [
    Format {
        name: "f16",
        round: |value| f16::from_f64(value).to_bits(),
        value: |bits| f16::from_bits(bits).to_f64(),
    },
    Format {
        name: "bf16",
        round: |value| bf16::from_f64(value).to_bits(),
        value: |bits| bf16::from_bits(bits).to_f64(),
    },
];

impl Format {
    /// Rounded, a NaN to the canonical one.
    fn bits(self, value: f64) -> u16 {
        if value.is_nan() { NAN_HALF } else { (self.round)(value) }
    }

    fn inputs(self, lane: usize) -> [u16; 3] {
        [a(lane), b(lane), c(lane)].map(|value| self.bits(value.into()))
    }
}

#[test]
fn arithmetic_single_and_in_pairs() {
    type Expected = fn([f64; 3]) -> f64;
    let cases: [(&str, usize, Expected); 7] = [
        ("add", 2, |[a, b, _]| a + b),
        ("add.rn", 2, |[a, b, _]| a + b),
        ("sub", 2, |[a, b, _]| a - b),
        ("mul", 2, |[a, b, _]| a * b),
        ("fma.rn", 3, |[a, b, c]| a * b + c),
        ("fma.rn.relu", 3, |[a, b, c]| match a * b + c {
            sum if sum < 0.0 => 0.0,
            sum => sum,
        }),
        ("max", 2, |[a, b, _]| match (a.is_nan(), b.is_nan()) {
            (true, _) => b,
            (_, true) => a,
            _ => a.max(b),
        }),
    ];
    for format in FORMATS {
        for (op, count, f) in cases {
            check(format, op, count, f);
        }
    }
}

fn check(format: Format, op: &str, count: usize, f: fn([f64; 3]) -> f64) {
    let single = [", %h1, %h2", ", %h1, %h2, %h3"][count - 2];
    let text = format!(
        "{op}.{name} %h0{single}; {op}.{name}x2 %r0{};",
        single.replace('h', "r"),
        name = format.name
    );
    let mut warp = Warp::new(&text);
    for i in 0..3 {
        warp = warp.set(h(i + 1), |lane| format.inputs(lane)[i as usize]);
        warp = warp.set(r(i + 1), |lane| {
            let [low, high] = [lane, lane + 1].map(|lane| u32::from(format.inputs(lane)[i as usize]));
            high << 16 | low
        });
    }
    let warp = warp.run();
    let expected = |lane: usize| format.bits(f(format.inputs(lane).map(format.value)));
    // The sign of a zero is not the host's to say where both operands are zeros.
    let equal = |found: u16, lane: usize| found == expected(lane) || (found | expected(lane)) & 0x7fff == 0;
    for lane in 0..LANES {
        let pair = warp.get::<u32>(r(0))[lane];
        assert!(equal(warp.get::<u16>(h(0))[lane], lane), "{text} lane {lane}");
        assert!(equal(pair as u16, lane), "{text} lane {lane}");
        assert!(equal((pair >> 16) as u16, lane + 1), "{text} lane {lane}");
    }
}

#[test]
fn modes_and_signs() {
    let warp = Warp::new(
        "add.sat.f16 %h0, %h1, %h2; mul.ftz.f16 %h3, %h1, 0x3c00; neg.bf16x2 %r0, %r1; abs.f16x2 %r2, %r1; \
         max.NaN.f16 %h4, %h1, %h2; ex2.approx.ftz.bf16 %h5, 0x4040; tanh.approx.f16x2 %r3, 0; neg.f16 %h6, %h1;",
    )
    .set(h(1), |lane| f16::from_f32(a(lane)).to_bits())
    .set(h(2), |lane| f16::from_f32(b(lane)).to_bits())
    .set(r(1), |lane| corner(lane) as u32)
    .run();
    let x = |lane: usize| f16::from_f32(a(lane));
    let y = |lane: usize| f16::from_f32(b(lane));
    let sum = |lane: usize| {
        let sum = x(lane).to_f32() + y(lane).to_f32();
        if sum > 0.0 {
            f16::from_f32(sum.min(1.0)).to_bits()
        } else {
            0
        }
    };
    assert_eq!(warp.get::<u16>(h(0)), lanes(sum));
    let flushed = |lane: usize| match x(lane) {
        value if value.is_nan() => NAN_HALF,
        value if value.is_normal() || value.is_infinite() => value.to_bits(),
        value => value.to_bits() & 0x8000,
    };
    assert_eq!(warp.get::<u16>(h(3)), lanes(flushed));
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| corner(lane) as u32 ^ 0x8000_8000));
    assert_eq!(warp.get::<u32>(r(2)), lanes(|lane| corner(lane) as u32 & 0x7fff_7fff));
    let nan = warp.get::<u16>(h(4));
    assert!((0..LANES).all(|lane| (nan[lane] == NAN_HALF) == (a(lane).is_nan() || b(lane).is_nan())));
    assert_eq!(warp.get::<u16>(h(5)), [bf16::from_f32(8.0).to_bits(); LANES]);
    assert_eq!(warp.get::<u32>(r(3)), [0; LANES]);
    assert_eq!(
        warp.get::<u32>(h(6)),
        lanes(|lane| u32::from(x(lane).to_bits() ^ 0x8000))
    );
}
