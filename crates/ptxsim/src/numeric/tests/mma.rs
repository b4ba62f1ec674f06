use crate::numeric::mma::*;
use crate::numeric::tensor_core::{self, Accumulator, Factor, Lanes, TensorCore};
use half::{bf16, f16};
use proptest::prelude::*;

/// The position of A's element `i` of a lane, as the PTX ISA's section for elements of 4/`width` bytes has it.
fn a_position(width: usize, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    let lower = match (width, k) {
        (2, 16) => (2..4).contains(&i) || i >= 6,
        (2, 8) => i >= 2,
        (4, 32) => (4..8).contains(&i) || i >= 12,
        (4, 16) => i >= 4,
        (1, 8) => i == 1 || i == 3,
        _ => i == 1,
    };
    let second = match (width, k) {
        (2, 16) if i >= 4 => 8,
        (4, 32) if i >= 8 => 16,
        (1, 8) if i >= 2 => 4,
        _ => 0,
    };
    (group + if lower { 8 } else { 0 }, thread * width + i % width + second)
}

fn b_position(width: usize, lane: usize, i: usize) -> (usize, usize) {
    (
        lane % 4 * width + i % width + if i >= width { 4 * width } else { 0 },
        lane / 4,
    )
}

type Encode = fn(i32) -> u32;

/// Small integers are exact in every format; this is one of each to its bits.
fn encoder(element: Element) -> Encode {
    match element {
        Element::F16 => |x| u32::from(f16::from_f32(x as f32).to_bits()),
        Element::Bf16 => |x| u32::from(bf16::from_f32(x as f32).to_bits()),
        Element::Tf32 => |x| (x as f32).to_bits() | 0x1fff,
        Element::E4m3 => |x| [0, 0x38, 0x40, 0x44, 0x48][x.unsigned_abs() as usize] | u32::from(x < 0) << 7,
        Element::E5m2 => |x| [0, 0x3c, 0x40, 0x42, 0x44][x.unsigned_abs() as usize] | u32::from(x < 0) << 7,
        Element::S8 => |x| x as u8 as u32,
        Element::U8 => |x| x.unsigned_abs(),
    }
}

/// Pseudo-random integers of -4 to 4, of 0 to 4 where unsigned.
fn number(element: Element, seed: usize, row: usize, column: usize) -> i32 {
    let value = ((row * 31 + column * 17 + seed * 7 + row * column * 3) % 9) as i32 - 4;
    if element == Element::U8 { value.abs() } else { value }
}

fn check_small_integers(opcode: &str, k: usize, a: Element, b: Element) {
    let mma = Mma::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap();
    let (width, bits) = (4 / a.bytes(), 8 * a.bytes());
    let mut registers = (vec![[0u32; 32]; mma.a_registers()], vec![[0u32; 32]; mma.b_registers()]);
    for lane in 0..32 {
        for i in 0..mma.a_registers() * width {
            let (row, column) = a_position(width, k, lane, i);
            registers.0[i / width][lane] |= encoder(a)(number(a, 1, row, column)) << (bits * (i % width));
        }
        for i in 0..mma.b_registers() * width {
            let (row, column) = b_position(width, lane, i);
            registers.1[i / width][lane] |= encoder(b)(number(b, 2, row, column)) << (bits * (i % width));
        }
    }
    let half = opcode.ends_with("f16");
    let integer = opcode.ends_with("s32");
    let narrow = mma.c_registers() == 2;
    let place = |lane: usize, i: usize| (lane / 4 + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + i % 2);
    let encode = |x: i32| match (narrow, integer) {
        (true, _) => u32::from(f16::from_f32(x as f32).to_bits()),
        (_, true) => x as u32,
        _ => (x as f32).to_bits(),
    };
    assert_eq!(half, narrow);
    let register = |i: usize| if narrow { (i / 2, 16 * (i % 2)) } else { (i, 0) };
    let mut c = vec![[0u32; 32]; mma.c_registers()];
    let mut want = c.clone();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = place(lane, i);
            let addend = (row * 3) as i32 - column as i32;
            let dot: i32 = (0..k).map(|l| number(a, 1, row, l) * number(b, 2, l, column)).sum();
            let (index, shift) = register(i);
            c[index][lane] |= encode(addend) << shift;
            want[index][lane] |= encode(addend + dot) << shift;
        }
    }
    let cores = [
        TensorCore::Ampere,
        TensorCore::Ada,
        TensorCore::Hopper,
        TensorCore::Blackwell,
    ];
    for mode in cores.map(MmaMode::Exact).into_iter().chain([MmaMode::Fast]) {
        assert_eq!(mma.run(mode, &registers.0, &registers.1, &c), want, "{opcode} {mode:?}");
    }
}

