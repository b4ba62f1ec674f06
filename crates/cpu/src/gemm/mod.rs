//! acc += a · b on f32 tiles; [`bf16`] has those of bf16, [`split`] those of f32 tiles with many rows, by AMX.
//!
//! k is cut into pieces of [`K_PIECE`], n into panels of [`PANEL`] columns; a micro-kernel holds up to six rows of one panel
//! (or one row of four panels; with AVX-512 six rows of four) of `acc` in registers. b \[n, k\] is packed to panels, a group of four at a time; b \[k, n\]
//! is read where it lies. Whatever the blocking, an element of acc is one chain of additions over k in ascending order:
//! its value does not depend on how many other rows there are.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bf16;
mod portable;
pub(crate) mod split;

use mlafuse_codegen::tile::BLayout;

use crate::level::Level;

/// Columns of a panel: two AVX2 registers, one of AVX-512.
pub(crate) const PANEL: usize = 16;
/// Panels that are packed together.
const GROUP: usize = 4;
/// Steps of k between two writes of acc; a packed group is then 32 KB.
const K_PIECE: usize = 128;
/// f32 that packing a group needs.
pub(crate) const PACKED: usize = GROUP * PANEL * K_PIECE;

/// A matrix: its elements, and how far apart its rows are.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// The sizes of one gemm: acc is \[m, n\], a is \[m, k\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// acc and its row stride, which leaves room for whole panels: what is beyond n becomes anything.
pub(crate) struct Acc<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
}

/// One call of a micro-kernel: MR rows of acc, NP panels, `k` steps.
struct Micro<'a> {
    k: usize,
    a: Matrix<'a>,
    /// Panel p of step s starts at `p * panel_step + s * k_step`.
    b: &'a [f32],
    k_step: usize,
    panel_step: usize,
    acc: &'a mut [f32],
    acc_stride: usize,
}

impl Micro<'_> {
    /// Panics unless all that a micro-kernel of MR rows and NP panels touches is inside the slices.
    fn check<const MR: usize, const NP: usize>(&self) {
        assert!(self.k > 0 && self.a.data.len() >= (MR - 1) * self.a.stride + self.k);
        assert!(self.b.len() >= (self.k - 1) * self.k_step + (NP - 1) * self.panel_step + PANEL);
        assert!(self.acc.len() >= (MR - 1) * self.acc_stride + NP * PANEL);
    }
}

/// acc += a · b. `b` has b_cols cut off already and may be read up to the end of the last panel; `packed` holds
/// [`PACKED`] elements.
pub(crate) fn gemm(
    level: Level,
    sizes: Sizes,
    acc: Acc<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    layout: BLayout,
    packed: &mut [f32],
) {
    let Sizes { m, n, k } = sizes;
    if m == 0 {
        return;
    }
    for k0 in (0..k).step_by(K_PIECE) {
        let k_piece = K_PIECE.min(k - k0);
        for n0 in (0..n).step_by(GROUP * PANEL) {
            let columns = (GROUP * PANEL).min(n - n0);
            let group = Group {
                level,
                m,
                panels: columns.div_ceil(PANEL),
                k: k_piece,
            };
            let a = Matrix {
                data: &a.data[k0..],
                stride: a.stride,
            };
            let acc = Acc {
                data: &mut acc.data[n0..],
                stride: acc.stride,
            };
            match layout {
                BLayout::Nk => {
                    let from = Matrix {
                        data: &b.data[n0 * b.stride + k0..],
                        stride: b.stride,
                    };
                    pack(level, from, columns, k_piece, packed);
                    group.run(acc, a, packed, PANEL, PANEL * k_piece);
                }
                BLayout::Kn => group.run(acc, a, &b.data[k0 * b.stride + n0..], b.stride, PANEL),
            }
        }
    }
}

/// `columns` rows of b \[n, k\] as panels \[k, PANEL\]; missing columns of the last panel become zero.
fn pack(level: Level, b: Matrix<'_>, columns: usize, k: usize, packed: &mut [f32]) {
    for (panel, to) in (0..columns.div_ceil(PANEL)).zip(packed.chunks_exact_mut(PANEL * k)) {
        let first = panel * PANEL;
        let from = Matrix {
            data: &b.data[first * b.stride..],
            stride: b.stride,
        };
        match (level, columns - first) {
            #[cfg(target_arch = "x86_64")]
            (level, PANEL..) if level >= Level::Avx2 => avx2::pack_panel(from, k, to),
            (_, there) => portable::pack_panel(from, there.min(PANEL), k, to),
        }
    }
}

/// A group of panels, over all rows and one piece of k.
struct Group {
    level: Level,
    m: usize,
    panels: usize,
    k: usize,
}

