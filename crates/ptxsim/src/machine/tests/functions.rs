//! Calls of device functions.

use super::{Access, Case, Checker, Contents, Kernel, LaunchConfig, Memory, Options, Schedule, case, each, launch};

/// Calls a function of one `.param` and stores its result.
fn call_with(argument: &str) -> String {
    format!(
        "{{ .param .b32 x; .param .b32 y; st.param.b32 [x], {argument}; call.uni (y), f, (x); ld.param.b32 %r1, [y]; }} st.global.u32 [%own], %r1;"
    )
}

fn with_function(function: &str, body: &str) -> Case {
    case(body).module(function).output("out", 32)
}

#[test]
fn parameters_in_memory_and_in_registers() {
    let f = ".func (.param .b32 y) f(.param .b32 x) { .reg .b32 %r<3>; ld.param.b32 %r1, [x]; mul.lo.u32 %r2, %r1, 3; st.param.b32 [y], %r2; ret; }";
    assert_eq!(
        with_function(f, &call_with("%t")).words(),
        each(32, |lane| 3 * lane as u32)
    );
    let f = ".func (.reg .b32 y, .reg .b64 z) f(.reg .b32 x, .reg .f32 w) { cvt.rzi.s32.f32 y, w; add.u32 y, y, x; cvt.u64.u32 z, x; }";
    let body = "cvt.rn.f32.u32 %r1, %t; call (%r2, %d1), f, (%t, %r1); cvt.u32.u64 %r3, %d1; mad.lo.u32 %r2, %r2, 100, %r3; st.global.u32 [%own], %r2;";
    assert_eq!(with_function(f, body).words(), each(32, |lane| 201 * lane as u32));
}

#[test]
fn a_register_may_be_given_for_a_parameter_in_memory() {
    let f = ".func (.param .b32 y) f(.param .b32 x, .param .u16 z) { .reg .b32 %r<4>; ld.param.b32 %r1, [x]; ld.param.u16 %r2, [z]; mad.lo.u32 %r3, %r1, 3, %r2;
        st.param.b32 [y], %r3; ret; }";
    let body = "cvt.u16.u32 %h1, %t; call (%r1), f, (%t, %h1); call (%r2), f, (7, 9); mad.lo.u32 %r1, %r2, 1000, %r1; st.global.u32 [%own], %r1;";
    assert_eq!(
        with_function(f, body).words(),
        each(32, |lane| 30_000 + 4 * lane as u32)
    );
    let f = ".func (.reg .b32 y) f(.reg .b32 x) { add.u32 y, x, 1; }";
    assert_eq!(
        with_function(f, &call_with("%t")).words(),
        each(32, |lane| lane as u32 + 1)
    );
    let body = "call (_), f, (5); call (%r1), f, (-3); st.global.u32 [%own], %r1;";
    assert_eq!(with_function(f, body).words(), [-2_i32 as u32; 32]);
}

#[test]
fn structures_are_passed_by_value() {
    let f = ".func (.param .align 8 .b8 y[24]) f(.param .align 8 .b8 x[24], .param .align 1 .b8 z[3]) { .reg .b32 %r<9>; .reg .b64 %d<4>;
        ld.param.u64 %d1, [x+8]; add.u64 %d1, %d1, 1; ld.param.u8 %r1, [z+2]; ld.param.v2.b32 {%r2, %r3}, [x+16]; st.param.b64 [x+8], %d1;
        st.param.b64 [y], %d1; st.param.v2.b32 [y+16], {%r3, %r2}; st.param.b8 [y+9], %r1; ret; }";
    let body = "{ .param .align 8 .b8 x[24]; .param .align 1 .b8 z[3]; .param .align 8 .b8 y[24]; st.param.b64 [x+8], %own; st.param.v2.b32 [x+16], {%t, %r9};
        st.param.b8 [z+2], %t; call (y), f, (x, z); ld.param.b64 %d1, [y]; ld.param.b64 %d3, [x+8]; ld.param.b8 %r1, [y+9]; ld.param.b32 %r2, [y+20]; }
        sub.u64 %d1, %d1, %d3; cvt.u32.u64 %r3, %d1; mad.lo.u32 %r1, %r1, 100, %r2; mad.lo.u32 %r1, %r3, 10000, %r1; st.global.u32 [%own], %r1;";
    assert_eq!(
        with_function(f, body).words(),
        each(32, |lane| 10_000 + 101 * lane as u32)
    );
}

