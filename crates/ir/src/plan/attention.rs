//! The kernels of an attention: attention itself, which leaves a part for each split, and the combine of the parts.

use super::{
    AttentionRegion, BufferId, BufferRole, CombineRegion, Plan, Projection, Region, RegionKind, buffers, fuse,
    kernel_name, push_buffer,
};
use crate::graph::ValueId;
use crate::size::{Dim, Size, Symbol};
use mlafuse_tensor::DType;
use std::collections::BTreeSet;

/// Adds attention, which leaves what needs no combine in `result` where that is to be in memory; gives the buffers of its
/// partial results and of their log-sum-exps.
pub(super) fn add_attention(
    plan: &mut Plan,
    found: &fuse::Found,
    result: Option<ValueId>,
    names: &mut BTreeSet<String>,
) -> [BufferId; 2] {
    let shape = found.nodes.last().map(|&result| plan.graph.ty(result).shape.clone());
    let name = kernel_name("attention", names);
    let mut part = vec![Dim::Sym(Symbol::Z)];
    part.extend(shape.into_iter().flatten());
    let rows = &part[..part.len() - 1];
    let mut temp = |what: &str, shape: &[Dim]| {
        let size = Size::product(shape);
        push_buffer(
            plan,
            &format!("{name}_{what}"),
            DType::F32,
            shape,
            BufferRole::Temp,
            size,
        )
    };
    let (partial, lse) = (temp("partial", &part), temp("lse", rows));
    let region = AttentionRegion {
        queries: found.queries.clone(),
        values: found.values.clone(),
        cache: found.cache,
        block_table: found.block_table,
        q_len: found.q_len,
        kv_len: found.kv_len,
        scale: found.scale,
        n_heads: found.n_heads,
        partial,
        lse,
        result,
    };
    let reads = buffers(plan, &found.reads());
    let writes = [vec![partial, lse], buffers(plan, result.as_slice())].concat();
    plan.kernels.push(Region {
        name,
        kind: RegionKind::Attention(region),
        nodes: found.nodes.clone(),
        reads,
        writes,
    });
    [partial, lse]
}

/// Adds the combine of an attention's parts to `output`: the attention's result, or what the projection makes of it.
pub(super) fn add_combine(
    plan: &mut Plan,
    found: &fuse::Found,
    [partial, lse]: [BufferId; 2],
    (projection, output): (Option<Projection>, ValueId),
    nodes: Vec<ValueId>,
    names: &mut BTreeSet<String>,
) {
    let region = CombineRegion {
        partial,
        lse,
        n_heads: found.n_heads,
        columns: found.values.len(),
        result: found.nodes.last().copied().unwrap_or(output),
        projection,
        output,
    };
    let mut reads = vec![region.partial, region.lse];
    reads.extend(
        projection
            .iter()
            .flat_map(|projection| buffers(plan, &[projection.weight])),
    );
    let writes = buffers(plan, &[output]);
    plan.kernels.push(Region {
        name: kernel_name("combine", names),
        kind: RegionKind::Combine(region),
        nodes,
        reads,
        writes,
    });
}
