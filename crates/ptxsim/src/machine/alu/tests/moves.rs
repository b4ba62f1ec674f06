use super::*;
use crate::program::alu::Alu;

#[test]
fn registers_constants_and_masks() {
    let warp = Warp::new("mov.b16 %h0, %h1; mov.u32 %r0, -1; mov.f32 %r1, 0f3F800000; mov.b64 %d0, %d1; mov.f64 %d2, 0d3FF0000000000000; mov.b128 %q0, %q1; mov.u16 %h2, -2;")
        .set(h(1), |lane| lane as u16)
        .set(d(1), corner)
        .set(q(1), corner)
        .set(q(1).word(2), other)
        .run_in(0xffff);
    let lower = |value: u64| lanes(|lane| if lane < 16 { value } else { 0 });
    assert_eq!(
        warp.get::<u16>(h(0)),
        lanes(|lane| if lane < 16 { lane as u16 } else { 0 })
    );
    assert_eq!(warp.get::<u32>(r(0)).map(u64::from), lower(0xffff_ffff));
    assert_eq!(warp.get::<u32>(r(1)).map(u64::from), lower(0x3f80_0000));
    assert_eq!(warp.get::<u32>(h(2)).map(u64::from), lower(0xfffe));
    assert_eq!(warp.get::<u64>(d(2)), lower(1f64.to_bits()));
    let chosen = |value: fn(usize) -> u64| lanes(|lane| if lane < 16 { value(lane) } else { 0 });
    assert_eq!(warp.get::<u64>(d(0)), chosen(corner));
    assert_eq!(warp.get::<u64>(q(0)), chosen(corner));
    assert_eq!(warp.get::<u64>(q(0).word(2)), chosen(other));
}

#[test]
fn vectors_to_registers_and_back() {
    let warp = Warp::new(
        "mov.b32 %r0, {%h1, %h2}; mov.b64 %d0, {%h1, %h2, %h2, %h1}; mov.b64 %d2, {%r1, 5}; mov.b128 %q0, {%d1, %d0}; \
         mov.b32 %r2, {%c0, %c1, %c2, %c3}; mov.b32 {%h3, _}, %r1; mov.b64 {%h4, %h5, _, %h6}, %d1; mov.b64 {_, %r3}, %d1; \
         mov.b128 {%d4, %d5}, %q1; mov.b32 {%c0, %c1, _, %h7}, %r1;",
    )
    .set(h(1), |lane| corner(lane) as u16)
    .set(h(2), |lane| other(lane) as u16)
    .set(r(1), |lane| corner(lane) as u32)
    .set(d(1), other)
    .set(q(1), corner)
    .set(q(1).word(2), other)
    .set(c(0), |lane| lane as u32)
    .set(c(1), |_| 1u32)
    .set(c(2), |_| 2u32)
    .set(c(3), |_| 255u32)
    .run();
    let (low, high) = (|lane| corner(lane) & 0xffff, |lane| other(lane) & 0xffff);
    let word = |reg, expected: &dyn Fn(usize) -> u64| {
        assert_eq!(warp.get::<u32>(reg).map(u64::from), lanes(expected));
    };
    let wide = |reg, expected: &dyn Fn(usize) -> u64| assert_eq!(warp.get::<u64>(reg), lanes(expected));
    word(r(0), &|lane| low(lane) | high(lane) << 16);
    let four = |lane| low(lane) | high(lane) << 16 | high(lane) << 32 | low(lane) << 48;
    wide(d(0), &four);
    wide(d(2), &|lane| corner(lane) & 0xffff_ffff | 5 << 32);
    wide(q(0), &other);
    wide(q(0).word(2), &four);
    word(r(2), &|lane| lane as u64 | 0xff02_0100);
    word(h(3), &low);
    word(h(4), &high);
    word(h(5), &|lane| other(lane) >> 16 & 0xffff);
    word(h(6), &|lane| other(lane) >> 48);
    word(r(3), &|lane| other(lane) >> 32);
    wide(d(4), &corner);
    wide(d(5), &other);
    word(c(0), &|lane| corner(lane) & 0xff);
    word(c(1), &|lane| corner(lane) >> 8 & 0xff);
    word(h(7), &|lane| corner(lane) >> 24 & 0xff);
}

#[test]
fn predicates() {
    let warp = Warp::new("mov.pred %p0, %p1; not.pred %p2, %p1; and.pred %p3, %p1, %p4; or.pred %p5, %p1, %p4; xor.pred %p6, %p1, %p4; mov.pred %p7, 1;")
        .predicate(1, 0xff00_ff00)
        .predicate(4, 0xf0f0_f0f0)
        .run_in(0xffff_fff0);
    let found = [0, 2, 3, 5, 6, 7].map(|index| warp.bits(index));
    let all = [
        0xff00_ff00,
        0x00ff_00ff,
        0xf000_f000,
        0xfff0_fff0,
        0x0ff0_0ff0,
        u32::MAX,
    ];
    assert_eq!(found, all.map(|bits: u32| bits & 0xffff_fff0));
}

