//! Finds attention over cached rows: softmax between two contractions over the same dimension.

use super::super::QueryPart;
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use crate::infer::shape_text;
use crate::size::Dim;
use std::collections::BTreeMap;
use std::ops::Range;

/// An attention that one kernel can compute.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plan) struct Found {
    /// The nodes it covers, in order; the last makes the result.
    pub nodes: Vec<ValueId>,
    pub queries: Vec<QueryPart>,
    pub values: Range<usize>,
    pub cache: ValueId,
    pub block_table: ValueId,
    pub q_len: ValueId,
    pub kv_len: ValueId,
    pub scale: f64,
    pub n_heads: usize,
}

impl Found {
    /// The values the kernel reads.
    pub fn reads(&self) -> Vec<ValueId> {
        let queries = self.queries.iter().map(|part| part.value);
        queries
            .chain([self.cache, self.block_table, self.q_len, self.kv_len])
            .collect()
    }
}

/// Every attention over values that all heads share that can be fused, by the value it makes, and a note for every softmax
/// whose attention cannot.
pub(in crate::plan) fn attentions(graph: &Graph) -> (BTreeMap<ValueId, Found>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut notes = Vec::new();
    for softmax in graph.values().filter(|&value| graph.node(value).op == Op::Softmax) {
        match weighted_sum(graph, softmax) {
            Some(sum) if sum.is_per_head() => {}
            Some(sum) => match attention(graph, softmax, &sum) {
                Ok(attention) => {
                    found.insert(sum.output, attention);
                }
                Err(reason) => notes.push(format!("attention not fused: {reason}")),
            },
            None => notes.push(format!(
                "softmax `{}` not fused: no single contraction sums over its last dimension",
                graph.node(softmax).name
            )),
        }
    }
    (found, notes)
}

/// The contraction that weighs values by a softmax.
pub(super) struct WeightedSum {
    /// Casts between the softmax and the contraction.
    pub casts: Vec<ValueId>,
    pub output: ValueId,
    pub values: ValueId,
    /// Labels of weights, values and result.
    pub labels: EinsumSpec,
}

impl WeightedSum {
    /// Whether each head has its own values ([`super::prefills`]) and not all the same.
    pub fn is_per_head(&self) -> bool {
        self.labels.b.len() == 4
    }
}

pub(super) fn weighted_sum(graph: &Graph, softmax: ValueId) -> Option<WeightedSum> {
    let mut casts = Vec::new();
    let mut weights = softmax;
    loop {
        let &[user] = graph.users(weights).as_slice() else {
            return None;
        };
        match &graph.node(user).op {
            Op::Cast => {
                casts.push(user);
                weights = user;
            }
            Op::Einsum(spec) => {
                let (values, labels) = with_first(graph, user, spec, weights)?;
                let summed = labels.a.last()?;
                let sums = labels.b.contains(summed) && !labels.out.contains(summed);
                return sums.then_some(WeightedSum {
                    casts,
                    output: user,
                    values,
                    labels,
                });
            }
            _ => return None,
        }
    }
}

/// The other operand of a contraction, and its labels with those of `first` first.
pub(super) fn with_first(
    graph: &Graph,
    einsum: ValueId,
    spec: &EinsumSpec,
    first: ValueId,
) -> Option<(ValueId, EinsumSpec)> {
    match *graph.node(einsum).args.as_slice() {
        [a, b] if a == first && b != first => Some((b, spec.clone())),
        [a, b] if b == first && a != first => Some((
            a,
            EinsumSpec {
                a: spec.b.clone(),
                b: spec.a.clone(),
                out: spec.out.clone(),
            },
        )),
        _ => None,
    }
}

/// Rows of a cache: the read, and the columns of it that a value is.
pub(super) struct CachedColumns {
    pub read: ValueId,
    pub columns: Range<usize>,
}

pub(super) fn cached_columns(graph: &Graph, value: ValueId) -> Option<CachedColumns> {
    let node = graph.node(value);
    match (&node.op, node.args.as_slice()) {
        (Op::CacheRead, _) => match node.ty.shape.last() {
            Some(&Dim::Const(width)) => Some(CachedColumns {
                read: value,
                columns: 0..width,
            }),
            _ => None,
        },
        (Op::Slice { axis: 2, start, len }, &[from]) => {
            let whole = cached_columns(graph, from)?;
            let start = whole.columns.start + start;
            Some(CachedColumns {
                read: whole.read,
                columns: start..start + len,
            })
        }
        _ => None,
    }
}

fn not_cached(graph: &Graph, what: &str, value: ValueId) -> String {
    let node = graph.node(value);
    let shape = shape_text(&node.ty.shape);
    format!(
        "{what} `{}` are {shape}, not columns of the rows of one cache_read",
        node.name
    )
}

