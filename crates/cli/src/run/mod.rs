//! `mlafuse run`: one attention layer of a checkpoint, prefill and decode, on inputs from a file.

mod expect;
mod input;
mod kernels;
mod report;

use crate::files::check_output_file;
use crate::model::read_config;
use crate::options::{self, CheckChoice, ComputeType, PlanChoice};
use crate::output::{self, Report};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use expect::Expectation;
use input::Inputs;
use mlafuse::config::MlaConfig;
use mlafuse::{
    Checkpoint, DType, DeviceSpec, HostTensor, KernelTime, LayerOptions, LayerWeights, LoadProgress, MlaLayer, Splits,
    Step, default_prefix,
};
use mlafuse_tensor::write_safetensors;
use std::path::PathBuf;

/// Which layer, on what, compared with what.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A folder with config.json and model.safetensors, or its index and shards.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// The layer, from 0.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0,
        conflicts_with = "prefix"
    )]
    layer: usize,
    /// Where the attention's tensors are, where it is not the layer's usual place: model.layers.0.self_attn.1
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// A safetensors file with `hidden_states` [B, T, d_model]; optionally `decode_hidden` [N, B, d_model], one step each,
    /// and `lengths` I32 [B], the prefill's tokens of each sequence.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where `prefill_out` [B, T, d_model] and `decode_out` [N, B, d_model] go, in f32; whole or not at all.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What computes: cpu; sim or sim:ARCH, which executes the kernels' PTX; cuda, cuda:N; reference (the interpreter, f32) or
    /// reference:f64. The environment variable MLAFUSE_CPU_LEVEL (portable, avx2, avx512, avx512-bf16, amx) keeps cpu to these
    /// instructions.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceSpec,
    /// Whether the simulator looks for races, reads of what nothing wrote and misuse of barriers, which takes longer. Accesses
    /// outside of allocations, deadlocks and stores to inputs are always found. [default: all]
    #[arg(long, value_enum)]
    check: Option<CheckChoice>,
    /// Fused kernels, or one for each node.
    #[arg(long, value_enum, default_value_t = PlanChoice::Fused)]
    plan: PlanChoice,
    /// Type of weights, activations and cache.
    #[arg(long, value_enum, default_value_t = ComputeType::Bf16)]
    dtype: ComputeType,
    /// Tokens a page of the cache.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = options::page_size())]
    page_size: u32,
    /// How attention splits the cached tokens: balanced over the batch, or fixed:TOKENS, with which a sequence's result does not
    /// depend on the others of its batch.
    #[arg(long, value_name = "SPLITS", default_value_t = Splits::Balanced)]
    splits: Splits,
    /// Compare with `prefill_out` and `decode_out` of this file; exit 1 where one differs too much.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Most relative L2 error. Where left out: bf16 and f16 twice the error of the file's `*_out_bf16`, else 2e-2;
    /// f32 1e-4; reference:f64 5e-5.
    #[arg(long, value_name = "REL_L2", allow_negative_numbers = true, requires = "expect", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// CPU threads; all where left out. The result does not depend on it.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = options::parts())]
    threads: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  mlafuse run --checkpoint examples/deepseek-v3-tiny \\
      --input examples/deepseek-v3-tiny/io.safetensors --output out.safetensors \\
      --expect examples/deepseek-v3-tiny/io.safetensors
  mlafuse run --checkpoint examples/deepseek-v3-tiny \\
      --input examples/deepseek-v3-tiny/io.safetensors --output out.safetensors \\
      --device sim:sm_120
  mlafuse run --checkpoint DeepSeek-V2-Lite --layer 5 --input io.safetensors \\
      --output out.safetensors --plan unfused
  mlafuse run --checkpoint LongCat-Flash --prefix model.layers.0.self_attn.1 \\
      --input io.safetensors --output out.safetensors --device reference:f64";

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number of at least 0, as 2e-2".to_string()),
    }
}

impl Args {
    /// --device with --check.
    fn device(&self) -> Result<DeviceSpec> {
        options::with_check(self.device, self.check)
    }
}

/// What came out of the layer.
struct Outcome {
    /// \[B, T, d_model\].
    prefill: HostTensor,
    /// \[N, B, d_model\], where there were steps to decode.
    decode: Option<HostTensor>,
    /// Every launch, in order.
    kernels: Vec<KernelTime>,
    /// What was not as asked for.
    notes: Vec<String>,
}

