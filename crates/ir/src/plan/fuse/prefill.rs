//! Finds attention over keys and values that each head has its own of, and the contractions that decompress them from the
//! cached rows.

use super::super::{Keys, PrefillRegion, ScoreTerm};
use super::attention::{WeightedSum, cached_columns, check_private, scores, weighted_sum, with_first};
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use crate::infer::shape_text;
use crate::size::Dim;
use std::collections::{BTreeMap, BTreeSet};

/// An attention that one kernel can compute.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plan) struct Prefill {
    /// The nodes it covers, in order; the last makes the result.
    pub nodes: Vec<ValueId>,
    pub region: PrefillRegion,
}

/// Every attention over keys and values per head that can be fused, by the value it makes, and a note for each that cannot.
pub(in crate::plan) fn prefills(graph: &Graph) -> (BTreeMap<ValueId, Prefill>, Vec<String>) {
    let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
    for softmax in graph.values().filter(|&value| graph.node(value).op == Op::Softmax) {
        let Some(sum) = weighted_sum(graph, softmax).filter(WeightedSum::is_per_head) else {
            continue;
        };
        match prefill(graph, softmax, &sum) {
            Ok(prefill) => {
                found.insert(sum.output, prefill);
            }
            Err(reason) => notes.push(format!("attention not fused: {reason}")),
        }
    }
    (found, notes)
}

/// The contractions that make keys and values of `prefills` from cached rows, and nothing else: each with the nodes between
/// it and the cache. They read the rows through the block table, and only those that are in use.
pub(in crate::plan) fn decompressions(
    graph: &Graph,
    prefills: &BTreeMap<ValueId, Prefill>,
) -> BTreeMap<ValueId, Vec<ValueId>> {
    let mut found = BTreeMap::new();
    for prefill in prefills.values() {
        let keys = prefill.region.terms.iter().filter_map(|term| match term.keys {
            Keys::PerHead(keys) => Some(keys),
            Keys::Cached { .. } => None,
        });
        for value in keys.chain([prefill.region.values]) {
            let made = graph.root(value);
            if let Some(nodes) = cached_operand(graph, made)
                && read_by(graph, made, prefills)
            {
                found.insert(made, nodes);
            }
        }
    }
    found
}

fn prefill(graph: &Graph, softmax: ValueId, sum: &WeightedSum) -> Result<Prefill, String> {
    let name = |value: ValueId| graph.node(value).name.as_str();
    let scores = scores(graph, softmax)?;
    check_labels(&sum.labels)
        .map_err(|labels| format!("`{}` is {labels}, not b t h s, b s h v -> b t h v", name(sum.output)))?;
    let terms = scores.terms.iter().map(|&term| score_term(graph, term, scores.kv_len));
    let region = PrefillRegion {
        terms: terms.collect::<Result<_, _>>()?,
        values: sum.values,
        q_len: scores.q_len,
        kv_len: scores.kv_len,
        scale: scores.scale,
        output: sum.output,
    };
    check_types(graph, &region)?;
    let mut nodes = scores.nodes;
    nodes.push(softmax);
    nodes.extend(&sum.casts);
    check_private(graph, &nodes)?;
    nodes.push(sum.output);
    nodes.sort();
    Ok(Prefill { nodes, region })
}

fn check_labels(labels: &EinsumSpec) -> Result<(), String> {
    let fits = match (labels.a.as_slice(), labels.b.as_slice()) {
        ([b, t, h, s], [b2, s2, h2, v]) => (b, s, h) == (b2, s2, h2) && labels.out == [b, t, h, v].map(String::clone),
        _ => false,
    };
    if fits { Ok(()) } else { Err(labels.to_string()) }
}

/// The query and keys of one contraction of the scores.
fn score_term(graph: &Graph, term: ValueId, kv_len: ValueId) -> Result<ScoreTerm, String> {
    let node = graph.node(term);
    let (Op::Einsum(spec), &[a, b]) = (&node.op, node.args.as_slice()) else {
        return Err(format!("`{}` is no contraction", node.name));
    };
    // The query is the operand that begins as the scores do.
    let query = if spec.a.get(..3) == spec.out.get(..3) { a } else { b };
    let (keys, spec) = with_first(graph, term, spec, query)
        .ok_or_else(|| format!("`{}` multiplies a value with itself", node.name))?;
    let wrong = || {
        format!(
            "`{}` is {spec}, not b t h x, b s h x -> b t h s or b t h x, b s x -> b t h s",
            node.name
        )
    };
    let ([b, t, h, x], [b2, s, .., x2]) = (spec.a.as_slice(), spec.b.as_slice()) else {
        return Err(wrong());
    };
    if (b, x) != (b2, x2) || spec.out != [b, t, h, s].map(String::clone) {
        return Err(wrong());
    }
    let keys = match &spec.b[2..spec.b.len() - 1] {
        [] => shared_keys(graph, keys, kv_len)?,
        [h2] if h2 == h => Keys::PerHead(keys),
        _ => return Err(wrong()),
    };
    Ok(ScoreTerm { query, keys })
}

