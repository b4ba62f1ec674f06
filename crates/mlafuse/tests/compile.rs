//! Whole layers to CUBIN, without a GPU.

use mlafuse::config::MlaConfig;
use mlafuse::{DType, PlanKind, launch_dims, layer_graph, machine, plan_for};
use mlafuse_ir::presets::preset;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::compile_region;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;

/// Compiles every kernel of the decode plan for `arch`; none may spill.
fn compile(config: &MlaConfig, dtype: DType, kind: PlanKind, arch: Arch) {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let target = Target::for_arch(arch);
    let dims = launch_dims(1, 1, 4096, 64);
    let graph = layer_graph(config, dtype, 64).unwrap();
    let plan = plan_for(&graph, kind, &dims, &machine(&target, dtype), Some(&target))
        .unwrap()
        .plan;
    for region in &plan.kernels {
        let kernel = compile_region(&plan, region, &target, &dims, &nvrtc, &KernelCache::disabled())
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(kernel.resources.spill_bytes, 0, "{}", kernel.name);
        assert!(kernel.ptx.contains(&format!(".entry {}", region.name)));
    }
}

#[test]
fn deepseek_v3_on_an_a100() {
    compile(
        &preset("deepseek-v3").unwrap(),
        DType::BF16,
        PlanKind::Fused,
        Arch::Sm80,
    );
}

#[test]
fn deepseek_v3_with_the_little_shared_memory_of_an_rtx_5090() {
    compile(
        &preset("deepseek-v3").unwrap(),
        DType::BF16,
        PlanKind::Fused,
        Arch::Sm120,
    );
}

#[test]
fn minicpm3_in_f16_a_kernel_a_node() {
    compile(&preset("minicpm3").unwrap(), DType::F16, PlanKind::Unfused, Arch::Sm89);
}

#[test]
fn longcat_on_an_h100() {
    compile(
        &preset("longcat-flash").unwrap(),
        DType::BF16,
        PlanKind::Fused,
        Arch::Sm90a,
    );
}
