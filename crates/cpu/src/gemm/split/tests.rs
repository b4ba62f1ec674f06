use proptest::prelude::*;

use super::*;
use crate::gemm::{Matrix, PACKED, gemm as multiply_add};
use crate::level::Level;

/// a \[m, k\] and b \[n, k\] or \[k, n\], as rows of floats.
struct Case {
    sizes: Sizes,
    layout: BLayout,
    /// First column of b that is used.
    first: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    start: f32,
}

/// A matrix of pieces as the executor lays it: zeros up to a whole K_STEP, anything in the rows up to whole ROWS.
struct Laid {
    data: Vec<u16>,
    stride: usize,
    plane: usize,
}

impl Laid {
    fn new(elements: &[f32], [rows, cols]: [usize; 2]) -> Laid {
        let stride = cols.next_multiple_of(K_STEP) + K_STEP;
        let plane = rows.next_multiple_of(ROWS) * stride + 2 * K_STEP;
        let mut data = vec![0x7fc0; PIECES * plane];
        for (i, elements) in elements.chunks(cols.max(1)).enumerate() {
            (0..PIECES).for_each(|piece| data[piece * plane + i * stride..][..stride - K_STEP].fill(0));
            row(elements, &mut data[i * stride..], plane);
        }
        Laid { data, stride, plane }
    }

    fn planes(&self, first: usize) -> Planes<'_> {
        [0, 1, 2].map(|piece| Halves {
            data: &self.data[piece * self.plane + first..],
            stride: self.stride,
        })
    }
}

impl Case {
    fn random(sizes: Sizes, layout: BLayout, first: usize, element: impl Fn(&mut Random) -> f32, seed: u64) -> Case {
        let Sizes { m, n, k } = sizes;
        let mut random = Random(seed);
        let mut many = |count: usize| (0..count).map(|_| element(&mut random)).collect();
        let first = if layout == BLayout::Kn { first } else { 0 };
        let (a, b) = (many(m * k), many(k * (first + n)));
        Case {
            sizes,
            layout,
            first,
            a,
            b,
            start: 0.0,
        }
    }

    /// Rows and columns of b.
    fn b_shape(&self) -> [usize; 2] {
        let Sizes { n, k, .. } = self.sizes;
        match self.layout {
            BLayout::Nk => [n, k],
            BLayout::Kn => [k, self.first + n],
        }
    }

    fn b(&self, j: usize, p: usize) -> f32 {
        let [_, cols] = self.b_shape();
        match self.layout {
            BLayout::Nk => self.b[j * cols + p],
            BLayout::Kn => self.b[p * cols + self.first + j],
        }
    }

    /// The product with `side` packed, in pieces of the depth of so many elements.
    fn product(&self, side: Side, depth: usize) -> Vec<f32> {
        let Sizes { m, n, k } = self.sizes;
        let (a, b) = (Laid::new(&self.a, [m, k]), Laid::new(&self.b, self.b_shape()));
        let [rows, columns] = match side {
            Side::A => [n, m],
            Side::B | Side::Neither => [m, n],
        };
        let stride = columns.next_multiple_of(ROWS) + ROWS;
        let mut acc = vec![f32::NAN; rows.next_multiple_of(ROWS) * stride];
        (0..rows).for_each(|i| acc[i * stride..][..columns].fill(self.start));
        for from in (0..k).step_by(depth.max(1)) {
            let sizes = Sizes {
                k: depth.min(k - from),
                ..self.sizes
            };
            let b = match self.layout {
                BLayout::Nk => b.planes(from),
                BLayout::Kn => b.planes(from * b.stride + self.first),
            };
            let mut words = vec![u32::MAX; packed_len(self.layout, side, columns, sizes.k)];
            pack(side, sizes, a.planes(from), b, self.layout, &mut words);
            let sums = Sums {
                acc: Acc { data: &mut acc, stride },
                fresh: false,
            };
            gemm(sizes, sums, a.planes(from), b, self.layout, side, &words);
        }
        let at = |i: usize, j: usize| match side {
            Side::A => acc[j * stride + i],
            Side::B | Side::Neither => acc[i * stride + j],
        };
        (0..m).flat_map(|i| (0..n).map(move |j| at(i, j))).collect()
    }

