//! The layer that is shown: its shape, the launches' sizes and the part.

use super::Args;
use crate::model;
use anyhow::{Context, Result, bail};
use mlafuse::{PlanKind, PreparedLayer, launch_dims, machine};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Graph;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::Target;

/// What every stage starts from.
pub struct Layer {
    config: MlaConfig,
    pub options: LayerOptions,
    pub target: Target,
    /// B, T, S and what follows from them: N, P, L, and the cache's strides R and G.
    pub dims: Dims,
    plan: PlanKind,
}

impl Layer {
    pub fn new(args: &Args) -> Result<Layer> {
        let config = model::resolve(&args.model)?;
        let page_size = args.sizes.page_size as usize;
        let options = LayerOptions {
            dtype: args.sizes.dtype.dtype(),
            page_size,
            coupled_rope: args.coupled_rope,
        };
        let [batch, new, cached] = [args.sizes.batch, args.q_len()?, args.sizes.kv_len].map(|n| n as usize);
        let row_stride = config.cache_row_stride(options.dtype.size_bytes());
        let dims = launch_dims(batch, new, cached, page_size).with_cache_strides(row_stride, page_size);
        Ok(Layer {
            config,
            options,
            target: args.target(),
            dims,
            plan: args.plan.kind(),
        })
    }

    /// The layer as the paper writes it, unabsorbed.
    pub fn graph(&self) -> Result<Graph> {
        build_layer(&self.config, &self.options).context("this model's layer cannot be built")
    }

    /// The graph once its weights are loaded.
    pub fn prepared(&self) -> Result<PreparedLayer> {
        let machine = machine(&self.target, self.options.dtype);
        Ok(PreparedLayer::new(&self.graph()?, &machine, Some(&self.target))?)
    }

    /// Its kernels.
    pub fn plan(&self) -> Result<Plan> {
        Ok(self.prepared()?.plan(self.plan, &self.dims)?.plan)
    }
}

/// The kernels that are shown: all, or the one that --kernel names.
pub fn chosen<'p>(plan: &'p Plan, name: Option<&str>) -> Result<Vec<&'p Region>> {
    let Some(name) = name else {
        return Ok(plan.kernels.iter().collect());
    };
    let Some(kernel) = plan.kernel(name) else {
        let known: Vec<&str> = plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        bail!(
            "--kernel `{name}`: this plan has no such kernel; it has {}",
            known.join(", ")
        );
    };
    Ok(vec![kernel])
}
