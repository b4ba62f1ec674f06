//! What the lanes of a warp do together.

use super::{case, each};

/// A shuffle of `100 + lane`, with its predicate in the highest bit.
fn shuffled(mode: &str, amount: &str, control: &str) -> Vec<u32> {
    let body = format!(
        "add.u32 %r1, %t, 100; xor.b32 %r2, %t, 5; shfl.sync.{mode}.b32 %r3|%p1, %r1, {amount}, {control}, -1; @%p1 or.b32 %r3, %r3, 0x80000000; st.global.u32 [%own], %r3;"
    );
    case(&body).output("out", 32).words()
}

/// The table of the PTX ISA for `shfl.sync`.
fn expected(mode: &str, lane: u32, amount: u32, control: u32) -> u32 {
    let (clamp, segment) = (control & 31, control >> 8 & 31);
    let most = (lane & segment) | (clamp & !segment & 31);
    let least = lane & segment;
    let (lane, amount, most) = (lane as i32, (amount & 31) as i32, most as i32);
    let (source, inside) = match mode {
        "up" => (lane - amount, lane - amount >= most),
        "down" => (lane + amount, lane + amount <= most),
        "bfly" => (lane ^ amount, lane ^ amount <= most),
        _ => {
            let source = least as i32 | (amount & !(segment as i32));
            (source, source <= most)
        }
    };
    let from = if inside { source } else { lane };
    (100 + from as u32) | if inside { 1 << 31 } else { 0 }
}

#[test]
fn shuffles_of_every_mode_and_segment() {
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32, 16, 8, 4, 2] {
            let control = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            for amount in [0, 1, 2, 3, 7, 16, 31] {
                let got = shuffled(mode, &amount.to_string(), &control.to_string());
                assert_eq!(
                    got,
                    each(32, |lane| expected(mode, lane as u32, amount, control)),
                    "{mode} {amount} of {width}"
                );
            }
            let got = shuffled(mode, "%r2", &control.to_string());
            assert_eq!(
                got,
                each(32, |lane| expected(mode, lane as u32, lane as u32 ^ 5, control)),
                "{mode} of {width}"
            );
        }
        // A smaller clamp.
        let got = shuffled(mode, "3", "9");
        assert_eq!(got, each(32, |lane| expected(mode, lane as u32, 3, 9)), "{mode}");
    }
}

#[test]
fn tiles_of_a_warp_work_apart() {
    // Every eight lanes are members of their own mask, as in cooperative groups.
    let body = "and.b32 %r1, %t, 24; mov.u32 %r2, 255; shl.b32 %r2, %r2, %r1; shfl.sync.down.b32 %r3, %t, 1, 0x181f, %r2; redux.sync.add.u32 %r4, %t, %r2;
        setp.eq.u32 %p0, %t, 9; vote.sync.any.pred %p1, %p0, %r2; vote.sync.ballot.b32 %r5, %p0, %r2; match.any.sync.b32 %r6, %r1, %r2; bar.warp.sync %r2;
        mad.lo.u32 %r3, %r3, 1000, %r4; @%p1 add.u32 %r3, %r3, 100000; add.u32 %r3, %r3, %r5; sub.u32 %r6, %r6, %r2; add.u32 %r3, %r3, %r6; st.global.u32 [%own], %r3;";
    let value = |lane: u32| {
        let tile = lane / 8;
        let next = if lane % 8 == 7 { lane } else { lane + 1 };
        let vote = if tile == 1 { 100_000 + (1 << 9) } else { 0 };
        next * 1000 + (64 * tile + 28) + vote
    };
    assert_eq!(
        case(body).output("out", 32).words(),
        each(32, |lane| value(lane as u32))
    );
}

#[test]
fn members_that_come_late_are_waited_for() {
    // Half of each tile takes a detour; the first tile's halves never part.
    let body = "and.b32 %r1, %t, 16; mov.u32 %r2, 0xffff; shl.b32 %r2, %r2, %r1; setp.lt.u32 %p0, %t, 24; @%p0 bra MEET; mov.u32 %r3, 0;
        LOOP: add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 50; @%p1 bra LOOP;
        MEET: redux.sync.add.u32 %r4, %t, %r2; st.global.u32 [%own], %r4;";
    for schedule in [
        super::Schedule::Fixed,
        super::Schedule::Random(3),
        super::Schedule::Random(8),
    ] {
        let got = case(body).output("out", 32).schedule(schedule).words();
        assert_eq!(got, each(32, |lane| if lane < 16 { 120 } else { 376 }));
    }
}

