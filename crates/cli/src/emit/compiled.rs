//! The stages that NVRTC makes: PTX, machine code, resources.

use super::Args;
use super::kernels::{KernelText, shown};
use super::layer::{Layer, chosen};
use super::stage::{Stage, published};
use crate::files::OutFiles;
use crate::output::{Align, Report, table};
use crate::progress::Progress;
use anyhow::Result;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::Nvrtc;
use mlafuse_runtime::{CompiledKernel, compile_region};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub fn run(args: &Args, layer: &Layer) -> Result<Report> {
    let plan = layer.plan()?;
    let regions = chosen(&plan, args.kernel.as_deref())?;
    let start = Instant::now();
    let kernels = compile(layer, &plan, &regions)?;
    let ready = start.elapsed();
    match args.stage {
        Stage::Ptx => {
            let texts: Vec<KernelText> = kernels.into_iter().map(text).collect();
            shown(args, "ptx", "//", &texts)
        }
        Stage::Cubin => {
            let mut files = OutFiles::new(args.out.as_deref().unwrap_or(".".as_ref()))?;
            for kernel in &kernels {
                files.write(format!("{}.cubin", kernel.name), &kernel.cubin)?;
            }
            published(files)
        }
        _ => resources(args, layer, &kernels, ready),
    }
}

/// Compiles kernels side by side.
pub fn compile(layer: &Layer, plan: &Plan, regions: &[&Region]) -> Result<Vec<CompiledKernel>> {
    let nvrtc = Nvrtc::locate(None)?;
    let cache = KernelCache::of_user();
    let progress = Progress::start("kernels compiled", regions.len());
    let compile = |region: &&Region| {
        let kernel = compile_region(plan, region, &layer.target, &layer.dims, &nvrtc, &cache);
        progress.step();
        kernel
    };
    // Collected before the first error is looked for: the same one is told every time.
    let compiled: Vec<_> = regions.par_iter().map(compile).collect();
    Ok(compiled.into_iter().collect::<Result<_, _>>()?)
}

fn text(kernel: CompiledKernel) -> KernelText {
    KernelText {
        name: kernel.name,
        schedule: kernel.schedule.to_string(),
        text: kernel.ptx,
    }
}

fn resources(args: &Args, layer: &Layer, kernels: &[CompiledKernel], ready: Duration) -> Result<Report> {
    let heading = [
        ("kernel", Align::Left),
        ("schedule", Align::Left),
        ("registers", Align::Right),
        ("spill B", Align::Right),
        ("static B", Align::Right),
        ("dynamic B", Align::Right),
        ("threads", Align::Right),
        ("occupancy", Align::Right),
        ("compile ms", Align::Right),
        ("from", Align::Left),
    ];
    let rows: Vec<_> = kernels.iter().map(row).collect();
    let text = format!(
        "{} ({})\n{}{}\n",
        layer.target.name,
        layer.target.arch,
        table(heading, &rows),
        readiness(kernels, ready)
    );
    let objects: Vec<Value> = kernels.iter().map(|kernel| object(kernel, layer)).collect();
    let json = json!({ "gpu": layer.target.name, "arch": layer.target.arch.to_string(),
        "kernels": objects, "ready_ms": milliseconds(ready) });
    let Some(out) = &args.out else {
        return Ok(Report::new(text, json));
    };
    let mut files = OutFiles::new(out)?;
    files.write("resources.json", format!("{json:#}\n"))?;
    published(files)
}

/// How long it took until all kernels were there, and where they came from.
fn readiness(kernels: &[CompiledKernel], ready: Duration) -> String {
    let (cached, compiled): (Vec<_>, Vec<_>) = kernels.iter().partition(|kernel| kernel.from_cache);
    let nvrtc = |kernels: &[&CompiledKernel]| kernels.iter().map(|kernel| kernel.compile_ms).sum::<f64>();
    let from = |count: usize, words: String| (count > 0).then(|| format!("{count} {words}"));
    let parts = [
        from(
            compiled.len(),
            format!("compiled by NVRTC ({:.0} ms of its time)", nvrtc(&compiled)),
        ),
        from(
            cached.len(),
            format!("from the kernel cache (NVRTC had taken {:.0} ms)", nvrtc(&cached)),
        ),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!(
        "{} kernels in {:.1} ms: {}",
        kernels.len(),
        milliseconds(ready),
        parts.join(", ")
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn row(kernel: &CompiledKernel) -> [String; 10] {
    let resources = &kernel.resources;
    [
        kernel.name.clone(),
        kernel.schedule.to_string(),
        resources.registers.to_string(),
        resources.spill_bytes.to_string(),
        resources.static_shared_bytes.to_string(),
        resources.dynamic_shared_bytes.to_string(),
        resources.threads.to_string(),
        format!("{:.0}%", 100.0 * resources.occupancy),
        format!("{:.0}", kernel.compile_ms),
        if kernel.from_cache { "cache" } else { "NVRTC" }.to_string(),
    ]
}

fn object(kernel: &CompiledKernel, layer: &Layer) -> Value {
    let resources = &kernel.resources;
    let rejected = kernel
        .rejected
        .iter()
        .map(|rejected| json!({ "schedule": rejected.schedule.to_string(), "reason": rejected.reason }));
    json!({
        "name": kernel.name,
        "arch": layer.target.arch.to_string(),
        "schedule": kernel.schedule.to_string(),
        "registers": resources.registers,
        "spill_bytes": resources.spill_bytes,
        "static_shared_bytes": resources.static_shared_bytes,
        "dynamic_shared_bytes": resources.dynamic_shared_bytes,
        "threads": resources.threads,
        "occupancy": resources.occupancy,
        "compile_ms": kernel.compile_ms,
        "from_cache": kernel.from_cache,
        "rejected": rejected.collect::<Vec<_>>(),
    })
}
