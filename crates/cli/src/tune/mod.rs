//! `mlafuse tune`: the fastest schedule of each kernel, measured here or modelled for a part that is not.

mod report;

use crate::files::check_output_file;
use crate::model::{self, MODEL_HELP};
use crate::options::{self, ComputeType, Phase, PlanChoice, sequences, tokens};
use crate::output::Report;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use mlafuse::{DeviceSpec, PreparedLayer, launch_dims, layer_graph, machine, machine_of};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::plan::Plan;
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::Nvrtc;
use mlafuse_runtime::{Device, open};
use mlafuse_tune::{Judge, Limits, Modelled, RecordFile, Records, Task, Timed, tune};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which layer, for which launches, on what, for how long.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[arg(long, value_name = "MODEL", help = MODEL_HELP)]
    model: String,
    /// Decode: few new tokens on a long cache. Prefill: all tokens are new.
    #[arg(long, value_enum, default_value_t = Phase::Decode)]
    phase: Phase,
    /// Sequences; several numbers for several sizes of launch (1,16,64).
    #[arg(long, value_name = "N,...", allow_negative_numbers = true, value_delimiter = ',', default_value = "1", value_parser = sequences())]
    batch: Vec<u32>,
    /// Cached tokens a sequence, the new ones included; several numbers for several sizes of launch (1024,8192).
    #[arg(long, value_name = "N,...", allow_negative_numbers = true, value_delimiter = ',', default_value = "4096", value_parser = tokens())]
    kv_len: Vec<u32>,
    /// New tokens a sequence; 1 for decode, the whole --kv-len for prefill where left out.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = tokens())]
    q_len: Option<u32>,
    /// Type of weights, activations and cache.
    #[arg(long, value_enum, default_value_t = ComputeType::Bf16)]
    dtype: ComputeType,
    /// Tokens a page of the cache.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = options::page_size())]
    page_size: u32,
    /// Fused kernels, or one for each node.
    #[arg(long, value_enum, default_value_t = PlanChoice::Fused)]
    plan: PlanChoice,
    /// Only the kernel of this name.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// What is timed: cpu.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", conflicts_with = "arch")]
    device: DeviceSpec,
    /// Instead of timing: rank for this architecture by compiled resources and the model.
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// When to end: 60s, 500ms, 10m. What is under way then is finished.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = budget)]
    budget: Duration,
    /// The file of records to read and add to; made where it isn't there. [default: tuning.jsonl in the cache folder]
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Judge again what is recorded.
    #[arg(long)]
    again: bool,
    /// CPU threads; all where left out. Records hold for so many.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = options::parts())]
    threads: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  mlafuse tune --model deepseek-v2-lite --batch 1,16 --kv-len 1024,8192
  mlafuse tune --model deepseek-v3 --batch 1,16 --budget 2m --records tuning.jsonl
  MLAFUSE_TUNING=tuning.jsonl mlafuse -v run ...         # launches tell which record they take
  mlafuse tune --model minicpm3 --arch sm_90a            # no GPU: modelled

Each kernel is launched alone, on random memory of its own, in turn with its own schedule (the one that is taken where nothing is \
known). A candidate is chosen where its median is at least 2 % less, both when it is first seen and when it is looked at again; else \
the own schedule stays.

Every figure is written to the file of records as soon as it is known, one line of JSON each. A run that is interrupted (Ctrl-C) \
or out of time keeps what it found, and the next one goes on there. Files can be merged line by line; lines that are damaged are \
told and left out. Records of other versions of this program are not used: what they tell is judged again.

Launches take the record of the nearest size: of at most half or twice the sequences and new tokens, and an eighth to eight times \
the cached ones, on the same processor, instructions and threads. They read the file that MLAFUSE_TUNING names (off: none), else \
tuning.jsonl in the cache folder (`mlafuse cache path`).";

/// A number and its unit.
fn budget(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok().filter(|number| (1..=100_000).contains(number));
    let found = number
        .zip(unit)
        .map(|(number, unit)| Duration::from_millis(number * unit));
    found.ok_or_else(|| "expected 1 to 100000 and a unit: 500ms, 60s, 10m".to_string())
}

