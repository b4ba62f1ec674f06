//! Loops that limits are measured with: the most arithmetic that the processor's units do, and reading memory. They compute
//! nothing of use.

use std::hint::black_box;

use mlafuse_tensor::DType;

#[cfg(target_arch = "x86_64")]
use crate::gemm::bf16::{K_STEP, ROWS, amx};
use crate::{CpuBuffer, CpuError, Level};

/// Products of bf16s that AMX does for one of f32s.
pub const PRODUCTS_OF_F32: u64 = 6;

/// Independent sums: more than the latency of a multiply-add times its throughput on any current processor.
const SUMS: usize = 16;

/// A loop and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// What multiplies and adds.
    pub name: &'static str,
    /// Operations of one round; a multiply-add is two.
    pub flops_per_round: u64,
    run: fn(u64),
}

impl Peak {
    /// The loop of the widest instructions with which a kernel may multiply elements of `dtype` at `level`: AMX where the level has
    /// it, for f32 six products of bf16s for one of them; else f32 multiply-adds in vectors.
    ///
    /// # Panics
    /// Where this processor lacks the level.
    pub fn of(level: Level, dtype: DType) -> Peak {
        assert!(level.is_available(), "this processor lacks {level:?}");
        #[cfg(target_arch = "x86_64")]
        return match (level, dtype) {
            (Level::Amx, DType::BF16) => Peak {
                name: "bf16 tiles of AMX",
                flops_per_round: 4 * 2 * (ROWS * ROWS * K_STEP) as u64,
                run: tiles,
            },
            (Level::Amx, DType::F32) => Peak {
                name: "f32 as bf16 tiles of AMX",
                flops_per_round: 4 * 2 * (ROWS * ROWS * K_STEP) as u64,
                run: |rounds| tiles(PRODUCTS_OF_F32 * rounds),
            },
            _ => Peak::of_vectors(level),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return Peak::of_vectors(level);
    }

    /// f32 multiply-adds in the widest vectors of `level`.
    ///
    /// # Panics
    /// Where this processor lacks the level.
    pub fn of_vectors(level: Level) -> Peak {
        assert!(level.is_available(), "this processor lacks {level:?}");
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => of_lanes("f32 vectors of AVX2", 8, avx2),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => of_lanes("f32 vectors of AVX-512", 16, avx512),
            _ => of_lanes("f32 vectors of the baseline", 4, portable),
        }
    }

    /// So many rounds on this thread.
    pub fn run(&self, rounds: u64) {
        (self.run)(rounds);
    }
}

/// Reads all of `buffer` as a kernel's memory is read: the sum of its whole 8-byte words.
///
/// # Errors
/// [`CpuError::Busy`] while a launch writes it.
pub fn read(buffer: &CpuBuffer) -> Result<u64, CpuError> {
    let lock = buffer.lock_read().ok_or_else(|| CpuError::Busy {
        kernel: "read".into(),
        tensor: "buffer".into(),
    })?;
    let bytes = &lock.bytes()[buffer.range()];
    Ok(sum(bytemuck::cast_slice(&bytes[..bytes.len() / 8 * 8])))
}

/// In eight sums, so that additions do not wait for each other, and in the vectors that every processor of the target has: from
/// memory, wider ones are not faster, and a quarter slower on some.
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

fn of_lanes(name: &'static str, lanes: u64, run: fn(u64)) -> Peak {
    Peak {
        name,
        flops_per_round: 2 * lanes * SUMS as u64,
        run,
    }
}

/// Factor and addend that keep every sum near 1.
fn operands() -> (f32, f32) {
    (black_box(0.5), black_box(0.5))
}

/// Four products of tiles a round, all in their registers. AMX must be available.
#[cfg(target_arch = "x86_64")]
fn tiles(rounds: u64) {
    amx::configure();
    let ones = [0x3f80_u16; ROWS * K_STEP];
    // SAFETY: `Peak::of` gives this function only where there is AMX; each load reads all of `ones`.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0\n tilezero tmm1\n tilezero tmm2\n tilezero tmm3",
            "tileloadd tmm4, [{ones} + {row}]\n tileloadd tmm5, [{ones} + {row}]",
            "tileloadd tmm6, [{ones} + {row}]\n tileloadd tmm7, [{ones} + {row}]",
            "test {n}, {n}",
            "jz 3f",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6\n tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6\n tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            "3:",
            ones = in(reg) ones.as_ptr(),
            row = in(reg) 2 * K_STEP,
            n = inout(reg) rounds => _,
            options(nostack, readonly),
        );
    }
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

    // SAFETY: `Peak::of` gives this function only where the processor has AVX-512F.
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

    // SAFETY: `Peak::of` gives this function only where the processor has AVX2 and FMA.
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
        for (level, dtype) in Level::available().flat_map(|level| [(level, DType::BF16), (level, DType::F32)]) {
            let peak = Peak::of(level, dtype);
            let time = |rounds: u64| {
                let start = std::time::Instant::now();
                peak.run(rounds);
                start.elapsed().as_secs_f64()
            };
            time(1000);
            let fastest = |rounds: u64| (0..5).map(|_| time(rounds)).fold(f64::MAX, f64::min);
            let (short, long) = (fastest(20_000), fastest(200_000));
            assert!(long > 3.0 * short, "{level:?} {dtype}: {short} {long}");
        }
    }

    #[test]
    fn every_word_is_read() {
        let bytes: Vec<u8> = (0..1003u64).flat_map(u64::to_le_bytes).chain([9]).collect();
        assert_eq!(read(&CpuBuffer::from_bytes(&bytes)), Ok(1003 * 1002 / 2));
    }

    #[test]
    fn tiles_do_more_than_vectors() {
        if Level::Amx.is_available() {
            for dtype in [DType::BF16, DType::F32] {
                let [tiles, vectors] = [Level::Amx, Level::Avx512].map(|level| Peak::of(level, dtype));
                assert!(tiles.flops_per_round > vectors.flops_per_round);
                assert_ne!(tiles.name, vectors.name);
            }
        }
    }
}
