//! What one kernel must compute, in f64 from its inputs as they are stored.

use super::inputs::{Memory, gather, page_size, scatter};
use anyhow::{Context, Result, bail};
use mlafuse_codegen::build::UNBALANCED;
use mlafuse_ir::graph::{Node, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::plan::{AttentionRegion, BufferId, CombineRegion, Plan, Region, RegionKind};
use mlafuse_ir::rewrite::cost::node_flops;
use mlafuse_ir::size::{Dims, Symbol};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Most operations of a reference, some ten seconds of f64.
const MOST_FLOPS: f64 = 4e11;

/// The whole of each buffer that the kernel writes, by buffer. What it leaves unwritten is NaN, or what was there before.
pub type Expected = BTreeMap<BufferId, Vec<f64>>;

/// Where attention's splits begin and end: in whole steps of `block_n` tokens, as its tile program cuts them.
#[derive(Clone, Copy)]
pub struct Splits {
    pub count: usize,
    pub block_n: usize,
}

impl Splits {
    /// `dims` with what a launch is told, so that every sequence has them all.
    pub fn told(self, dims: &Dims) -> Dims {
        dims.clone()
            .with(Symbol::Z, self.count)
            .with(Symbol::W, UNBALANCED)
            .with(Symbol::F, 1)
    }

    /// The tokens of split `z` of a sequence.
    pub fn tokens(self, z: usize, kv_len: usize) -> std::ops::Range<usize> {
        let share = kv_len.div_ceil(self.block_n).div_ceil(self.count) * self.block_n;
        (z * share).min(kv_len)..((z + 1) * share).min(kv_len)
    }

    /// Whether a sequence has one split alone.
    fn is_whole(self, kv_len: usize) -> bool {
        self.count < 2 || self.tokens(1, kv_len).is_empty()
    }
}

/// The kernel's results for this memory.
pub fn expected(plan: &Plan, region: &Region, dims: &Dims, memory: &Memory, splits: Splits) -> Result<Expected> {
    check_cost(plan, region, dims)?;
    let (reads, buffers) = (Reads { plan, dims, memory }, &memory.buffers);
    match &region.kind {
        RegionKind::Node(_) | RegionKind::UpProjection(_) => {
            let mut expected = Expected::new();
            for value in plan.results(region) {
                let view = plan.view(value).context("the kernel's result is not in memory")?;
                let before = buffers.get(&view.buffer).map(|tensor| tensor.to_f64_vec());
                let result = reads.nodes(&region.nodes, value, None)?;
                let size = plan
                    .buffer(view.buffer)
                    .size
                    .value(dims)
                    .context("a buffer has no size")?;
                let mut data = before.unwrap_or_else(|| vec![f64::NAN; size]);
                scatter(view, dims, &result, &mut data)?;
                expected.insert(view.buffer, data);
            }
            Ok(expected)
        }
        RegionKind::Attention(attention) => reads.attention(attention, splits),
        RegionKind::Combine(combine) => reads.made(combine.output, &reads.combine(combine)?),
        RegionKind::Prefill(prefill) => reads.made(prefill.output, &reads.nodes(&region.nodes, prefill.output, None)?),
    }
}

fn check_cost(plan: &Plan, region: &Region, dims: &Dims) -> Result<()> {
    let nodes = region.nodes.iter();
    let flops: f64 = nodes
        .map(|&node| Ok(node_flops(&plan.graph, node, dims)?))
        .sum::<Result<f64>>()?;
    if flops > MOST_FLOPS {
        bail!(
            "--stage launch: the f64 reference of kernel {} would take {flops:.1e} operations; at most {MOST_FLOPS:.0e} are \
             done: take a smaller --kv-len, --q-len or --batch, or another --kernel",
            region.name
        );
    }
    Ok(())
}

/// The memory that a kernel reads.
struct Reads<'a> {
    plan: &'a Plan,
    dims: &'a Dims,
    memory: &'a Memory,
}

