//! From a config to a plan.

use std::fmt;
use std::str::FromStr;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Graph;
use mlafuse_ir::layer::{self, build_layer};
use mlafuse_ir::plan::{Plan, fused, unfused};
use mlafuse_ir::prepare::{Prepared, prepare};
use mlafuse_ir::rewrite::{Machine, RewriteError, Rewritten, rewrite, rewrite_weights};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::Device;
use mlafuse_tensor::DType;

use crate::Error;
use crate::fusion::fused_for;
use crate::pages::LARGEST_PAGE;

/// How a graph becomes kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlanKind {
    /// As few kernels as are known.
    #[default]
    Fused,
    /// A kernel for every node, of the same rewritten graph.
    Unfused,
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PlanKind::Fused => "fused",
            PlanKind::Unfused => "unfused",
        })
    }
}

/// A text that names no [`PlanKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan \"{found}\": expected fused or unfused")]
pub struct UnknownPlan {
    /// The text.
    pub found: String,
}

impl FromStr for PlanKind {
    type Err = UnknownPlan;

    fn from_str(text: &str) -> Result<PlanKind, UnknownPlan> {
        match text {
            "fused" => Ok(PlanKind::Fused),
            "unfused" => Ok(PlanKind::Unfused),
            _ => Err(UnknownPlan {
                found: text.to_string(),
            }),
        }
    }
}

/// A layer's plan, and how it came about.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// The graph that was planned, and each rewrite that was made, rejected or refused.
    pub rewritten: Rewritten,
    /// Kernels and buffers.
    pub plan: Plan,
}

/// The layer of `config` as the paper writes it, stored in `dtype`, with `page_size` tokens a cache page. Its inputs and
/// outputs are those of [`build_layer`].
///
/// # Errors
/// [`Error::ComputeType`], [`Error::PageSize`], and [`Error::Graph`] where a dimension is not possible.
pub fn layer_graph(config: &MlaConfig, dtype: DType, page_size: usize) -> Result<Graph, Error> {
    check_storage(dtype, page_size)?;
    let options = layer::LayerOptions {
        dtype,
        page_size,
        coupled_rope: false,
    };
    Ok(build_layer(config, &options)?)
}

pub(crate) fn check_storage(dtype: DType, page_size: usize) -> Result<(), Error> {
    if !matches!(dtype, DType::BF16 | DType::F16 | DType::F32) {
        return Err(Error::ComputeType { found: dtype });
    }
    if !(1..=LARGEST_PAGE).contains(&page_size) {
        return Err(Error::PageSize {
            found: page_size,
            largest: LARGEST_PAGE,
        });
    }
    Ok(())
}

/// The sizes of a launch of `sequences` sequences with `new_tokens` new tokens each, `cached` tokens in the longest, the
/// new ones included.
pub fn launch_dims(sequences: usize, new_tokens: usize, cached: usize, page_size: usize) -> Dims {
    let pages = cached.div_ceil(page_size.max(1)).max(1);
    Dims::new()
        .with(Symbol::B, sequences)
        .with(Symbol::T, new_tokens)
        .with(Symbol::S, cached)
        .with(Symbol::P, pages)
        .with(Symbol::N, pages.saturating_mul(sequences))
        .with(Symbol::L, cached)
}

/// What the rewrites' cost model knows of a part, in `dtype`.
pub fn machine(target: &Target, dtype: DType) -> Machine {
    let flops_per_s = if dtype == DType::F32 {
        target.fma_flops
    } else {
        target.tensor_flops
    };
    Machine {
        flops_per_s,
        bytes_per_s: target.dram_bytes_per_s,
        launch_s: Machine::GPU_LAUNCH_S,
    }
}

/// What the rewrites' cost model knows of a device, in `dtype`: [`MlaLayer`](crate::MlaLayer) plans with it. The processor has
/// the plans of the part that `mlafuse emit` shows where none is named, so that what is shown is what runs.
pub fn machine_of(device: &dyn Device, dtype: DType) -> Machine {
    match device.target() {
        Some(target) => machine(target, dtype),
        None => machine(&Target::for_arch(Arch::Sm80), dtype),
    }
}

/// A layer's graph once its weights are loaded: what every plan of the layer starts from.
#[derive(Clone, Debug)]
pub struct PreparedLayer {
    /// The layer's graph with what is rewritten whatever the launch, and each rewrite that was made, rejected or refused.
    pub rewritten: Rewritten,
    /// The weights as launches read them, and what is left to compute.
    pub prepared: Prepared,
    machine: Machine,
    target: Option<Target>,
}

impl PreparedLayer {
    /// Prepares `graph` (of [`layer_graph`]) for launches on `machine`. Its fused plans leave out the fusions that do not fit
    /// `target`, if there is one, or do not pay there, and say so.
    ///
    /// # Errors
    /// Where the graph is not sound.
    pub fn new(graph: &Graph, machine: &Machine, target: Option<&Target>) -> Result<PreparedLayer, Error> {
        let _span = tracing::info_span!("prepare", graph = %graph.name).entered();
        let rewritten = rewrite_weights(graph, machine)?;
        let prepared = prepare(&rewritten.graph).map_err(RewriteError::from)?;
        Ok(PreparedLayer {
            rewritten,
            prepared,
            machine: *machine,
            target: target.cloned(),
        })
    }

