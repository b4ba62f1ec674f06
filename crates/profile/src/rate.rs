//! What this machine does a second, measured by loops on the threads of the current rayon pool.

use std::convert::Infallible;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use mlafuse_cpu::{CpuBuffer, CpuError, Level, Peak, read};
use mlafuse_runtime::RuntimeError;
use mlafuse_tensor::DType;
use rayon::prelude::*;

use crate::{ProfileError, memory};

/// A limit of this machine, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// Bytes or operations a second: those of the best pass.
    pub per_s: f64,
    /// What the loop did, for people.
    pub what: String,
}

/// How long a rate is measured.
const MEASURED: Duration = Duration::from_millis(300);
/// Bytes of memory that are read: more than caches hold, as far as memory allows.
const FEWEST_BYTES: usize = 256 << 20;
const MOST_BYTES: usize = 1 << 30;
/// Bytes that are written at a time.
const PIECE: usize = 1 << 16;

impl Rate {
    /// Reading the processor's memory where no cache holds it, each thread its own part.
    ///
    /// # Errors
    /// [`ProfileError::Runtime`], those of the memory.
    pub fn of_memory() -> Result<Rate, ProfileError> {
        let part = (buffer_bytes() / threads()).next_multiple_of(PIECE);
        let memory = CpuBuffer::zeroed(part * threads());
        // Written once: pages that nobody has written are all one page of zeros.
        (0..memory.len())
            .step_by(PIECE)
            .try_for_each(|at| memory.write_bytes(at, &[1; PIECE]))
            .map_err(RuntimeError::from)?;
        let pass = || {
            let read_part = |i: usize| read(&memory.part(i * part, part)?);
            let sums: Vec<u64> = (0..threads())
                .into_par_iter()
                .map(read_part)
                .collect::<Result<_, _>>()?;
            black_box(sums);
            Ok::<(), CpuError>(())
        };
        Ok(Rate {
            per_s: best_rate(memory.len() as f64, pass).map_err(RuntimeError::from)?,
            what: format!("{} threads read {} MiB of memory", threads(), memory.len() >> 20),
        })
    }

    /// Multiplying and adding elements of `dtype` in registers, with the widest instructions that kernels have for it.
    pub fn of_arithmetic(dtype: DType) -> Rate {
        Rate::of_peak(Peak::of(Level::detect(), dtype))
    }

    /// f32 multiply-adds in the widest vectors of this processor.
    pub fn of_vectors() -> Rate {
        Rate::of_peak(Peak::of_vectors(Level::detect()))
    }

    fn of_peak(peak: Peak) -> Rate {
        // Tenths of a millisecond to a millisecond each.
        let rounds = 20_000;
        let pass = || {
            rayon::broadcast(|_| peak.run(rounds));
            Ok::<(), Infallible>(())
        };
        let Ok(per_s) = best_rate((threads() as u64 * rounds * peak.flops_per_round) as f64, pass);
        Rate {
            per_s,
            what: format!("{} threads multiply and add {}", threads(), peak.name),
        }
    }
}

fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// The most a second of `amount` over the passes that fit the time, at least two: the first warms up.
fn best_rate<E>(amount: f64, pass: impl Fn() -> Result<(), E>) -> Result<f64, E> {
    pass()?;
    let start = Instant::now();
    let mut best: f64 = 0.0;
    while best == 0.0 || start.elapsed() < MEASURED {
        let pass_start = Instant::now();
        pass()?;
        best = best.max(amount / pass_start.elapsed().as_secs_f64().max(1e-9));
    }
    Ok(best)
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