#[test]
fn small_integers_come_out_exactly_in_every_shape() {
    use Element::*;
    let cases: [(&str, usize, Element, Element); 14] = [
        ("m16n8k16.row.col.f32.f16.f16.f32", 16, F16, F16),
        ("m16n8k16.row.col.f32.bf16.bf16.f32", 16, Bf16, Bf16),
        ("m16n8k16.row.col.f16.f16.f16.f16", 16, F16, F16),
        ("m16n8k8.row.col.f32.f16.f16.f32", 8, F16, F16),
        ("m16n8k8.row.col.f32.bf16.bf16.f32", 8, Bf16, Bf16),
        ("m16n8k8.row.col.f16.f16.f16.f16", 8, F16, F16),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", 8, Tf32, Tf32),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", 4, Tf32, Tf32),
        ("m16n8k32.row.col.f32.e4m3.e5m2.f32", 32, E4m3, E5m2),
        ("m16n8k32.row.col.kind::f8f6f4.f32.e5m2.e4m3.f32", 32, E5m2, E4m3),
        ("m16n8k32.row.col.s32.s8.u8.s32", 32, S8, U8),
        ("m16n8k16.row.col.satfinite.s32.u8.s8.s32", 16, U8, S8),
        ("m16n8k32.row.col.f16.e4m3.e4m3.f16", 32, E4m3, E4m3),
        ("m16n8k16.row.col.f32.e5m2.e5m2.f32", 16, E5m2, E5m2),
    ];
    for (opcode, k, a, b) in cases {
        check_small_integers(&format!("mma.sync.aligned.{opcode}"), k, a, b);
    }
}

#[test]
fn other_instructions_are_errors() {
    for opcode in [
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64",
        "mma.sync.aligned.m16n8k16.col.row.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "mma.sync.aligned.m16n8k99999999999999999999.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row",
        "mma",
    ] {
        let error = Mma::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap_err();
        assert!(error.to_string().contains(opcode));
    }
}

#[test]
fn integers_wrap_or_saturate() {
    let c = [[i32::MAX as u32; 32]; 4];
    let ones = [[0x0101_0101; 32]; 4];
    let opcode = |saturate: &str| format!("mma.sync.aligned.m16n8k32.row.col{saturate}.s32.s8.s8.s32");
    let parse = |opcode: String| Mma::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap();
    let wrapped = parse(opcode("")).run(MmaMode::Fast, &ones, &ones[..2], &c);
    let clamped = parse(opcode(".satfinite")).run(MmaMode::Fast, &ones, &ones[..2], &c);
    assert_eq!((wrapped[0][0], clamped[3][31]), (i32::MIN as u32 + 31, i32::MAX as u32));
}

fn exact(core: TensorCore, a: &[f32], b: &[f32], c: f32) -> f32 {
    let special = a.iter().chain(b).any(|x| !x.is_finite());
    let factor = |value: &f32| Factor::new(f32::from_bits(value.to_bits() & 0xffff_0000), -126);
    let column = |value: &f32| {
        let mut lanes = Lanes::<1>::ZERO;
        lanes.set(0, factor(value));
        lanes
    };
    let (row, columns): (Vec<Factor>, Vec<Lanes<1>>) = (a.iter().map(factor).collect(), b.iter().map(column).collect());
    let arithmetic = core.arithmetic(2, Accumulator::F32);
    f32::from_bits(tensor_core::dot(arithmetic, &row, &columns, [c.to_bits()], special)[0])
}

#[test]
fn groups_and_kept_bits_differ_between_generations() {
    // Sixteen products of 2^-25 beside an addend of 1: with 24 bits each is lost; with 25 all count at once.
    let (small, one) = (2f32.powi(-25), 1.0);
    assert_eq!(exact(TensorCore::Ampere, &[small; 16], &[one; 16], one), one);
    assert_eq!(
        exact(TensorCore::Hopper, &[small; 16], &[one; 16], one),
        one + 4.0 * 2f32.powi(-23)
    );
    // A product of 1.5 · 1.5 is not normalised before it is aligned: its exponent is 0 although it exceeds 2.
    let a = [1.5, 1.5, 2f32.powi(-24)];
    assert_eq!(exact(TensorCore::Ampere, &a, &[1.5, -1.5, one], 0.0), 2f32.powi(-24));
    // In two groups of eight the first sum is rounded before the second begins.
    let mut a = [0.0; 16];
    (a[0], a[8]) = (2f32.powi(-24), 2f32.powi(-24));
    assert_eq!(exact(TensorCore::Ampere, &a, &[one; 16], one), one);
    assert_eq!(exact(TensorCore::Hopper, &a, &[one; 16], one), one + 2f32.powi(-23));
}

#[test]
fn sums_round_toward_zero_and_reach_subnormals() {
    let tiny = 2f32.powi(-75);
    assert_eq!(
        exact(TensorCore::Ampere, &[tiny], &[2f32.powi(-74)], 0.0),
        2f32.powi(-149)
    );
    assert_eq!(exact(TensorCore::Ampere, &[-tiny], &[2f32.powi(-75)], 0.0), 0.0);
    assert_eq!(exact(TensorCore::Hopper, &[1.0], &[-1.0], 1.0).to_bits(), 0);
    assert_eq!(
        exact(TensorCore::Ampere, &[-2f32.powi(-24)], &[1.0], 1.0),
        1f32.next_down()
    );
    assert_eq!(exact(TensorCore::Ampere, &[2f32.powi(-24)], &[1.0], 1.0), 1.0);
}

