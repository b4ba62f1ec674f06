//! `mlafuse emit`: a layer at any stage on its way from graph to machine code.

mod compiled;
mod inputs;
mod kernels;
mod launch;
mod layer;
mod reference;
mod stage;

use crate::model::MODEL_HELP;
use crate::options::{self, LaunchSizes, Phase, PlanChoice};
use crate::output::Report;
use anyhow::{Result, bail};
use layer::Layer;
use mlafuse_ir::target::{Arch, Target, TargetError};
use stage::Stage;
use std::path::PathBuf;

/// Which layer, for which launches, for which part, and what of it.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[arg(long, value_name = "MODEL", help = MODEL_HELP)]
    model: String,
    /// Decode: few new tokens on a long cache. Prefill: all tokens are new.
    #[arg(long, value_enum)]
    phase: Phase,
    /// What to show.
    #[arg(long, value_enum)]
    stage: Stage,
    /// Architecture to compile for; stands for a usual part of it (sm_80 for an A100).
    #[arg(long, default_value = "sm_80", conflicts_with = "gpu")]
    arch: Arch,
    /// A part by name: a100, h100, h200, rtx4090, l40s, ...
    #[arg(long, value_name = "NAME", value_parser = gpu)]
    gpu: Option<Target>,
    /// Fused kernels, or one for each node.
    #[arg(long, value_enum, default_value_t = PlanChoice::Fused)]
    plan: PlanChoice,
    #[command(flatten)]
    sizes: LaunchSizes,
    /// Only the kernel of this name.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Write files to this folder instead of stdout; each appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --stage graph or rewritten: rotate the keys' content part, as MLA does not, to see absorption refused.
    #[arg(long)]
    coupled_rope: bool,
    /// With --stage plan: the plan as a graph in the DOT language of Graphviz.
    #[arg(long)]
    graphviz: bool,
    /// With --stage launch: splits of the cached tokens in attention; a combine without a projection has two at least.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = options::parts())]
    splits: Option<u32>,
    /// With --stage launch: seed of the random inputs; 0 where left out.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  # Absorption, with its cost before and after; why coupled rope forbids it
  mlafuse emit --model deepseek-v3 --phase decode --stage rewritten
  mlafuse emit --model deepseek-v3 --phase decode --stage rewritten --coupled-rope
  # The plan as a picture
  mlafuse emit --model deepseek-v3 --phase decode --stage plan --graphviz | dot -Tsvg > plan.svg
  # What kernels take of a part, and how they are written
  mlafuse emit --model minicpm3 --phase decode --gpu rtx4090 --stage resources
  mlafuse emit --model deepseek-v3 --phase decode --stage cuda --kernel attention
  mlafuse emit --model heads=20,d_model=2560,d_latent=256,d_rope=32 --phase decode \\
      --stage cubin --out kernels
  # Each kernel with inputs and reference, for `ptxsim run`
  mlafuse emit --model examples/deepseek-v3-tiny --phase decode --kv-len 256 \\
      --stage launch --out repro";

fn gpu(name: &str) -> Result<Target, TargetError> {
    Target::gpu(name)
}

/// The stage's text or files.
pub fn run(args: &Args) -> Result<Report> {
    args.check()?;
    let layer = Layer::new(args)?;
    match args.stage {
        Stage::Graph => stage::graph(args, &layer),
        Stage::Rewritten => stage::rewritten(args, &layer),
        Stage::Plan => stage::plan(args, &layer),
        Stage::Tile | Stage::Thread | Stage::Cuda => kernels::run(args, &layer),
        Stage::Ptx | Stage::Cubin | Stage::Resources => compiled::run(args, &layer),
        Stage::Launch => launch::run(args, &layer),
    }
}

impl Args {
    /// What one flag asks of another.
    fn check(&self) -> Result<()> {
        self.q_len()?;
        let stage = self.stage.name();
        if self.coupled_rope && !matches!(self.stage, Stage::Graph | Stage::Rewritten) {
            bail!("--coupled-rope goes with --stage graph or rewritten, not {stage}");
        }
        if self.graphviz && self.stage != Stage::Plan {
            bail!("--graphviz goes with --stage plan, not {stage}");
        }
        if self.kernel.is_some() && matches!(self.stage, Stage::Graph | Stage::Rewritten | Stage::Plan) {
            bail!("--kernel goes with the stages that show kernels (tile to launch), not {stage}");
        }
        if (self.splits.is_some() || self.seed.is_some()) && self.stage != Stage::Launch {
            bail!("--splits and --seed go with --stage launch, not {stage}");
        }
        if self.out.is_none() && matches!(self.stage, Stage::Cubin | Stage::Launch) {
            bail!("--stage {stage} writes files: it needs --out DIR");
        }
        Ok(())
    }

    fn q_len(&self) -> Result<u32> {
        self.sizes.new_tokens(self.phase)
    }

    fn target(&self) -> Target {
        self.gpu.clone().unwrap_or_else(|| Target::for_arch(self.arch))
    }
}