#[test]
fn recursion_keeps_registers_of_each_call() {
    let factorial = ".func (.param .b32 y) f(.param .b32 x) { .reg .b32 %r<4>; .reg .pred %p<2>; ld.param.b32 %r1, [x]; mov.u32 %r2, 1; setp.lt.u32 %p1, %r1, 2; @%p1 bra END;
        { .param .b32 a; .param .b32 b; sub.u32 %r3, %r1, 1; st.param.b32 [a], %r3; call (b), f, (a); ld.param.b32 %r2, [b]; } mul.lo.u32 %r2, %r2, %r1;
        END: st.param.b32 [y], %r2; ret; }";
    let expected = each(32, |lane| (1..=lane as u32).fold(1, u32::wrapping_mul));
    for schedule in [Schedule::Fixed, Schedule::Random(5)] {
        assert_eq!(
            with_function(factorial, &call_with("%t")).schedule(schedule).words(),
            expected
        );
    }
    let fibonacci = ".func (.reg .b32 y) f(.reg .b32 x) { .reg .b32 %r<4>; .reg .pred %p; mov.u32 y, x; setp.lt.u32 %p, x, 2; @%p ret;
        sub.u32 %r1, x, 1; call (%r2), f, (%r1); sub.u32 %r1, x, 2; call (%r3), f, (%r1); add.u32 y, %r2, %r3; }";
    let numbers = |n: usize| (0..n).fold((0, 1), |(a, b): (u32, u32), _| (b, a + b)).0;
    let body = "rem.u32 %r1, %t, 10; call (%r2), f, (%r1); mad.lo.u32 %r2, %r1, 1000, %r2; st.global.u32 [%own], %r2;";
    for schedule in [Schedule::Fixed, Schedule::Random(5)] {
        let got = with_function(fibonacci, body).schedule(schedule).words();
        assert_eq!(got, each(32, |lane| numbers(lane % 10) + 1000 * (lane % 10) as u32));
    }
}

#[test]
fn local_variables_belong_to_a_call() {
    let f = ".func (.param .b32 y) f(.param .b32 x) { .reg .b32 %r<5>; .reg .b64 %d<3>; .reg .pred %p<2>; .local .align 4 .b8 own[12]; ld.param.b32 %r1, [x];
        mov.b64 %d1, own; st.local.u32 [%d1+8], %r1; mov.u32 %r2, 0; setp.eq.u32 %p1, %r1, 0; @%p1 bra END;
        { .param .b32 a; .param .b32 b; sub.u32 %r3, %r1, 1; st.param.b32 [a], %r3; call (b), f, (a); ld.param.b32 %r2, [b]; }
        END: ld.local.u32 %r4, [own+8]; add.u32 %r2, %r2, %r4; st.param.b32 [y], %r2; ret; }";
    let expected: Vec<u32> = each(32, |lane| (0..=lane as u32).sum());
    assert_eq!(with_function(f, &call_with("%t")).words(), expected);
}

#[test]
fn addresses_of_a_callers_variables_are_good_in_the_called() {
    let f = ".func f(.param .b64 where, .param .b32 what) { .reg .b64 %d<3>; .reg .b32 %r<3>; .local .b32 mine; ld.param.b64 %d1, [where]; ld.param.b32 %r1, [what];
        st.local.b32 [mine], 5; ld.local.b32 %r2, [mine]; add.u32 %r1, %r1, %r2; st.b32 [%d1], %r1; ret; }";
    let body = ".local .align 4 .b8 own[8]; mov.u64 %d1, own; cvta.local.u64 %d2, %d1; add.u64 %d2, %d2, 4;
        { .param .b64 a; .param .b32 b; st.param.b64 [a], %d2; st.param.b32 [b], %t; call f, (a, b); } ld.local.u32 %r1, [own+4]; st.global.u32 [%own], %r1;";
    assert_eq!(with_function(f, body).words(), each(32, |lane| lane as u32 + 5));
}