    /// What multiply-adds make of it.
    fn multiply_add(&self) -> Vec<f32> {
        let Sizes { m, n, k } = self.sizes;
        let stride = n.next_multiple_of(64) + 64;
        let mut acc = vec![self.start; m * stride];
        let to = Acc { data: &mut acc, stride };
        let a = Matrix {
            data: &self.a,
            stride: k,
        };
        let b: Vec<f32> = (0..n).flat_map(|j| (0..k).map(move |p| self.b(j, p))).collect();
        let b = Matrix { data: &b, stride: k };
        let mut packed = vec![0.0; PACKED];
        multiply_add(Level::Avx512, self.sizes, to, a, b, BLayout::Nk, &mut packed);
        acc.chunks(stride).flat_map(|line| line[..n].to_vec()).collect()
    }

    /// In f64: each element, and the sum of its products' sizes.
    fn exact(&self) -> Vec<(f64, f64)> {
        let Sizes { m, n, k } = self.sizes;
        let element = |i: usize, j: usize| {
            let products = (0..k).map(|p| f64::from(self.a[i * k + p]) * f64::from(self.b(j, p)));
            products.fold(
                (f64::from(self.start), f64::from(self.start.abs())),
                |(sum, size), x| (sum + x, size + x.abs()),
            )
        };
        (0..m)
            .flat_map(|i| (0..n).map(move |j| (i, j)))
            .map(|(i, j)| element(i, j))
            .collect()
    }
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 32) as u32
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        self.bits() as i32 as f32 / 2f32.powi(31)
    }

    /// Of a size of 2^-20 to 2^20.
    fn mixed(&mut self) -> f32 {
        self.unit() * 2f32.powi((self.bits() % 41) as i32 - 20)
    }
}

/// Root of the sum of squared errors, each a part of the sum of its products' sizes; and the largest.
fn errors(got: &[f32], exact: &[(f64, f64)]) -> (f64, f64) {
    let parts = got.iter().zip(exact).map(|(&x, &(sum, size))| {
        let error = (f64::from(x) - sum).abs();
        if error == 0.0 { 0.0 } else { error / size }
    });
    parts.fold((0.0, 0.0), |(squares, most), part: f64| {
        (f64::hypot(squares, part), f64::max(most, part))
    })
}

fn available() -> bool {
    Level::Amx.is_available()
}

