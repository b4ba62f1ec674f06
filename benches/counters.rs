//! One decode step by the simulator's counters: what its attention reads and writes, buffer by buffer, over the number of
//! splits, and what both plans move.
//!
//! Bytes are 32-byte sectors that a launch touched, each once: what DRAM would move with caches that never forget within a
//! launch, and forget everything between two. Nothing here is timed, and no GPU takes part.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result};
use mlafuse::config::MlaConfig;
use mlafuse::{DType, DeviceSpec, PlanKind, Statistics, launch_dims, layer_graph, machine_of, plan_for};
use mlafuse_codegen::tile::Arg;
use mlafuse_ir::plan::{AttentionRegion, BufferId, Plan, Region, RegionKind};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::Arch;
use mlafuse_profile::{Options, PlanProfile, Plans, kernel_work, profile, random_inputs};
use mlafuse_runtime::{Buffer, Device, NoSchedules, Prepared, Splits, open, with_splits};
use serde::Serialize;

use crate::PAGE_SIZE;

/// Bytes of a DRAM sector.
const SECTOR: u64 = 32;

/// The step that is counted: one new token a sequence.
#[derive(Clone, Debug)]
pub struct Step {
    /// The layer.
    pub config: MlaConfig,
    /// Storage type.
    pub dtype: DType,
    /// The simulated part.
    pub arch: Arch,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence, the new one included.
    pub cached: usize,
}

/// What one step costs.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub cached: usize,
    /// Bytes of the cached rows themselves: batch · tokens · (d_latent + d_rope) elements.
    pub cache_bytes: u64,
    /// Attention and what reads its splits, for each number of splits.
    pub attention: Vec<AtSplits>,
    /// The number of splits with the least bytes of query, partial results and output.
    pub least_splits: usize,
    /// The whole step, fused.
    pub fused: Whole,
    /// The whole step, a kernel a node.
    pub unfused: Whole,
    /// Bytes of the unfused step by those of the fused one.
    pub ratio: f64,
}

/// Attention at one number of splits, in bytes of sectors that a launch touched.
#[derive(Clone, Debug, Serialize)]
pub struct AtSplits {
    /// Parts of the cached tokens of a sequence.
    pub splits: usize,
    /// Blocks of the attention kernel.
    pub blocks: u64,
    /// Of the cache, read.
    pub cache_read: u64,
    /// `cache_read` by the cache's own bytes.
    pub cache_ratio: f64,
    /// Of the query, read.
    pub q_read: u64,
    /// Of partial results and their logarithms of sums, written and read again.
    pub partials: u64,
    /// Of what the combine makes, written.
    pub output: u64,
    /// The last three together.
    pub around_the_cache: u64,
    /// Bytes of all sectors that instructions of these kernels asked for, each as often as it was: what L2 would move where L1
    /// keeps nothing.
    pub requested: u64,
}

/// A whole step under one plan.
#[derive(Clone, Debug, Serialize)]
pub struct Whole {
    /// Kernel launches.
    pub launches: usize,
    /// Parts of the cached tokens.
    pub splits: usize,
    /// Bytes of the sectors that each launch touched.
    pub bytes: u64,
    /// Each kernel's.
    pub kernels: Vec<(String, u64)>,
}

impl Whole {
    fn new(profile: &PlanProfile) -> Whole {
        let kernels = profile.kernels.iter().map(|kernel| (kernel.name.clone(), kernel.bytes));
        Whole {
            launches: profile.launches,
            splits: profile.splits,
            bytes: profile.bytes,
            kernels: kernels.collect(),
        }
    }
}

impl Step {
    /// Counts attention at each number of splits, and both plans at the device's own.
    ///
    /// # Errors
    /// Where there is no NVRTC, a kernel cannot be built, or memory does not suffice.
    pub fn count(&self, splits: &[usize]) -> Result<Counted> {
        let cache_bytes = self.cache_bytes();
        let attention = self.attention(splits)?;
        let least = attention.iter().min_by_key(|counted| counted.around_the_cache);
        let least_splits = least.context("no number of splits to count at")?.splits;
        let [fused, unfused] = self.whole()?;
        Ok(Counted {
            batch: self.batch,
            cached: self.cached,
            cache_bytes,
            attention,
            least_splits,
            ratio: unfused.bytes as f64 / fused.bytes.max(1) as f64,
            fused,
            unfused,
        })
    }

    fn cache_bytes(&self) -> u64 {
        let row = (self.config.d_latent + self.config.d_rope) * self.dtype.size_bytes();
        (self.batch * self.cached * row) as u64
    }