impl Reads<'_> {
    /// The elements of `value`, where it lies in its buffer.
    fn made(&self, value: ValueId, elements: &[f64]) -> Result<Expected> {
        let view = self.plan.view(value).context("the kernel's result is not in memory")?;
        let mut data = vec![f64::NAN; self.plan.buffer(view.buffer).size.value(self.dims).unwrap_or(0)];
        scatter(view, self.dims, elements, &mut data)?;
        Ok(BTreeMap::from([(view.buffer, data)]))
    }

    /// A value in f64, through its view.
    fn value(&self, value: ValueId) -> Result<(Vec<usize>, Vec<f64>)> {
        let view = self.plan.view(value).context("an argument is not in memory")?;
        gather(view, self.dims, &self.buffer(view.buffer)?)
    }

    fn shape(&self, node: &Node) -> Result<Vec<usize>> {
        let shape: Option<Vec<usize>> = node.ty.shape.iter().map(|dim| dim.value(self.dims)).collect();
        shape.with_context(|| format!("a dimension of {} has no value", node.name))
    }

    fn buffer(&self, id: BufferId) -> Result<Vec<f64>> {
        let tensor = self.memory.buffers.get(&id).context("an argument has no memory")?;
        Ok(tensor.to_f64_vec())
    }

    /// The interpreter on a graph of these nodes alone, of which `value` is the last. `given` is a value that is not in
    /// memory.
    fn nodes(&self, nodes: &[ValueId], value: ValueId, given: Option<(ValueId, Vec<f64>)>) -> Result<Vec<f64>> {
        let part = self.plan.part(nodes, value, given.as_ref().map(|(value, _)| *value));
        let mut inputs = BTreeMap::new();
        for (name, &value) in &part.inputs {
            let node = self.plan.graph.node(value);
            let (shape, data) = match &given {
                Some((given, data)) if *given == value => (self.shape(node)?, data.clone()),
                _ => self.value(value)?,
            };
            let data = match node.ty.dtype.is_float() {
                true => Value::floats(&shape, data),
                false => Value::ints(&shape, data.iter().map(|&n| n as i32).collect()),
            };
            inputs.insert(name.clone(), data);
        }
        let mut outputs = interpret::<f64>(&part.graph, self.dims, &inputs)?;
        let out = outputs.remove("result").context("the reference gave no result")?;
        Ok(out
            .as_floats()
            .context("the reference's result is not of numbers")?
            .to_vec())
    }

    /// partial \[Z, B, T, H, columns\], lse \[Z, B, T, H\] and the result of the sequences that are whole; NaN stays what is
    /// not written.
    fn attention(&self, region: &AttentionRegion, splits: Splits) -> Result<Expected> {
        let [batch, new] = [Symbol::B, Symbol::T].map(|symbol| self.dims.get(symbol).unwrap_or(1));
        let queries: Vec<(Vec<usize>, Vec<f64>)> = region
            .queries
            .iter()
            .map(|part| self.value(part.value))
            .collect::<Result<_>>()?;
        let (cache_shape, cache) = self.value(region.cache)?;
        let (table_shape, table) = self.value(region.block_table)?;
        let page_size = page_size(self.dims).context("the page size is unknown")?;
        let (row_width, entries) = (
            cache_shape.last().copied().unwrap_or(0),
            table_shape.last().copied().unwrap_or(0),
        );
        let row = |b: usize, token: usize| {
            let page = table
                .get(b * entries + token / page_size)
                .map_or(0, |&page| page as usize);
            let start = (page * page_size + token % page_size) * row_width;
            cache.get(start..start + row_width).unwrap_or(&[])
        };
        let (heads, columns) = (region.n_heads, region.values.clone());
        let rows: Vec<(Vec<f64>, f64)> = (0..splits.count * batch * new * heads)
            .into_par_iter()
            .map(|index| {
                let (h, t) = (index % heads, index / heads % new);
                let (b, z) = (index / heads / new % batch, index / heads / new / batch);
                let kv_len = self.memory.kv_lens.get(b).copied().unwrap_or(0);
                let visible = (kv_len + t + 1).saturating_sub(new).min(kv_len);
                let split = splits.tokens(z, kv_len);
                if split.is_empty() {
                    let told = z > 0 && region.result.is_some() && splits.is_whole(kv_len);
                    let lse = if told { f64::INFINITY } else { f64::NEG_INFINITY };
                    return (vec![f64::NAN; columns.len()], lse);
                }
                let tokens = split.start..split.end.min(visible);
                let score = |token: usize| {
                    let row = row(b, token);
                    let parts = region.queries.iter().zip(&queries).map(|(part, (_, q))| {
                        let width = part.columns.len();
                        let start = ((b * new + t) * heads + h) * width;
                        let q = q.get(start..start + width).unwrap_or(&[]);
                        q.iter()
                            .zip(row.get(part.columns.clone()).unwrap_or(&[]))
                            .map(|(x, y)| x * y)
                            .sum::<f64>()
                    });
                    region.scale * parts.sum::<f64>()
                };
                let weighed = tokens.map(|token| (score(token), row(b, token).get(columns.clone()).unwrap_or(&[])));
                softmax_sum(columns.len(), &weighed.collect::<Vec<_>>())
            })
            .collect();
        let lse = rows.iter().map(|(_, lse)| *lse).collect();
        let mut partial: Vec<f64> = rows.into_iter().flat_map(|(partial, _)| partial).collect();
        let Some(value) = region.result else {
            return Ok(BTreeMap::from([(region.partial, partial), (region.lse, lse)]));
        };
        let of_sequence = new * heads * columns.len();
        let mut result = vec![f64::NAN; batch * of_sequence];
        let sequences = result
            .chunks_mut(of_sequence.max(1))
            .zip(partial.chunks_mut(of_sequence.max(1)));
        for ((result, first), &kv_len) in sequences.zip(&self.memory.kv_lens) {
            match (splits.is_whole(kv_len), kv_len) {
                (true, 0) => result.fill(0.0),
                (true, _) => result.swap_with_slice(first),
                (false, _) => {}
            }
        }
        let mut expected = self.made(value, &result)?;
        expected.extend([(region.partial, partial), (region.lse, lse)]);
        Ok(expected)
    }

    /// \[B, T, H, columns\], or what the projection makes of it.
    fn combine(&self, region: &CombineRegion) -> Result<Vec<f64>> {
        let [batch, new, splits] = [Symbol::B, Symbol::T, Symbol::Z].map(|symbol| self.dims.get(symbol).unwrap_or(1));
        let (partial, lse) = (self.buffer(region.partial)?, self.buffer(region.lse)?);
        let rows = batch * new * region.n_heads;
        let combined = |row: usize| {
            let part = |z: usize| {
                let start = (z * rows + row) * region.columns;
                let values = partial.get(start..start + region.columns).unwrap_or(&[]);
                (lse.get(z * rows + row).copied().unwrap_or(f64::NEG_INFINITY), values)
            };
            let parts: Vec<_> = (0..splits)
                .map(part)
                .filter(|(lse, _)| *lse > f64::NEG_INFINITY)
                .collect();
            softmax_sum(region.columns, &parts).0
        };
        let combined: Vec<f64> = (0..rows).flat_map(combined).collect();
        match region.projection {
            None => Ok(combined),
            Some(_) => self.nodes(&[region.output], region.output, Some((region.result, combined))),
        }
    }
}

