//! The paged cache. Block-table entries past what a length needs are never read.

use super::real::Real;
use super::{InterpError, Tensor, lengths};
use crate::graph::Node;

/// Where one sequence's tokens lie.
struct Pages<'a> {
    node: &'a Node,
    sequence: usize,
    /// This sequence's row of the block table.
    table: &'a [i32],
    pages: usize,
    page_size: usize,
}

impl Pages<'_> {
    fn range(&self, what: String, got: i64, allowed: String) -> InterpError {
        InterpError::Range {
            node: self.node.name.clone(),
            sequence: self.sequence,
            what,
            got,
            allowed,
        }
    }

    /// The cache row of the token at `position`.
    fn row(&self, position: usize) -> Result<usize, InterpError> {
        let entry = position / self.page_size.max(1);
        let Some(&page) = self.table.get(entry) else {
            let allowed = format!("below {} (the block table's width)", self.table.len());
            return Err(self.range(format!("block-table entry for token {position}"), entry as i64, allowed));
        };
        match usize::try_from(page) {
            Ok(index) if index < self.pages => Ok(index * self.page_size + position % self.page_size.max(1)),
            _ => {
                let allowed = format!("0..{}", self.pages);
                Err(self.range(format!("page in block-table entry {entry}"), page.into(), allowed))
            }
        }
    }

    /// `length`, checked to lie in `0..=limit`.
    fn length(&self, name: &str, length: i32, limit: usize) -> Result<usize, InterpError> {
        match usize::try_from(length) {
            Ok(n) if n <= limit => Ok(n),
            _ => Err(self.range(name.to_string(), length.into(), format!("0..={limit}"))),
        }
    }
}

fn sequences<'a, F>(
    node: &'a Node,
    cache: &Tensor<F>,
    ints: &[(&'a [usize], &'a [i32])],
) -> impl Iterator<Item = Pages<'a>> {
    let (shape, table): (&[usize], &[i32]) = ints.first().copied().unwrap_or((&[0, 0], &[]));
    let (pages, page_size) = (cache.shape[0], cache.shape[1]);
    let (count, width) = (shape[0], shape[1]);
    (0..count).map(move |sequence| {
        let table = &table[sequence * width..(sequence + 1) * width];
        Pages {
            node,
            sequence,
            table,
            pages,
            page_size,
        }
    })
}

/// The cache with the rows of the new tokens t < q_len written at positions kv_len - q_len + t.
pub(super) fn write<F: Real>(
    node: &Node,
    mut cache: Tensor<F>,
    latent: &Tensor<F>,
    k_pe: Option<&Tensor<F>>,
    ints: &[(&[usize], &[i32])],
) -> Result<Tensor<F>, InterpError> {
    let [q_lens, kv_lens] = lengths(ints);
    let (tokens, width, d_latent) = (latent.shape[1], cache.last(), latent.last());
    let sequences: Vec<Pages<'_>> = sequences(node, &cache, ints).collect();
    let rows = cache.data_mut();
    for pages in sequences {
        let b = pages.sequence;
        let kv_len = pages.length("kv_len", kv_lens[b], i32::MAX as usize)?;
        let q_len = pages.length("q_len", q_lens[b], tokens.min(kv_len))?;
        for t in 0..q_len {
            let row = pages.row(kv_len - q_len + t)?;
            let (head, tail) = rows[row * width..(row + 1) * width].split_at_mut(d_latent);
            let token = b * tokens + t;
            head.copy_from_slice(&latent.data[token * d_latent..(token + 1) * d_latent]);
            if let Some(k_pe) = k_pe {
                tail.copy_from_slice(&k_pe.data[token * tail.len()..(token + 1) * tail.len()]);
            }
        }
    }
    Ok(cache)
}

/// The rows of each sequence as `shape` = \[B, S, row\], zeros from kv_len on.
pub(super) fn read<F: Real>(
    node: &Node,
    cache: &Tensor<F>,
    ints: &[(&[usize], &[i32])],
    shape: &[usize],
) -> Result<Tensor<F>, InterpError> {
    let [_, kv_lens] = lengths(ints);
    let (tokens, width) = (shape[1], cache.last());
    let mut data = vec![F::default(); shape.iter().product()];
    for pages in sequences(node, cache, ints) {
        let b = pages.sequence;
        let kv_len = pages.length("kv_len", kv_lens[b], tokens)?;
        for position in 0..kv_len {
            let row = pages.row(position)?;
            let token = b * tokens + position;
            data[token * width..(token + 1) * width].copy_from_slice(&cache.data[row * width..(row + 1) * width]);
        }
    }
    Ok(Tensor::new(shape, data))
}
