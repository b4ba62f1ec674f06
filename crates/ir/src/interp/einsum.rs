//! A contraction as a loop of matrix products.

use super::Tensor;
use super::real::{GemmSize, Matrix, MatrixMut, Real};
use crate::graph::EinsumSpec;
use std::borrow::Cow;

/// The contraction `spec` of `a` and `b`, of shape `shape`.
pub(super) fn einsum<F: Real>(spec: &EinsumSpec, a: &Tensor<F>, b: &Tensor<F>, shape: &[usize]) -> Tensor<F> {
    let roles = spec.roles();
    let a = Labelled::new(&spec.a, a).sum_over(&roles.sum_a);
    let b = Labelled::new(&spec.b, b).sum_over(&roles.sum_b);
    let a = a.with_groups(&roles.batch, &roles.m, &roles.k);
    let b = b.with_groups(&roles.batch, &roles.k, &roles.n);

    let wanted: Vec<&str> = spec.out.iter().map(String::as_str).collect();
    let grouped: Vec<&str> = [&roles.batch[..], &roles.m, &roles.n].concat();
    let sizes: Vec<usize> = grouped
        .iter()
        .map(|&l| a.find(l).or(b.find(l)).map_or(1, |axis| axis.size))
        .collect();
    // Written in the wanted order where rows and columns each have one stride there, else permuted after.
    let direct = {
        let sizes_of = |label: &str| grouped.iter().position(|&l| l == label).map_or(1, |i| sizes[i]);
        row_major(&wanted, &wanted.iter().map(|&l| sizes_of(l)).collect::<Vec<_>>())
    };
    let in_place = group_stride(&direct, &roles.m).is_some() && group_stride(&direct, &roles.n).is_some();
    let axes = if in_place { direct } else { row_major(&grouped, &sizes) };
    let data = product(&roles.batch, &a, &b, &axes, [&roles.m, &roles.k, &roles.n]);
    let out = Labelled {
        axes,
        data: Cow::Owned(data),
    };
    let data = if in_place {
        out.data.into_owned()
    } else {
        out.permuted(&wanted)
    };
    Tensor::new(shape, data)
}

/// One dimension: its label, length and stride.
#[derive(Clone, Debug)]
struct Axis<'a> {
    label: &'a str,
    size: usize,
    stride: usize,
}

fn row_major<'a>(labels: &[&'a str], sizes: &[usize]) -> Vec<Axis<'a>> {
    let mut stride = 1;
    let mut axes: Vec<Axis<'a>> = Vec::with_capacity(labels.len());
    for (&label, &size) in labels.iter().zip(sizes).rev() {
        axes.push(Axis { label, size, stride });
        stride *= size;
    }
    axes.reverse();
    axes
}