    /// What is left to compute, rewritten for launches of the sizes in `dims`.
    ///
    /// # Errors
    /// Where `dims` lacks a symbol.
    pub fn rewritten(&self, dims: &Dims) -> Result<Rewritten, Error> {
        let _span = tracing::info_span!("rewrite", graph = %self.prepared.graph.name).entered();
        Ok(rewrite(&self.prepared.graph, dims, &self.machine)?)
    }

    /// The steps at load and then those of `launch` (of [`PreparedLayer::rewritten`]) as comment lines, and its graph: a text
    /// that [`mlafuse_ir::text::parse()`] reads.
    pub fn to_text(&self, launch: &Rewritten) -> String {
        let (load, launch) = (self.rewritten.comments(), launch.to_text());
        format!("# when the weights are loaded:\n{load}# in each launch of these sizes:\n{launch}")
    }

    /// A plan of what is left to compute, for launches of the sizes in `dims` (of [`launch_dims`]); both kinds of plan are of the
    /// same graph.
    ///
    /// # Errors
    /// Where `dims` lacks a symbol.
    pub fn plan(&self, kind: PlanKind, dims: &Dims) -> Result<LayerPlan, Error> {
        let rewritten = self.rewritten(dims)?;
        let _span = tracing::info_span!("plan", graph = %self.prepared.graph.name, %kind).entered();
        let plan = match (kind, &self.target) {
            (PlanKind::Unfused, _) => unfused(&rewritten.graph)?,
            (PlanKind::Fused, None) => fused(&rewritten.graph)?,
            (PlanKind::Fused, Some(target)) => fused_for(&rewritten.graph, target, self.machine.launch_s, dims)?,
        };
        Ok(LayerPlan { rewritten, plan })
    }
}

/// Rewrites and plans `graph` (of [`layer_graph`]) for launches of the sizes in `dims` (of [`launch_dims`]) on `machine`, as
/// [`MlaLayer`](crate::MlaLayer) does: what its weights alone decide first ([`PreparedLayer`]). With a part as `target`, what
/// does not fit it, or is cheaper apart, is not fused.
///
/// # Errors
/// Where the graph is not sound or `dims` lacks a symbol.
pub fn plan_for(
    graph: &Graph,
    kind: PlanKind,
    dims: &Dims,
    machine: &Machine,
    target: Option<&Target>,
) -> Result<LayerPlan, Error> {
    PreparedLayer::new(graph, machine, target)?.plan(kind, dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::RegionKind;
    use mlafuse_ir::rewrite::Outcome;

    fn plan_of(kind: PlanKind, new_tokens: usize, cached: usize) -> LayerPlan {
        let config = mlafuse_ir::presets::preset("deepseek-v3").unwrap();
        let graph = layer_graph(&config, DType::BF16, 64).unwrap();
        let machine = machine(&Target::for_arch(Arch::Sm80), DType::BF16);
        plan_for(&graph, kind, &launch_dims(1, new_tokens, cached, 64), &machine, None).unwrap()
    }

    fn has(plan: &Plan, wanted: fn(&RegionKind) -> bool) -> bool {
        plan.kernels.iter().any(|kernel| wanted(&kernel.kind))
    }

    #[test]
    fn decode_is_absorbed_in_both_plans() {
        for kind in [PlanKind::Fused, PlanKind::Unfused] {
            let planned = plan_of(kind, 1, 4096);
            assert!(
                planned
                    .rewritten
                    .steps
                    .iter()
                    .any(|step| step.outcome == Outcome::Applied)
            );
            let attention = has(&planned.plan, |kind| matches!(kind, RegionKind::Attention(_)));
            assert_eq!(attention, kind == PlanKind::Fused);
        }
    }

    /// A long prefill, and a long chunk after a cached prefix, decompress keys and values; a few tokens do not.
    #[test]
    fn prefill_is_unabsorbed_and_fused() {
        for (new_tokens, cached, unabsorbed) in [(4096, 4096, true), (512, 4096, true), (8, 4096, false)] {
            let planned = plan_of(PlanKind::Fused, new_tokens, cached);
            let prefill = has(&planned.plan, |kind| matches!(kind, RegionKind::Prefill(_)));
            let attention = has(&planned.plan, |kind| matches!(kind, RegionKind::Attention(_)));
            assert_eq!((prefill, attention), (unabsorbed, !unabsorbed), "{}", planned.plan);
            let stored = |name: &str| planned.plan.buffers.iter().any(|buffer| buffer.name == name);
            assert!(!stored("scores") && !stored("rows"), "{}", planned.plan);
            let unfused = plan_of(PlanKind::Unfused, new_tokens, cached);
            assert_eq!(planned.rewritten, unfused.rewritten);
        }
    }

    #[test]
    fn storage_is_checked() {
        let config = MlaConfig::from_inline("heads=2,d_model=8").unwrap();
        let error = layer_graph(&config, DType::I32, 64).unwrap_err().to_string();
        assert_eq!(error, "dtype i32: allowed: bf16, f16, f32");
        assert!(layer_graph(&config, DType::F32, 0).is_err());
        let error = "fuse".parse::<PlanKind>().unwrap_err().to_string();
        assert_eq!(error, "plan \"fuse\": expected fused or unfused");
    }
}
