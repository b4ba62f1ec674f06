//! Tests against the host's arithmetic, the `half` crate and straightforward references.

mod approx;
mod convert;
mod floats;
mod halves;
mod integers;
mod mma;

use proptest::prelude::*;

/// f32 patterns in which every class and close exponents are likely.
fn any_f32() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => any::<u32>(),
        4 => (any::<bool>(), 100u32..150, 0u32..1 << 23).prop_map(|(s, e, f)| u32::from(s) << 31 | e << 23 | f),
        2 => (any::<bool>(), 0u32..1 << 24).prop_map(|(s, f)| u32::from(s) << 31 | f),
        1 => prop::sample::select(vec![
            0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x3f80_0000, 1, 0x7f7f_ffff, 0x0080_0000,
        ]),
        1 => (-300i32..300).prop_map(|value| (value as f32).to_bits()),
    ]
}

/// As `any_f32`, f64.
fn any_f64() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => any::<u64>(),
        4 => (any::<bool>(), 1000u64..1050, 0u64..1 << 52).prop_map(|(s, e, f)| u64::from(s) << 63 | e << 52 | f),
        2 => (any::<bool>(), 0u64..1 << 53).prop_map(|(s, f)| u64::from(s) << 63 | f),
        1 => (-300i32..300).prop_map(|value| f64::from(value).to_bits()),
    ]
}
