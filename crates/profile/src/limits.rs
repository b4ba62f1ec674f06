//! What a machine allows: bytes and operations a second.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use mlafuse_ir::target::Target;
use mlafuse_tensor::DType;
use rayon::prelude::*;
use serde::Serialize;

use crate::{fma, memory};

/// The two limits that a kernel can meet, and where they are from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes a second from memory.
    pub bytes_per_s: f64,
    /// Floating-point operations a second; a multiply-add is two.
    pub flops_per_s: f64,
    /// How they were found, for people.
    pub source: String,
}

/// How long each of the two is measured.
const MEASURED: Duration = Duration::from_millis(300);
/// Bytes that are read: more than caches hold, as far as memory allows.
const FEWEST_BYTES: usize = 256 << 20;
const MOST_BYTES: usize = 1 << 30;

impl Limits {
    /// Those of a part's data sheet: device memory, and tensor cores (f32: the other cores).
    pub fn of_target(target: &Target, dtype: DType) -> Limits {
        let (flops_per_s, units) = match dtype {
            DType::F32 => (target.fma_flops, "f32 multiply-adds"),
            _ => (target.tensor_flops, "dense tensor cores"),
        };
        Limits {
            bytes_per_s: target.dram_bytes_per_s,
            flops_per_s,
            source: format!("data sheet of {}: device memory, {units}", target.name),
        }
    }

    /// Those of this machine on the threads of the current rayon pool, measured here and now: the best pass of reading memory
    /// and of f32 multiply-adds in the widest vectors. Matrix units beside the vectors (AMX) are not counted. A kernel whose
    /// data stay in the caches can be faster than the first.
    pub fn measure() -> Limits {
        let _span = tracing::info_span!("limits").entered();
        let (bytes, bytes_per_s) = read_rate();
        let widest = fma::widest();
        let flops_per_s = arithmetic_rate(&widest);
        let source = format!(
            "measured: {} threads read {} MiB of memory, and multiply-add in f32 with {}",
            rayon::current_num_threads(),
            bytes >> 20,
            widest.name
        );
        Limits {
            bytes_per_s,
            flops_per_s,
            source,
        }
    }

    /// Seconds that moving `bytes` takes at least, and computing `flops`.
    pub fn seconds(&self, bytes: u64, flops: u64) -> (f64, f64) {
        (bytes as f64 / self.bytes_per_s, flops as f64 / self.flops_per_s)
    }
}

/// The most a second of `amount` over the passes that fit the time, at least two: the first warms up.
fn best_rate(amount: f64, pass: impl Fn()) -> f64 {
    pass();
    let start = Instant::now();
    let mut best: f64 = 0.0;
    while best == 0.0 || start.elapsed() < MEASURED {
        let pass_start = Instant::now();
        pass();
        best = best.max(amount / pass_start.elapsed().as_secs_f64().max(1e-9));
    }
    best
}

fn read_rate() -> (usize, f64) {
    let bytes = buffer_bytes();
    let part = (bytes / size_of::<u64>()).div_ceil(rayon::current_num_threads().max(1));
    let mut memory = vec![0u64; bytes / size_of::<u64>()];
    // Written once: pages that nobody has written are all one page of zeros.
    memory.par_chunks_mut(part).for_each(|part| part.fill(1));
    let pass = || {
        let sum: u64 = memory.par_chunks(part).map(sum).sum();
        black_box(sum);
    };
    (bytes, best_rate(bytes as f64, pass))
}

/// Eight sums, so that additions do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let (chunks, rest) = words.as_chunks::<8>();
    let mut sums = [0u64; 8];
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |total, word| total.wrapping_add(*word))
}

/// Twice the last cache, within bounds and a quarter of the memory that is free.
fn buffer_bytes() -> usize {
    let wanted = last_cache().map_or(FEWEST_BYTES, |bytes| {
        bytes.saturating_mul(2).clamp(FEWEST_BYTES, MOST_BYTES)
    });
    let free = memory::free_memory().unwrap_or(usize::MAX);
    wanted.min((free / 4).max(16 << 20)) & !4095
}

/// Where Linux tells.
fn last_cache() -> Option<usize> {
    let size = |index: usize| {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        let kib: usize = text.trim().strip_suffix('K')?.parse().ok()?;
        Some(kib << 10)
    };
    (0..8).filter_map(size).max()
}

fn arithmetic_rate(widest: &fma::Loop) -> f64 {
    let threads = rayon::current_num_threads().max(1);
    // About a millisecond each.
    let rounds = 100_000;
    let pass = || {
        rayon::broadcast(|_| (widest.run)(rounds));
    };
    best_rate((threads as u64 * rounds * widest.flops_per_round) as f64, pass)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::target::Arch;

    #[test]
    fn a_parts_limits_depend_on_the_type() {
        let target = Target::for_arch(Arch::Sm80);
        let (bf16, f32) = (
            Limits::of_target(&target, DType::BF16),
            Limits::of_target(&target, DType::F32),
        );
        assert_eq!((bf16.flops_per_s, f32.flops_per_s), (312e12, 19.5e12));
        assert_eq!(bf16.seconds(2_039_000_000, 624_000_000_000), (1e-3, 2e-3));
    }

    #[test]
    fn this_machines_limits_are_plausible() {
        let limits = Limits::measure();
        // From a slow single core to a large server.
        assert!((1e8..1e13).contains(&limits.bytes_per_s), "{limits:?}");
        assert!((1e8..1e14).contains(&limits.flops_per_s), "{limits:?}");
    }

    #[test]
    fn sums_cover_every_word() {
        let words: Vec<u64> = (0..1003).collect();
        assert_eq!(sum(&words), 1003 * 1002 / 2);
    }
}
