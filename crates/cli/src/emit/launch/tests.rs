use super::*;
use clap::Parser;
use mlafuse_codegen::build::build;
use mlafuse_codegen::tile::{ParamKind, TileProgram};
use mlafuse_cpu::{CpuBuffer, CpuKernel, Level};
use mlafuse_ir::plan::BufferId;
use mlafuse_runtime::region_source;
use mlafuse_tensor::compare;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn layer(flags: &[&str]) -> Layer {
    let model = "heads=3,d_model=48,d_latent=40,d_rope=8,d_nope=16,d_v=24,d_q_latent=32";
    let fixed = ["emit", "--model", model, "--stage", "launch", "--page-size", "16"];
    Layer::new(&Line::parse_from(fixed.iter().chain(flags)).args).unwrap()
}

/// Runs each kernel's tile program on the CPU, with the inputs of its folder, against its reference.
fn check(flags: &[&str], splits: usize) {
    let layer = layer(flags);
    let plan = layer.plan().unwrap();
    for region in &plan.kernels {
        let schedule = region_source(&plan, region, &layer.target, &layer.dims)
            .unwrap()
            .schedule;
        let program = build(&plan, region, &schedule).unwrap();
        let splits = Splits {
            count: splits,
            block_n: schedule.block_n.max(1),
        };
        let dims = splits.told(&layer.dims);
        let memory = memory(&plan, region, &dims, 7).unwrap();
        let expected = expected(&plan, region, &dims, &memory, splits).unwrap();
        let buffers = bound(&plan, &program, &memory, &dims);
        let kernel = CpuKernel::prepare(&program, Level::detect()).unwrap();
        kernel
            .launch(&dims, &buffers.iter().map(|(_, buffer)| buffer).collect::<Vec<_>>())
            .unwrap();
        for (id, want) in expected {
            let declared = plan.buffer(id);
            let (_, buffer) = buffers.iter().find(|(bound, _)| *bound == id).unwrap();
            let mut bytes = vec![0; buffer.len()];
            buffer.read_bytes(0, &mut bytes).unwrap();
            let got = HostTensor::from_bytes(declared.dtype, &[want.len()], bytes).unwrap();
            // Elements that are never written are NaN in the reference.
            let written = |values: &[f64]| {
                let kept = values.iter().zip(&want).filter(|(_, want)| !want.is_nan());
                let kept: Vec<f64> = kept.map(|(value, _)| *value).collect();
                HostTensor::from_f64(&[kept.len()], &kept).unwrap()
            };
            let comparison = compare(&written(&got.to_f64_vec()), &written(&want)).unwrap();
            let most = tolerance(layer.options.dtype);
            assert!(
                comparison.rel_l2 <= most,
                "{flags:?} {} {}: {comparison:?}",
                region.name,
                declared.name
            );
        }
    }
}

fn bound(plan: &Plan, program: &TileProgram, memory: &Memory, dims: &Dims) -> Vec<(BufferId, CpuBuffer)> {
    let mut buffers = Vec::new();
    for param in &program.params {
        let ParamKind::Tensor { dtype, buffer: id, .. } = param.kind else {
            continue;
        };
        let size = plan.buffer(id).size.value(dims).unwrap() * dtype.size_bytes();
        let buffer = CpuBuffer::zeroed(size);
        if let Some(tensor) = memory.buffers.get(&id) {
            buffer.write_bytes(0, tensor.bytes()).unwrap();
        }
        buffers.push((id, buffer));
    }
    buffers
}

#[test]
fn references_are_what_the_kernels_compute() {
    check(&["--phase", "decode", "--kv-len", "300", "--batch", "2"], 1);
    check(
        &["--phase", "decode", "--kv-len", "300", "--batch", "2", "--dtype", "f32"],
        2,
    );
    check(
        &[
            "--phase", "decode", "--kv-len", "200", "--q-len", "3", "--batch", "3", "--dtype", "f16",
        ],
        3,
    );
    check(&["--phase", "prefill", "--kv-len", "33", "--plan", "unfused"], 1);
    check(
        &["--phase", "prefill", "--kv-len", "150", "--q-len", "90", "--batch", "2"],
        1,
    );
    check(
        &[
            "--phase", "decode", "--kv-len", "70", "--batch", "2", "--plan", "unfused", "--dtype", "f32",
        ],
        1,
    );
}

#[test]
fn inputs_hold_what_must_not_be_read() {
    let layer = layer(&["--phase", "decode", "--kv-len", "70", "--batch", "2"]);
    let plan = layer.plan().unwrap();
    let dims = layer.dims.clone().with(Symbol::Z, 1);
    let memory = memory(&plan, plan.kernel("attention").unwrap(), &dims, 0).unwrap();
    let tensor = |name: &str| {
        let index = plan.buffers.iter().position(|buffer| buffer.name == name).unwrap();
        memory.buffers[&BufferId(index)].clone()
    };
    // 53 tokens of the second sequence take four of its five pages.
    assert_eq!(memory.kv_lens, [70, 53]);
    let table = tensor("block_table").to_i32_vec().unwrap();
    assert_eq!(table.iter().filter(|&&page| page == i32::MAX).count(), 1);
    let cache = tensor("cache");
    let rows = cache
        .to_f64_vec()
        .chunks(cache.shape()[2])
        .filter(|row| !row[0].is_nan())
        .count();
    assert_eq!(rows, 70 + 53);
}