#[test]
fn selections() {
    let warp = Warp::new("selp.b32 %r0, %r1, 9, %p0; selp.b64 %d0, %d1, %d2, !%p0; selp.f32 %r2, 0f3F800000, %r1, %p0; selp.b16 %h0, %h1, -1, %p0; selp.b32 %r0, %r0, %r0, %p0;")
        .set(r(1), |lane| lane as u32)
        .set(d(1), corner)
        .set(d(2), other)
        .set(h(1), |lane| lane as u16)
        .predicate(0, 0x0ff0_f00f)
        .run();
    let chosen = |lane: usize| 0x0ff0_f00f_u32 >> lane & 1 == 1;
    let pick = |a: u32, b: u32, lane| if chosen(lane) { a } else { b };
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| pick(lane as u32, 9, lane)));
    assert_eq!(
        warp.get::<u32>(r(2)),
        lanes(|lane| pick(1f32.to_bits(), lane as u32, lane))
    );
    assert_eq!(warp.get::<u32>(h(0)), lanes(|lane| pick(lane as u32, 0xffff, lane)));
    assert_eq!(
        warp.get::<u64>(d(0)),
        lanes(|lane| if chosen(lane) { other(lane) } else { corner(lane) })
    );
}

#[test]
fn selections_by_sign() {
    let signs = [0.0, -0.0, 1.0, -1.0, f32::NAN, 1e-40, -1e-40, f32::NEG_INFINITY];
    let warp =
        Warp::new("slct.b32.s32 %r0, 1, 2, %r1; slct.u64.f32 %d0, 1, 2, %r2; slct.ftz.f32.f32 %r3, %r1, %r2, %r2;")
            .set(r(1), |lane| (lane as u32).wrapping_sub(7))
            .set(r(2), |lane| signs[lane % 8].to_bits())
            .run();
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| if lane >= 7 { 1 } else { 2 }));
    assert_eq!(
        warp.get::<u64>(d(0)),
        lanes(|lane| if signs[lane % 8] >= 0.0 { 1 } else { 2 })
    );
    let flushed = |lane: usize| signs[lane % 8] >= 0.0 || signs[lane % 8].is_subnormal();
    let expected = |lane: usize| match flushed(lane) {
        true => (lane as u32).wrapping_sub(7),
        false => signs[lane % 8].to_bits(),
    };
    assert_eq!(warp.get::<u32>(r(3)), lanes(expected));
}

#[test]
fn addresses() {
    let kernel = decode(
        "mov.u64 %d0, depot; mov.u64 %d1, depot+4; mov.u64 %d2, tile; mov.b64 %d3, second; cvta.local.u64 %d4, depot;",
    );
    let code = kernel.expect("a kernel").code;
    let frame = |index: usize| match code[index].op {
        Op::FrameAddress { words: 2, offset, .. } => Some(offset),
        _ => None,
    };
    assert_eq!([frame(0), frame(1), frame(4)], [Some(0), Some(4), Some(0)]);
    assert!(matches!(code[5].op, Op::Alu(Alu::Integer(_))));
    let warp = Warp::new("mov.u64 %d2, tile+8; mov.b64 %d3, second; mov.u64 %d4, table;").run();
    assert_eq!(warp.get::<u64>(d(2)), [8; LANES]);
    assert_eq!(warp.get::<u64>(d(3)), [8; LANES]);
    assert!(
        warp.get::<u64>(d(4))
            .iter()
            .all(|address| *address >= crate::machine::address::MODULE_BASE)
    );
}

#[test]
fn generic_addresses() {
    let warp = Warp::new(
        "cvta.shared.u64 %d0, tile; cvta.to.shared.u64 %d1, %d0; cvta.global.u64 %d2, table; cvta.to.global.u64 %d3, %d2; \
         cvta.param.u64 %d4, second; cvta.to.shared.u32 %r0, %r1; cvta.local.u64 %d5, %d6;",
    )
    .set(r(1), |lane| lane as u32)
    .set(d(6), |lane| lane as u64)
    .run();
    use crate::machine::address::{LOCAL, PARAM, SHARED};
    assert_eq!(warp.get::<u64>(d(0)), [SHARED; LANES]);
    assert_eq!(warp.get::<u64>(d(1)), [0; LANES]);
    assert_eq!(warp.get::<u64>(d(2)), warp.get::<u64>(d(3)));
    assert_eq!(warp.get::<u64>(d(4)), [PARAM + 8; LANES]);
    assert_eq!(warp.get::<u64>(d(5)), lanes(|lane| LOCAL + lane as u64));
    assert_eq!(warp.get::<u32>(r(0)), lanes(|lane| lane as u32));
}

#[test]
fn clocks_and_special_registers() {
    let kernel = decode("mov.u32 %r0, %clock; mov.u64 %d0, %globaltimer; mov.u32 %r1, %tid.x; mov.u64 %d1, %gridid;");
    let kernel = kernel.expect("a kernel");
    assert!(matches!(kernel.code[0].op, Op::Clock { words: 1, .. }));
    assert!(matches!(kernel.code[1].op, Op::Clock { words: 2, .. }));
    assert!(matches!(kernel.code[2].op, Op::Alu(Alu::Move(_))));
    assert!(matches!(kernel.code[3].op, Op::Alu(Alu::Pack(_))));
    assert_eq!(kernel.specials.len(), 2);
}
