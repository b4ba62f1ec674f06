//! What a kernel must write, in f64, from the values it finds in memory.

use crate::case::{Run, half_place};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::graph::{Op, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::plan::{AttentionRegion, CombineRegion, Keys, PrefillRegion, Region, RegionKind, View};
use mlafuse_ir::size::Symbol;
use mlafuse_tensor::DType;
use std::collections::BTreeMap;

/// What must stand in a view after a kernel has run.
pub struct Expected {
    /// Where.
    pub view: View,
    /// The elements; NaN where nobody writes.
    pub values: Vec<f64>,
    /// Error that is allowed besides one rounding to the storage type.
    pub slack: f64,
}

/// Accumulation in f32, relative to the largest element.
const ACCUMULATION: f64 = 1e-5;

/// What `region` must write.
///
/// # Errors
/// Where the interpreter refuses, or the region is none of this plan's.
pub fn expected(run: &Run, region: &Region, schedule: &Schedule) -> Result<Vec<Expected>, String> {
    match &region.kind {
        RegionKind::Node(_) => nodes(run, region, schedule, ACCUMULATION),
        // Columns are rounded to the storage type before they are rotated or multiplied.
        RegionKind::UpProjection(_) => nodes(run, region, schedule, weights_slack(run)),
        RegionKind::Attention(attention) => Ok(split_attention(run, attention, schedule)),
        RegionKind::Combine(combine) => {
            let result = combined(run, combine);
            let growth = growth(run, combine);
            // Together with the attention before it, it is what the graph says.
            let (view, values) = interpreted(run, &region.nodes, combine.output, None)?;
            let slack = weights_slack(run) * growth * largest(&result);
            let whole = Expected { view, values, slack };
            if combine.projection.is_none() {
                let slack = ACCUMULATION * largest(&result);
                let (view, values) = (whole.view.clone(), result);
                return Ok(vec![Expected { view, values, slack }, whole]);
            }
            // The result is rounded to the storage type before it meets the weight.
            let slack = (half_place(run.dtype()) + ACCUMULATION) * growth * largest(&result);
            let (view, values) = interpreted(run, &[combine.output], combine.output, Some((combine.result, result)))?;
            Ok(vec![Expected { view, values, slack }, whole])
        }
        RegionKind::Prefill(prefill) => prefilled(run, prefill).map(|expected| vec![expected]),
    }
}

/// Every result of a kernel of nodes, which may err by `slack` of its largest element.
fn nodes(run: &Run, region: &Region, schedule: &Schedule, slack: f64) -> Result<Vec<Expected>, String> {
    let results = run.plan.results(region).into_iter().map(|value| {
        let (view, mut values) = interpreted(run, &region.nodes, value, None)?;
        let slack = slack * largest(&values);
        skip_unused_rows(run, region, schedule.block_m, &mut values);
        Ok(Expected { view, values, slack })
    });
    results.collect()
}

/// A contraction of cached rows leaves out blocks of `block_m` tokens that lie past a sequence's length.
fn skip_unused_rows(run: &Run, region: &Region, block_m: usize, values: &mut [f64]) {
    let graph = &run.plan.graph;
    let Some((_, before)) = region.nodes.split_last() else {
        return;
    };
    let Some(&read) = before.iter().find(|&&node| graph.node(node).op == Op::CacheRead) else {
        return;
    };
    let kv_len = graph.node(read).args.get(2).and_then(|&value| run.plan.view(value));
    let lengths = kv_len.map(|view| run.read_ints(view)).unwrap_or_default();
    let tokens = run.dims.get(Symbol::S).unwrap_or(1);
    let row = values.len() / (lengths.len() * tokens).max(1);
    for (of_sequence, &length) in values.chunks_mut((tokens * row).max(1)).zip(&lengths) {
        let written = (length as usize).next_multiple_of(block_m) * row;
        of_sequence.iter_mut().skip(written).for_each(|value| *value = f64::NAN);
    }
}

/// How much larger than an element of an attention's result what is made of it can be, at most.
fn growth(run: &Run, region: &CombineRegion) -> f64 {
    let Some(projection) = &region.projection else {
        return 1.0;
    };
    let view = run.plan.view(projection.weight).expect("a weight in memory");
    let shape: Vec<usize> = view.shape.iter().filter_map(|dim| dim.value(&run.dims)).collect();
    let strides = [shape[1] * shape[2], shape[2], 1];
    let values = run.read(view);
    let [h, v, c] = projection
        .axes
        .map(|axis| (0..shape[axis]).map(move |i| i * strides[axis]));
    let outputs = h.flat_map(|h| v.clone().map(move |v| h + v));
    outputs
        .map(|at| c.clone().map(|c| values[at + c].abs()).sum())
        .fold(0.0, f64::max)
}

/// Weights are rounded to the storage type before they meet the values.
fn weights_slack(run: &Run) -> f64 {
    match run.dtype() {
        DType::BF16 => 2f64.powi(-7),
        DType::F16 => 2f64.powi(-10),
        _ => 4.0 * ACCUMULATION,
    }
}

fn largest(values: &[f64]) -> f64 {
    values
        .iter()
        .filter(|value| value.is_finite())
        .fold(0.0, |most, value| value.abs().max(most))
}

/// The value that `output` has by the interpreter, from what lies in memory for everything that `nodes` read; `given` is
/// a value that does not.
fn interpreted(
    run: &Run,
    nodes: &[ValueId],
    output: ValueId,
    given: Option<(ValueId, Vec<f64>)>,
) -> Result<(View, Vec<f64>), String> {
    let part = run.plan.part(nodes, output, given.as_ref().map(|(value, _)| *value));
    let mut inputs = BTreeMap::new();
    for (name, &value) in &part.inputs {
        let node = run.plan.graph.node(value);
        let shape: Option<Vec<usize>> = node.ty.shape.iter().map(|dim| dim.value(&run.dims)).collect();
        let shape = shape.ok_or_else(|| format!("`{name}` has a symbol without a value"))?;
        let bound = match (&given, run.plan.view(value)) {
            (Some((given, values)), _) if *given == value => Value::floats(&shape, values.clone()),
            (_, None) => return Err(format!("`{name}` has no place")),
            (_, Some(view)) if node.ty.dtype.is_float() => Value::floats(&shape, run.read(view)),
            (_, Some(view)) => Value::ints(&shape, run.read_ints(view)),
        };
        inputs.insert(name.clone(), bound);
    }
    let results = interpret::<f64>(&part.graph, &run.dims, &inputs).map_err(|error| error.to_string())?;
    let view = run.plan.view(output).ok_or("the result has no place")?.clone();
    let values = results["result"]
        .as_floats()
        .ok_or("the result is no tensor of floats")?;
    Ok((view, values.to_vec()))
}

/// Partial results and log-sum-exps of every split, by plain loops. A split begins at a multiple of the schedule's `block_n`
/// tokens.
fn split_attention(run: &Run, region: &AttentionRegion, schedule: &Schedule) -> Vec<Expected> {
    let block_n = schedule.block_n;
    let plan = &run.plan;
    let read = |value: ValueId| plan.view(value).map(|view| run.read(view)).unwrap_or_default();
    let ints = |value: ValueId| plan.view(value).map(|view| run.read_ints(view)).unwrap_or_default();
    let size = |symbol: Symbol| run.dims.get(symbol).unwrap_or(1);
    let (sequences, tokens, splits) = (size(Symbol::B), size(Symbol::T), size(Symbol::Z));
    let queries: Vec<_> = region
        .queries
        .iter()
        .map(|part| (read(part.value), part.columns.clone()))
        .collect();
    let (q_len, kv_len) = (ints(region.q_len), ints(region.kv_len));
    let rows = CachedRows::new(run, region.cache, region.block_table);
    let tiles_of = |len: i32| (len as usize).div_ceil(block_n);
    // The tiles of a split with which the batch makes as many blocks as it should.
    let row_blocks = (tokens * region.n_heads).div_ceil(schedule.block_m);
    let total: usize = kv_len.iter().map(|&len| tiles_of(len)).sum();
    let even = total.div_ceil((size(Symbol::W) / row_blocks).max(1));
    let (mut partial, mut lse, mut result) = (Vec::new(), Vec::new(), Vec::new());
    for z in 0..splits {
        for b in 0..sequences {
            let tiles = tiles_of(kv_len[b]);
            let share = tiles.div_ceil(splits).max(even).max(size(Symbol::F).div_ceil(block_n));
            let (begin, end) = (z * share, ((z + 1) * share).min(tiles));
            let there = begin < end;
            let whole = region.result.is_some() && tiles <= share;
            for row in 0..tokens * region.n_heads {
                let visible = kv_len[b]
                    .min(kv_len[b] - q_len[b] + (row / region.n_heads) as i32 + 1)
                    .max(0) as usize;
                let keys = begin * block_n..(end * block_n).min(visible);
                let scores: Vec<f64> = keys
                    .clone()
                    .map(|key| {
                        let cached = rows.row(b, key);
                        let of_part = |(values, columns): &(Vec<f64>, std::ops::Range<usize>)| {
                            let width = columns.len();
                            let query = &values[(b * tokens * region.n_heads + row) * width..][..width];
                            query
                                .iter()
                                .zip(&cached[columns.clone()])
                                .map(|(q, k)| q * k)
                                .sum::<f64>()
                        };
                        queries.iter().map(of_part).sum::<f64>() * region.scale
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                lse.push(match (z > 0 && whole, sum > 0.0) {
                    (true, _) => f64::INFINITY,
                    (false, true) => max + sum.ln(),
                    (false, false) => f64::NEG_INFINITY,
                });
                let value = |col: usize| {
                    let weigh = |(key, score): (usize, &f64)| (score - max).exp() / sum * rows.row(b, key)[col];
                    match sum > 0.0 {
                        true => keys.clone().zip(&scores).map(weigh).sum(),
                        false => 0.0,
                    }
                };
                let written = |there: bool| {
                    region
                        .values
                        .clone()
                        .map(move |col| if there { value(col) } else { f64::NAN })
                };
                partial.extend(written(there && !whole));
                if z == 0 {
                    result.extend(written(whole));
                }
            }
        }
    }
    let view = |buffer| View::contiguous(buffer, &plan.buffer(buffer).shape);
    let lse_slack = 2e-5 * (1.0 + largest(&lse));
    let slack = weights_slack(run) * rows.largest;
    let of_result = region.result.and_then(|result| plan.view(result)).cloned();
    let weighed = [(Some(view(region.partial)), partial), (of_result, result)];
    let lse = Expected {
        view: view(region.lse),
        values: lse,
        slack: lse_slack,
    };
    let weighed = weighed.into_iter().filter_map(|(view, values)| {
        Some(Expected {
            view: view?,
            values,
            slack,
        })
    });
    std::iter::once(lse).chain(weighed).collect()
}

/// Attention a head at a time, by plain loops.
fn prefilled(run: &Run, region: &PrefillRegion) -> Result<Expected, String> {
    let plan = &run.plan;
    let read = |value: ValueId| plan.view(value).map(|view| run.read(view)).unwrap_or_default();
    let ints = |value: ValueId| plan.view(value).map(|view| run.read_ints(view)).unwrap_or_default();
    let view = plan
        .view(region.output)
        .ok_or("the attention's result has no place")?
        .clone();
    let shape: Vec<usize> = view.shape.iter().filter_map(|dim| dim.value(&run.dims)).collect();
    let &[_, tokens, heads, columns] = shape.as_slice() else {
        return Err(format!("a result of shape {shape:?}"));
    };
    let cached = run.dims.get(Symbol::S).unwrap_or(1);
    let (q_len, kv_len) = (ints(region.q_len), ints(region.kv_len));
    let rows = q_len.len() * tokens * heads;
    let terms: Vec<_> = region
        .terms
        .iter()
        .map(|term| (read(term.query), keys_per_head(run, &term.keys, &kv_len, heads)))
        .collect();
    let values = read(region.values);
    let mut out = Vec::new();
    for row in 0..rows {
        let (b, t, h) = (row / heads / tokens, row / heads % tokens, row % heads);
        let visible = match (t as i32) < q_len[b] {
            true => (kv_len[b] - q_len[b] + t as i32 + 1).max(0) as usize,
            false => 0,
        };
        let of_key =
            |all: &[f64], s: usize, width: usize| all[((b * cached + s) * heads + h) * width..][..width].to_vec();
        let score = |s: usize| {
            let of_term = |(queries, keys): &(Vec<f64>, Vec<f64>)| {
                let width = queries.len() / rows;
                let query = &queries[row * width..][..width];
                query
                    .iter()
                    .zip(of_key(keys, s, width))
                    .map(|(q, k)| q * k)
                    .sum::<f64>()
            };
            region.scale * terms.iter().map(of_term).sum::<f64>()
        };
        let scores: Vec<f64> = (0..visible).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut weighed = vec![0.0; columns];
        for (s, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / sum;
            let value = of_key(&values, s, columns);
            weighed
                .iter_mut()
                .zip(value)
                .for_each(|(out, value)| *out += weight * value);
        }
        out.extend(weighed);
    }
    Ok(Expected {
        view,
        values: out,
        slack: weights_slack(run) * largest(&values),
    })
}

/// Keys as \[B, S, H, x\]; those that the heads share are repeated, NaN past each length.
fn keys_per_head(run: &Run, keys: &Keys, kv_len: &[i32], heads: usize) -> Vec<f64> {
    let (cache, table, columns) = match keys {
        Keys::PerHead(keys) => return run.plan.view(*keys).map(|view| run.read(view)).unwrap_or_default(),
        Keys::Cached {
            cache,
            block_table,
            columns,
        } => (*cache, *block_table, columns),
    };
    let rows = CachedRows::new(run, cache, table);
    let cached = run.dims.get(Symbol::S).unwrap_or(1);
    let mut all = Vec::new();
    for (b, &length) in kv_len.iter().enumerate() {
        for s in 0..cached {
            let row = match s < length as usize {
                true => rows.row(b, s)[columns.clone()].to_vec(),
                false => vec![f64::NAN; columns.len()],
            };
            all.extend(row.repeat(heads));
        }
    }
    all
}

/// The paged rows of every sequence.
struct CachedRows {
    values: Vec<f64>,
    table: Vec<i32>,
    entries: usize,
    page_size: usize,
    width: usize,
    largest: f64,
}

impl CachedRows {
    fn new(run: &Run, cache: ValueId, table: ValueId) -> CachedRows {
        let [cache, table] = [cache, table].map(|value| run.plan.view(value).expect("in memory"));
        let shape: Vec<usize> = cache.shape.iter().filter_map(|dim| dim.value(&run.dims)).collect();
        let values = run.read(cache);
        let largest = largest(&values);
        let entries = run.dims.get(Symbol::P).unwrap_or(1);
        CachedRows {
            values,
            table: run.read_ints(table),
            entries,
            page_size: shape[1],
            width: shape[2],
            largest,
        }
    }

    fn row(&self, sequence: usize, token: usize) -> &[f64] {
        let page = self.table[sequence * self.entries + token / self.page_size] as usize;
        let row = page * self.page_size + token % self.page_size;
        &self.values[row * self.width..][..self.width]
    }
}

/// The splits put together, from the partial results as they are; what attention has left whole in the result stays.
fn combined(run: &Run, region: &CombineRegion) -> Vec<f64> {
    let view = |buffer| View::contiguous(buffer, &run.plan.buffer(buffer).shape);
    let (partial, lse) = (run.read(&view(region.partial)), run.read(&view(region.lse)));
    let [sequences, tokens, splits] = [Symbol::B, Symbol::T, Symbol::Z].map(|symbol| run.dims.get(symbol).unwrap_or(1));
    let rows = sequences * tokens * region.n_heads;
    let mut out = match (region.projection, run.plan.view(region.result)) {
        (None, Some(view)) => run.read(view),
        _ => vec![f64::NAN; rows * region.columns],
    };
    for row in 0..rows {
        let whole = splits < 2 || lse[rows + row] == f64::INFINITY;
        if region.projection.is_none() && whole {
            continue;
        }
        let lse = |z: usize| lse[z * rows + row];
        let max = (0..splits).map(lse).fold(f64::NEG_INFINITY, f64::max);
        let weight = |z: usize| if max.is_finite() { (lse(z) - max).exp() } else { 0.0 };
        let weights: Vec<f64> = (0..splits).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        for col in 0..region.columns {
            let weigh = |(z, weight): (usize, &f64)| match *weight {
                0.0 => 0.0,
                weight => weight / sum * partial[(z * rows + row) * region.columns + col],
            };
            out[row * region.columns + col] = weights.iter().enumerate().map(weigh).sum::<f64>();
        }
    }
    out
}