/// Three functions of which each lane calls one by its address, from a table or directly.
fn indirect(address: &str) -> Case {
    let f = |name: &str, op: &str| {
        format!(
            ".func (.param .b32 y) {name}(.param .b32 x) {{ .reg .b32 %r<4>; ld.param.b32 %r1, [x]; {op}; st.param.b32 [y], %r2; ret; }}\n"
        )
    };
    let module = f("twice", "add.u32 %r2, %r1, %r1")
        + &f("square", "mul.lo.u32 %r2, %r1, %r1")
        + &f("count", "activemask.b32 %r3; popc.b32 %r2, %r3")
        + ".global .align 8 .u64 table[3] = {twice, square, count};";
    let body = format!("rem.u32 %r1, %t, 3; setp.eq.u32 %p0, %r1, 0; setp.eq.u32 %p1, %r1, 1; {address}
        setp.ne.u32 %p2, %t, 4; mov.u32 %r3, 99; {{ .param .b32 x; .param .b32 y; st.param.b32 [x], %t; P: .callprototype (.param .b32 _) _ (.param .b32 _);
        @%p2 call (y), %d1, (x), P; @%p2 ld.param.b32 %r3, [y]; }} activemask.b32 %r4; popc.b32 %r4, %r4; mad.lo.u32 %r3, %r3, 100, %r4; st.global.u32 [%own], %r3;");
    with_function(&module, &body)
}

#[test]
fn lanes_call_different_functions() {
    let value = |lane: u32| match lane {
        4 => 99,
        lane if lane % 3 == 0 => 2 * lane,
        lane if lane % 3 == 1 => lane * lane,
        _ => 10,
    };
    let expected = each(32, |lane| 100 * value(lane as u32) + 32);
    let table = "mov.u64 %d2, table; mad.wide.u32 %d2, %r1, 8, %d2; ld.global.u64 %d1, [%d2];";
    assert_eq!(indirect(table).words(), expected);
    let direct = "mov.u64 %d1, count; @%p0 mov.u64 %d1, twice; @%p1 mov.u64 %d1, square;";
    assert_eq!(indirect(direct).words(), expected);
    let report = indirect("mov.u64 %d1, 0;").report();
    assert!(
        report.checker == Checker::Fault && report.message.contains("no function's address"),
        "{report}"
    );
}

#[test]
fn some_lanes_call_and_return_early() {
    let f = ".func (.param .b32 y) f(.param .b32 x) { .reg .b32 %r<4>; .reg .pred %p<3>; ld.param.b32 %r1, [x]; setp.lt.u32 %p1, %r1, 20; st.param.b32 [y], %r1; @%p1 ret;
        setp.eq.u32 %p2, %r1, 30; @%p2 exit; mov.u32 %r2, 1000; st.param.b32 [y], %r2; }";
    let body = "setp.lt.u32 %p0, %t, 8; mov.u32 %r1, 7; @%p0 bra END; { .param .b32 x; .param .b32 y; st.param.b32 [x], %t; call (y), f, (x); ld.param.b32 %r1, [y]; }
        END: st.global.u32 [%own], %r1;";
    let value = |lane: usize| match lane {
        0..8 => 7,
        8..20 => lane as u32,
        30 => 0,
        _ => 1000,
    };
    assert_eq!(with_function(f, body).words(), each(32, value));
}

#[test]
fn endless_recursion_takes_all_local_memory() {
    let f = ".func (.param .b32 y) f(.param .b32 x) { .param .b32 a; .param .b32 b; st.param.b32 [a], 1; call (b), f, (a); ret; }";
    let report = with_function(f, &call_with("%t")).report();
    assert!(report.message.contains("stack of calls, in `f`"), "{report}");
}

#[test]
fn printing_does_nothing_and_gives_0() {
    let module = ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b); .global .align 1 .b8 text[3] = {104, 105, 0};";
    let body = "{ .param .b64 a; st.param.b64 [a], text; .param .b64 b; st.param.b64 [b], 0; .param .b32 r; call.uni (r), vprintf, (a, b); ld.param.b32 %r1, [r]; }
        st.global.u32 [%own], %r1;";
    assert_eq!(with_function(module, body).words(), [0; 32]);
}

#[test]
fn functions_as_nvrtc_compiles_them() {
    let text = include_str!("../../../testdata/ptx/functions_sm80_nvrtc12.ptx");
    let kernel = Kernel::new(&crate::parse::parse(text).unwrap(), "functions").unwrap();
    let config = LaunchConfig {
        grid: [1; 3],
        block: [64, 1, 1],
        dynamic_shared: 0,
    };
    for schedule in [
        Schedule::Fixed,
        Schedule::Random(1),
        Schedule::Random(2),
        Schedule::Starve(0),
    ] {
        let mut memory = Memory::new();
        let out = memory
            .allocate("out", 64 * 32, Contents::Uninitialised, Access::ReadWrite)
            .unwrap();
        let options = Options {
            schedule,
            ..Options::default()
        };
        let outcome = launch(&kernel, config, &[out.to_le_bytes().to_vec()], &mut memory, &options).unwrap();
        assert!(outcome.reports.is_empty(), "{:#?}", outcome.reports);
        for t in 0..64 {
            let row: [i32; 8] = std::array::from_fn(|i| {
                let mut word = [0; 4];
                memory.read(out + 32 * t + 4 * i as u64, &mut word).unwrap();
                i32::from_le_bytes(word)
            });
            assert_eq!(row, expected_row(t as i32), "thread {t}, {schedule}");
        }
    }
}

/// What testdata/ptx/functions.cu computes.
fn expected_row(t: i32) -> [i32; 8] {
    fn depth(out: &mut i32, n: i32) -> i32 {
        if n > 0 {
            let below = depth(out, n - 1);
            *out += below;
        }
        n * 10 + (n & 3)
    }
    let mut first = 0;
    let deep = depth(&mut first, t % 6);
    let fibonacci = (0..t % 9).fold((0, 1), |(a, b), _| (b, a + b)).0;
    let by = 3 * t;
    let mut z = [1, 2, 3];
    z[(by & 1) as usize] = by;
    let place = t + by + t + z[0] * 1000 + z[1] + z[2];
    let called = [t + 7, t - 7, t * 7][(t % 3) as usize];
    let arm = [t, t * t, -t, 3, t ^ 21, t << 3, 77, t / 3][(t & 7) as usize];
    let parity = if t % 2 == 0 { 1 } else { 2 };
    [
        first,
        (1..=t % 11).product(),
        fibonacci,
        parity,
        place,
        called,
        deep,
        arm,
    ]
}
