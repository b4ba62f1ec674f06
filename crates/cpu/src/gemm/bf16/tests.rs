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

/// Moves the groups of rows that `lent` names to memory of their own; the tile's are NaN then.
fn lend(tile: &mut [u16], stride: usize, lent: u8) -> (Vec<u16>, usize, Vec<Option<usize>>) {
    let (mut memory, apart) = (vec![NAN; 3], stride + 7);
    let groups = tile.chunks_mut(ROWS * stride).enumerate().map(|(i, group)| {
        if lent >> (i % 8) & 1 == 0 {
            return None;
        }
        let start = memory.len();
        for row in group.chunks_mut(stride) {
            memory.extend(&*row);
            memory.extend([NAN; 7]);
            row.fill(NAN);
        }
        Some(start)
    });
    let groups = groups.collect();
    (memory, apart, groups)
}

/// a · b with either operand packed or none, as far as the level can. `lent` are the groups of b's rows that lie elsewhere.
fn check(level: Level, sizes: Sizes, layout: BLayout, first: usize, lent: u8) -> Result<(), TestCaseError> {
    let sides = [Some(Side::A), Some(Side::B), None].map(|stays| packed_side(level, layout, sizes.m, stays));
    let [one, two, three] = sides.map(|side| product(level, side, 0.0, sizes, layout, first, lent));
    let bits = one?;
    prop_assert_eq!(&bits, &two?, "{:?} {:?} {:?}", level, layout, sizes);
    prop_assert_eq!(&bits, &three?, "{:?} {:?} {:?}", level, layout, sizes);
    for side in sides {
        product(level, side, 0.5, sizes, layout, first, lent)?;
    }
    Ok(())
}

