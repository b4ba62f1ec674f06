//! Finds what a cache write can compute on its way: the norm of its latents and the rope of its keys.

use crate::graph::{Graph, Op, ValueId};
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
        nodes.sort();
        found.insert(write, nodes);
    }
    (found, notes)
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
        _ => false,
    };
    let needed = graph.users(part).len() != 1 || graph.outputs.iter().any(|&(_, output)| output == part);
    if joins && needed {
        return Err("it is needed elsewhere too".to_string());
    }
    Ok(joins)
}
