//! Finds what a cache write can compute on its way: the norm of its latents and the rope of its keys; and beside it, from
//! other rows of the same tokens: the norm of the query latents.

use crate::graph::{Graph, Op, ValueId};
use crate::size::Dim;
use std::collections::BTreeMap;

/// For every cache write, the nodes that its kernel computes too; and a note for each norm or rope that it cannot.
pub(in crate::plan) fn cache_rows(graph: &Graph) -> (BTreeMap<ValueId, Vec<ValueId>>, Vec<String>) {
    let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
    for write in graph.values().filter(|&value| graph.node(value).op == Op::CacheWrite) {
        let [_, parts @ .., _, q_len, kv_len] = graph.node(write).args.as_slice() else {
            continue;
        };
        let mut nodes = Vec::new();
        for &part in parts {
            match joins(graph, part, [*q_len, *kv_len]) {
                Ok(true) => nodes.push(part),
                Ok(false) => {}
                Err(reason) => {
                    let (part, write) = (&graph.node(part).name, &graph.node(write).name);
                    notes.push(format!("`{part}` not fused with `{write}`: {reason}"));
                }
            }
        }
        nodes.extend(beside(graph, write, &nodes));
        nodes.sort();
        found.insert(write, nodes);
    }
    (found, notes)
}

/// The norms of other rows of the tokens that `write` is for, which neither come before it nor after it.
fn beside(graph: &Graph, write: ValueId, parts: &[ValueId]) -> Vec<ValueId> {
    let writes = graph.values().filter(|&value| graph.node(value).op == Op::CacheWrite);
    // With two kernels that could have them, they might wait for each other.
    if writes.count() > 1 {
        return Vec::new();
    }
    let tokens = |value: ValueId| match graph.ty(value).shape.as_slice() {
        &[batch, tokens, Dim::Const(_)] => Some([batch, tokens]),
        _ => None,
    };
    let live = graph.live();
    let norm = |&value: &ValueId| {
        let node = graph.node(value);
        let (Op::RmsNorm { .. } | Op::InvRms { .. }, Some(&x), Some(&latent)) =
            (&node.op, node.args.first(), graph.node(write).args.get(1))
        else {
            return false;
        };
        let same_rows = tokens(x).is_some() && tokens(x) == tokens(latent);
        let apart = !graph.depends_on(write, value) && !graph.depends_on(value, write);
        same_rows && apart && live.contains(&value) && !parts.contains(&value)
    };
    graph.values().filter(norm).collect()
}

/// Whether a part of the new rows is a norm or rope that can be computed where it is written.
fn joins(graph: &Graph, part: ValueId, lengths: [ValueId; 2]) -> Result<bool, String> {
    let node = graph.node(part);
    let joins = match (&node.op, node.args.as_slice()) {
        (Op::RmsNorm { .. }, _) => true,
        (Op::Rope { .. }, &[_, _, _, q_len, kv_len]) => {
            if [q_len, kv_len] != lengths {
                return Err("its positions are not those of the rows".to_string());
            }
            true
        }
        (Op::Scale { .. } | Op::Cast | Op::Add, _) => {
            return Err("rows are normed or rotated on the way, nothing else".to_string());
        }
        _ => false,
    };
    if joins && graph.sole_user(part).is_none() {
        return Err("it is needed elsewhere too".to_string());
    }
    Ok(joins)
}
