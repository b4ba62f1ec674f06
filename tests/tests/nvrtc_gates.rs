//! Compiles generated kernels for every architecture and holds them to their resources: no register in memory, no stack, no
//! more shared memory than a block may have, and PTX that ptxsim reads. Needs NVRTC, and no GPU.

use mlafuse::{PlanKind, launch_dims, machine, plan_for};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use mlafuse_ir::presets::preset;
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::compile_region;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_runtime::nvrtc::{CudaSource, Nvrtc};
use mlafuse_tensor::DType;
use ptxsim::ast::{FunctionKind, Item, Module};
use rayon::prelude::*;

/// A model (a preset or an inline shape) and its storage type.
type Model = (&'static str, DType);

/// One kernel for one architecture.
struct Job {
    model: Model,
    plan: Plan,
    dims: Dims,
    region: Region,
    target: Target,
}

/// The kernels of `model` that `wanted` keeps, for each architecture, in a plan for launches of the sizes in `dims`.
fn jobs(model: Model, kind: PlanKind, dims: &Dims, archs: &[Arch], wanted: fn(&Region) -> bool) -> Vec<Job> {
    let (name, dtype) = model;
    let config = preset(name)
        .or_else(|_| MlaConfig::from_inline(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let graph = build_layer(
        &config,
        &LayerOptions {
            dtype,
            page_size: 64,
            coupled_rope: false,
        },
    )
    .expect("a layer");
    let mut jobs = Vec::new();
    for &arch in archs {
        let target = Target::for_arch(arch);
        let plan = plan_for(&graph, kind, dims, &machine(&target, dtype))
            .expect("a plan")
            .plan;
        for region in plan.kernels.iter().filter(|region| wanted(region)) {
            let (plan, dims, target) = (plan.clone(), dims.clone(), target.clone());
            jobs.push(Job {
                model,
                plan,
                dims,
                region: region.clone(),
                target,
            });
        }
    }
    jobs
}

/// The architectures that this NVRTC knows.
fn known(nvrtc: &Nvrtc) -> Vec<Arch> {
    let numbers = nvrtc.supported_archs().expect("NVRTC's architectures");
    let known = |arch: &Arch| numbers.contains(&arch.number());
    Arch::ALL.into_iter().filter(known).collect()
}

/// What one compiled kernel takes, as a line of the table.
struct Line {
    text: String,
    fault: bool,
}

fn compile(job: &Job, nvrtc: &Nvrtc, cache: &KernelCache) -> Line {
    let Job {
        model: (name, dtype),
        plan,
        dims,
        region,
        target,
    } = job;
    let head = format!("{name:<58} {dtype:<4} {:<8} {:<24}", target.arch, region.name);
    let kernel = match compile_region(plan, region, target, dims, nvrtc, cache) {
        Ok(kernel) => kernel,
        Err(error) => {
            return Line {
                text: format!("{head} {error}"),
                fault: true,
            };
        }
    };
    let entry = |module: &Module| {
        let mut functions = module.items.iter().filter_map(|item| match item {
            Item::Function(function) => Some(function),
            Item::Variable(_) => None,
        });
        functions.any(|function| function.kind == FunctionKind::Entry && function.name == kernel.name)
    };
    match ptxsim::parse::parse(&kernel.ptx) {
        Ok(module) if entry(&module) && module.target == target.arch.to_string() => {}
        Ok(_) => {
            let text = format!("{head} its PTX has no such entry for this architecture");
            return Line { text, fault: true };
        }
        Err(error) => {
            let text = format!("{head} its PTX does not parse: {error}");
            return Line { text, fault: true };
        }
    }
    // From the cache, with what its log said.
    let source = CudaSource {
        name: format!("{}.cu", kernel.name),
        text: kernel.source,
        arch: target.arch.to_string(),
        options: kernel.options,
    };
    let compiled = cache.get_or_compile(nvrtc, &source).map(|(compiled, _)| compiled);
    let found = compiled
        .ok()
        .and_then(|c| c.resources.into_iter().find(|r| r.name == kernel.name));
    let Some(found) = found else {
        return Line {
            text: format!("{head} no resources"),
            fault: true,
        };
    };
    let shared = kernel.resources.dynamic_shared_bytes as u64 + found.static_shared_bytes;
    let spilled = found.spill_store_bytes + found.spill_load_bytes;
    let fault = spilled > 0
        || found.stack_bytes > 0
        || shared > target.shared_per_block as u64
        || found.registers as usize > target.registers_per_thread;
    let text = format!(
        "{head} {:>3} registers {spilled:>4} spilled {:>4} stack {shared:>6} shared, {} refused, {}",
        found.registers,
        found.stack_bytes,
        kernel.rejected.len(),
        kernel.schedule
    );
    Line { text, fault }
}

/// Compiles every job; fails with a table if one of them is at fault.
fn check(nvrtc: &Nvrtc, jobs: &[Job]) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = KernelCache::open(folder.path());
    let lines: Vec<Line> = jobs.par_iter().map(|job| compile(job, nvrtc, &cache)).collect();
    let table: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let faults: Vec<&str> = lines
        .iter()
        .filter(|line| line.fault)
        .map(|line| line.text.as_str())
        .collect();
    assert!(!jobs.is_empty());
    assert!(
        faults.is_empty(),
        "{} at fault:\n{}\n\nof all:\n{}",
        faults.len(),
        faults.join("\n"),
        table.join("\n")
    );
    println!("{}", table.join("\n"));
}

/// One new token after 4,095.
fn decode() -> Dims {
    launch_dims(1, 1, 4096, 64)
}

#[test]
fn fused_kernels_fit_every_architecture() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let archs = known(&nvrtc);
    assert!(archs.contains(&Arch::Sm80) && archs.contains(&Arch::Sm90a), "{archs:?}");
    let fused = |region: &Region| !matches!(region.kind, RegionKind::Node(_)) || region.nodes.len() > 1;
    let mut all = Vec::new();
    for model in [
        ("deepseek-v3", DType::BF16),
        ("deepseek-v3", DType::F16),
        ("minicpm3", DType::BF16),
        ("deepseek-v2-lite", DType::BF16),
        ("heads=1,d_model=64,d_latent=192,d_rope=24", DType::BF16),
        ("heads=7,d_model=64,d_latent=192,d_rope=0", DType::BF16),
        ("heads=20,d_model=64,d_latent=192,d_rope=24", DType::F16),
        ("heads=16,d_model=64,d_latent=960,d_rope=64", DType::BF16),
        ("heads=7,d_model=64,d_latent=50,d_rope=6", DType::F32),
    ] {
        all.extend(jobs(model, PlanKind::Fused, &decode(), &archs, fused));
    }
    check(&nvrtc, &all);
}

#[test]
fn every_node_has_a_kernel() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let odd = "heads=3,d_model=40,d_latent=50,d_rope=6,d_nope=10,d_v=12,d_q_latent=22";
    let mut all = Vec::new();
    for model in [("deepseek-v3", DType::BF16), (odd, DType::BF16), (odd, DType::F32)] {
        all.extend(jobs(model, PlanKind::Unfused, &decode(), &known(&nvrtc), |_| true));
    }
    let prefill = launch_dims(1, 1024, 1024, 64);
    let ends = [Arch::Sm80, Arch::Sm120];
    all.extend(jobs(
        ("deepseek-v3", DType::BF16),
        PlanKind::Unfused,
        &prefill,
        &ends,
        |_| true,
    ));
    check(&nvrtc, &all);
}
