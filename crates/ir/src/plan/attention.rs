//! The kernels of an attention: attention itself, which leaves a part for each split, and the combine of the parts.

use super::{
    AttentionRegion, BufferRole, CombineRegion, Plan, Projection, Region, RegionKind, buffers, fuse, kernel_name,
    push_buffer,
};
use crate::graph::ValueId;
use crate::size::{Dim, Size, Symbol};
use mlafuse_tensor::DType;
use std::collections::BTreeSet;

pub(super) fn add_attention(plan: &mut Plan, found: &fuse::Found, names: &mut BTreeSet<String>) {
    let Some(&result) = found.nodes.last() else { return };
    let name = kernel_name("attention", names);
    let mut part = vec![Dim::Sym(Symbol::Z)];
    part.extend(&plan.graph.ty(result).shape);
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
    };
    let reads = buffers(plan, &found.reads());
    plan.kernels.push(Region {
        name,
        kind: RegionKind::Attention(region),
        nodes: found.nodes.clone(),
        reads,
        writes: vec![partial, lse],
    });
}

/// The combine of the attention whose result is `of`, which has its kernel already.
pub(super) fn add_combine(
    plan: &mut Plan,
    of: ValueId,
    projection: Option<Projection>,
    output: ValueId,
    nodes: Vec<ValueId>,
    names: &mut BTreeSet<String>,
) {
    let attention = plan.kernels.iter().find_map(|kernel| match &kernel.kind {
        RegionKind::Attention(attention) if kernel.nodes.last() == Some(&of) => Some(attention),
        _ => None,
    });
    let attention = attention.expect("the attention's draft comes before that of its combine");
    let region = CombineRegion {
        partial: attention.partial,
        lse: attention.lse,
        n_heads: attention.n_heads,
        columns: attention.values.len(),
        result: of,
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
