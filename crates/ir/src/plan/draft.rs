//! What is computed together, and the kernels that come of it, before names and buffers are given out.

use super::{
    Plan, PrefillRegion, Projection, Region, RegionKind, UpProjectionRegion, attention, buffers, fuse, kernel_name,
    outside,
};
use crate::graph::{Graph, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What is computed together.
#[derive(Default)]
pub(super) struct Fusions {
    /// By the value that is made.
    attentions: BTreeMap<ValueId, fuse::Found>,
    /// Of the results of attentions; by the value that is made.
    projections: BTreeMap<ValueId, fuse::Projected>,
    /// By the value that is made.
    prefills: BTreeMap<ValueId, fuse::Prefill>,
    /// By the node that names the kernel, the others that it computes.
    joined: BTreeMap<ValueId, Vec<ValueId>>,
    up_projections: Vec<fuse::UpProjected>,
}

/// A kernel before names and buffers are given out; an attention and its combine.
pub(super) struct Draft {
    nodes: Vec<ValueId>,
    kind: DraftKind,
}

enum DraftKind {
    Node(ValueId),
    UpProjection(UpProjectionRegion),
    /// The output is the attention's result, or what the projection makes of it.
    Attention {
        found: fuse::Found,
        projection: Option<Projection>,
        output: ValueId,
    },
    Prefill(PrefillRegion),
}

impl Fusions {
    /// All that can be fused in `graph` but what is `left_out`, by the values of [`Region::fusion`], with those notes; and a note
    /// for each of what looks like a fusion but is none.
    pub fn find(graph: &Graph, left_out: &BTreeMap<ValueId, String>) -> (Fusions, Vec<String>) {
        let wanted = |value: &ValueId| !left_out.contains_key(value);
        let (mut attentions, mut notes) = fuse::attentions(graph);
        let (mut prefills, more) = fuse::prefills(graph);
        notes.extend(more);
        attentions.retain(|value, _| wanted(value));
        prefills.retain(|value, _| wanted(value));
        notes.extend(left_out.values().cloned());
        let (mut projections, more) = fuse::projections(graph, &attentions);
        projections.retain(|value, _| wanted(value));
        notes.extend(more);
        let (mut joined, more) = fuse::cache_rows(graph);
        notes.extend(more);
        joined.extend(fuse::decompressions(graph, &prefills));
        joined.retain(|value, _| wanted(value));

        let mut taken: BTreeSet<ValueId> = joined.values().flatten().chain(joined.keys()).copied().collect();
        taken.extend(attentions.values().flat_map(|found| &found.nodes));
        taken.extend(projections.keys());
        taken.extend(prefills.values().flat_map(|found| &found.nodes));
        let mut up_projections = fuse::up_projections(graph, &taken);
        up_projections.retain(|found| wanted(&found.region.product));
        taken.extend(up_projections.iter().flat_map(|found| &found.nodes));
        let (mut epilogues, more) = fuse::epilogues(graph, &taken);
        epilogues.retain(|value, _| wanted(value));
        notes.extend(more);
        joined.extend(epilogues);
        let fusions = Fusions {
            attentions,
            projections,
            prefills,
            joined,
            up_projections,
        };
        (fusions, notes)
    }

    /// The kernels that outputs and caches need, each after those that it reads from.
    pub fn drafts(&self, graph: &Graph) -> Vec<Draft> {
        let mut needed: BTreeSet<ValueId> = graph.outputs.iter().map(|&(_, value)| value).collect();
        let mut drafts = Vec::new();
        let mut groups = self.groups(graph);
        let made: BTreeSet<ValueId> = groups.values().flat_map(|group| group.makes(graph)).collect();
        for value in graph.values().collect::<Vec<_>>().into_iter().rev() {
            let node = graph.node(value);
            if let Some(group) = groups.remove(&value) {
                needed.extend(group.reads(graph));
                drafts.push(group);
            }
            if made.contains(&value) || !needed.contains(&value) && node.op != Op::CacheWrite {
                continue;
            }
            let draft = self.draft(value);
            needed.extend(draft.reads(graph));
            if !matches!(node.op, Op::Input { .. } | Op::Slice { .. } | Op::Reshape) {
                drafts.push(draft);
            }
        }
        drafts.reverse();
        in_order(graph, drafts)
    }

    /// What makes `value`, which no group does.
    fn draft(&self, value: ValueId) -> Draft {
        let projected = self.projections.get(&value);
        let of = projected.map_or(value, |projected| projected.of);
        if let Some(found) = self.attentions.get(&of) {
            let mut nodes = found.nodes.clone();
            nodes.extend(projected.map(|_| value));
            let kind = DraftKind::Attention {
                found: found.clone(),
                projection: projected.map(|projected| projected.projection),
                output: value,
            };
            return Draft { nodes, kind };
        }
        match self.prefills.get(&value) {
            Some(prefill) => Draft {
                nodes: prefill.nodes.clone(),
                kind: DraftKind::Prefill(prefill.region.clone()),
            },
            None => Draft {
                nodes: vec![value],
                kind: DraftKind::Node(value),
            },
        }
    }

    /// Kernels of several nodes, by the last of them. What makes something that nobody needs is none.
    fn groups(&self, graph: &Graph) -> BTreeMap<ValueId, Draft> {
        let live = graph.live();
        let joined = self.joined.iter().map(|(&value, others)| Draft {
            nodes: others.iter().copied().chain([value]).collect(),
            kind: DraftKind::Node(value),
        });
        let up_projections = self.up_projections.iter().map(|found| Draft {
            nodes: found.nodes.clone(),
            kind: DraftKind::UpProjection(found.region.clone()),
        });
        let wanted = joined
            .chain(up_projections)
            .filter(|group| group.nodes.iter().all(|node| live.contains(node)));
        wanted
            .filter_map(|group| Some((*group.nodes.iter().max()?, group)))
            .collect()
    }
}

/// Puts kernels after those that make what they read. Only a kernel of several results, which stands where the last of them
/// does, can come too late.
fn in_order(graph: &Graph, drafts: Vec<Draft>) -> Vec<Draft> {
    let mut makers = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        makers.extend(draft.makes(graph).into_iter().map(|value| (value, index)));
    }
    let mut waiting: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    let mut ordered = Vec::new();
    for index in 0..waiting.len() {
        place_draft(graph, &makers, &mut waiting, index, &mut ordered);
    }
    ordered
}

