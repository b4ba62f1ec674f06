//! The ops that work row by row.

use super::real::Real;
use super::{InterpError, Tensor};
use crate::graph::{Node, Pairing};

/// x / sqrt(mean(x²) + eps) · gain over the last dimension.
pub(super) fn rms_norm<F: Real>(eps: f64, mut x: Tensor<F>, gain: &Tensor<F>) -> Tensor<F> {
    let width = x.last();
    if width == 0 {
        return x;
    }
    for row in x.data_mut().chunks_mut(width) {
        let rms = rms(eps, row);
        row.iter_mut()
            .zip(gain.data.iter())
            .for_each(|(v, &g)| *v = *v / rms * g);
    }
    x
}

/// 1 / sqrt(mean(x²) + eps) of each row; `shape` is the result's.
pub(super) fn inv_rms<F: Real>(eps: f64, x: &Tensor<F>, shape: &[usize]) -> Tensor<F> {
    let rows = x.data.chunks(x.last().max(1));
    Tensor::new(shape, rows.map(|row| F::from_f64(1.0) / rms(eps, row)).collect())
}

/// sqrt(mean(x²) + eps).
fn rms<F: Real>(eps: f64, row: &[F]) -> F {
    let squares = row.iter().fold(F::default(), |sum, &v| sum + v * v);
    (squares / F::from_f64(row.len() as f64) + F::from_f64(eps)).sqrt()
}

/// Rotates the pairs of each row of `x` \[B, T, .., d_rope\] by its token's position.
pub(super) fn rope<F: Real>(
    node: &Node,
    pairing: Pairing,
    mut x: Tensor<F>,
    cos: &Tensor<F>,
    sin: &Tensor<F>,
    q_len: &[i32],
    kv_len: &[i32],
) -> Result<Tensor<F>, InterpError> {
    let (d_rope, tokens, positions) = (x.last(), x.shape[1], cos.shape[0]);
    let (half, per_token) = (d_rope / 2, x.shape[2..].iter().product::<usize>());
    if x.data.is_empty() {
        return Ok(x);
    }
    if positions == 0 {
        let (what, allowed) = ("number of rope table rows".to_string(), "at least 1".to_string());
        return Err(InterpError::Range {
            node: node.name.clone(),
            sequence: 0,
            what,
            got: 0,
            allowed,
        });
    }
    for (i, token) in x.data_mut().chunks_mut(per_token).enumerate() {
        let (sequence, t) = (i / tokens, i % tokens);
        let past = i64::from(kv_len[sequence]) - i64::from(q_len[sequence]);
        let position = (past + t as i64).clamp(0, positions as i64 - 1) as usize;
        let angles = position * half..(position + 1) * half;
        for row in token.chunks_mut(d_rope) {
            let table = cos.data[angles.clone()].iter().zip(&sin.data[angles.clone()]);
            for (pair, (&c, &s)) in table.enumerate() {
                let (first, second) = match pairing {
                    Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                    Pairing::Halves => (pair, pair + half),
                };
                (row[first], row[second]) = (row[first] * c - row[second] * s, row[second] * c + row[first] * s);
            }
        }
    }
    Ok(x)
}

/// x times a constant.
pub(super) fn scale<F: Real>(factor: f64, mut x: Tensor<F>) -> Tensor<F> {
    let factor = F::from_f64(factor);
    x.data_mut().iter_mut().for_each(|v| *v = *v * factor);
    x
}

/// a + b, b repeated over the leading dimensions it lacks.
pub(super) fn add<F: Real>(a: Tensor<F>, b: &Tensor<F>) -> Tensor<F> {
    repeated(a, b, |x, y| x + y)
}

/// a · b, b repeated over the leading dimensions it lacks.
pub(super) fn mul<F: Real>(a: Tensor<F>, b: &Tensor<F>) -> Tensor<F> {
    repeated(a, b, |x, y| x * y)
}

fn repeated<F: Real>(mut a: Tensor<F>, b: &Tensor<F>, op: impl Fn(F, F) -> F) -> Tensor<F> {
    if b.data.is_empty() {
        return a;
    }
    for row in a.data_mut().chunks_mut(b.data.len()) {
        row.iter_mut().zip(b.data.iter()).for_each(|(x, &y)| *x = op(*x, y));
    }
    a
}

/// Each row of x, the dimensions that r lacks, times its factor.
pub(super) fn scale_rows<F: Real>(mut x: Tensor<F>, r: &Tensor<F>) -> Tensor<F> {
    let width: usize = x.shape[r.shape.len()..].iter().product();
    if width == 0 {
        return x;
    }
    for (row, &factor) in x.data_mut().chunks_mut(width).zip(r.data.iter()) {
        row.iter_mut().for_each(|v| *v = *v * factor);
    }
    x
}

