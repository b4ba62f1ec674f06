use super::*;
use half::{bf16, f16};

fn float(lane: usize) -> f32 {
    let values = [
        0.5,
        -0.5,
        1.5,
        2.5,
        -3.7,
        1e10,
        -1e10,
        f32::NAN,
        300.2,
        65535.9,
        1e-41,
        -128.5,
    ];
    values[lane % 12]
}

#[test]
fn integers_are_cut_and_extended() {
    let warp = Warp::new(
        "cvt.u64.u32 %d0, %r1; cvt.s64.s32 %d1, %r1; cvt.u32.u64 %r0, %d7; cvt.u16.u32 %h0, %r1; cvt.s32.s16 %r2, %h1; \
         cvt.u32.u16 %r3, %h1; cvt.s16.s8 %h2, %h1; cvt.s8.s32 %r4, %r1; cvt.u8.u32 %h3, %r1; cvt.s64.s8 %d2, %r1; \
         cvt.s16.s32 %d3, %r1; cvt.u64.u8 %d4, %d7; cvt.sat.u8.s32 %r5, %r1; cvt.sat.s16.s64 %h4, %d7; cvt.u32.u32 %d5, %r1;",
    )
    .set(r(1), |lane| corner(lane) as u32)
    .set(h(1), |lane| other(lane) as u16)
    .set(d(7), other)
    .run();
    let a = |lane| corner(lane) as u32;
    let b = other;
    let word = |reg, expected: &dyn Fn(usize) -> u32| assert_eq!(warp.get::<u32>(reg), lanes(expected), "{reg:?}");
    let wide = |reg, expected: &dyn Fn(usize) -> u64| assert_eq!(warp.get::<u64>(reg), lanes(expected), "{reg:?}");
    wide(d(0), &|lane| a(lane).into());
    wide(d(1), &|lane| a(lane) as i32 as u64);
    word(r(0), &|lane| b(lane) as u32);
    word(h(0), &|lane| a(lane) & 0xffff);
    word(r(2), &|lane| b(lane) as i16 as u32);
    word(r(3), &|lane| b(lane) as u16 as u32);
    word(h(2), &|lane| b(lane) as i8 as u16 as u32);
    word(r(4), &|lane| a(lane) as i8 as u32);
    word(h(3), &|lane| a(lane) & 0xff);
    wide(d(2), &|lane| a(lane) as i8 as u64);
    wide(d(3), &|lane| a(lane) as i16 as u64);
    wide(d(4), &|lane| b(lane) & 0xff);
    word(r(5), &|lane| (a(lane) as i32).clamp(0, 255) as u32);
    word(h(4), &|lane| (b(lane) as i64).clamp(-0x8000, 0x7fff) as u16 as u32);
    wide(d(5), &|lane| a(lane).into());
}

#[test]
fn floats_and_integers() {
    let warp = Warp::new(
        "cvt.rn.f32.s32 %r0, %r1; cvt.rn.f32.u64 %r2, %d7; cvt.rzi.s32.f32 %r3, %r7; cvt.rni.s32.f32 %r4, %r7; \
         cvt.rmi.f32.f32 %r5, %r7; cvt.rzi.u16.f32 %h0, %r7; cvt.f64.f32 %d0, %r7; cvt.rn.f64.s16 %d1, %h1; \
         cvt.rz.f32.s32 %r6, %r1; cvt.rzi.sat.u8.f32 %h2, %r7; cvt.rzi.s8.f32 %d2, %r7;",
    )
    .set(r(1), |lane| corner(lane) as u32)
    .set(h(1), |lane| other(lane) as u16)
    .set(d(7), other)
    .set(r(7), |lane| float(lane).to_bits())
    .run();
    let word = |reg, expected: &dyn Fn(usize) -> u32| assert_eq!(warp.get::<u32>(reg), lanes(expected), "{reg:?}");
    let wide = |reg, expected: &dyn Fn(usize) -> u64| assert_eq!(warp.get::<u64>(reg), lanes(expected), "{reg:?}");
    let integer = |lane| corner(lane) as i32;
    word(r(0), &|lane| (integer(lane) as f32).to_bits());
    word(r(2), &|lane| (other(lane) as f32).to_bits());
    word(r(3), &|lane| float(lane) as i32 as u32);
    word(r(4), &|lane| float(lane).round_ties_even() as i32 as u32);
    word(r(5), &|lane| match float(lane) {
        value if value.is_nan() => crate::numeric::NAN_F32,
        value => value.floor().to_bits(),
    });
    word(h(0), &|lane| u32::from(float(lane) as u16));
    word(h(2), &|lane| u32::from(float(lane) as u8));
    wide(d(2), &|lane| float(lane) as i8 as u64);
    wide(d(1), &|lane| f64::from(other(lane) as i16).to_bits());
    let truncated = warp.get::<u32>(r(6)).map(|bits| f64::from(f32::from_bits(bits)));
    let toward_zero = |lane: usize| {
        let (value, exact) = (truncated[lane], f64::from(integer(lane)));
        value.abs() <= exact.abs() && (exact - value).abs() <= exact.abs() * f64::from(f32::EPSILON)
    };
    assert!((0..LANES).all(toward_zero));
    let widened = warp.get::<u64>(d(0)).map(f64::from_bits);
    assert!(
        (0..LANES)
            .all(|lane| float(lane).is_nan() && widened[lane].is_nan() || widened[lane] == f64::from(float(lane)))
    );
}

