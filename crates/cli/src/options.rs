//! Options that several commands have.

use anyhow::{Context, Result, bail};
use clap::builder::RangedI64ValueParser;
use mlafuse::{DeviceSpec, PlanKind};
use mlafuse_tensor::DType;

/// 1 to 65536 sequences of a batch.
pub fn sequences() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(1..=1 << 16)
}

/// 1 to 2^24 tokens of a sequence.
pub fn tokens() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(1..=1 << 24)
}

/// 1 to 65536 tokens of a cache page.
pub fn page_size() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(1..=1 << 16)
}

/// 1 to 1024 parts or threads.
pub fn parts() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(1..=1024)
}

/// How nodes become kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanChoice {
    /// As few kernels as are known.
    Fused,
    /// A kernel for each node.
    Unfused,
}

impl PlanChoice {
    /// What the library calls it.
    pub fn kind(self) -> PlanKind {
        match self {
            PlanChoice::Fused => PlanKind::Fused,
            PlanChoice::Unfused => PlanKind::Unfused,
        }
    }
}

/// Type of weights, activations and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ComputeType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl ComputeType {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            ComputeType::Bf16 => DType::BF16,
            ComputeType::F16 => DType::F16,
            ComputeType::F32 => DType::F32,
        }
    }
}

/// What the launches of a layer look like.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LaunchSizes {
    /// Sequences.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = sequences())]
    pub batch: u32,
    /// New tokens a sequence; 1 for decode, the whole --kv-len for prefill where left out.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = tokens())]
    pub q_len: Option<u32>,
    /// Cached tokens a sequence, the new ones included.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 4096, value_parser = tokens())]
    pub kv_len: u32,
    /// Type of weights, activations and cache.
    #[arg(long, value_enum, default_value_t = ComputeType::Bf16)]
    pub dtype: ComputeType,
    /// Tokens a page of the cache.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = page_size())]
    pub page_size: u32,
}

impl LaunchSizes {
    /// New tokens a sequence, as [`new_tokens`] says.
    pub fn new_tokens(&self, phase: Phase) -> Result<u32> {
        new_tokens(self.q_len, self.kv_len, phase)
    }
}

/// New tokens a sequence: --q-len, or else what is usual. They are part of the cached ones.
pub fn new_tokens(q_len: Option<u32>, kv_len: u32, phase: Phase) -> Result<u32> {
    let usual = match phase {
        Phase::Decode => 1,
        Phase::Prefill => kv_len,
    };
    let q_len = q_len.unwrap_or(usual);
    if q_len > kv_len {
        bail!("--q-len {q_len} is more than --kv-len {kv_len}: the new tokens are part of the cached ones");
    }
    Ok(q_len)
}

/// Which launches they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Phase {
    /// Few new tokens a sequence.
    Decode,
    /// Every token of the sequence is new.
    Prefill,
}

impl Phase {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Decode => "decode",
            Phase::Prefill => "prefill",
        }
    }
}

/// What the simulator looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckChoice {
    /// Nothing that takes time.
    None,
    /// Everything.
    All,
}

/// --device with --check.
pub fn with_check(device: DeviceSpec, check: Option<CheckChoice>) -> Result<DeviceSpec> {
    match (device, check) {
        (device, None) => Ok(device),
        (DeviceSpec::Sim { arch, .. }, Some(check)) => Ok(DeviceSpec::Sim {
            arch,
            checked: check == CheckChoice::All,
        }),
        (device, Some(_)) => {
            bail!("--check: only the simulator has checks, and --device is {device}; allowed: sim, sim:ARCH")
        }
    }
}

/// Computes on so many CPU threads, where given; else on one for each processor.
pub fn use_threads(threads: Option<u32>) -> Result<()> {
    match threads {
        Some(threads) => rayon::ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .build_global()
            .context("--threads"),
        None => Ok(()),
    }
}