#[test]
fn votes() {
    let body = "setp.lt.u32 %p0, %t, 5; setp.lt.u32 %p1, %t, 40; setp.ge.u32 %p2, %t, 40; mov.u32 %r1, 0;
        vote.sync.all.pred %p3, %p0, -1; @%p3 or.b32 %r1, %r1, 1; vote.sync.all.pred %p3, %p1, -1; @%p3 or.b32 %r1, %r1, 2;
        vote.sync.any.pred %p3, %p0, -1; @%p3 or.b32 %r1, %r1, 4; vote.sync.any.pred %p3, %p2, -1; @%p3 or.b32 %r1, %r1, 8;
        vote.sync.uni.pred %p3, %p0, -1; @%p3 or.b32 %r1, %r1, 16; vote.sync.uni.pred %p3, %p1, -1; @%p3 or.b32 %r1, %r1, 32;
        vote.sync.uni.pred %p3, %p2, -1; @%p3 or.b32 %r1, %r1, 64; vote.sync.all.pred %p3, !%p2, -1; @%p3 or.b32 %r1, %r1, 128;
        vote.sync.ballot.b32 %r2, !%p0, -1; shl.b32 %r2, %r2, 3; xor.b32 %r1, %r1, %r2; st.global.u32 [%own], %r1;";
    let expected = (2 | 4 | 32 | 64 | 128) ^ (!31_u32 << 3);
    assert_eq!(case(body).output("out", 32).words(), [expected; 32]);
    let some = "setp.lt.u32 %p0, %t, 9; setp.ge.u32 %p1, %t, 3; mov.u32 %r1, 0; mov.u32 %r2, 0x1ff; @%p0 vote.sync.ballot.b32 %r1, %p1, %r2; st.global.u32 [%own], %r1;";
    assert_eq!(
        case(some).output("out", 32).words(),
        each(32, |lane| if lane < 9 { 0x1f8 } else { 0 })
    );
}

#[test]
fn matches() {
    let body = "rem.u32 %r1, %t, 5; match.any.sync.b32 %r2, %r1, -1; cvt.u64.u32 %d1, %r1; shl.b64 %d1, %d1, 32; match.any.sync.b64 %r3, %d1, -1; xor.b32 %r3, %r3, %r2;
        match.all.sync.b32 %r4|%p0, %r1, -1; @%p0 add.u32 %r3, %r3, 1; add.u32 %r3, %r3, %r4; mov.u32 %r5, 3; match.all.sync.b64 %r6|%p1, %d1, -1; @%p1 add.u32 %r3, %r3, 2;
        match.all.sync.b32 %r7|%p2, %r5, -1; @!%p2 add.u32 %r3, %r3, 4; not.b32 %r7, %r7; add.u32 %r3, %r3, %r7; add.u32 %r3, %r3, %r6; add.u32 %r2, %r2, %r3; st.global.u32 [%own], %r2;";
    let peers = |lane: usize| {
        (0..32)
            .filter(|other| other % 5 == lane % 5)
            .fold(0, |mask: u32, other| mask | 1 << other)
    };
    assert_eq!(case(body).output("out", 32).words(), each(32, peers));
}

#[test]
fn reductions() {
    let body = |operation: &str| {
        format!("mul.lo.u32 %r1, %t, 0x9E3779B9; redux.sync.{operation} %r2, %r1, -1; st.global.u32 [%own], %r2;")
    };
    let values = each(32, |lane| (lane as u32).wrapping_mul(0x9e37_79b9));
    let fold = |f: fn(u32, u32) -> u32| values.iter().copied().reduce(f).unwrap();
    let check = |operation: &str, expected: u32| {
        assert_eq!(
            case(&body(operation)).output("out", 32).words(),
            [expected; 32],
            "{operation}"
        );
    };
    check("add.u32", fold(u32::wrapping_add));
    check("add.s32", fold(u32::wrapping_add));
    check("min.u32", fold(u32::min));
    check("max.u32", fold(u32::max));
    check("min.s32", fold(|a, b| (a as i32).min(b as i32) as u32));
    check("max.s32", fold(|a, b| (a as i32).max(b as i32) as u32));
    check("or.b32", fold(|a, b| a | b));
    check("xor.b32", fold(|a, b| a ^ b));
    let and = "or.b32 %r1, %t, 64; redux.sync.and.b32 %r2, %r1, -1; st.global.u32 [%own], %r2;";
    assert_eq!(case(and).output("out", 32).words(), [64; 32]);
}