impl Group {
    /// The fewer rows there are, the more panels a micro-kernel takes, so that enough additions are in flight; with the
    /// registers of AVX-512 it always takes four, so that an element of a is loaded once for four multiplications.
    fn run(&self, acc: Acc<'_>, a: Matrix<'_>, b: &[f32], k_step: usize, panel_step: usize) {
        let width = match self.m {
            1 => 4,
            _ if self.level >= Level::Avx512 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let mut panel = 0;
        while panel < self.panels {
            // Four panels or two where so many are left, else one.
            let np = if self.panels - panel >= width { width } else { 1 };
            for row in (0..self.m).step_by(6) {
                let micro = Micro {
                    k: self.k,
                    a: Matrix {
                        data: &a.data[row * a.stride..],
                        stride: a.stride,
                    },
                    b: &b[panel * panel_step..],
                    k_step,
                    panel_step,
                    acc: &mut acc.data[row * acc.stride + panel * PANEL..],
                    acc_stride: acc.stride,
                };
                self.micro((self.m - row).min(6), np, micro);
            }
            panel += np;
        }
    }

    fn micro(&self, rows: usize, panels: usize, micro: Micro<'_>) {
        match (rows, panels) {
            (1, 4) => self.level.micro::<1, 4>(micro),
            (2, 4) => self.level.micro::<2, 4>(micro),
            (3, 4) => self.level.micro::<3, 4>(micro),
            (4, 4) => self.level.micro::<4, 4>(micro),
            (5, 4) => self.level.micro::<5, 4>(micro),
            (_, 4) => self.level.micro::<6, 4>(micro),
            (2, 2) => self.level.micro::<2, 2>(micro),
            (3, 2) => self.level.micro::<3, 2>(micro),
            (1, _) => self.level.micro::<1, 1>(micro),
            (2, _) => self.level.micro::<2, 1>(micro),
            (3, _) => self.level.micro::<3, 1>(micro),
            (4, _) => self.level.micro::<4, 1>(micro),
            (5, _) => self.level.micro::<5, 1>(micro),
            _ => self.level.micro::<6, 1>(micro),
        }
    }
}

impl Level {
    fn micro<const MR: usize, const NP: usize>(self, micro: Micro<'_>) {
        micro.check::<MR, NP>();
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::micro::<MR, NP>(micro),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512::micro::<MR, NP>(micro),
            _ => portable::micro::<MR, NP>(micro),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Small integers and eighths: a sum of few is exact.
    fn element(i: usize, seed: usize) -> f32 {
        let x = (i * 7919 + seed * 104_729) % 257;
        (x as f32 - 128.0) / 64.0
    }

    struct Case {
        sizes: Sizes,
        layout: BLayout,
        a: Vec<f32>,
        b: Vec<f32>,
        acc: Vec<f32>,
    }

    const PAD: usize = 5;

    impl Case {
        fn new(sizes: Sizes, layout: BLayout) -> Case {
            let Sizes { m, n, k } = sizes;
            let b_len = if layout == BLayout::Nk {
                n * (k + PAD)
            } else {
                k * (n + PAD) + 64
            };
            Case {
                sizes,
                layout,
                a: (0..m * (k + PAD)).map(|i| element(i, 1)).collect(),
                b: (0..b_len).map(|i| element(i, 2)).collect(),
                acc: (0..m * (n + 64)).map(|i| element(i, 3)).collect(),
            }
        }

        fn run(&self, level: Level) -> Vec<f32> {
            let Sizes { m, n, k } = self.sizes;
            let mut acc = self.acc.clone();
            let b_stride = PAD + if self.layout == BLayout::Nk { k } else { n };
            let mut packed = vec![f32::NAN; PACKED];
            gemm(
                level,
                self.sizes,
                Acc {
                    data: &mut acc,
                    stride: n + 64,
                },
                Matrix {
                    data: &self.a,
                    stride: k + PAD,
                },
                Matrix {
                    data: &self.b,
                    stride: b_stride,
                },
                self.layout,
                &mut packed,
            );
            (0..m)
                .flat_map(|i| acc[i * (n + 64)..i * (n + 64) + n].to_vec())
                .collect()
        }

        fn exact(&self) -> Vec<f64> {
            let Sizes { m, n, k } = self.sizes;
            let b = |j: usize, p: usize| match self.layout {
                BLayout::Nk => self.b[j * (k + PAD) + p],
                BLayout::Kn => self.b[p * (n + PAD) + j],
            };
            let element = |i: usize, j: usize| {
                let products = (0..k).map(|p| f64::from(self.a[i * (k + PAD) + p]) * f64::from(b(j, p)));
                f64::from(self.acc[i * (n + 64) + j]) + products.sum::<f64>()
            };
            (0..m)
                .flat_map(|i| (0..n).map(move |j| (i, j)))
                .map(|(i, j)| element(i, j))
                .collect()
        }
    }

    fn close(a: f64, b: f64, k: usize) -> bool {
        (a - b).abs() <= 1e-5 * (k as f64).sqrt() * (1.0 + b.abs())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn levels_agree(m in 1usize..=20, n in 1usize..=150, k in 1usize..=300, kn in any::<bool>()) {
            let layout = if kn { BLayout::Kn } else { BLayout::Nk };
            let case = Case::new(Sizes { m, n, k }, layout);
            let exact = case.exact();
            for level in Level::available() {
                for (i, (x, y)) in case.run(level).into_iter().zip(&exact).enumerate() {
                    prop_assert!(close(f64::from(x), *y, k), "{level:?}: element {i} is {x}, not {y}");
                }
            }
        }

        #[test]
        fn a_row_does_not_depend_on_the_others(m in 2usize..=14, n in 1usize..=100, k in 1usize..=200) {
            let many = Case::new(Sizes { m, n, k }, BLayout::Nk);
            let mut one = Case::new(Sizes { m: 1, n, k }, BLayout::Nk);
            let last = (m - 1) * (k + PAD);
            one.a = many.a[last..].to_vec();
            one.acc = many.acc[(m - 1) * (n + 64)..].to_vec();
            for level in Level::available() {
                let (many, one) = (many.run(level), one.run(level));
                prop_assert_eq!(&many[(m - 1) * n..], &one[..]);
            }
        }
    }
}
