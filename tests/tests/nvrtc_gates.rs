//! Compiles generated kernels for every architecture and holds them to their resources: no register in memory, no stack, no
//! more shared memory than a block may have, and PTX that ptxsim reads. Needs NVRTC, and no GPU.

use mlafuse::{PlanKind, launch_dims, machine, plan_for};
use mlafuse_codegen::build::{Processor, build, cpu_schedule};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use mlafuse_ir::presets::{names, preset};
use mlafuse_ir::size::Dims;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::compile_region;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_runtime::nvrtc::{CudaSource, Nvrtc};
use mlafuse_tensor::DType;
use mlafuse_tests::drive::deep;
use mlafuse_tests::front::{self, Extras};
use ptxsim::ast::{FunctionKind, Item, Module};
use rayon::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

/// A model (a preset or an inline shape) and its storage type.
type Model = (&'static str, DType);

/// One kernel for one architecture.
struct Job {
    model: Model,
    plan: Arc<Plan>,
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
        let plan = plan_for(&graph, kind, dims, &machine(&target, dtype), Some(&target));
        let plan = Arc::new(plan.expect("a plan").plan);
        for region in plan.kernels.iter().filter(|region| wanted(region)) {
            let (plan, dims, target) = (Arc::clone(&plan), dims.clone(), target.clone());
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

/// One of all jobs that are the same program in launches of the same sizes for the same architecture: models share shapes, and
/// plans share kernels.
fn distinct(jobs: Vec<Job>) -> Vec<Job> {
    let text = |job: &Job| {
        let schedule = cpu_schedule(&job.plan, &job.region, &Processor::PLAIN, &job.dims).expect("a schedule");
        let program = build(&job.plan, &job.region, &schedule).expect("a program");
        format!("{} {:?}\n{program}", job.target.arch, job.dims)
    };
    let texts: Vec<String> = jobs.par_iter().map(text).collect();
    let mut seen = HashSet::new();
    let jobs = jobs.into_iter().zip(texts);
    jobs.filter_map(|(job, text)| seen.insert(text).then_some(job))
        .collect()
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

/// All tokens new.
fn prefill() -> Dims {
    launch_dims(1, 4096, 4096, 64)
}

/// Both plans of one decode step and of a prefill, as they are. Every preset for every architecture takes minutes, which
/// `MLAFUSE_DEEP=1` spends: else those but one are compiled for two parts with much and with little shared memory.
#[test]
fn every_kernel_of_every_preset_fits_every_architecture() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let every = known(&nvrtc);
    assert!(every.contains(&Arch::Sm80) && every.contains(&Arch::Sm90a), "{every:?}");
    let few = deep(vec![Arch::Sm80, Arch::Sm120], every.clone());
    let mut all = Vec::new();
    for name in names() {
        let archs = if name == "deepseek-v3" { &every } else { &few };
        for kind in [PlanKind::Fused, PlanKind::Unfused] {
            for dims in [decode(), prefill()] {
                all.extend(jobs((name, DType::BF16), kind, &dims, archs, |_| true));
            }
        }
    }
    let (kernels, all) = (all.len(), distinct(all));
    println!("{kernels} kernels, {} distinct", all.len());
    check(&nvrtc, &all);
}

#[test]
fn fused_kernels_fit_every_architecture() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let fused = |region: &Region| !matches!(region.kind, RegionKind::Node(_)) || region.nodes.len() > 1;
    let mut all = Vec::new();
    for model in [
        ("deepseek-v3", DType::F16),
        ("heads=1,d_model=64,d_latent=192,d_rope=24", DType::BF16),
        ("heads=7,d_model=64,d_latent=192,d_rope=0", DType::BF16),
        ("heads=20,d_model=64,d_latent=192,d_rope=24", DType::F16),
        ("heads=16,d_model=64,d_latent=960,d_rope=64", DType::BF16),
        ("heads=7,d_model=64,d_latent=50,d_rope=6", DType::F32),
    ] {
        all.extend(jobs(model, PlanKind::Fused, &decode(), &known(&nvrtc), fused));
    }
    check(&nvrtc, &all);
}

/// A decode step of batches that a block has all rows of: other schedules than those of one row and of many.
#[test]
fn batches_of_few_rows_fit() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let archs = deep(vec![Arch::Sm120], known(&nvrtc));
    let mut all = Vec::new();
    for batch in [16, 33, 64] {
        let dims = launch_dims(batch, 1, 4096, 64);
        all.extend(jobs(
            ("deepseek-v3", DType::BF16),
            PlanKind::Fused,
            &dims,
            &archs,
            |_| true,
        ));
    }
    check(&nvrtc, &distinct(all));
}

/// The projections as rewrites merge them, for one new token and for many.
#[test]
fn merged_projections_fit_every_architecture() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let mut all = Vec::new();
    let odd = "heads=7,d_model=64,d_latent=50,d_rope=6,d_nope=11,d_q_latent=22";
    for (name, dtype, tokens) in [
        ("deepseek-v3", DType::BF16, 1),
        ("deepseek-v3", DType::F32, 1),
        ("deepseek-v3", DType::F16, 1024),
        ("minicpm3", DType::BF16, 1),
        (odd, DType::BF16, 1),
        (odd, DType::F32, 300),
    ] {
        let config = preset(name).or_else(|_| MlaConfig::from_inline(name)).expect("a model");
        let extras = Extras {
            bias: true,
            factor: Some(1.5),
            keep_content: false,
        };
        let graph = front::graph(&config, dtype, 64, extras).expect("a graph");
        let plan = Arc::new(mlafuse_ir::plan::fused(&graph).expect("a plan"));
        for (arch, region) in known(&nvrtc)
            .into_iter()
            .flat_map(|arch| plan.kernels.iter().map(move |region| (arch, region)))
        {
            all.push(Job {
                model: (name, dtype),
                plan: Arc::clone(&plan),
                dims: launch_dims(1, tokens, 4096, 64),
                region: region.clone(),
                target: Target::for_arch(arch),
            });
        }
    }
    check(&nvrtc, &all);
}

/// Unabsorbed attention, and the contractions that read the cache for it.
#[test]
fn fused_prefill_fits_every_architecture() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let archs = known(&nvrtc);
    let fused = |region: &Region| !matches!(region.kind, RegionKind::Node(_)) || region.nodes.len() > 1;
    let prefill = |region: &Region| matches!(region.kind, RegionKind::Prefill(_));
    let mut all = Vec::new();
    for model in [
        ("deepseek-v3", DType::BF16),
        ("minicpm3", DType::F16),
        ("deepseek-v2-lite", DType::BF16),
        ("heads=7,d_model=64,d_latent=192,d_rope=0,d_nope=24,d_v=40", DType::BF16),
        ("heads=1,d_model=64,d_latent=50,d_rope=6,d_nope=27,d_v=33", DType::F32),
    ] {
        let of_model = jobs(model, PlanKind::Fused, &launch_dims(1, 2048, 2048, 64), &archs, fused);
        assert!(of_model.iter().any(|job| prefill(&job.region)), "{model:?}");
        all.extend(of_model);
    }
    check(&nvrtc, &all);
}

#[test]
fn every_node_has_a_kernel() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let odd = "heads=3,d_model=40,d_latent=50,d_rope=6,d_nope=10,d_v=12,d_q_latent=22";
    let mut all = Vec::new();
    for model in [(odd, DType::BF16), (odd, DType::F32)] {
        all.extend(jobs(model, PlanKind::Unfused, &decode(), &known(&nvrtc), |_| true));
    }
    check(&nvrtc, &all);
}