pub fn run(args: &Args) -> Result<Report> {
    if let Some(file) = &args.records {
        check_output_file("--records", file)?;
    }
    let config = model::resolve(&args.model)?;
    options::use_threads(args.threads)?;
    let file = RecordFile::new(args.file()?);
    let (judge, layer) = args.judge(&config)?;
    let mut launches = Vec::new();
    for dims in args.launches(&config)? {
        let plan = layer.plan(args.plan.kind(), &dims)?.plan;
        launches.push((plan, dims));
    }
    let tasks = args.tasks(&launches)?;
    let start = Instant::now();
    let progress = Progress::start("kernels tuned", tasks.len());
    let limits = Limits {
        budget: args.budget,
        again: args.again,
    };
    let step = |done, of| progress.reached(done, of);
    let tuned = tune(&tasks, judge.as_ref(), &file, limits, &|| start.elapsed(), &step)?;
    drop(progress);
    report::report(args, judge.as_ref(), &tuned, file.path())
}

impl Args {
    fn file(&self) -> Result<PathBuf> {
        let file = self.records.clone().or_else(Records::user_file);
        file.context("there is no cache folder for the records: name a file with --records")
    }

    /// Who tells how fast a schedule is, and the layer prepared for that.
    fn judge(&self, config: &MlaConfig) -> Result<(Box<dyn Judge>, PreparedLayer)> {
        let dtype = self.dtype.dtype();
        let graph = layer_graph(config, dtype, self.page_size as usize)?;
        if let Some(arch) = self.arch {
            let target = Target::for_arch(arch);
            let layer = PreparedLayer::new(&graph, &machine(&target, dtype), Some(&target))?;
            let judge = Modelled::new(target, Nvrtc::locate(None)?, KernelCache::of_user());
            return Ok((Box::new(judge), layer));
        }
        if let DeviceSpec::Sim { .. } = self.device {
            bail!(
                "--device {}: the simulator has no clock; allowed: cpu, or --arch ARCH, which ranks by the model",
                self.device
            );
        }
        let device: Arc<dyn Device> = open(self.device)?;
        let layer = PreparedLayer::new(&graph, &machine_of(device.as_ref(), dtype), device.target())?;
        Ok((Box::new(Timed::new(device)), layer))
    }

    /// The sizes of every kind of launch, each once.
    fn launches(&self, config: &MlaConfig) -> Result<Vec<Dims>> {
        let page_size = self.page_size as usize;
        let row_stride = config.cache_row_stride(self.dtype.dtype().size_bytes());
        let mut launches = Vec::new();
        for &batch in &self.batch {
            for &kv_len in &self.kv_len {
                let q_len = options::new_tokens(self.q_len, kv_len, self.phase)?;
                let dims = launch_dims(batch as usize, q_len as usize, kv_len as usize, page_size)
                    .with_cache_strides(row_stride, page_size);
                if !launches.contains(&dims) {
                    launches.push(dims);
                }
            }
        }
        Ok(launches)
    }

    /// Kernel by kernel, so that memory that is filled serves all sizes of launch.
    fn tasks<'a>(&self, launches: &'a [(Plan, Dims)]) -> Result<Vec<Task<'a>>> {
        let mut names: Vec<&str> = Vec::new();
        for region in launches.iter().flat_map(|(plan, _)| &plan.kernels) {
            if !names.contains(&region.name.as_str()) {
                names.push(&region.name);
            }
        }
        if let Some(wanted) = &self.kernel {
            if !names.contains(&wanted.as_str()) {
                bail!("--kernel {wanted}: no such kernel; the plan has {}", names.join(", "));
            }
            names.retain(|name| name == wanted);
        }
        let tasks = names.into_iter().flat_map(|name| {
            launches.iter().filter_map(move |(plan, dims)| {
                Some(Task {
                    plan,
                    region: plan.kernel(name)?,
                    dims: dims.clone(),
                })
            })
        });
        Ok(tasks.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_have_a_unit() {
        let read = ["500ms", "60s", "2m"].map(|text| budget(text).unwrap().as_millis());
        assert_eq!(read, [500, 60_000, 120_000]);
        for text in ["", "60", "s", "0s", "-1s", "1.5s", "99999999999999999999s", "5 s", "1h"] {
            assert!(budget(text).unwrap_err().contains("500ms"), "{text}");
        }
    }
}
