//! Finds what a contraction's kernel can do to each element on its way to memory: a bias, factors, casts.

use crate::graph::{Graph, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// For the last node of each chain that a contraction's kernel can compute, the contraction and the nodes between; and a
/// note for each node that it cannot. Contractions among `taken` are parts of other kernels.
pub(in crate::plan) fn epilogues(
    graph: &Graph,
    taken: &BTreeSet<ValueId>,
) -> (BTreeMap<ValueId, Vec<ValueId>>, Vec<String>) {
    let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
    let mut taken = taken.clone();
    for product in graph.values() {
        if taken.contains(&product) || !matches!(graph.node(product).op, Op::Einsum(_)) {
            continue;
        }
        let (mut chain, reason) = epilogue(graph, product, &taken);
        notes.extend(reason);
        taken.extend(&chain);
        let Some(last) = chain.pop() else { continue };
        chain.insert(0, product);
        found.insert(last, chain);
    }
    (found, notes)
}

/// The nodes after `product` that its kernel can compute, each the only reader of the one before, none of them `taken`; and
/// why the next one cannot join them.
pub(super) fn epilogue(graph: &Graph, product: ValueId, taken: &BTreeSet<ValueId>) -> (Vec<ValueId>, Option<String>) {
    let mut chain = Vec::new();
    let mut last = product;
    loop {
        let Some(next) = graph.sole_user(last).filter(|user| !taken.contains(user)) else {
            return (chain, None);
        };
        match joins(graph, product, &chain, next) {
            Ok(true) => chain.push(next),
            Ok(false) => return (chain, None),
            Err(reason) => {
                let (next, product) = (&graph.node(next).name, &graph.node(product).name);
                return (chain, Some(format!("`{next}` not fused with `{product}`: {reason}")));
            }
        }
        last = next;
    }
}

/// Whether `next` can follow `chain` in the kernel of `product`.
fn joins(graph: &Graph, product: ValueId, chain: &[ValueId], next: ValueId) -> Result<bool, &'static str> {
    let (node, last) = (graph.node(next), chain.last().copied().unwrap_or(product));
    let any = |wanted: fn(&Op) -> bool| chain.iter().any(|&value| wanted(&graph.node(value).op));
    match (&node.op, node.args.as_slice()) {
        (Op::Scale { .. } | Op::Cast, _) => Ok(true),
        // The sum begins with the bias.
        (Op::Add, &[a, b]) if a == last && b != last => match any(|op| *op != Op::Cast) {
            true => Err("a bias can be added to the sum itself, not after other nodes"),
            false => Ok(true),
        },
        (Op::ScaleRows, &[x, r]) if x == last && r != last => {
            if any(|op| *op == Op::ScaleRows) {
                return Err("its rows have factors already");
            }
            match factors_follow_rows(graph, product, r) {
                true => Ok(true),
                false => Err("its factors differ within a row of the product"),
            }
        }
        _ => Ok(false),
    }
}

/// Whether the labels that the factors `r` run over are those of a product's rows.
fn factors_follow_rows(graph: &Graph, product: ValueId, r: ValueId) -> bool {
    let Op::Einsum(spec) = &graph.node(product).op else {
        return false;
    };
    let (roles, labels) = (spec.roles(), graph.ty(r).shape.len());
    let mut of_factors = spec.out.iter().take(labels);
    of_factors.all(|label| !roles.n.contains(&label.as_str()))
}