/// The one stride that steps through all `labels` in order, if there is one.
fn group_stride(axes: &[Axis<'_>], labels: &[&str]) -> Option<usize> {
    let mut inner: Option<(usize, usize)> = None;
    for label in labels.iter().rev() {
        let axis = axes.iter().find(|axis| axis.label == *label)?;
        inner = match inner {
            _ if axis.size == 1 => inner,
            None => Some((axis.stride, axis.size)),
            Some((stride, size)) if axis.stride == stride * size => Some((stride, size * axis.size)),
            Some(_) => return None,
        };
    }
    Some(inner.map_or(1, |(stride, _)| stride))
}

fn size_of(axes: &[Axis<'_>], labels: &[&str]) -> usize {
    labels
        .iter()
        .filter_map(|l| axes.iter().find(|axis| axis.label == *l))
        .map(|axis| axis.size)
        .product()
}

/// An operand with its labels.
struct Labelled<'a, F: Clone> {
    axes: Vec<Axis<'a>>,
    data: Cow<'a, [F]>,
}

impl<'a, F: Real> Labelled<'a, F> {
    fn new(labels: &'a [String], tensor: &'a Tensor<F>) -> Labelled<'a, F> {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        Labelled {
            axes: row_major(&labels, &tensor.shape),
            data: Cow::Borrowed(&tensor.data),
        }
    }

    fn find(&self, label: &str) -> Option<&Axis<'a>> {
        self.axes.iter().find(|axis| axis.label == label)
    }

    /// Sums the dimensions in `labels` away.
    fn sum_over(self, labels: &[&str]) -> Labelled<'a, F> {
        if labels.is_empty() {
            return self;
        }
        let kept: Vec<&'a str> = self
            .axes
            .iter()
            .map(|axis| axis.label)
            .filter(|l| !labels.contains(l))
            .collect();
        let order: Vec<&str> = [&kept[..], labels].concat();
        let run = size_of(&self.axes, labels);
        let sizes: Vec<usize> = kept.iter().map(|l| size_of(&self.axes, &[l])).collect();
        let moved = self.permuted(&order);
        let data = match run {
            0 => vec![F::default(); sizes.iter().product()],
            _ => moved
                .chunks(run)
                .map(|row| row.iter().fold(F::default(), |sum, &x| sum + x))
                .collect(),
        };
        Labelled {
            axes: row_major(&kept, &sizes),
            data: Cow::Owned(data),
        }
    }

    /// This operand, copied into `batch, rows, columns` order where rows or columns have no single stride.
    fn with_groups(self, batch: &[&'a str], rows: &[&'a str], columns: &[&'a str]) -> Labelled<'a, F> {
        if group_stride(&self.axes, rows).is_some() && group_stride(&self.axes, columns).is_some() {
            return self;
        }
        let order = [batch, rows, columns].concat();
        let sizes: Vec<usize> = order.iter().map(|l| size_of(&self.axes, &[l])).collect();
        let data = self.permuted(&order);
        Labelled {
            axes: row_major(&order, &sizes),
            data: Cow::Owned(data),
        }
    }

    /// The elements with the dimensions in another order.
    fn permuted(&self, order: &[&str]) -> Vec<F> {
        let axes: Vec<&Axis<'_>> = order.iter().filter_map(|l| self.find(l)).collect();
        let Some((last, outer)) = axes.split_last() else {
            return self.data.to_vec();
        };
        let mut result = Vec::with_capacity(self.data.len());
        for_each_offset(outer, |start| {
            result.extend((0..last.size).map(|i| self.data[start + i * last.stride]));
        });
        result
    }
}

/// Calls `visit` with the offset of every index into `axes`, the last dimension fastest.
fn for_each_offset(axes: &[&Axis<'_>], mut visit: impl FnMut(usize)) {
    if axes.iter().any(|axis| axis.size == 0) {
        return;
    }
    let mut index = vec![0; axes.len()];
    let mut offset = 0;
    loop {
        visit(offset);
        let mut place = axes.len();
        loop {
            let Some(previous) = place.checked_sub(1) else { return };
            place = previous;
            index[place] += 1;
            offset += axes[place].stride;
            if index[place] < axes[place].size {
                break;
            }
            offset -= index[place] * axes[place].stride;
            index[place] = 0;
        }
    }
}

/// The product into a fresh buffer laid out as `out`; `groups` are the labels of m, k and n.
fn product<F: Real>(
    batch: &[&str],
    a: &Labelled<'_, F>,
    b: &Labelled<'_, F>,
    out: &[Axis<'_>],
    groups: [&[&str]; 3],
) -> Vec<F> {
    let [m, k, n] = groups;
    let mut data = vec![F::default(); out.iter().map(|axis| axis.size).product()];
    let size = GemmSize {
        m: size_of(out, m),
        k: size_of(&a.axes, k),
        n: size_of(out, n),
    };
    if size.m == 0 || size.k == 0 || size.n == 0 {
        return data;
    }
    let stride = |axes: &[Axis<'_>], labels: &[&str]| group_stride(axes, labels).unwrap_or(1);
    let strides = [
        [stride(&a.axes, m), stride(&a.axes, k)],
        [stride(&b.axes, k), stride(&b.axes, n)],
        [stride(out, m), stride(out, n)],
    ];
    let offsets = |axes: &[Axis<'_>]| {
        let batch: Vec<&Axis<'_>> = batch
            .iter()
            .filter_map(|l| axes.iter().find(|axis| axis.label == *l))
            .collect();
        let mut offsets = Vec::new();
        for_each_offset(&batch, |offset| offsets.push(offset));
        offsets
    };
    for ((a_at, b_at), c_at) in offsets(&a.axes).into_iter().zip(offsets(&b.axes)).zip(offsets(out)) {
        let [[a_row, a_column], [b_row, b_column], [row, column]] = strides;
        F::gemm(
            size,
            Matrix {
                data: &a.data[a_at..],
                row: a_row,
                column: a_column,
            },
            Matrix {
                data: &b.data[b_at..],
                row: b_row,
                column: b_column,
            },
            MatrixMut {
                data: &mut data[c_at..],
                row,
                column,
            },
        );
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The definition: a loop over all labels.
    fn by_definition(spec: &EinsumSpec, sizes: &BTreeMap<&str, usize>, a: &[f64], b: &[f64]) -> Vec<f64> {
        let labels: Vec<&str> = spec.labels().map(String::as_str).collect();
        let at = |list: &[String], index: &BTreeMap<&str, usize>| {
            list.iter()
                .fold(0, |offset, l| offset * sizes[l.as_str()] + index[l.as_str()])
        };
        let mut out = vec![0.0; spec.out.iter().map(|l| sizes[l.as_str()]).product()];
        let total: usize = labels.iter().map(|l| sizes[l]).product();
        for mut i in 0..total {
            let mut index = BTreeMap::new();
            for l in &labels {
                index.insert(*l, i % sizes[l]);
                i /= sizes[l];
            }
            out[at(&spec.out, &index)] += a[at(&spec.a, &index)] * b[at(&spec.b, &index)];
        }
        out
    }

    fn subset() -> impl Strategy<Value = Vec<String>> {
        let labels: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_string).to_vec();
        proptest::sample::subsequence(labels, 0..=5).prop_shuffle()
    }

    proptest! {
        #[test]
        fn any_contraction_is_its_definition(
            a in subset(), b in subset(), pick in any::<u32>(), shuffle in any::<u8>(),
            sizes in proptest::collection::vec(1usize..4, 5), seed in any::<u32>(),
        ) {
            let mut spec = EinsumSpec { a, b, out: Vec::new() };
            let labels: Vec<String> = spec.labels().cloned().collect();
            spec.out = labels.into_iter().enumerate().filter(|(i, _)| pick >> i & 1 == 1).map(|(_, l)| l).collect();
            let turn = usize::from(shuffle) % spec.out.len().max(1);
            spec.out.rotate_left(turn);
            if shuffle >= 128 { spec.out.reverse() }
            let sizes: BTreeMap<&str, usize> = ["a", "b", "c", "d", "e"].into_iter().zip(sizes).collect();
            let tensor = |list: &[String], salt: u32| {
                let shape: Vec<usize> = list.iter().map(|l| sizes[l.as_str()]).collect();
                let count = shape.iter().product::<usize>() as u32;
                let number = |i: u32| f64::from((i.wrapping_add(seed ^ salt)).wrapping_mul(2654435761) >> 24) - 128.0;
                Tensor::new(&shape, (0..count).map(number).collect())
            };
            let (x, y) = (tensor(&spec.a, 1), tensor(&spec.b, 2));
            let shape: Vec<usize> = spec.out.iter().map(|l| sizes[l.as_str()]).collect();
            let got = einsum(&spec, &x, &y, &shape);
            // Small integers: exact in any order of summation.
            prop_assert_eq!(&got.data[..], &by_definition(&spec, &sizes, &x.data, &y.data)[..]);
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let spec: EinsumSpec = "a k, k b -> a b".parse().unwrap();
        let x = Tensor::<f32>::new(&[2, 0], vec![]);
        let y = Tensor::new(&[0, 3], vec![]);
        assert_eq!(&einsum(&spec, &x, &y, &[2, 3]).data[..], &[0.0; 6]);
    }
}
