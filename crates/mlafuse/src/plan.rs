//! From a config to a plan.

use std::fmt;
use std::str::FromStr;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Graph;
use mlafuse_ir::layer::{self, build_layer};
use mlafuse_ir::plan::{Plan, RegionKind, fused, unfused};
use mlafuse_ir::rewrite::{Machine, Rewritten, rewrite};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::Target;
use mlafuse_runtime::Device;
use mlafuse_tensor::DType;

use crate::Error;
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
    /// The layer as the paper writes it.
    pub graph: Graph,
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
    }
}

/// What the CPU's cost model counts with: one socket of a server, about. Only the ratio matters to rewriting.
const CPU: Machine = Machine {
    flops_per_s: 2e12,
    bytes_per_s: 2e11,
};

/// What the rewrites' cost model knows of a device, in `dtype`: [`MlaLayer`](crate::MlaLayer) plans with it.
pub fn machine_of(device: &dyn Device, dtype: DType) -> Machine {
    device.target().map_or(CPU, |target| machine(target, dtype))
}

/// Rewrites and plans `graph` (of [`layer_graph`]) for launches of the sizes in `dims` (of [`launch_dims`]) on `machine`.
///
/// Rewriting counts one kernel a node. For a long prefill it may so leave keys and values decompressed, an attention
/// that no kernel fuses, whose scores \[B, T, H, S\] are then in memory. The fused plan takes the form that decode has
/// instead, the absorbed one, whose attention is fused.
///
/// # Errors
/// Where the graph is not sound or `dims` lacks a symbol.
pub fn plan_for(graph: &Graph, kind: PlanKind, dims: &Dims, machine: &Machine) -> Result<LayerPlan, Error> {
    let rewritten = rewritten(graph, dims, machine)?;
    let plan = planned(&rewritten.graph, kind)?;
    if kind == PlanKind::Fused && !has_attention(&plan) {
        let decode = self::rewritten(graph, &dims.clone().with(Symbol::T, 1), machine)?;
        let fused = planned(&decode.graph, kind)?;
        if has_attention(&fused) {
            return Ok(LayerPlan {
                graph: graph.clone(),
                rewritten: decode,
                plan: fused,
            });
        }
    }
    Ok(LayerPlan {
        graph: graph.clone(),
        rewritten,
        plan,
    })
}

fn rewritten(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Rewritten, Error> {
    let _span = tracing::info_span!("rewrite", graph = %graph.name).entered();
    Ok(rewrite(graph, dims, machine)?)
}

fn planned(graph: &Graph, kind: PlanKind) -> Result<Plan, Error> {
    let _span = tracing::info_span!("plan", graph = %graph.name, %kind).entered();
    Ok(match kind {
        PlanKind::Fused => fused(graph)?,
        PlanKind::Unfused => unfused(graph)?,
    })
}

fn has_attention(plan: &Plan) -> bool {
    plan.kernels
        .iter()
        .any(|kernel| matches!(kernel.kind, RegionKind::Attention(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::rewrite::Outcome;
    use mlafuse_ir::target::Arch;

    fn plan_of(kind: PlanKind, new_tokens: usize, cached: usize) -> LayerPlan {
        let config = mlafuse_ir::presets::preset("deepseek-v3").unwrap();
        let graph = layer_graph(&config, DType::BF16, 64).unwrap();
        let machine = machine(&Target::for_arch(Arch::Sm80), DType::BF16);
        plan_for(&graph, kind, &launch_dims(1, new_tokens, cached, 64), &machine).unwrap()
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
            assert_eq!(has_attention(&planned.plan), kind == PlanKind::Fused);
        }
    }

    #[test]
    fn a_fused_prefill_keeps_no_scores_in_memory() {
        let planned = plan_of(PlanKind::Fused, 4096, 4096);
        assert!(has_attention(&planned.plan), "{}", planned.plan);
        assert!(!has_attention(&plan_of(PlanKind::Unfused, 4096, 4096).plan));
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