/// One rounding a K_STEP for each of the six products, and what they leave out: 2^-24 each, of the sum of sizes.
fn bound(k: usize) -> f64 {
    (6.0 * k.div_ceil(K_STEP) as f64 + 24.0) * 2f64.powi(-24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn products_are_those_of_f64(
        m in 1usize..=70, n in 1usize..=70, k in 1usize..=200, kn in any::<bool>(), first in 0usize..20,
        mixed in any::<bool>(), seed in any::<u64>(),
    ) {
        let layout = if kn { BLayout::Kn } else { BLayout::Nk };
        let element = if mixed { Random::mixed } else { Random::unit };
        for (start, side) in [(0.0, Side::A), (0.5, Side::B)].into_iter().filter(|_| available()) {
            let side = if kn { Side::B } else { side };
            let case = Case { start, ..Case::random(Sizes { m, n, k }, layout, first, element, seed) };
            let (_, most) = errors(&case.product(side, usize::MAX), &case.exact());
            prop_assert!(most <= bound(k), "{:?} {layout:?}: {most:e}", case.sizes);
        }
    }

    /// Neither on how the depth is cut, nor on how many other rows and columns there are.
    #[test]
    fn bits_depend_on_an_elements_row_and_column_alone(
        m in 2usize..=70, n in 2usize..=70, k in 1usize..=200, steps in 1usize..4, seed in any::<u64>(),
    ) {
        if available() {
            let many = Case::random(Sizes { m, n, k }, BLayout::Nk, 0, Random::mixed, seed);
            let bits = |case: &Case, side, depth| -> Vec<u32> {
                case.product(side, depth).into_iter().map(f32::to_bits).collect()
            };
            for side in [Side::A, Side::B] {
                let whole = bits(&many, side, usize::MAX);
                prop_assert_eq!(&whole, &bits(&many, side, steps * K_STEP));
                let one = Case {
                    sizes: Sizes { m: 1, n: n - 1, k },
                    a: many.a[(m - 1) * k..].to_vec(),
                    b: many.b[k..].to_vec(),
                    ..many
                };
                prop_assert_eq!(&whole[(m - 1) * n + 1..], &bits(&one, side, usize::MAX)[..]);
            }
        }
    }

    /// The pieces of a number are as wide as they should be, and it is their sum.
    #[test]
    fn pieces_add_up(seed in any::<u64>()) {
        if available() {
            let mut random = Random(seed);
            let some: Vec<f32> = (0..1000).map(|_| f32::from_bits(random.bits())).collect();
            let some = [some, vec![f32::MAX, -f32::MAX, f32::MIN_POSITIVE, 0.0, 3.4e38, 1.0 + f32::EPSILON]].concat();
            for x in some.into_iter().filter(|x| x.is_finite()) {
                let mut halves = [0; PIECES];
                row(&[x], &mut halves, 1);
                let [high, middle, low] = halves.map(|half| f32::from_bits(u32::from(half) << 16));
                let left = f64::from(x) - f64::from(high) - f64::from(middle) - f64::from(low);
                // Of the smallest, the lowest bits are below the least bf16.
                let least = if x.abs() < 2f32.powi(-100) { 2f64.powi(-133) } else { 0.0 };
                prop_assert!(left.abs() <= least, "{x}: {left}");
                let within = |piece: f32, bits: i32| f64::from(piece.abs()) <= f64::from(x.abs()) * 2f64.powi(-bits);
                // The largest are cut off, and not rounded.
                let less = if x.abs() > 3.38e38 { 1 } else { 0 };
                let small = within(middle, 8 - less) && within(low, 16 - less);
                prop_assert!(small || least > 0.0, "{x}: {high}, {middle}, {low}");
            }
        }
    }
}

/// The error is no larger than that of multiply-adds: for numbers of one size and of many, and where sums cancel.
#[test]
fn errors_are_no_larger_than_multiply_adds() {
    fn cancelling(random: &mut Random) -> f32 {
        1.0 + random.unit() / 1024.0
    }
    let elements = [Random::unit, Random::mixed, cancelling];
    let elements = ["unit", "mixed", "cancelling"].into_iter().zip(elements);
    for (name, element) in elements.filter(|_| available()) {
        for k in [32, 128, 576, 4096] {
            let mut case = Case::random(Sizes { m: 48, n: 48, k }, BLayout::Nk, 0, element, 7);
            if name == "cancelling" {
                case.a.iter_mut().skip(1).step_by(2).for_each(|x| *x = -*x);
            }
            let exact = case.exact();
            let ([l2, most], [of_fma, most_of_fma]) = (
                <[f64; 2]>::from(errors(&case.product(Side::B, usize::MAX), &exact)),
                <[f64; 2]>::from(errors(&case.multiply_add(), &exact)),
            );
            println!("{name} k {k}: {l2:.2e} against {of_fma:.2e}, most {most:.2e} against {most_of_fma:.2e}");
            assert!(l2 <= of_fma && most <= most_of_fma, "{name} k {k}");
        }
    }
}

/// Infinities, NaN and the largest numbers give what multiply-adds make of them.
#[test]
fn special_numbers_are_multiplied_as_such() {
    let specials = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::from_bits(0xffff_ffff),
        f32::from_bits(0x7f80_0001),
        f32::MAX,
        f32::MIN,
        3.395e38,
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.999_999_9,
        0.1,
        -1e-20,
        1e20,
    ];
    // Products far beyond the largest number are left out: pieces of either sign make NaN of them.
    for (i, &x) in specials.iter().enumerate().filter(|_| available()) {
        let sizes = Sizes {
            m: specials.len(),
            n: specials.len(),
            k: 40,
        };
        let mut case = Case::random(sizes, BLayout::Nk, 0, |_| 0.0, 0);
        for (j, &y) in specials.iter().enumerate() {
            (case.a[j * 40 + i], case.b[j * 40 + i]) = (x, y);
        }
        for side in [Side::A, Side::B] {
            let wanted = case.multiply_add().into_iter().zip(specials.into_iter().cycle());
            for (got, (want, y)) in case.product(side, usize::MAX).into_iter().zip(wanted) {
                if x.is_finite() && y.is_finite() && want.is_infinite() {
                    assert!(!got.is_finite());
                    continue;
                }
                let close = (got - want).abs() <= want.abs() * 2f32.powi(-22) + f32::MIN_POSITIVE;
                assert!(
                    got == want || got.is_nan() && want.is_nan() || close,
                    "{x}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_added_without_rows_columns_or_depth() {
    for [m, n, k] in [[0, 4, 4], [4, 0, 4], [4, 4, 0]].into_iter().filter(|_| available()) {
        let case = Case::random(Sizes { m, n, k }, BLayout::Kn, 0, Random::unit, 1);
        assert_eq!(case.product(Side::B, usize::MAX), vec![0.0; m * n]);
    }
}