/// Moves draft `index` from those waiting to the end of `ordered`, after what it reads from.
fn place_draft(
    graph: &Graph,
    makers: &BTreeMap<ValueId, usize>,
    waiting: &mut [Option<Draft>],
    index: usize,
    ordered: &mut Vec<Draft>,
) {
    let Some(draft) = waiting.get_mut(index).and_then(Option::take) else {
        return;
    };
    for value in draft.reads(graph) {
        if let Some(maker) = maker(graph, makers, value) {
            place_draft(graph, makers, waiting, maker, ordered);
        }
    }
    ordered.push(draft);
}

/// Which kernel makes the elements of `value`.
fn maker(graph: &Graph, makers: &BTreeMap<ValueId, usize>, value: ValueId) -> Option<usize> {
    let node = graph.node(value);
    makers
        .get(&value)
        .copied()
        .or_else(|| match (&node.op, node.args.first()) {
            (Op::Slice { .. } | Op::Reshape, Some(&from)) => maker(graph, makers, from),
            _ => None,
        })
}

impl Draft {
    /// The values that it leaves in memory.
    pub fn makes(&self, graph: &Graph) -> Vec<ValueId> {
        let read = |value: ValueId| {
            let users = graph.users(value);
            graph.is_output(value) || users.iter().any(|user| !self.nodes.contains(user))
        };
        match self.kind {
            DraftKind::Attention { output, .. } => vec![output],
            DraftKind::Prefill(ref region) => vec![region.output],
            // Beside the rows of the cache, norms of other rows.
            DraftKind::Node(value) if graph.node(value).op == Op::CacheWrite => {
                let others = self.nodes.iter().copied().filter(|&node| node != value && read(node));
                others.chain([value]).collect()
            }
            DraftKind::Node(value) => vec![value],
            DraftKind::UpProjection(ref region) => region.parts.iter().map(|part| part.value).collect(),
        }
    }

    /// The values that it reads.
    fn reads(&self, graph: &Graph) -> Vec<ValueId> {
        match &self.kind {
            DraftKind::Attention { found, projection, .. } => {
                let weight = projection.map(|projection| projection.weight);
                found.reads().into_iter().chain(weight).collect()
            }
            DraftKind::Prefill(region) => region.reads(),
            DraftKind::Node(_) | DraftKind::UpProjection(_) => outside(graph, &self.nodes),
        }
    }

    /// Adds its kernels to the plan: one, or attention and its combine.
    pub fn add(self, plan: &mut Plan, names: &mut BTreeSet<String>) {
        match self.kind {
            DraftKind::Node(value) => {
                let node = plan.graph.node(value);
                // A contraction with an epilogue is one still: `einsum_q_nope`, but `cache_write` where the node is named after
                // its op.
                let first = self.nodes.first().map(|&first| &plan.graph.node(first).op);
                let op = first
                    .filter(|op| matches!(op, Op::Einsum(_)))
                    .unwrap_or(&node.op)
                    .word();
                let named = node
                    .name
                    .strip_prefix(op)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
                let wanted = if named {
                    node.name.clone()
                } else {
                    format!("{op}_{}", node.name)
                };
                let mut args = outside(&plan.graph, &self.nodes);
                if node.op == Op::CacheWrite {
                    // Rows are written to the cache, not read from it.
                    args.retain(|arg| node.args.first() != Some(arg));
                }
                add_region(plan, &wanted, RegionKind::Node(value), self.nodes, &args, names);
            }
            DraftKind::UpProjection(region) => {
                let wanted = format!("project_{}", plan.graph.node(region.product).name);
                let args = outside(&plan.graph, &self.nodes);
                add_region(
                    plan,
                    &wanted,
                    RegionKind::UpProjection(region),
                    self.nodes,
                    &args,
                    names,
                );
            }
            DraftKind::Attention {
                found,
                projection,
                output,
            } => {
                let result = projection.is_none().then_some(output);
                let parts = attention::add_attention(plan, &found, result, names);
                attention::add_combine(plan, &found, parts, (projection, output), self.nodes, names);
            }
            DraftKind::Prefill(region) => {
                let args = region.reads();
                add_region(plan, "prefill", RegionKind::Prefill(region), self.nodes, &args, names);
            }
        }
    }
}

/// A kernel that reads `args` and leaves in memory what of its nodes has a place there.
fn add_region(
    plan: &mut Plan,
    wanted: &str,
    kind: RegionKind,
    nodes: Vec<ValueId>,
    args: &[ValueId],
    names: &mut BTreeSet<String>,
) {
    let (name, reads) = (kernel_name(wanted, names), buffers(plan, args));
    let writes = buffers(plan, &plan.results_of(&kind, &nodes));
    plan.kernels.push(Region {
        name,
        kind,
        nodes,
        reads,
        writes,
    });
}
