use proptest::prelude::*;

use super::*;

/// Small multiples of 1/64: exact in bf16, and so are sums of few.
fn element(i: usize, seed: usize) -> u16 {
    let x = (i * 7919 + seed * 104_729) % 127;
    ((x as f32 - 63.0) / 64.0).to_bits().to_be_bytes()[..2]
        .iter()
        .fold(0, |half, &byte| half << 8 | u16::from(byte))
}

fn float(half: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(half) << 16))
}

const NAN: u16 = 0x7fc0;

/// A matrix as the executor lays it: zeros up to a whole K_STEP, anything in the rows up to whole ROWS.
fn matrix(rows: usize, cols: usize, seed: usize) -> (Vec<u16>, usize) {
    let stride = cols.next_multiple_of(K_STEP) + K_STEP;
    let mut data = vec![NAN; rows.next_multiple_of(ROWS) * stride];
    for i in 0..rows {
        data[i * stride..][..stride - K_STEP].fill(0);
        (0..cols).for_each(|j| data[i * stride + j] = element(i * cols + j, seed));
    }
    (data, stride)
}

fn check(level: Level, sizes: Sizes, layout: BLayout, first: usize) -> Result<(), TestCaseError> {
    let Sizes { m, n, k } = sizes;
    let (a, a_stride) = matrix(m, k, 1);
    let (b, b_stride) = match layout {
        BLayout::Nk => matrix(n, k, 2),
        BLayout::Kn => matrix(k, first + n, 2),
    };
    let first = if layout == BLayout::Kn { first } else { 0 };
    let halves = |data, stride| Halves { data, stride };
    let (a_of, b_of) = (halves(&a[..], a_stride), halves(&b[first..], b_stride));
    let stride = n.next_multiple_of(ROWS) + ROWS;
    let mut acc = vec![f32::NAN; m.next_multiple_of(ROWS) * stride];
    (0..m).for_each(|i| acc[i * stride..][..n].fill(0.5));
    let columns = match packed_side(level, layout) {
        Side::A => m,
        Side::B => n,
    };
    let mut words = vec![u32::MAX; packed_len(columns, k)];
    pack(level, sizes, a_of, b_of, layout, &mut words);
    let to = Acc { data: &mut acc, stride };
    gemm(level, sizes, to, a_of, b_of, layout, &words);
    for i in 0..m {
        for j in 0..n {
            let of_b = |p: usize| match layout {
                BLayout::Nk => b[j * b_stride + p],
                BLayout::Kn => b[p * b_stride + first + j],
            };
            let exact: f64 = 0.5 + (0..k).map(|p| float(a[i * a_stride + p]) * float(of_b(p))).sum::<f64>();
            let got = f64::from(acc[i * stride + j]);
            prop_assert!(
                (got - exact).abs() <= 1e-6 * (k as f64).sqrt() * (1.0 + exact.abs()),
                "{level:?} {layout:?} {sizes:?}: element {i}, {j} is {got}, not {exact}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn products_are_those_of_f64(
        m in 1usize..=70, n in 1usize..=70, k in 1usize..=200, kn in any::<bool>(), first in 0usize..20,
    ) {
        let layout = if kn { BLayout::Kn } else { BLayout::Nk };
        for level in Level::available().filter(|level| level.multiplies_bf16()) {
            check(level, Sizes { m, n, k }, layout, first)?;
        }
    }
}

#[test]
fn nothing_is_added_without_rows_columns_or_depth() {
    for level in Level::available().filter(|level| level.multiplies_bf16()) {
        for sizes in [[0, 4, 4], [4, 0, 4], [4, 4, 0]] {
            let [m, n, k] = sizes;
            check(level, Sizes { m, n, k }, BLayout::Kn, 0).unwrap();
        }
    }
}
