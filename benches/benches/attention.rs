//! The attention core, and the layer's decode step and prefill, on the CPU device. Beside criterion's times: GFLOP/s, GB/s and how
//! near they come to the machine's limit, measured before.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlafuse::DType;
use mlafuse_benches::{Core, Layer, Limits, Subject, shape};
use mlafuse_profile::median;

fn core(c: &mut Criterion) {
    let limits = Limits::measure().expect("memory to read");
    for dtype in [DType::BF16, DType::F32] {
        for (heads, sequences, cached) in [(128, 1, 4096), (16, 1, 16_384), (16, 8, 4096)] {
            let name = format!("{dtype}, {heads} heads, {sequences} x {cached} tokens");
            let mut core = Core::new(shape(heads, dtype), sequences, cached).expect("a core of a known shape");
            bench(c, "attention core", &name, &mut core, &limits);
        }
    }
}

fn layer(c: &mut Criterion) {
    let limits = Limits::measure().expect("memory to read");
    let mut decode = Layer::decode("deepseek-v3", 4096).expect("a known model");
    bench(c, "decode step", "deepseek-v3, 4096 tokens", &mut decode, &limits);
    let mut prefill = Layer::prefill("deepseek-v2-lite", 1024).expect("a known model");
    bench(c, "prefill", "deepseek-v2-lite, 1024 tokens", &mut prefill, &limits);
}

/// Criterion's "elements" are floating-point operations.
fn bench(c: &mut Criterion, group: &str, name: &str, subject: &mut dyn Subject, limits: &Limits) {
    let work = subject.work().expect("a plan of known sizes");
    let mut times = Vec::new();
    let mut group = c.benchmark_group(group);
    group.sample_size(10);
    group.throughput(Throughput::Elements(work.flops));
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter_custom(|iterations| {
            let start = std::time::Instant::now();
            for _ in 0..iterations {
                black_box(subject.run()).expect("a run of known sizes");
            }
            let time = start.elapsed();
            times.push(time.as_secs_f64() * 1e3 / iterations as f64);
            time
        });
    });
    group.finish();
    if !times.is_empty() {
        let (ms, (limit, bound)) = (median(times), limits.bound(work));
        let (gflops, gbs) = (work.flops as f64 / ms / 1e6, work.bytes as f64 / ms / 1e6);
        println!(
            "{gflops:.0} GFLOP/s, {gbs:.1} GB/s, {:.0} % of the limit ({limit})\n",
            100.0 * bound / ms
        );
    }
}

criterion_group!(benches, core, layer);
criterion_main!(benches);