/// Rows weighted by the softmax of their scores, and the natural log-sum-exp; zeros and -inf where there is none.
fn softmax_sum(columns: usize, weighed: &[(f64, &[f64])]) -> (Vec<f64>, f64) {
    let max = weighed
        .iter()
        .map(|(score, _)| *score)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; columns];
    if max == f64::NEG_INFINITY {
        return (out, max);
    }
    let sum: f64 = weighed.iter().map(|(score, _)| (score - max).exp()).sum();
    for (score, row) in weighed {
        let weight = (score - max).exp() / sum;
        out.iter_mut().zip(*row).for_each(|(out, value)| *out += weight * value);
    }
    (out, max + sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_every_token_once() {
        for (count, block_n, kv_len) in [(1, 64, 1), (3, 32, 100), (4, 16, 256), (8, 64, 100)] {
            let splits = Splits { count, block_n };
            let covered: Vec<usize> = (0..count).flat_map(|z| splits.tokens(z, kv_len)).collect();
            assert_eq!(covered, (0..kv_len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn equal_scores_average_and_none_give_zeros() {
        let rows: [(f64, &[f64]); 2] = [(1.0, &[2.0]), (1.0, &[4.0])];
        let (out, lse) = softmax_sum(1, &rows);
        assert!((out[0] - 3.0).abs() < 1e-12 && (lse - (1.0 + 2f64.ln())).abs() < 1e-12);
        assert_eq!(softmax_sum(1, &[]), (vec![0.0], f64::NEG_INFINITY));
    }
}
