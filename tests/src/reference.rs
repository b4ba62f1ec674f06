//! What a kernel must write, in f64, from the values it finds in memory.

use crate::case::Run;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::graph::{Graph, Node, Op, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::plan::{AttentionRegion, CombineRegion, Region, RegionKind, View};
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
        RegionKind::Node(value) => {
            let (view, values) = interpreted(run, &region.nodes, *value)?;
            let slack = ACCUMULATION * largest(&values);
            Ok(vec![Expected { view, values, slack }])
        }
        RegionKind::Attention(attention) => Ok(split_attention(run, attention, schedule.block_n)),
        RegionKind::Combine(combine) => {
            let view = run
                .plan
                .view(combine.output)
                .ok_or("the combine's result has no place")?
                .clone();
            let values = combined(run, combine);
            let slack = ACCUMULATION * largest(&values);
            let own = Expected { view, values, slack };
            // Together with the attention before it, it is what the graph says.
            let (view, values) = interpreted(run, &region.nodes, combine.output)?;
            let slack = weights_slack(run) * largest(&values);
            Ok(vec![own, Expected { view, values, slack }])
        }
    }
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

/// The value that `output` has by the interpreter, from what lies in memory for everything that `nodes` read.
fn interpreted(run: &Run, nodes: &[ValueId], output: ValueId) -> Result<(View, Vec<f64>), String> {
    let mut part = Part {
        run,
        nodes,
        graph: Graph::default(),
        inputs: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    part.graph.name = "part".into();
    let value = part.value(output)?;
    part.graph.outputs.push(("result".into(), value));
    let results = interpret::<f64>(&part.graph, &run.dims, &part.inputs).map_err(|error| error.to_string())?;
    let view = run.plan.view(output).ok_or("the result has no place")?.clone();
    let values = results["result"]
        .as_floats()
        .ok_or("the result is no tensor of floats")?;
    Ok((view, values.to_vec()))
}

/// The part of the plan's graph that a kernel covers.
struct Part<'a> {
    run: &'a Run,
    nodes: &'a [ValueId],
    graph: Graph,
    inputs: BTreeMap<String, Value<f64>>,
    known: BTreeMap<ValueId, ValueId>,
}

impl Part<'_> {
    fn value(&mut self, value: ValueId) -> Result<ValueId, String> {
        if let Some(&known) = self.known.get(&value) {
            return Ok(known);
        }
        let node = self.run.plan.graph.node(value).clone();
        let inside = self.nodes.contains(&value) || self.run.plan.view(value).is_none();
        let node = match inside {
            true => {
                let args = node.args.iter().map(|&arg| self.value(arg)).collect::<Result<_, _>>()?;
                Node { args, ..node }
            }
            false => self.input(value, node)?,
        };
        self.graph.nodes.push(node);
        let new = ValueId(self.graph.nodes.len() - 1);
        self.known.insert(value, new);
        Ok(new)
    }

    fn input(&mut self, value: ValueId, node: Node) -> Result<Node, String> {
        let view = self
            .run
            .plan
            .view(value)
            .ok_or_else(|| format!("`{}` has no place", node.name))?;
        let shape: Option<Vec<usize>> = node.ty.shape.iter().map(|dim| dim.value(&self.run.dims)).collect();
        let shape = shape.ok_or_else(|| format!("`{}` has a symbol without a value", node.name))?;
        let bound = match node.ty.dtype.is_float() {
            true => Value::floats(&shape, self.run.read(view)),
            false => Value::ints(&shape, self.run.read_ints(view)),
        };
        self.inputs.insert(node.name.clone(), bound);
        Ok(Node {
            op: Op::Input {
                name: node.name.clone(),
                constant: false,
            },
            args: Vec::new(),
            ..node
        })
    }
}

/// Partial results and log-sum-exps of every split, by plain loops. A split begins at a multiple of `block_n` tokens.
fn split_attention(run: &Run, region: &AttentionRegion, block_n: usize) -> Vec<Expected> {
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
    let rows = CachedRows::new(run, region);
    let mut partial = Vec::new();
    let mut lse = Vec::new();
    for b in 0..sequences {
        let tiles = (kv_len[b] as usize).div_ceil(block_n);
        let share = tiles.div_ceil(splits);
        for z in 0..splits {
            let (begin, end) = (z * share, ((z + 1) * share).min(tiles));
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
                lse.push(if sum > 0.0 { max + sum.ln() } else { f64::NEG_INFINITY });
                partial.extend(region.values.clone().map(|col| {
                    let weigh = |(key, score): (usize, &f64)| (score - max).exp() / sum * rows.row(b, key)[col];
                    match (begin < end, sum > 0.0) {
                        (false, _) => f64::NAN,
                        (true, false) => 0.0,
                        (true, true) => keys.clone().zip(&scores).map(weigh).sum(),
                    }
                }));
            }
        }
    }
    let view = |buffer| View::contiguous(buffer, &plan.buffer(buffer).shape);
    let lse_slack = 2e-5 * (1.0 + largest(&lse));
    vec![
        Expected {
            view: view(region.lse),
            values: lse,
            slack: lse_slack,
        },
        Expected {
            view: view(region.partial),
            values: partial,
            slack: weights_slack(run) * rows.largest,
        },
    ]
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
    fn new(run: &Run, region: &AttentionRegion) -> CachedRows {
        let [cache, table] = [region.cache, region.block_table].map(|value| run.plan.view(value).expect("in memory"));
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

/// The splits put together, from the partial results as they are.
fn combined(run: &Run, region: &CombineRegion) -> Vec<f64> {
    let view = |buffer| View::contiguous(buffer, &run.plan.buffer(buffer).shape);
    let (partial, lse) = (run.read(&view(region.partial)), run.read(&view(region.lse)));
    let size = |symbol: Symbol| run.dims.get(symbol).unwrap_or(1);
    let (sequences, splits) = (size(Symbol::B), size(Symbol::Z));
    let rows = size(Symbol::T) * region.n_heads;
    let mut out = Vec::new();
    for b in 0..sequences {
        for row in 0..rows {
            let place = |z: usize| (b * splits + z) * rows + row;
            let max = (0..splits).map(|z| lse[place(z)]).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..splits)
                .map(|z| {
                    if max.is_finite() {
                        (lse[place(z)] - max).exp()
                    } else {
                        0.0
                    }
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..region.columns).map(|col| {
                let weigh = |(z, weight): (usize, &f64)| match *weight {
                    0.0 => 0.0,
                    weight => weight / sum * partial[place(z) * region.columns + col],
                };
                weights.iter().enumerate().map(weigh).sum::<f64>()
            }));
        }
    }
    out
}
