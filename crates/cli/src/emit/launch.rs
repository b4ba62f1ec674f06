//! A folder for each kernel with all that is needed to run it alone: PTX, inputs, reference and how to launch it.

use super::Args;
use super::compiled::compile;
use super::inputs::{Memory, is_cache, kv_lens, memory, shape};
use super::layer::{Layer, chosen};
use super::reference::{Expected, Splits, expected};
use super::stage::published;
use crate::files::OutFiles;
use crate::output::Report;
use crate::progress::Progress;
use anyhow::{Context, Result};
use mlafuse_codegen::tile::{Access, Arg};
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_runtime::CompiledKernel;
use mlafuse_tensor::{DType, HostTensor, write_safetensors};
use serde_json::json;

/// Cached tokens that are worth a split of their own, and most splits.
const TOKENS_PER_SPLIT: usize = 256;
const MOST_SPLITS: usize = 16;

pub fn run(args: &Args, layer: &Layer) -> Result<Report> {
    let plan = layer.plan()?;
    let regions = chosen(&plan, args.kernel.as_deref())?;
    for region in &regions {
        // Before anything is compiled: what is too large to be written.
        let dims = layer.dims.clone().with(Symbol::Z, 1);
        for &id in region.reads.iter().chain(&region.writes) {
            shape(plan.buffer(id), &dims)?;
        }
    }
    let mut files = OutFiles::new(args.out.as_deref().unwrap_or(".".as_ref()))?;
    let kernels = compile(layer, &plan, &regions)?;
    let splits = splits(args, layer, &kernels, &regions)?;
    let progress = Progress::start("kernels written", kernels.len());
    for (region, kernel) in regions.iter().zip(&kernels) {
        // Each attention cuts at its own block size; the number of splits is one for all, but a combine that finds one alone does
        // nothing.
        let count = match &region.kind {
            RegionKind::Combine(combine) if combine.projection.is_none() => splits.max(2),
            _ => splits,
        };
        let splits = Splits {
            count,
            block_n: kernel.schedule.block_n.max(1),
        };
        let dims = splits.told(&layer.dims);
        let memory = memory(&plan, region, &dims, args.seed.unwrap_or(0))?;
        let expected = expected(&plan, region, &dims, &memory, splits)?;
        Repro {
            plan: &plan,
            region,
            kernel,
            dims: &dims,
            rel_l2: tolerance(layer.options.dtype),
        }
        .write(&mut files, &memory, &expected)?;
        progress.step();
    }
    drop(progress);
    published(files)
}

/// The number of splits: --splits, else by the cached tokens, and few enough that each has tokens of every sequence.
fn splits(args: &Args, layer: &Layer, kernels: &[CompiledKernel], regions: &[&Region]) -> Result<usize> {
    if let Some(splits) = args.splits {
        return Ok(splits as usize);
    }
    let cached = layer.dims.get(Symbol::S).unwrap_or(1);
    let mut count = (cached / TOKENS_PER_SPLIT).clamp(1, MOST_SPLITS);
    let lens = kv_lens(&layer.dims)?;
    let attention = |(_, region): &(&CompiledKernel, &&Region)| matches!(region.kind, RegionKind::Attention(_));
    for (kernel, _) in kernels.iter().zip(regions).filter(attention) {
        let block_n = kernel.schedule.block_n.max(1);
        let some_empty = |count: usize| {
            let splits = Splits { count, block_n };
            lens.iter()
                .any(|&len| (0..count).any(|z| splits.tokens(z, len).is_empty()))
        };
        while count > 1 && some_empty(count) {
            count -= 1;
        }
    }
    Ok(count)
}

/// What rounding to the storage type and f32 accumulation may cost one kernel.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 6e-3,
        DType::F16 => 1e-3,
        _ => 1e-4,
    }
}

/// One kernel and how it is launched.
struct Repro<'a> {
    plan: &'a Plan,
    region: &'a Region,
    kernel: &'a CompiledKernel,
    dims: &'a Dims,
    rel_l2: f64,
}

impl Repro<'_> {
    fn write(&self, files: &mut OutFiles, memory: &Memory, expected: &Expected) -> Result<()> {
        let name = &self.region.name;
        let launch = self.kernel.tile.launch(self.dims)?;
        let (mut inputs, mut references, mut args) = (Vec::new(), Vec::new(), Vec::new());
        for (param, arg) in self.kernel.tile.params.iter().zip(launch.args) {
            let (buffer, access) = match arg {
                Arg::Buffer { buffer, access } => (buffer, access),
                Arg::I32(value) => {
                    args.push(json!({ "i32": value }));
                    continue;
                }
                Arg::I64(value) => {
                    args.push(json!({ "i64": value }));
                    continue;
                }
            };
            let declared = self.plan.buffer(buffer);
            let shape = shape(declared, self.dims)?;
            let in_file = format!("inputs.safetensors#{}", param.name);
            if access == Access::Read || is_cache(declared) {
                let tensor = memory.buffers.get(&buffer).context("an input has no memory")?;
                inputs.push((param.name.as_str(), tensor.clone()));
            }
            if access == Access::Read {
                args.push(json!({ "tensor": in_file }));
                continue;
            }
            // What is never written has no reference: the parts of splits that are not there, where --splits makes such, or of
            // an only split, whose values are the result.
            let whole = |values: &&Vec<f64>| !values.iter().any(|value| value.is_nan());
            if let Some(values) = expected.get(&buffer).filter(whole) {
                references.push((param.name.as_str(), HostTensor::from_f64(&shape, values)?));
            }
            args.push(match is_cache(declared) {
                true => json!({ "inout": in_file }),
                false => json!({ "output": param.name, "dtype": declared.dtype.to_string(), "shape": shape }),
            });
        }
        files.write(format!("{name}/{name}.ptx"), &self.kernel.ptx)?;
        write_safetensors(files.path(format!("{name}/inputs.safetensors"))?, &inputs)?;
        write_safetensors(files.path(format!("{name}/reference.safetensors"))?, &references)?;
        let launch = json!({
            "ptx": format!("{name}.ptx"),
            "entry": name,
            "grid": launch.grid,
            "block": [self.kernel.resources.threads, 1, 1],
            "dynamic_shared": self.kernel.resources.dynamic_shared_bytes,
            "args": args,
            "reference": { "file": "reference.safetensors", "rel_l2": self.rel_l2 },
        });
        files.write(format!("{name}/LAUNCH.json"), format!("{launch:#}\n"))
    }
}

#[cfg(test)]
mod tests;