/// Scores \[B, T, .., S\] with -inf where key j is not visible to new token t: j >= kv_len or j > kv_len - q_len + t.
pub(super) fn mask<F: Real>(mut x: Tensor<F>, q_len: &[i32], kv_len: &[i32]) -> Tensor<F> {
    let (tokens, keys) = (x.shape[1], x.last());
    let per_token: usize = x.shape[2..].iter().product();
    if x.data.is_empty() {
        return x;
    }
    for (i, token) in x.data_mut().chunks_mut(per_token).enumerate() {
        let (sequence, t) = (i / tokens, i % tokens);
        let (q_len, kv_len) = (i64::from(q_len[sequence]), i64::from(kv_len[sequence]));
        let visible = kv_len.min(kv_len - q_len + t as i64 + 1).clamp(0, keys as i64) as usize;
        token
            .chunks_mut(keys)
            .for_each(|row| row[visible..].fill(F::NEG_INFINITY));
    }
    x
}

/// Softmax over the last dimension; a row of -inf alone gives zeros.
pub(super) fn softmax<F: Real>(mut x: Tensor<F>) -> Tensor<F> {
    let width = x.last();
    if width == 0 {
        return x;
    }
    for row in x.data_mut().chunks_mut(width) {
        let max = row
            .iter()
            .fold(F::NEG_INFINITY, |max, &v| if v > max { v } else { max });
        if max == F::NEG_INFINITY && row.iter().all(|&v| v == F::NEG_INFINITY) {
            row.fill(F::default());
            continue;
        }
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum = row.iter().fold(F::default(), |sum, &v| sum + v);
        row.iter_mut().for_each(|v| *v = *v / sum);
    }
    x
}

/// Elements `start..start + len` along `axis`.
pub(super) fn slice<F: Real>(axis: usize, start: usize, len: usize, x: &Tensor<F>) -> Tensor<F> {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let mut shape = x.shape.clone();
    let whole = std::mem::replace(&mut shape[axis], len) * inner;
    let mut data = Vec::with_capacity(shape.iter().product());
    if whole > 0 {
        x.data
            .chunks(whole)
            .for_each(|block| data.extend_from_slice(&block[start * inner..(start + len) * inner]));
    }
    Tensor::new(&shape, data)
}

/// a and b side by side along `axis`.
pub(super) fn concat<F: Real>(axis: usize, a: &Tensor<F>, b: &Tensor<F>) -> Tensor<F> {
    let inner: usize = a.shape[axis + 1..].iter().product();
    let outer: usize = a.shape[..axis].iter().product();
    let (run_a, run_b) = (a.shape[axis] * inner, b.shape[axis] * inner);
    let mut shape = a.shape.clone();
    shape[axis] += b.shape[axis];
    let mut data = Vec::with_capacity(outer * (run_a + run_b));
    for i in 0..outer {
        data.extend_from_slice(&a.data[i * run_a..(i + 1) * run_a]);
        data.extend_from_slice(&b.data[i * run_b..(i + 1) * run_b]);
    }
    Tensor::new(&shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_an_empty_row_is_zero() {
        let low = f64::NEG_INFINITY;
        let x = softmax(Tensor::new(&[3, 2], vec![low, low, 1000.0, 1000.0, 0.0, low]));
        assert_eq!(&x.data[..], &[0.0, 0.0, 0.5, 0.5, 1.0, 0.0]);
    }

    #[test]
    fn softmax_does_not_hide_nan() {
        let x = softmax(Tensor::new(&[2], vec![f64::NAN, f64::NEG_INFINITY]));
        assert!(x.data[0].is_nan());
    }

    #[test]
    fn the_mask_follows_the_last_tokens() {
        // Two sequences of lengths (q 2, kv 3) and (q 1, kv 1), three keys, two token slots.
        let x = mask(Tensor::new(&[2, 2, 3], vec![1.0f32; 12]), &[2, 1], &[3, 1]);
        let seen: Vec<usize> = x
            .data
            .chunks(3)
            .map(|row| row.iter().filter(|v| v.is_finite()).count())
            .collect();
        assert_eq!(seen, [2, 3, 1, 1]);
    }

    #[test]
    fn slices_and_concat_undo_each_other() {
        let x = Tensor::new(&[2, 3, 2], (0..12).map(f64::from).collect());
        let (left, right) = (slice(1, 0, 1, &x), slice(1, 1, 2, &x));
        assert_eq!(&left.data[..], &[0.0, 1.0, 6.0, 7.0]);
        assert_eq!(concat(1, &left, &right).data, x.data);
    }
}
