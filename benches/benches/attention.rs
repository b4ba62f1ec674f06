//! The attention core on the CPU device: criterion's "elements" are floating-point operations.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlafuse_benches::{Core, shape};

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention core, bf16, cpu");
    group.sample_size(10);
    for (heads, sequences, cached) in [(128, 1, 4096), (16, 1, 16_384), (16, 8, 4096)] {
        let core = Core::new(shape(heads), sequences, cached).expect("a core of a known shape");
        group.throughput(Throughput::Elements(core.flops));
        let id = BenchmarkId::from_parameter(format!("{heads} heads, {sequences} x {cached} tokens"));
        group.bench_function(id, |b| b.iter(|| core.run().expect("a run of known sizes")));
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
