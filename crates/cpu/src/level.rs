//! Instruction-set levels: which one this processor has, and running a loop compiled for one.

/// The instructions a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every processor of the target has.
    Portable,
    /// AVX2, FMA and F16C (x86-64).
    Avx2,
}

impl Level {
    /// The best level this processor has.
    pub fn detect() -> Level {
        if Level::Avx2.is_available() {
            Level::Avx2
        } else {
            Level::Portable
        }
    }

    /// Whether this processor has the level's instructions.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 => false,
        }
    }

    /// Runs a loop compiled for this level. The level must be available: [`crate::CpuKernel::prepare`] refuses others.
    pub(crate) fn run<L: Loop>(self, work: L) -> L::Output {
        match self {
            Level::Portable => work.run::<false>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level that this processor lacks is refused when a kernel is prepared, so it has these features.
            Level::Avx2 => unsafe { run_avx2(work) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 => work.run::<false>(),
        }
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
