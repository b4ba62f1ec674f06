//! Finds up-projections: a contraction per head whose columns are rotated, or multiplied with a weight of the head, where
//! they are made.

use super::super::{ProjectedPart, UpProjectionRegion};
use super::epilogue::epilogue;
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use crate::size::Dim;
use std::collections::BTreeSet;

/// An up-projection that one kernel can compute.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plan) struct UpProjected {
    /// The nodes it covers, in order.
    pub nodes: Vec<ValueId>,
    pub region: UpProjectionRegion,
}

/// Every up-projection outside `taken`.
pub(in crate::plan) fn up_projections(graph: &Graph, taken: &BTreeSet<ValueId>) -> Vec<UpProjected> {
    let finder = Finder {
        graph,
        taken,
        constants: graph.constants(),
    };
    let free = graph.values().filter(|product| !taken.contains(product));
    free.filter_map(|product| finder.up_projection(product)).collect()
}

struct Finder<'a> {
    graph: &'a Graph,
    taken: &'a BTreeSet<ValueId>,
    constants: Vec<bool>,
}

impl Finder<'_> {
    fn up_projection(&self, product: ValueId) -> Option<UpProjected> {
        let Op::Einsum(spec) = &self.graph.node(product).op else {
            return None;
        };
        if !is_per_head(spec) {
            return None;
        }
        let (epilogue, _) = epilogue(self.graph, product, self.taken);
        let made = epilogue.last().copied().unwrap_or(product);
        let (parts, slices) = self.parts(made)?;
        // Columns that all go to memory as they are need no kernel but the contraction's.
        let used = |part: &ProjectedPart| !matches!(self.graph.node(part.value).op, Op::Slice { .. });
        let mut nodes: BTreeSet<ValueId> = epilogue.iter().chain(&slices).copied().collect();
        nodes.insert(product);
        nodes.extend(parts.iter().map(|part| part.value));
        parts.iter().any(used).then(|| UpProjected {
            nodes: nodes.into_iter().collect(),
            region: UpProjectionRegion {
                product,
                epilogue,
                parts,
            },
        })
    }

    /// What becomes of the columns of `made` \[B, T, H, m\], and the slices that cut them.
    fn parts(&self, made: ValueId) -> Option<(Vec<ProjectedPart>, Vec<ValueId>)> {
        let graph = self.graph;
        if graph.is_output(made) {
            return None;
        }
        let users = graph.users(made);
        if let &[user] = users.as_slice()
            && self.takes(user, made)
        {
            let &Dim::Const(width) = graph.ty(made).shape.last()? else {
                return None;
            };
            let columns = 0..width;
            return Some((vec![ProjectedPart { columns, value: user }], Vec::new()));
        }
        let mut parts = Vec::new();
        for &slice in &users {
            let &Op::Slice { axis: 3, start, len } = &graph.node(slice).op else {
                return None;
            };
            let user = graph.sole_user(slice).filter(|&user| self.takes(user, slice));
            let value = user.unwrap_or(slice);
            let columns = start..start + len;
            parts.push(ProjectedPart { columns, value });
        }
        parts.sort_by_key(|part| (part.columns.start, part.value));
        Some((parts, users))
    }

    /// Whether `user` can be computed of the columns `value` in the kernel that makes them.
    fn takes(&self, user: ValueId, value: ValueId) -> bool {
        let node = self.graph.node(user);
        if self.taken.contains(&user) {
            return false;
        }
        match (&node.op, node.args.as_slice()) {
            (Op::Rope { .. }, &[x, ref read @ ..]) => x == value && read.iter().all(|&arg| self.is_given(arg)),
            (Op::Einsum(spec), &[x, weight]) => x == value && self.is_given(weight) && is_of_each_head(spec),
            _ => false,
        }
    }

    /// Whether `value` is there before the kernel, whatever the order of the nodes.
    fn is_given(&self, value: ValueId) -> bool {
        self.constants[value.0] || matches!(self.graph.node(self.graph.root(value)).op, Op::Input { .. })
    }
}

/// Rows b t, and for each head the columns m: `b t k, h m k -> b t h m`, the weight's labels in any order.
fn is_per_head(spec: &EinsumSpec) -> bool {
    let roles = spec.roles();
    let [b, t, h, m] = spec.out.as_slice() else {
        return false;
    };
    let alone = roles.batch.is_empty() && roles.sum_a.is_empty() && roles.sum_b.is_empty();
    alone && roles.m == [b, t] && roles.n == [h, m] && roles.k.len() == 1
}

/// `b t h n, h n c -> b t h c`, the weight's labels in any order.
fn is_of_each_head(spec: &EinsumSpec) -> bool {
    let roles = spec.roles();
    let ([b, t, h, n], [b2, t2, h2, c]) = (spec.a.as_slice(), spec.out.as_slice()) else {
        return false;
    };
    let alone = roles.sum_a.is_empty() && roles.sum_b.is_empty();
    alone && [b, t, h] == [b2, t2, h2] && roles.batch == [h] && roles.n == [c] && roles.k == [n]
}
