//! How each kind of region is computed: region and schedule to tile program.
//!
//! One file per kind. The algorithm of a kind is the same under every schedule; [`candidates`] lists the schedules that
//! fit a part, [`cpu_schedule`] gives the one for the CPU and [`cpu_candidates`] those worth measuring there.

mod attention;
mod axes;
mod cache_read;
mod cache_write;
mod cached_rows;
mod candidates;
mod combine;
mod contract;
mod cost;
mod cpu_candidates;
mod elementwise;
mod epilogue;
mod error;
mod new_rows;
mod online_softmax;
mod operand;
mod prefill;
mod processor;
mod program;
mod projection;
mod rms_norm;
mod rope;
mod softmax;
mod splits;
mod up_projection;

pub use candidates::{candidates, cpu_schedule, least_seconds};
pub use cost::modelled_seconds;
pub use cpu_candidates::cpu_candidates;
pub use error::BuildError;
pub use processor::Processor;
pub use splits::{UNBALANCED, splits_of_equals};

use crate::schedule::Schedule;
use crate::tile::TileProgram;
use epilogue::Epilogue;
use mlafuse_ir::graph::{EinsumSpec, Op, ValueId};
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use program::ProgramBuilder;

/// Beyond any use, and small enough that sizes of tiles can be counted: schedules also come from files.
const LARGEST_BLOCK: usize = 1 << 20;
const MOST_WARPS: usize = 32;
const MOST_STAGES: usize = 64;

/// The tile program of one kernel of a plan.
///
/// Every schedule whose sizes are positive, and not beyond any use, gives a right program; which of them a GPU can run is
/// [`candidates`]' to say.
///
/// # Errors
/// [`BuildError::Schedule`] for a size that is not possible, [`BuildError::Unsupported`] for a region that no program can
/// express, and [`BuildError::NotInMemory`] for a region that is not the plan's.
pub fn build(plan: &Plan, region: &Region, schedule: &Schedule) -> Result<TileProgram, BuildError> {
    let sizes = [
        ("block_m", schedule.block_m, 1..=LARGEST_BLOCK),
        ("block_n", schedule.block_n, 1..=LARGEST_BLOCK),
        ("block_k", schedule.block_k, 0..=LARGEST_BLOCK),
        ("warps_m", schedule.warps_m, 1..=MOST_WARPS),
        ("warps_n", schedule.warps_n, 1..=MOST_WARPS),
        ("warps_k", schedule.warps_k, 1..=MOST_WARPS),
        ("stages", schedule.stages, 1..=MOST_STAGES),
    ];
    if let Some((field, found, allowed)) = sizes.into_iter().find(|(_, size, allowed)| !allowed.contains(size)) {
        return Err(BuildError::Schedule {
            kernel: region.name.clone(),
            field,
            found,
            expected: format!("{} to {}", allowed.start(), allowed.end()),
        });
    }
    let program = ProgramBuilder::new(plan, region, *schedule);
    match &region.kind {
        RegionKind::Attention(attention) => attention::build(program, attention),
        RegionKind::Combine(combine) => match &combine.projection {
            Some(projection) => projection::build(program, combine, projection),
            None => combine::build(program, combine),
        },
        RegionKind::Prefill(prefill) => prefill::build(program, prefill),
        RegionKind::UpProjection(projection) => up_projection::build(program, projection),
        RegionKind::Node(value) => node(program, *value),
    }
}

fn node(program: ProgramBuilder, value: ValueId) -> Result<TileProgram, BuildError> {
    let Some(node) = program.plan.graph.nodes.get(value.0) else {
        return Err(program.not_in_memory(value));
    };
    if let Some(Product { product, spec, chain }) = product(program.plan, program.region) {
        let epilogue = Epilogue::new(&program, chain)?;
        return contract::build(program, [product, value], spec, &epilogue);
    }
    match &node.op {
        Op::RmsNorm { eps } => rms_norm::build(program, value, *eps),
        Op::Rope { pairing } => rope::build(program, value, *pairing),
        Op::Scale { factor } => elementwise::scale(program, value, *factor),
        Op::Add => elementwise::add(program, value),
        Op::Mul => elementwise::mul(program, value),
        Op::ScaleRows => elementwise::scale_rows(program, value),
        Op::InvRms { eps } => rms_norm::inverse(program, value, *eps),
        Op::Mask => elementwise::mask(program, value),
        Op::Cast => elementwise::cast(program, value),
        Op::Concat { axis } => elementwise::concat(program, value, *axis),
        Op::Softmax => softmax::build(program, value),
        Op::CacheWrite => cache_write::build(program, value),
        Op::CacheRead => cache_read::build(program, value),
        Op::Einsum(_) | Op::Input { .. } | Op::Slice { .. } | Op::Reshape => Err(program.unsupported(
            "a kernel of its own",
            node.name.clone(),
            "a node that computes; inputs, slices and reshapes are views",
        )),
    }
}

/// The contraction of a node's region.
struct Product<'a> {
    product: ValueId,
    spec: &'a EinsumSpec,
    /// What is done to its elements: the nodes after it.
    chain: &'a [ValueId],
}

fn product<'a>(plan: &'a Plan, region: &'a Region) -> Option<Product<'a>> {
    let spec_of = |value: ValueId| match &plan.graph.nodes.get(value.0)?.op {
        Op::Einsum(spec) => Some(spec),
        _ => None,
    };
    let at = region.nodes.iter().position(|&node| spec_of(node).is_some())?;
    let (&product, chain) = region.nodes.get(at..)?.split_first()?;
    Some(Product {
        product,
        spec: spec_of(product)?,
        chain,
    })
}

#[cfg(test)]
mod tests;