    /// What the fused plan's attention touches, and the kernels that read its partial results, at each number of splits.
    ///
    /// # Errors
    /// As [`Step::count`].
    pub fn attention(&self, splits: &[usize]) -> Result<Vec<AtSplits>> {
        let device = self.device()?;
        let (plan, dims) = (self.plan(device.as_ref(), PlanKind::Fused)?, self.dims());
        let (region, attention) = plan
            .kernels
            .iter()
            .find_map(|region| match &region.kind {
                RegionKind::Attention(attention) => Some((region, attention)),
                _ => None,
            })
            .context("the fused plan has no attention")?;
        let parts = [attention.partial, attention.lse];
        let reads_them = |other: &&Region| other.reads.iter().any(|id| parts.contains(id));
        let prepare = |region: &Region| device.prepare(&plan, region, &dims);
        let core = Core {
            device: device.as_ref(),
            plan: &plan,
            attention,
            parts,
            first: prepare(region)?,
            readers: plan
                .kernels
                .iter()
                .filter(reads_them)
                .map(prepare)
                .collect::<Result<_, _>>()?,
            inputs: random_inputs(device.as_ref(), &plan, &dims)?,
            cache_bytes: self.cache_bytes(),
        };
        let counted = splits.iter().map(|&splits| {
            let tokens = NonZeroUsize::new(self.cached.div_ceil(splits.max(1))).unwrap_or(NonZeroUsize::MIN);
            let sizes = Splits::Fixed { tokens }.bind(&dims, self.cached, device.as_ref());
            core.count(&sizes, splits)
        });
        counted.collect()
    }

    /// Both plans of the whole step.
    fn whole(&self) -> Result<[Whole; 2]> {
        let device = self.device()?;
        let plans = Plans {
            fused: self.plan(device.as_ref(), PlanKind::Fused)?,
            unfused: self.plan(device.as_ref(), PlanKind::Unfused)?,
        };
        let options = Options {
            repeat: None,
            dtype: self.dtype,
            splits: Splits::Balanced,
        };
        let profile = profile(&device, plans, &NoSchedules, &self.dims(), options, &|_| ())?;
        Ok([Whole::new(&profile.plans.fused), Whole::new(&profile.plans.unfused)])
    }

    /// Bytes that the kernels of a plan must move at least, counted from the plan without executing it.
    ///
    /// # Errors
    /// Where there is no plan.
    pub fn least_bytes(&self, kind: PlanKind, splits: usize) -> Result<u64> {
        let device = self.device()?;
        let plan = self.plan(device.as_ref(), kind)?;
        let dims = with_splits(&self.dims(), device.as_ref()).with(Symbol::Z, splits);
        let works = plan
            .kernels
            .iter()
            .map(|region| Ok(kernel_work(&plan, region, &dims)?.bytes));
        works.sum()
    }

    fn device(&self) -> Result<Arc<dyn Device>> {
        let spec = DeviceSpec::Sim {
            arch: Some(self.arch),
            checked: false,
        };
        Ok(open(spec)?)
    }

    fn dims(&self) -> Dims {
        let row = self.config.cache_row_stride(self.dtype.size_bytes());
        launch_dims(self.batch, 1, self.cached, PAGE_SIZE).with_cache_strides(row, PAGE_SIZE)
    }

    fn plan(&self, device: &dyn Device, kind: PlanKind) -> Result<Plan> {
        let graph = layer_graph(&self.config, self.dtype, PAGE_SIZE)?;
        let machine = machine_of(device, self.dtype);
        Ok(plan_for(&graph, kind, &self.dims(), &machine, device.target())?.plan)
    }
}

/// The attention kernel and those that read what it writes, on a device.
struct Core<'a> {
    device: &'a dyn Device,
    plan: &'a Plan,
    attention: &'a AttentionRegion,
    /// What attention leaves for its readers.
    parts: [BufferId; 2],
    first: Prepared,
    readers: Vec<Prepared>,
    inputs: BTreeMap<String, Buffer>,
    cache_bytes: u64,
}