#[test]
fn reductions_of_floats() {
    let run = |operation: &str, nan: bool| {
        let lane = if nan { 3 } else { 99 };
        let body = format!(
            "cvt.rn.f32.u32 %r1, %t; sub.f32 %r1, %r1, 0f41200000; setp.eq.u32 %p0, %t, {lane}; @%p0 mov.b32 %r1, 0f7FC00001; redux.sync.{operation} %r2, %r1, -1; st.global.u32 [%own], %r2;"
        );
        case(&body).output("out", 32).words()
    };
    let same = |value: f32| vec![value.to_bits(); 32];
    assert_eq!(run("min.f32", false), same(-10.0));
    assert_eq!(run("max.f32", true), same(21.0));
    assert_eq!(run("max.abs.f32", false), same(21.0));
    assert_eq!(run("min.abs.f32", false), same(0.0));
    assert_eq!(run("min.NaN.f32", true), vec![0x7fff_ffff; 32]);
    assert_eq!(run("max.abs.NaN.f32", false), same(21.0));
}

#[test]
fn one_lane_is_elected() {
    let body = "mov.u32 %r9, 77; elect.sync %r1|%p0, -1; mad.lo.u32 %r1, %r1, 10, 5; @%p0 add.u32 %r1, %r1, 1000; st.global.u32 [%own], %r1;";
    assert_eq!(
        case(body).output("out", 32).words(),
        each(32, |lane| if lane == 0 { 1005 } else { 5 })
    );
    let some = "setp.ge.u32 %p1, %t, 12; @!%p1 bra END; mov.u32 %r2, 0xfffff000; elect.sync _|%p0, %r2; selp.u32 %r1, 1, 0, %p0; END: st.global.u32 [%own], %r1;";
    assert_eq!(
        case(some).output("out", 32).words(),
        each(32, |lane| u32::from(lane == 12))
    );
    let exited = "setp.lt.u32 %p1, %t, 6; @%p1 exit; elect.sync %r1|%p0, -1; @%p0 add.u32 %r1, %r1, 100; st.global.u32 [%own], %r1;";
    let got = case(exited).output("out", 32).words();
    assert_eq!(got[6..], each(26, |lane| if lane == 0 { 106 } else { 6 }));
}

#[test]
fn masks_of_lanes() {
    let body = "setp.lt.u32 %p0, %t, 7; mov.u32 %r1, 0; @%p0 activemask.b32 %r1; mov.u32 %r2, %lanemask_lt; mov.u32 %r3, %lanemask_le; mov.u32 %r4, %lanemask_gt; mov.u32 %r5, %lanemask_ge;
        mov.u32 %r6, %lanemask_eq; xor.b32 %r3, %r3, %r2; sub.u32 %r3, %r3, %r6; xor.b32 %r5, %r5, %r4; sub.u32 %r5, %r5, %r6; popc.b32 %r2, %r2; popc.b32 %r4, %r4; mad.lo.u32 %r2, %r2, 100, %r4;
        mad.lo.u32 %r1, %r1, 10000, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r5; mov.u32 %r7, %laneid; mov.u32 %r8, %warpid; mov.u32 %r9, %nwarpid; mad.lo.u32 %r7, %r8, 32, %r7; sub.u32 %r7, %r7, %t;
        add.u32 %r1, %r1, %r7; sub.u32 %r9, %r9, 2; add.u32 %r1, %r1, %r9; st.global.u32 [%own], %r1;";
    let value = |thread: usize| {
        let lane = thread as u32 % 32;
        lane * 100 + 31 - lane + if thread < 7 { 0x7f * 10_000 } else { 0 }
    };
    assert_eq!(case(body).block(64).output("out", 64).words(), each(64, value));
}

#[test]
fn warps_that_are_not_full() {
    let body = "setp.lt.u32 %p0, %t, 99; vote.sync.ballot.b32 %r1, %p0, -1; shfl.sync.idx.b32 %r2, %t, 2, 31, -1; redux.sync.max.u32 %r3, %t, -1; bar.sync 0;
        mad.lo.u32 %r2, %r2, 100, %r3; sub.u32 %r1, %r1, %r2; st.global.u32 [%own], %r1;";
    let expected = |thread: u32| {
        if thread < 32 {
            u32::MAX.wrapping_sub(231)
        } else {
            0xff_u32.wrapping_sub(3439)
        }
    };
    assert_eq!(
        case(body).block(40).output("out", 40).words(),
        each(40, |thread| expected(thread as u32))
    );
}