#[test]
fn infinities_and_nan() {
    let inf = f32::INFINITY;
    assert_eq!(exact(TensorCore::Ampere, &[inf, 1.0], &[2.0, 1.0], 1.0), inf);
    assert_eq!(exact(TensorCore::Ampere, &[inf, 1.0], &[-2.0, 1.0], 1.0), -inf);
    assert_eq!(
        exact(TensorCore::Ampere, &[inf, inf], &[-2.0, 2.0], 1.0).to_bits(),
        0x7fff_ffff
    );
    assert_eq!(exact(TensorCore::Ampere, &[inf], &[0.0], 1.0).to_bits(), 0x7fff_ffff);
    assert_eq!(
        exact(TensorCore::Hopper, &[f32::NAN], &[0.0], 1.0).to_bits(),
        0x7fff_ffff
    );
    assert_eq!(exact(TensorCore::Hopper, &[1.0], &[1.0], -inf), -inf);
    assert_eq!(exact(TensorCore::Hopper, &[1e38; 2], &[1e38; 2], 0.0), inf);
    let nine = [[1.0; 8], [inf; 8]].concat();
    assert_eq!(exact(TensorCore::Ampere, &nine, &[1.0; 16], 0.0), inf);
}

/// The definition, in 128-bit integers: every term shifted to a common unit of 2^(largest - fraction).
fn reference(fraction: i32, a: &[f32], b: &[f32], c: f32) -> f64 {
    let parts = |x: f32| {
        let exponent = ((x.to_bits() >> 23 & 255) as i32).max(1) - 127;
        (i128::from((f64::from(x) * 2f64.powi(23 - exponent)) as i64), exponent)
    };
    let mut terms: Vec<(i128, i32, i32)> = vec![];
    for (x, y) in a.iter().zip(b) {
        let ((mx, ex), (my, ey)) = (parts(*x), parts(*y));
        terms.push((mx * my, ex + ey, 46));
    }
    let (mantissa, exponent) = parts(c);
    terms.push((mantissa, exponent, 23));
    let largest = terms
        .iter()
        .filter(|term| term.0 != 0)
        .map(|term| term.1)
        .max()
        .unwrap_or(0)
        .max(-126);
    let unit = |(mantissa, exponent, bits): &(i128, i32, i32)| {
        let drop = bits - fraction + largest - exponent;
        let magnitude = if drop >= 100 {
            0
        } else if drop >= 0 {
            mantissa.abs() >> drop
        } else {
            mantissa.abs() << -drop
        };
        if *mantissa < 0 { -magnitude } else { magnitude }
    };
    terms.iter().map(unit).sum::<i128>() as f64 * 2f64.powi(largest - fraction)
}

fn bf16_value() -> impl Strategy<Value = f32> {
    (any::<bool>(), 110u32..140, 0u32..128).prop_map(|(s, e, f)| f32::from_bits(u32::from(s) << 31 | e << 23 | f << 16))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exact_mode_is_its_definition(
        a in prop::collection::vec(bf16_value(), 16),
        b in prop::collection::vec(bf16_value(), 16),
        c in bf16_value(),
    ) {
        let toward_zero = |x: f64| {
            let nearest = x as f32;
            if f64::from(nearest).abs() > x.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
        };
        let once = toward_zero(reference(25, &a, &b, c));
        prop_assert_eq!(exact(TensorCore::Blackwell, &a, &b, c), once);
        let first = toward_zero(reference(24, &a[..8], &b[..8], c));
        let second = toward_zero(reference(24, &a[8..], &b[8..], first));
        prop_assert_eq!(exact(TensorCore::Ada, &a, &b, c), second);
    }

    #[test]
    fn any_bits_run_in_every_mode(words in prop::collection::vec(any::<u32>(), 8), sm in prop::sample::select(vec![80, 89, 90, 120])) {
        let registers: Vec<WarpRegister> = words.iter().map(|word| std::array::from_fn(|lane| word.rotate_left(lane as u32))).collect();
        for opcode in ["m16n8k16.row.col.f32.f16.f16.f32", "m16n8k8.row.col.f32.tf32.tf32.f32", "m16n8k32.row.col.f16.e4m3.e5m2.f16"] {
            let mma = Mma::parse(&opcode.split('.').collect::<Vec<_>>()).unwrap();
            for mode in [MmaMode::Fast, MmaMode::Exact(TensorCore::of_sm(sm))] {
                prop_assert_eq!(mma.run(mode, &registers, &registers, &registers).len(), mma.c_registers());
            }
        }
    }
}
