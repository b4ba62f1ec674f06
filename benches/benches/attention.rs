//! The cases that are compared with peers, ours alone: attention cores, a layer's decode step, and a prefill, on the CPU device.
//! Beside criterion's times: GFLOP/s, GB/s and how near they come to the machine's limits, measured in the same run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use mlafuse_benches::case::{CASES, Case};
use mlafuse_benches::{Limits, Work};
use mlafuse_profile::median;

const WARM_UP: Duration = Duration::from_secs(1);
/// Of a case. All cases are done in a minute.
const MEASURED: Duration = Duration::from_secs(3);

fn cases(c: &mut Criterion) {
    let mut known: Option<Limits> = None;
    for case in CASES {
        let Some((work, ms)) = bench(c, case) else { continue };
        let measured = Limits::measure().expect("memory to read");
        let limits = known.map_or(measured, |known| known.or_better(measured));
        println!("{}\n", figures(work, ms, &limits));
        known = Some(limits);
    }
}

/// What a run of the case must do, and its median in milliseconds; `None` where the command line does not have it timed.
fn bench(c: &mut Criterion, case: &Case) -> Option<(Work, f64)> {
    let (mut made, mut times) = (None, Vec::new());
    c.bench_function(case.name, |b| {
        let (subject, warm) = made.get_or_insert_with(|| {
            let subject = case.subject().expect("memory for a known case");
            (subject, Instant::now() + WARM_UP)
        });
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for _ in 0..iterations {
                black_box(subject.run()).expect("a run of known sizes");
            }
            let time = start.elapsed();
            if start >= *warm {
                times.push(time.as_secs_f64() * 1e3 / iterations as f64);
            }
            time
        });
    });
    let (subject, _) = made.filter(|_| !times.is_empty())?;
    let work = subject.work().expect("a plan of known sizes");
    Some((work, median(times)))
}

/// The columns that the comparison with peers has too.
fn figures(work: Work, ms: f64, limits: &Limits) -> String {
    let (unit, compute_ms) = limits.compute(work);
    format!(
        "median {ms:.2} ms: {:.0} GFLOP/s, {:.0} % of {unit} ({:.0}); {:.1} GB/s, {:.0} % of read ({:.1})",
        work.flops as f64 / ms / 1e6,
        100.0 * compute_ms / ms,
        work.flops as f64 / compute_ms / 1e6,
        work.bytes as f64 / ms / 1e6,
        100.0 * limits.read(work) / ms,
        limits.read_gbs,
    )
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(WARM_UP)
        .measurement_time(MEASURED);
    targets = cases
}
criterion_main!(benches);