/// The bits of the product that is added to `start`, checked against f64.
fn product(
    level: Level,
    side: Side,
    start: f32,
    sizes: Sizes,
    layout: BLayout,
    first: usize,
    lent: u8,
) -> Result<Vec<u32>, TestCaseError> {
    let Sizes { m, n, k } = sizes;
    let (a, a_stride) = matrix(m, k, 1);
    let (b, b_stride) = match layout {
        BLayout::Nk => matrix(n, k, 2),
        BLayout::Kn => matrix(k, first + n, 2),
    };
    let first = if layout == BLayout::Kn { first } else { 0 };
    let halves = |data, stride| Halves { data, stride };
    let mut tile = b.clone();
    let (memory, memory_stride, groups) = lend(&mut tile, b_stride, lent);
    let a_of = halves(&a[..], a_stride);
    let b_of = Operand {
        tile: halves(&tile[first..], b_stride),
        lent: Some(Lent {
            memory: halves(memory.get(first..).unwrap_or_default(), memory_stride),
            groups: &groups,
        }),
    };
    let stride = n.next_multiple_of(ROWS) + ROWS;
    let mut acc = vec![f32::NAN; m.next_multiple_of(ROWS) * stride];
    (0..m).for_each(|i| acc[i * stride..][..n].fill(start));
    let columns = match side {
        Side::A => m,
        Side::B => n,
        Side::Neither => 0,
    };
    let mut words = vec![u32::MAX; packed_len(columns, k)];
    pack(side, sizes, a_of, b_of, layout, &mut words);
    let to = Acc { data: &mut acc, stride };
    let sums = Sums {
        acc: to,
        transposed: false,
        fresh: false,
        beside: None,
        fetch: Fetch::NONE,
    };
    gemm(level, sizes, sums, a_of, b_of, side, &words);
    for i in 0..m {
        for j in 0..n {
            let of_b = |p: usize| match layout {
                BLayout::Nk => b[j * b_stride + p],
                BLayout::Kn => b[p * b_stride + first + j],
            };
            let exact: f64 =
                f64::from(start) + (0..k).map(|p| float(a[i * a_stride + p]) * float(of_b(p))).sum::<f64>();
            let got = f64::from(acc[i * stride + j]);
            prop_assert!(
                (got - exact).abs() <= 1e-6 * (k as f64).sqrt() * (1.0 + exact.abs()),
                "{level:?} {layout:?} {sizes:?}: element {i}, {j} is {got}, not {exact}"
            );
        }
    }
    let bits = |i: usize| acc[i * stride..][..n].iter().map(|x| x.to_bits());
    Ok((0..m).flat_map(bits).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn products_are_those_of_f64(
        m in 1usize..=70, n in 1usize..=70, k in 1usize..=200, kn in any::<bool>(), first in 0usize..20,
        lent in any::<u8>(),
    ) {
        let layout = if kn { BLayout::Kn } else { BLayout::Nk };
        for level in Level::available().filter(|level| level.multiplies_bf16()) {
            check(level, Sizes { m, n, k }, layout, first, lent)?;
        }
    }
}

/// accᵀ = b · a, by AMX; `words` become the packed columns from `first` on of b's rows, which are fetched meanwhile too.
fn turned(sizes: Sizes, b: [Operand<'_>; 2], columns: usize, words: Option<&mut [u32]>) -> Vec<u32> {
    let Sizes { m, n, k } = sizes;
    let (a, stride) = matrix(m, k, 1);
    let a = Halves { data: &a, stride };
    let mut packed = vec![u32::MAX; packed_len(m, k)];
    pack(Side::A, sizes, a, b[0], BLayout::Nk, &mut packed);
    let stride = m.next_multiple_of(ROWS);
    let mut acc = vec![f32::NAN; n.next_multiple_of(ROWS) * stride];
    let mut ahead = Ahead::default();
    if let Some(lent) = b[0].lent {
        (ahead.rows.groups, ahead.rows.stride) = (lent.groups.to_vec(), lent.memory.stride);
        ahead.begin(k, 1);
    }
    let sums = Sums {
        acc: Acc { data: &mut acc, stride },
        transposed: true,
        fresh: true,
        beside: words.map(|words| Beside {
            b: b[1],
            n: columns,
            k: n,
            words,
        }),
        fetch: b[0].lent.map_or(Fetch::NONE, |lent| Fetch::new(lent, ahead.share(1))),
    };
    gemm(Level::Amx, sizes, sums, a, b[0], Side::A, &packed);
    let row = |j: usize| acc[j * stride..][..m].iter().map(|x| x.to_bits());
    (0..n).flat_map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_packed_beside_a_product_is_what_is_packed_alone(
        m in 1usize..=140, n in 1usize..=140, k in 1usize..=140, first in 0usize..20, columns in 1usize..=200, lent in any::<u8>(),
    ) {
        if !Level::Amx.is_available() {
            return Ok(());
        }
        let sizes = Sizes { m, n, k };
        let (b, stride) = matrix(n, k.max(first + columns), 2);
        let mut tile = b.clone();
        let (memory, memory_stride, groups) = lend(&mut tile, stride, lent);
        let from = |col: usize| Operand {
            tile: Halves { data: &tile[col..], stride },
            lent: Some(Lent {
                memory: Halves { data: memory.get(col..).unwrap_or_default(), stride: memory_stride },
                groups: &groups,
            }),
        };
        let alone = turned(sizes, [from(0), from(first)], columns, None);
        let mut expected = vec![u32::MAX; packed_len(columns, n)];
        let next = Sizes { m, n: columns, k: n };
        pack(Side::B, next, Halves { data: &[], stride: 0 }, from(first), BLayout::Kn, &mut expected);
        let mut words = vec![u32::MAX; packed_len(columns, n)];
        let sums = turned(sizes, [from(0), from(first)], columns, Some(&mut words));
        prop_assert!(sums == alone, "the product is another");
        let other = words.iter().zip(&expected).position(|(got, wanted)| got != wanted);
        prop_assert_eq!(other, None, "a word is another");
    }
}

#[test]
fn nothing_is_added_without_rows_columns_or_depth() {
    for level in Level::available().filter(|level| level.multiplies_bf16()) {
        for sizes in [[0, 4, 4], [4, 0, 4], [4, 4, 0]] {
            let [m, n, k] = sizes;
            check(level, Sizes { m, n, k }, BLayout::Kn, 0, 0).unwrap();
        }
    }
}