fn attention(graph: &Graph, softmax: ValueId, sum: &WeightedSum) -> Result<Found, String> {
    let name = |value: ValueId| graph.node(value).name.as_str();
    let scores = scores(graph, softmax)?;
    let values = cached_columns(graph, sum.values).ok_or_else(|| not_cached(graph, "values", sum.values))?;
    let mut queries = Vec::new();
    for &term in &scores.terms {
        queries.push(query_part(graph, term, &values)?);
    }
    queries.sort_by_key(|part| part.columns.start);
    if let Some(pair) = queries
        .windows(2)
        .find(|pair| pair[1].columns.start < pair[0].columns.end)
    {
        return Err(format!(
            "`{}` and `{}` meet the same columns",
            name(pair[0].value),
            name(pair[1].value)
        ));
    }
    check_labels(sum).map_err(|labels| format!("`{}` is {labels}, not b t h s, b s c -> b t h c", name(sum.output)))?;
    let &[cache, block_table, kv_len] = graph.node(values.read).args.as_slice() else {
        return Err(format!(
            "`{}` has {} arguments",
            name(values.read),
            graph.node(values.read).args.len()
        ));
    };
    if scores.kv_len != kv_len {
        return Err(format!(
            "the mask ends at `{}`, the cached rows at `{}`",
            name(scores.kv_len),
            name(kv_len)
        ));
    }
    let n_heads = match graph.ty(sum.output).shape.get(2) {
        Some(&Dim::Const(heads)) => heads,
        _ => return Err(format!("the number of heads of `{}` is not known", name(sum.output))),
    };
    check_types(graph, cache, &queries)?;
    let mut nodes = scores.nodes;
    nodes.push(softmax);
    nodes.extend(&sum.casts);
    check_private(graph, &nodes)?;
    nodes.push(sum.output);
    nodes.sort();
    let (q_len, scale) = (scores.q_len, scores.scale);
    Ok(Found {
        nodes,
        queries,
        values: values.columns,
        cache,
        block_table,
        q_len,
        kv_len,
        scale,
        n_heads,
    })
}

/// What a softmax is taken of.
pub(super) struct Scores {
    /// Contractions that are summed.
    pub terms: Vec<ValueId>,
    /// Everything between them and the softmax, and they.
    pub nodes: Vec<ValueId>,
    pub scale: f64,
    pub q_len: ValueId,
    pub kv_len: ValueId,
}

pub(super) fn scores(graph: &Graph, softmax: ValueId) -> Result<Scores, String> {
    let mut scale = 1.0;
    let mut mask = None;
    let mut nodes = Vec::new();
    let mut terms = Vec::new();
    let mut open: Vec<ValueId> = graph.node(softmax).args.clone();
    while let Some(value) = open.pop() {
        let node = graph.node(value);
        nodes.push(value);
        match (&node.op, node.args.as_slice()) {
            (Op::Einsum(_), _) => terms.push(value),
            (Op::Add, &[a, b]) if graph.ty(a).shape == graph.ty(b).shape => open.extend([b, a]),
            (Op::Cast, &[x]) => open.push(x),
            // A factor or mask of one term alone is not one of the whole sum.
            (Op::Scale { factor }, &[x]) if terms.is_empty() && open.is_empty() => {
                scale *= factor;
                open.push(x);
            }
            (Op::Mask, &[x, q_len, kv_len]) if mask.is_none() && terms.is_empty() && open.is_empty() => {
                mask = Some((q_len, kv_len));
                open.push(x);
            }
            _ => {
                return Err(format!(
                    "scores come from `{}`, not from a sum of contractions",
                    node.name
                ));
            }
        }
    }
    let Some((q_len, kv_len)) = mask else {
        return Err(format!(
            "the scores of `{}` are not masked by length",
            graph.node(softmax).name
        ));
    };
    Ok(Scores {
        terms,
        nodes,
        scale,
        q_len,
        kv_len,
    })
}

/// The query of one contraction of the scores, whose other operand must be columns of the rows `values` come from.
fn query_part(graph: &Graph, term: ValueId, values: &CachedColumns) -> Result<QueryPart, String> {
    let node = graph.node(term);
    let (Op::Einsum(spec), &[a, b]) = (&node.op, node.args.as_slice()) else {
        return Err(format!("`{}` is no contraction", node.name));
    };
    let keys = |value| cached_columns(graph, value).filter(|keys| keys.read == values.read);
    let (query, columns) = match (keys(b), keys(a)) {
        (Some(keys), _) => (a, keys.columns),
        (_, Some(keys)) => (b, keys.columns),
        _ => return Err(not_cached(graph, "keys", b)),
    };
    let (_, spec) = with_first(graph, term, spec, query)
        .ok_or_else(|| format!("`{}` multiplies a value with itself", node.name))?;
    let fits = match (spec.a.as_slice(), spec.b.as_slice(), spec.out.as_slice()) {
        ([b, t, h, c], [b2, s, c2], out) => (b, c) == (b2, c2) && out == [b, t, h, s].map(String::clone),
        _ => false,
    };
    if !fits {
        return Err(format!("`{}` is {spec}, not b t h c, b s c -> b t h s", node.name));
    }
    Ok(QueryPart { value: query, columns })
}

fn check_labels(sum: &WeightedSum) -> Result<(), String> {
    let EinsumSpec { a, b, out } = &sum.labels;
    let fits = match (a.as_slice(), b.as_slice()) {
        ([b, t, h, s], [b2, s2, c]) => (b, s) == (b2, s2) && *out == [b, t, h, c].map(String::clone),
        _ => false,
    };
    if fits { Ok(()) } else { Err(sum.labels.to_string()) }
}

/// The parts and the rows are multiplied with each other, so they have one type.
fn check_types(graph: &Graph, cache: ValueId, queries: &[QueryPart]) -> Result<(), String> {
    let expected = graph.ty(cache).dtype;
    match queries.iter().find(|part| graph.ty(part.value).dtype != expected) {
        Some(part) => {
            let (node, cache) = (graph.node(part.value), &graph.node(cache).name);
            Err(format!(
                "query `{}` is {}, the rows of `{cache}` are {expected}",
                node.name, node.ty.dtype
            ))
        }
        None => Ok(()),
    }
}

/// Nothing outside may need what stays inside.
pub(super) fn check_private(graph: &Graph, nodes: &[ValueId]) -> Result<(), String> {
    match nodes.iter().find(|&&node| graph.sole_user(node).is_none()) {
        Some(&node) => Err(format!("`{}` is needed elsewhere too", graph.node(node).name)),
        None => Ok(()),
    }
}