/// Keys that all heads share: columns of the cached rows.
fn shared_keys(graph: &Graph, keys: ValueId, kv_len: ValueId) -> Result<Keys, String> {
    let node = graph.node(keys);
    let Some(cached) = cached_columns(graph, keys) else {
        return Err(format!(
            "keys `{}` are {}, neither per head nor columns of the rows of one cache_read",
            node.name,
            shape_text(&node.ty.shape)
        ));
    };
    match *graph.node(cached.read).args.as_slice() {
        [cache, block_table, read_to] if read_to == kv_len => Ok(Keys::Cached {
            cache,
            block_table,
            columns: cached.columns,
        }),
        _ => Err(format!(
            "the mask ends at `{}`, the rows of `{}` do not",
            graph.node(kv_len).name,
            graph.node(cached.read).name
        )),
    }
}

/// Queries, keys and values are multiplied with each other, so they have one type.
fn check_types(graph: &Graph, region: &PrefillRegion) -> Result<(), String> {
    let expected = graph.ty(region.values).dtype;
    let of_term = |term: &ScoreTerm| match term.keys {
        Keys::PerHead(keys) => [term.query, keys],
        Keys::Cached { cache, .. } => [term.query, cache],
    };
    let other = |&value: &ValueId| graph.ty(value).dtype != expected;
    match region.terms.iter().flat_map(of_term).find(other) {
        Some(value) => {
            let (node, values) = (graph.node(value), &graph.node(region.values).name);
            Err(format!(
                "`{}` is {}, the values `{values}` are {expected}",
                node.name, node.ty.dtype
            ))
        }
        None => Ok(()),
    }
}

/// The nodes from the cache to the first operand of a contraction that is `b s c, .. c .. -> .. b .. s ..`: the read and the
/// slices after it. `None` for every other node.
fn cached_operand(graph: &Graph, value: ValueId) -> Option<Vec<ValueId>> {
    let node = graph.node(value);
    let (Op::Einsum(spec), &[rows, _]) = (&node.op, node.args.as_slice()) else {
        return None;
    };
    let [b, s, c] = spec.a.as_slice() else { return None };
    let of_rows = |label: &&String| spec.a.contains(label) && !spec.b.contains(label);
    // A kernel tells sequences from rows by their dimensions, which a dimension of one index has no part in.
    let symbols = graph
        .ty(rows)
        .shape
        .iter()
        .take(2)
        .all(|dim| matches!(dim, Dim::Sym(_)));
    let fits = symbols && spec.out.iter().filter(of_rows).eq([b, s]) && spec.b.contains(c) && !spec.out.contains(c);
    let read = cached_columns(graph, rows).filter(|_| fits)?.read;
    let mut nodes = vec![rows];
    while let Some(&[from]) = nodes
        .last()
        .filter(|&&last| last != read)
        .map(|&last| graph.node(last).args.as_slice())
    {
        nodes.push(from);
    }
    nodes.reverse();
    Some(nodes)
}

/// Whether only these attentions read `value`, as keys or values of a head: they look at no row that is not in use.
fn read_by(graph: &Graph, value: ValueId, prefills: &BTreeMap<ValueId, Prefill>) -> bool {
    if graph.is_output(value) {
        return false;
    }
    let users: BTreeSet<ValueId> = graph.users(value).into_iter().collect();
    users.into_iter().all(|user| match graph.node(user).op {
        Op::Slice { .. } => read_by(graph, user, prefills),
        _ => prefills.values().any(|prefill| {
            let region = &prefill.region;
            let is_keys = |term: &ScoreTerm| term.keys == Keys::PerHead(value);
            prefill.nodes.contains(&user) && (region.values == value || region.terms.iter().any(is_keys))
        }),
    })
}

#[cfg(test)]
mod tests;
