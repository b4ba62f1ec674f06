//! Loops of multiply-adds in registers: the most f32 arithmetic that the processor's vectors do.

use std::hint::black_box;

/// Independent sums: more than the latency of a multiply-add times its throughput on any current processor.
const SUMS: usize = 16;

/// A loop and what it does.
pub(crate) struct Loop {
    /// The instructions.
    pub name: &'static str,
    /// Operations of one round; a multiply-add is two.
    pub flops_per_round: u64,
    /// So many rounds.
    pub run: fn(u64),
}

/// The loop with the widest vectors that this processor has.
pub(crate) fn widest() -> Loop {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return of_lanes("AVX-512", 16, avx512);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return of_lanes("AVX2", 8, avx2);
        }
    }
    of_lanes("baseline vectors", 4, portable)
}

fn of_lanes(name: &'static str, lanes: u64, run: fn(u64)) -> Loop {
    Loop {
        name,
        flops_per_round: 2 * lanes * SUMS as u64,
        run,
    }
}

/// Factor and addend that keep every sum near 1.
fn operands() -> (f32, f32) {
    (black_box(0.5), black_box(0.5))
}

#[cfg(target_arch = "x86_64")]
fn avx512(rounds: u64) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};

    #[target_feature(enable = "avx512f")]
    fn rounds_of(rounds: u64) {
        let (factor, addend) = operands();
        let (factor, addend) = (_mm512_set1_ps(factor), _mm512_set1_ps(addend));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, addend);
            }
        }
        black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    }

    // SAFETY: `widest` gives this function only where the processor has AVX-512F.
    unsafe { rounds_of(rounds) }
}

#[cfg(target_arch = "x86_64")]
fn avx2(rounds: u64) {
    use std::arch::x86_64::{_mm_cvtss_f32, _mm256_castps256_ps128, _mm256_fmadd_ps, _mm256_set1_ps};

    #[target_feature(enable = "avx2,fma")]
    fn rounds_of(rounds: u64) {
        let (factor, addend) = operands();
        let (factor, addend) = (_mm256_set1_ps(factor), _mm256_set1_ps(addend));
        // Of 16 registers two are the operands': so many sums stay in registers.
        let mut sums = [_mm256_set1_ps(1.0); SUMS / 2];
        for _ in 0..2 * rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, addend);
            }
        }
        black_box(sums.map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))));
    }

    // SAFETY: `widest` gives this function only where the processor has AVX2 and FMA.
    unsafe { rounds_of(rounds) }
}

fn portable(rounds: u64) {
    let (factor, addend) = operands();
    let mut sums = [[1.0f32; 4]; SUMS / 2];
    for _ in 0..2 * rounds {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * factor + addend;
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_take_time_in_proportion() {
        let widest = widest();
        let time = |rounds: u64| {
            let start = std::time::Instant::now();
            (widest.run)(rounds);
            start.elapsed().as_secs_f64()
        };
        time(1000);
        let fastest = |rounds: u64| (0..5).map(|_| time(rounds)).fold(f64::MAX, f64::min);
        let (short, long) = (fastest(20_000), fastest(200_000));
        assert!(long > 3.0 * short, "{short} {long}");
    }
}
