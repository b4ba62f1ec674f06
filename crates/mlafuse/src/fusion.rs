//! Which fusions a part's plan has: those whose kernel fits the part, and by the cost model takes no longer than the kernels that
//! it replaces, as far as the model can tell.

use std::collections::{BTreeMap, BTreeSet};

use mlafuse_codegen::build::{BuildError, least_seconds};
use mlafuse_ir::graph::{Graph, Op, ValueId};
use mlafuse_ir::plan::{Plan, PlanError, Region, RegionKind, fused_except};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::Target;
use mlafuse_runtime::Splits;

/// A gain below this part of the time is less than the model knows.
const LEAST_GAIN: f64 = 0.1;

/// The fused plan of `graph` for launches of the sizes in `dims` on `target`, of which each takes `launch_s` seconds besides
/// what its kernel does. What is left out is a kernel a node, or part of other fusions, and the plan's notes say why.
///
/// Attention is not weighed: without its fusion all scores would lie in memory.
pub(crate) fn fused_for(graph: &Graph, target: &Target, launch_s: f64, dims: &Dims) -> Result<Plan, PlanError> {
    let [sequences, cached] = [Symbol::B, Symbol::S].map(|symbol| dims.get(symbol).unwrap_or(1));
    // As many as a batch of equals has where its blocks fill the part.
    let most = Splits::Balanced.most(dims, cached);
    let splits = target.sm_count.div_ceil(sequences.max(1)).min(most);
    let mut choice = Choice {
        graph,
        target,
        launch_s,
        dims: dims.clone().with(Symbol::Z, splits),
        modelled: BTreeMap::new(),
    };
    let (mut plan, mut left_out) = choice.fitting(BTreeMap::new())?;
    let mut weighed = BTreeSet::new();
    while let Some((region, fusion)) = plan.kernels.iter().find_map(|region| {
        let fusion = region.fusion()?;
        (!region.is_attention() && !weighed.contains(&fusion)).then_some((region, fusion))
    }) {
        weighed.insert(fusion);
        let mut without = left_out.clone();
        without.insert(fusion, String::new());
        let (apart, mut without) = choice.fitting(without)?;
        let [together_s, apart_s] = choice.differing(&plan, &apart);
        if apart_s < together_s * (1.0 - LEAST_GAIN) {
            let [together_us, apart_us] = [together_s, apart_s].map(|seconds| seconds * 1e6);
            let reason = format!("{together_us:.2} us modelled, {apart_us:.2} us apart");
            without.insert(fusion, note(&plan, region, &reason));
            (plan, left_out) = (fused_except(graph, &without)?, without);
        }
    }
    Ok(plan)
}

/// Fusions that were left out, and the note of each.
type LeftOut = BTreeMap<ValueId, String>;

struct Choice<'a> {
    graph: &'a Graph,
    target: &'a Target,
    launch_s: f64,
    dims: Dims,
    /// By [`key`].
    modelled: BTreeMap<Key, Result<f64, BuildError>>,
}

/// What tells a kernel from those of other plans of the graph.
type Key = (String, Vec<ValueId>);

fn key(region: &Region) -> Key {
    (region.name.clone(), region.nodes.clone())
}

impl Choice<'_> {
    /// The plan without the fusions `left_out` and those that no schedule fits to the part.
    fn fitting(&mut self, mut left_out: LeftOut) -> Result<(Plan, LeftOut), PlanError> {
        loop {
            let plan = fused_except(self.graph, &left_out)?;
            let too_large = plan.kernels.iter().find_map(|region| {
                let fusion = region.fusion()?;
                match self.seconds(&plan, region) {
                    Err(error @ BuildError::NoSchedule { .. }) => {
                        Some((fusion, note(&plan, region, &error.to_string())))
                    }
                    _ => None,
                }
            });
            match too_large {
                Some((fusion, note)) => left_out.insert(fusion, note),
                None => return Ok((plan, left_out)),
            };
        }
    }

    /// What the cost model says of a kernel, its launch apart.
    fn seconds(&mut self, plan: &Plan, region: &Region) -> &Result<f64, BuildError> {
        let (target, dims) = (self.target, &self.dims);
        let modelled = || least_seconds(plan, region, target, dims);
        self.modelled.entry(key(region)).or_insert_with(modelled)
    }

    /// What the kernels take that only the one and only the other of two plans has. A kernel that cannot be built takes for
    /// ever.
    fn differing(&mut self, one: &Plan, other: &Plan) -> [f64; 2] {
        [(one, other), (other, one)].map(|(plan, other)| {
            let has = |wanted: &&Region| !other.kernels.iter().any(|region| key(region) == key(wanted));
            let kernels = plan.kernels.iter().filter(has);
            let seconds = |region| self.launch_s + self.seconds(plan, region).as_ref().map_or(f64::INFINITY, |&s| s);
            kernels.map(seconds).sum()
        })
    }
}

/// Says of the kernel `region` why it is not in the plan.
fn note(plan: &Plan, region: &Region, reason: &str) -> String {
    if region.is_attention() {
        return format!("attention not fused: {reason}");
    }
    if let RegionKind::Combine(combine) = &region.kind {
        let [output, result] = [combine.output, combine.result].map(|value| &plan.graph.node(value).name);
        return format!("`{output}` not fused with the combine of `{result}`: {reason}");
    }
    let computed = region.nodes.iter().map(|&node| plan.graph.node(node));
    let names = computed.filter(|node| !matches!(node.op, Op::Slice { .. } | Op::Reshape));
    let names: Vec<String> = names.map(|node| format!("`{}`", node.name)).collect();
    format!("{} not fused: {reason}", names.join(", "))
}

#[cfg(test)]
mod tests;