pub fn run(args: &Args) -> Result<Report> {
    check_output_file("--output", &args.output)?;
    args.device()?;
    if !args.checkpoint.is_dir() {
        bail!("--checkpoint {}: not a folder", args.checkpoint.display());
    }
    let config = read_config(&args.checkpoint.join("config.json"))?;
    config.notes.iter().for_each(|note| tracing::info!("config: {note}"));
    let inputs = Inputs::read(&args.input, config.d_model)?;
    let expectation = args
        .expect
        .as_deref()
        .map(|file| Expectation::read(file, &inputs))
        .transpose()?;
    options::use_threads(args.threads)?;
    let layer = load(args, &config)?;
    let outcome = compute(args, &layer, &inputs)?;
    let mut tensors = vec![("prefill_out", outcome.prefill.clone())];
    tensors.extend(outcome.decode.clone().map(|decode| ("decode_out", decode)));
    write_safetensors(&args.output, &tensors).with_context(|| format!("--output {}", args.output.display()))?;
    let precision = if is_reference(args) {
        None
    } else {
        Some(args.dtype.dtype())
    };
    let judged = expectation
        .map(|expectation| expectation.judge(args, precision, &inputs, &outcome))
        .transpose()?;
    report::report(args, outcome, judged)
}

fn is_reference(args: &Args) -> bool {
    matches!(args.device, DeviceSpec::Reference { .. })
}

fn load(args: &Args, config: &MlaConfig) -> Result<MlaLayer> {
    let prefix = match &args.prefix {
        Some(prefix) => prefix.trim_end_matches('.').to_string(),
        None => {
            check_layer(args.layer, config)?;
            default_prefix(config, args.layer)
        }
    };
    if is_reference(args) {
        output::note(&format!("note: device {} ignores --dtype and --plan", args.device));
    }
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let options = LayerOptions {
        device: args.device()?,
        plan: args.plan.kind(),
        dtype: args.dtype.dtype(),
        page_size: args.page_size as usize,
        splits: args.splits,
    };
    let weights = LayerWeights::load(&checkpoint, &prefix, config)?;
    let progress = Progress::of_bytes("weights loaded");
    let mut report = |at: LoadProgress<'_>| progress.reached(at.done, at.total);
    Ok(MlaLayer::with_progress(&weights, config, options, &mut report)?)
}

fn check_layer(layer: usize, config: &MlaConfig) -> Result<()> {
    if layer >= config.n_layers {
        bail!("--layer {layer}: the model has {} layers, from 0", config.n_layers);
    }
    if !config.has_mla(layer) {
        let layers = config
            .mla_layers
            .iter()
            .flatten()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        bail!("--layer {layer}: this layer has no MLA; those that have: {layers}");
    }
    Ok(())
}

fn compute(args: &Args, layer: &MlaLayer, inputs: &Inputs) -> Result<Outcome> {
    let [batch, tokens, width] = inputs.shape;
    let steps = inputs.steps();
    let mut cache = layer.new_cache(batch, tokens + steps)?;
    let progress = Progress::start("steps, the prefill first", steps + 1);
    let prefill = layer.step(&mut cache, &inputs.hidden, &inputs.lengths)?;
    progress.step();
    let Step {
        out,
        mut kernels,
        notes,
    } = prefill;
    let mut notes: Vec<String> = notes.into_iter().map(|note| format!("prefill: {note}")).collect();
    let mut decoded = Vec::with_capacity(steps * batch * width);
    for index in 0..steps {
        let step = layer.step(&mut cache, &inputs.decode_step(index)?, &vec![1; batch])?;
        progress.step();
        decoded.extend(step.out.to_f32_vec());
        kernels.extend(step.kernels);
        for note in step.notes.into_iter().map(|note| format!("decode: {note}")) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    drop(progress);
    if !is_reference(args) {
        notes.iter().for_each(|note| output::note(&format!("note: {note}")));
    }
    let decode = inputs
        .decode
        .as_ref()
        .map(|_| HostTensor::from_f32(&[steps, batch, width], &decoded))
        .transpose()?;
    Ok(Outcome {
        prefill: out.to_dtype(DType::F32),
        decode,
        kernels,
        notes,
    })
}
