//! `mlafuse profile`: a layer's fused plan against its unfused one, kernel by kernel.

mod report;

use crate::files::check_output_file;
use crate::model::{self, MODEL_HELP};
use crate::options::{self, CheckChoice, LaunchSizes, Phase};
use crate::output::{self, Report};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use mlafuse::{DeviceSpec, PlanKind, PreparedLayer, Splits, launch_dims, layer_graph, machine_of};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::plan::{Plan, RegionKind};
use mlafuse_ir::size::Dims;
use mlafuse_profile::{Options, Plans, chrome_trace, kernel_work, profile};
use mlafuse_runtime::{open, with_splits};
use mlafuse_tensor::write_file_atomic;
use mlafuse_tune::Records;
use std::path::PathBuf;

/// Which layer, for which launches, on what.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[arg(long, value_name = "MODEL", help = MODEL_HELP)]
    model: String,
    /// Decode: few new tokens on a long cache. Prefill: all tokens are new.
    #[arg(long, value_enum, default_value_t = Phase::Decode)]
    phase: Phase,
    #[command(flatten)]
    sizes: LaunchSizes,
    /// How attention splits the cached tokens: balanced over the batch, or fixed:TOKENS, with which a sequence's result does not
    /// depend on the others of its batch.
    #[arg(long, value_name = "SPLITS", default_value_t = Splits::Balanced)]
    splits: Splits,
    /// What computes: cpu, which is timed; sim or sim:ARCH, which executes the kernels' PTX and counts.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceSpec,
    /// Whether the simulator looks for races, reads of what nothing wrote and misuse of barriers, which takes longer.
    /// [default: none]
    #[arg(long, value_enum)]
    check: Option<CheckChoice>,
    /// Timed runs of each plan, after one to warm up; as many as take three seconds, from 3 to 101, where left out.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: Option<u32>,
    /// Write the kernels of both plans as a trace for chrome://tracing or Perfetto; the file appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// CPU threads; all where left out.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = options::parts())]
    threads: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  mlafuse profile --model deepseek-v2-lite
  mlafuse profile --model deepseek-v3 --batch 4 --kv-len 8192 --trace trace.json
  mlafuse profile --model deepseek-v2-lite --kv-len 1024 --device sim:sm_80
  mlafuse profile --model heads=8,d_model=512,d_latent=128,d_q_latent=256 --phase prefill \\
      --kv-len 256 --format json

Weights, new tokens and the cache are random: what is measured does not depend on them. Kernels run under the schedules of tuning \
records, as in any launch (`mlafuse tune`; MLAFUSE_TUNING=off: none).

bytes       On the CPU counted from the plan: each input and output once, of the cache the rows
            in use. On the simulator measured: DRAM sectors that the kernel read or wrote, each
            once; `least bytes` are the plan's.
FLOPs       2 for each multiply-add of the graph's contractions, masked scores included.
            `executed FLOPs` (simulator) are the tensor cores': tiles that are not full do more.
bound       What takes longer at the machine's limits: moving the bytes (memory) or computing
            the FLOPs (compute). The limits of the CPU are measured in the same run, by a loop
            that reads memory and one that multiplies and adds in registers (in bf16 with AMX
            where there is AMX, else f32 in vectors); those of a simulated part are its data
            sheet's.
% of bound  On the CPU the time at that limit / the time measured; above 100 where data stay in
            the caches. On the simulator, which has no clock, the time at the limits of what the
            kernel must move and compute / that of what it moved and executed.";

pub fn run(args: &Args) -> Result<Report> {
    let new_tokens = args.sizes.new_tokens(args.phase)?;
    let device = args.device()?;
    if let Some(file) = &args.trace {
        check_output_file("--trace", file)?;
    }
    let config = model::resolve(&args.model)?;
    let device = open(device)?;
    options::use_threads(args.threads)?;
    let (dtype, page_size) = (args.sizes.dtype.dtype(), args.sizes.page_size as usize);
    let dims = dims(args, &config, new_tokens as usize);
    let graph = layer_graph(&config, dtype, page_size)?;
    let layer = PreparedLayer::new(&graph, &machine_of(device.as_ref(), dtype), device.target())?;
    let [fused, unfused] = [PlanKind::Fused, PlanKind::Unfused].map(|kind| layer.plan(kind, &dims));
    let (fused, unfused) = (fused?, unfused?);
    let unfusable = unfusable(&fused.plan);
    let plans = Plans {
        fused: fused.plan,
        unfused: unfused.plan,
    };
    if let DeviceSpec::Sim { .. } = args.device {
        warn_of_simulation(&plans, &with_splits(&dims, device.as_ref()))?;
    }
    let progress = Progress::start("runs", 2);
    let options = Options {
        repeat: args.repeat.map(|repeat| repeat as usize),
        dtype,
        splits: args.splits,
    };
    let (records, step) = (Records::of_user(), |runs| progress.step_of(runs));
    let profile = profile(&device, plans, &records, &dims, options, &step)?;
    drop(progress);
    if let Some(file) = &args.trace {
        let trace = format!("{:#}\n", chrome_trace(&profile));
        write_file_atomic(file, trace.as_bytes()).with_context(|| format!("--trace {}", file.display()))?;
    }
    report::report(args, new_tokens, &profile, &unfusable)
}

impl Args {
    /// --device with --check, which is off where it is not asked for.
    fn device(&self) -> Result<DeviceSpec> {
        if self.repeat.is_some() && matches!(self.device, DeviceSpec::Sim { .. }) {
            bail!("--repeat: the simulator counts, and counts the same each time; --repeat goes with --device cpu");
        }
        match (self.device, self.check) {
            (DeviceSpec::Sim { .. }, None) => options::with_check(self.device, Some(CheckChoice::None)),
            (device, check) => options::with_check(device, check),
        }
    }
}

/// B, T, S and what follows from them, the cache's strides included.
fn dims(args: &Args, config: &MlaConfig, new_tokens: usize) -> Dims {
    let page_size = args.sizes.page_size as usize;
    let row_stride = config.cache_row_stride(args.sizes.dtype.dtype().size_bytes());
    launch_dims(
        args.sizes.batch as usize,
        new_tokens,
        args.sizes.kv_len as usize,
        page_size,
    )
    .with_cache_strides(row_stride, page_size)
}

/// What the fused plan leaves in kernels of their own, and why.
fn unfusable(fused: &Plan) -> Vec<String> {
    let mut reasons = fused.notes.clone();
    let single = fused.kernels.iter().filter_map(|kernel| match kernel.kind {
        RegionKind::Node(_) if kernel.nodes.len() == 1 => Some(kernel.name.as_str()),
        _ => None,
    });
    let single: Vec<&str> = single.collect();
    if !single.is_empty() {
        reasons.push(format!("not fused, one node a kernel: {}", single.join(", ")));
    }
    reasons
}

/// Operations of contractions that are simulated within a few seconds.
const QUICK: u64 = 1 << 30;

fn warn_of_simulation(plans: &Plans, dims: &Dims) -> Result<()> {
    let flops = |plan: &Plan| -> Result<u64> {
        let works = plan.kernels.iter().map(|region| kernel_work(plan, region, dims));
        Ok(works.map(|work| work.map(|work| work.flops)).sum::<Result<u64, _>>()?)
    };
    let flops = flops(&plans.fused)?.saturating_add(flops(&plans.unfused)?);
    if flops > QUICK {
        let gflop = flops as f64 / 1e9;
        output::note(&format!(
            "note: the simulator is to execute {gflop:.1} GFLOP, instruction by instruction: this can take minutes"
        ));
    }
    Ok(())
}