impl Core<'_> {
    fn count(&self, dims: &Dims, splits: usize) -> Result<AtSplits> {
        let memory = self.memory(dims)?;
        let launch = |prepared: &Prepared| -> Result<Statistics> {
            let args = prepared.program.launch(dims)?.args;
            let tensors = args.iter().filter_map(|arg| match arg {
                Arg::Buffer { buffer, .. } => memory.get(buffer.0),
                _ => None,
            });
            let statistics = prepared.kernel.launch(dims, &tensors.collect::<Vec<_>>())?;
            statistics.context("the device does not count")
        };
        let attention = launch(&self.first)?;
        let readers = self.readers.iter().map(launch).collect::<Result<Vec<_>>>()?;
        let of = |values: Vec<BufferId>| touched(self.plan, &attention, &values);
        let place = |value| self.plan.view(value).map(|view| view.buffer);
        let cache = of(place(self.attention.cache).into_iter().collect()).read;
        let q_read = of(self
            .attention
            .queries
            .iter()
            .filter_map(|part| place(part.value))
            .collect())
        .read;
        let mut partials = of(self.parts.to_vec()).written;
        let result = self.attention.result.and_then(place);
        let mut output = of(result.into_iter().collect()).written;
        for reader in &readers {
            partials += touched(self.plan, reader, &self.parts).read;
            output += SECTOR
                * reader
                    .traffic
                    .iter()
                    .map(|traffic| traffic.sectors_written)
                    .sum::<u64>();
        }
        let requested = std::iter::once(&attention)
            .chain(&readers)
            .map(|statistics| statistics.total.global_sectors());
        Ok(AtSplits {
            splits,
            blocks: self
                .first
                .program
                .launch(dims)?
                .grid
                .iter()
                .map(|&n| u64::from(n))
                .product(),
            cache_read: cache,
            cache_ratio: cache as f64 / self.cache_bytes.max(1) as f64,
            q_read,
            partials,
            output,
            around_the_cache: q_read + partials + output,
            requested: SECTOR * requested.sum::<u64>(),
        })
    }

    /// The caller's memory, and new memory for the rest. That the query is all zeros changes no count.
    fn memory(&self, dims: &Dims) -> Result<Vec<Buffer>> {
        let memory = |buffer: &mlafuse_ir::plan::Buffer| match self.inputs.get(&buffer.name) {
            Some(input) => Ok(input.clone()),
            None => Ok(self.device.alloc(&buffer.name, buffer.bytes(dims)?)?),
        };
        self.plan.buffers.iter().map(memory).collect()
    }
}

/// Bytes of distinct sectors.
struct Touched {
    read: u64,
    written: u64,
}

/// What a launch touched of some of the plan's buffers.
fn touched(plan: &Plan, statistics: &Statistics, buffers: &[BufferId]) -> Touched {
    let mut sum = Touched { read: 0, written: 0 };
    for traffic in &statistics.traffic {
        if buffers.iter().any(|&id| plan.buffer(id).name == traffic.allocation) {
            sum.read += SECTOR * traffic.sectors_read;
            sum.written += SECTOR * traffic.sectors_written;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::presets::preset;
    use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;

    fn step(config: MlaConfig, batch: usize, cached: usize) -> Option<Step> {
        nvrtc_or_skip()?;
        Some(Step {
            config,
            dtype: DType::BF16,
            arch: Arch::Sm80,
            batch,
            cached,
        })
    }

    /// DeepSeek-V3's heads, at 4,096 tokens and at few.
    #[test]
    fn attention_reads_the_cache_once_and_nothing_twice() {
        for (batch, cached, splits) in [(1, 4096, 16), (3, 300, 2)] {
            let config = MlaConfig {
                d_model: 64,
                d_q_latent: Some(16),
                ..preset("deepseek-v3").unwrap()
            };
            let Some(step) = step(config, batch, cached) else {
                return;
            };
            let (heads, latent, rope) = (step.config.n_heads, step.config.d_latent, step.config.d_rope);
            let all = step.attention(&[splits]).unwrap();
            assert_eq!(all.len(), 1);
            for counted in all {
                assert!((1.0..=1.05).contains(&counted.cache_ratio), "{counted:?}");
                let query = batch * heads * (latent + rope) * DType::BF16.size_bytes();
                assert_eq!(counted.q_read, query as u64, "{counted:?}");
                // Written once and read once, in f32.
                let partials = 2 * batch * splits * heads * (latent + 1) * DType::F32.size_bytes();
                assert_eq!(counted.partials, partials as u64, "{counted:?}");
                assert_eq!(
                    counted.around_the_cache,
                    counted.q_read + counted.partials + counted.output
                );
                assert!(counted.output > 0 && counted.requested >= counted.cache_read + counted.around_the_cache);
            }
        }
    }

    #[test]
    fn both_plans_are_counted_whole() {
        let config = MlaConfig::from_inline("heads=16,d_model=64,d_latent=128,d_rope=32,d_q_latent=32").unwrap();
        let Some(step) = step(config, 2, 256) else {
            return;
        };
        let counted = step.count(&[4, 1, 2]).unwrap();
        assert_eq!(counted.least_splits, 1);
        for whole in [&counted.fused, &counted.unfused] {
            assert_eq!(whole.launches, whole.kernels.len());
            assert_eq!(whole.bytes, whole.kernels.iter().map(|(_, bytes)| bytes).sum::<u64>());
        }
        assert!(
            counted.ratio > 1.0 && counted.fused.launches < counted.unfused.launches,
            "{counted:?}"
        );
        for (kind, whole) in [(PlanKind::Fused, &counted.fused), (PlanKind::Unfused, &counted.unfused)] {
            let least = step.least_bytes(kind, whole.splits).unwrap();
            assert!(
                least <= whole.bytes && whole.bytes < 2 * least,
                "{kind}: {least} {}",
                whole.bytes
            );
        }
    }
}
