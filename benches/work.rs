//! What is timed, what it must do, and how near to the machine's limits it comes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use mlafuse::{DType, HostTensor};
use mlafuse_cpu::{Level, PRODUCTS_OF_F32};
use mlafuse_profile::Rate;
use serde::Serialize;
use serde_json::Value;

/// Something of ours that can be timed.
pub trait Subject {
    /// Does it once.
    fn run(&mut self) -> Result<()>;

    /// Does it once, and gives the result, in f32.
    fn output(&mut self) -> Result<HostTensor>;

    /// What one run must do.
    fn work(&self) -> Result<Work>;

    /// Writes its inputs to a safetensors file for others to do the same with; what they must know beside.
    fn save(&self, inputs: &Path) -> Result<Value>;
}

/// The least that a run can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Operations of the contractions, 2 for each multiply-add.
    pub flops: u64,
    /// Bytes of weights, of the cached rows in use, each once, and of what goes in and out.
    pub bytes: u64,
    /// What is multiplied.
    pub dtype: DType,
}

/// This machine's limits, measured in the run that they judge.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Products of bf16 tiles; absent where the processor has no AMX.
    pub amx_gflops: Option<f64>,
    /// f32 multiply-adds in vectors.
    pub fma_gflops: f64,
    /// Reading memory.
    pub read_gbs: f64,
}

impl Limits {
    /// The best of some tenths of a second for each.
    ///
    /// # Errors
    /// Where there is no memory to read.
    pub fn measure() -> Result<Limits> {
        let amx = || Rate::of_arithmetic(DType::BF16).per_s / 1e9;
        Ok(Limits {
            amx_gflops: (Level::detect() == Level::Amx).then(amx),
            fma_gflops: Rate::of_vectors().per_s / 1e9,
            read_gbs: Rate::of_memory()?.per_s / 1e9,
        })
    }

    /// The better of two measurements: a limit is the most that was ever seen.
    pub fn or_better(self, other: Limits) -> Limits {
        Limits {
            amx_gflops: self.amx_gflops.zip(other.amx_gflops).map(|(a, b)| a.max(b)),
            fma_gflops: self.fma_gflops.max(other.fma_gflops),
            read_gbs: self.read_gbs.max(other.read_gbs),
        }
    }

    /// The unit that multiplies what `work` has, and the milliseconds that it needs at least: f32 is six products of AMX for one.
    pub fn compute(&self, work: Work) -> (&'static str, f64) {
        let (name, gflops) = match (work.dtype, self.amx_gflops) {
            (DType::BF16, Some(amx)) => ("amx", amx),
            (DType::F32, Some(amx)) => ("amx / 6", amx / PRODUCTS_OF_F32 as f64),
            _ => ("fma", self.fma_gflops),
        };
        (name, work.flops as f64 / gflops / 1e6)
    }

    /// Milliseconds in which memory gives what `work` reads and writes. Caches may be faster, where they hold it.
    pub fn read(&self, work: Work) -> f64 {
        work.bytes as f64 / self.read_gbs / 1e6
    }

    /// Which limit `work` meets first, and the milliseconds that it allows.
    pub fn bound(&self, work: Work) -> (&'static str, f64) {
        let (compute, read) = (self.compute(work), self.read(work));
        if compute.1 > read { compute } else { ("read", read) }
    }
}

/// The milliseconds of each run in so much time; there is at least one.
///
/// # Errors
/// Those of a run.
pub fn repeat(subject: &mut dyn Subject, time: Duration) -> Result<Vec<f64>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < time {
        let run = Instant::now();
        subject.run()?;
        times.push(run.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        amx_gflops: Some(4000.0),
        fma_gflops: 200.0,
        read_gbs: 20.0,
    };

    #[test]
    fn work_is_held_to_the_limit_that_it_meets_first() {
        let work = |flops, bytes, dtype| Work { flops, bytes, dtype };
        assert_eq!(LIMITS.bound(work(8_000_000_000, 20_000_000, DType::BF16)), ("amx", 2.0));
        assert_eq!(
            LIMITS.bound(work(8_000_000_000, 60_000_000, DType::BF16)),
            ("read", 3.0)
        );
        assert_eq!(
            LIMITS.bound(work(8_000_000_000, 60_000_000, DType::F32)),
            ("amx / 6", 12.0)
        );
        let without = Limits {
            amx_gflops: None,
            read_gbs: 10.0,
            ..LIMITS
        };
        for dtype in [DType::BF16, DType::F32] {
            assert_eq!(without.bound(work(8_000_000_000, 1000, dtype)), ("fma", 40.0));
        }
        assert_eq!(LIMITS.or_better(without).read_gbs, 20.0);
    }
}
