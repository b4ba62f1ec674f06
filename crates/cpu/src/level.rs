//! Instruction-set levels: which ones this processor has, and running a loop compiled for one.

#[cfg(target_arch = "x86_64")]
use crate::gemm::bf16::amx;
use std::fmt;

/// The instructions a kernel may use; each has those of the levels before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every processor of the target has.
    Portable,
    /// AVX2, FMA and F16C (x86-64).
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with products of bf16 pairs.
    Avx512Bf16,
    /// AMX: tiles of bf16.
    Amx,
}

impl Level {
    /// Every level, the least first.
    pub const ALL: [Level; 5] = [
        Level::Portable,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Bf16,
        Level::Amx,
    ];

    /// The word for it: `portable`, `avx2`, `avx512`, `avx512-bf16`, `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512-bf16",
            Level::Amx => "amx",
        }
    }

    /// The best level this processor has.
    pub fn detect() -> Level {
        Level::available().last().unwrap_or(Level::Portable)
    }

    /// The levels this processor has, the least first.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().take_while(|level| level.is_available())
    }

    /// Whether this processor, and the system it runs, have the level's instructions.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Level::Portable => true,
            Level::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Level::Avx512Bf16 => Level::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            Level::Amx => Level::Avx512Bf16.is_available() && amx::is_available(),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Level::Portable;
    }

    /// Whether few rows are multiplied with rows of bf16 weights where these lie, with nothing made of them first.
    pub fn streams_bf16(self) -> bool {
        self == Level::Amx
    }

    /// Whether bf16 tiles are multiplied as they are, and not as f32.
    pub(crate) fn multiplies_bf16(self) -> bool {
        self >= Level::Avx512Bf16
    }

    /// Whether f32 tiles with enough rows are multiplied as the bf16s that their elements are sums of.
    pub(crate) fn splits_f32(self) -> bool {
        self == Level::Amx
    }

    /// Runs a loop compiled for this level. The level must be available: [`crate::CpuKernel::prepare`] refuses others.
    pub(crate) fn run<L: Loop>(self, work: L) -> L::Output {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Level::Portable => work.run::<false>(),
            // SAFETY: a level that this processor lacks is refused when a kernel is prepared, so it has these features.
            Level::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            _ => unsafe { run_avx512(work) },
        };
        #[cfg(not(target_arch = "x86_64"))]
        return work.run::<false>();
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A loop that is compiled once for each level.
pub(crate) trait Loop {
    /// What it gives.
    type Output;
    /// The loop. Must be `#[inline(always)]`, and so must what should be vectorised in it: only then is it compiled with
    /// the caller's features. FMA says that a fused multiply-add is one instruction.
    fn run<const FMA: bool>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<L: Loop>(work: L) -> L::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<L: Loop>(work: L) -> L::Output {
    work.run::<true>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_level_is_the_last_available() {
        let all: Vec<Level> = Level::available().collect();
        assert_eq!(all.first(), Some(&Level::Portable));
        assert_eq!(all.last(), Some(&Level::detect()));
        assert!(all.is_sorted());
    }
}