#[test]
fn halves() {
    let value = |lane: usize| lane as f32 * 1.003 - 7.0;
    let warp = Warp::new(
        "cvt.rn.f16.f32 %h0, %r1; cvt.rn.bf16.f32 %h1, %r1; cvt.f32.f16 %r2, %h0; cvt.f32.bf16 %r3, %h1; \
         cvt.rn.bf16x2.f32 %r4, %r1, %r7; cvt.rn.f16x2.f32 %r5, %r1, 0f3F800000; cvt.rn.relu.bf16x2.f32 %r6, %r1, %r7; \
         cvt.rn.f16.f32 %r0, %r1; cvt.rna.tf32.f32 %r7, %r1;",
    )
    .set(r(1), |lane| value(lane).to_bits())
    .set(r(7), |lane| (value(lane) * 3.0).to_bits())
    .run();
    let (x, y) = (|lane| f16::from_f32(value(lane)), |lane| bf16::from_f32(value(lane)));
    let z = |lane| u32::from(bf16::from_f32(value(lane) * 3.0).to_bits());
    let word = |reg, expected: &dyn Fn(usize) -> u32| assert_eq!(warp.get::<u32>(reg), lanes(expected), "{reg:?}");
    word(h(0), &|lane| x(lane).to_bits().into());
    word(h(1), &|lane| y(lane).to_bits().into());
    word(r(2), &|lane| x(lane).to_f32().to_bits());
    word(r(3), &|lane| y(lane).to_f32().to_bits());
    word(r(4), &|lane| u32::from(y(lane).to_bits()) << 16 | z(lane));
    word(r(5), &|lane| u32::from(x(lane).to_bits()) << 16 | 0x3c00);
    let positive = |bits: u32| if bits & 0x8000 == 0 { bits } else { 0 };
    word(r(6), &|lane| {
        positive(y(lane).to_bits().into()) << 16 | positive(z(lane))
    });
    word(r(0), &|lane| x(lane).to_bits().into());
    word(r(7), &|lane| (value(lane).to_bits() + 0x1000) & !0x1fff);
}

#[test]
fn bytes_of_floats() {
    let warp = Warp::new("cvt.rn.satfinite.e4m3x2.f32 %h0, %r1, %r2; cvt.rn.f16x2.e4m3x2 %r0, %h0; cvt.rn.satfinite.e5m2x2.f16x2 %h1, %r0;")
        .set(r(1), |lane| (lane as f32).to_bits())
        .set(r(2), |_| (-1e9f32).to_bits())
        .run();
    let exact = |lane: usize| {
        if lane < 16 {
            lane as f32
        } else {
            (lane as f32 / 2.0).round_ties_even() * 2.0
        }
    };
    let expected = |lane: usize| {
        u32::from(f16::from_f32(exact(lane)).to_bits()) << 16 | u32::from(f16::from_f32(-448.0).to_bits())
    };
    assert_eq!(warp.get::<u32>(r(0)), lanes(expected));
    assert!(warp.get::<u16>(h(1)).iter().all(|pair| pair & 0xff == 0xdf));
}

#[test]
fn saturated_packs() {
    let text = "cvt.pack.sat.s8.s32.b32 %r0, %r1, %r2, 0; cvt.pack.sat.s8.s32.b32 %r3, %r2, %r1, %r0; \
                cvt.pack.sat.u16.s32 %r4, %r1, %r2; cvt.pack.sat.u4.s32.b32 %r5, %r1, %r2, 1;";
    let a = |lane: usize| lane as i32 * 20 - 300;
    let b = |lane: usize| 200 - lane as i32;
    let warp = Warp::new(text)
        .set(r(1), |lane| a(lane) as u32)
        .set(r(2), |lane| b(lane) as u32)
        .run();
    let byte = |value: i32| u32::from(value.clamp(-128, 127) as u8);
    let pair = |lane| byte(a(lane)) << 8 | byte(b(lane));
    assert_eq!(warp.get::<u32>(r(0)), lanes(pair));
    let swapped = |lane| pair(lane) << 16 | byte(b(lane)) << 8 | byte(a(lane));
    assert_eq!(warp.get::<u32>(r(3)), lanes(swapped));
    let half = |value: i32| value.clamp(0, 0xffff) as u32;
    assert_eq!(warp.get::<u32>(r(4)), lanes(|lane| half(a(lane)) << 16 | half(b(lane))));
    let nibble = |value: i32| value.clamp(0, 15) as u32;
    assert_eq!(
        warp.get::<u32>(r(5)),
        lanes(|lane| 1 << 8 | nibble(a(lane)) << 4 | nibble(b(lane)))
    );
}
