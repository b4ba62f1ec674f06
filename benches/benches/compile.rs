//! DeepSeek-V3's decode attention and combine through NVRTC: cold, and from the kernel cache on disk.

use criterion::{Criterion, criterion_group, criterion_main};
use mlafuse::{DType, DecodeAttention, DeviceSpec, launch_dims};
use mlafuse_benches::{PAGE_SIZE, shape};
use mlafuse_ir::target::Target;
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::Nvrtc;

fn compile(c: &mut Criterion) {
    let nvrtc = Nvrtc::load(None).expect("NVRTC: `cargo xtask setup` installs it");
    let attention = DecodeAttention::new(shape(128, DType::BF16), DeviceSpec::Cpu).expect("a core of a known shape");
    let dims = launch_dims(1, 1, 4096, PAGE_SIZE);
    let folder = tempfile::tempdir().expect("a folder for the cache");
    let cache = KernelCache::open(folder.path());
    for name in ["a100", "h100", "rtx4090"] {
        let target = Target::gpu(name).expect("a known part");
        let run = |cache: &KernelCache| {
            attention
                .compile(&target, &dims, &nvrtc, cache)
                .expect("kernels that fit")
        };
        let mut group = c.benchmark_group(format!("attention and combine, {name}"));
        group.sample_size(10);
        group.bench_function("cold", |b| b.iter(|| run(&KernelCache::disabled())));
        run(&cache);
        group.bench_function("warm", |b| b.iter(|| run(&cache)));
        group.finish();
    }
}

criterion_group!(benches, compile);
criterion_main!(benches);
