//! What a machine allows: bytes and operations a second.

use mlafuse_ir::target::Target;
use mlafuse_tensor::DType;
use serde::Serialize;

use crate::{ProfileError, Rate};

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

    /// Those of this machine on the threads of the current rayon pool, measured here and now: the best pass of reading memory, and
    /// of multiplying and adding elements of `dtype` with the widest instructions that kernels have for it. A kernel whose
    /// data stay in the caches can be faster than the first.
    ///
    /// # Errors
    /// Those of [`Rate::of_memory`].
    pub fn measure(dtype: DType) -> Result<Limits, ProfileError> {
        let _span = tracing::info_span!("limits").entered();
        let (memory, arithmetic) = (Rate::of_memory()?, Rate::of_arithmetic(dtype));
        Ok(Limits {
            bytes_per_s: memory.per_s,
            flops_per_s: arithmetic.per_s,
            source: format!("measured: {}, and {}", memory.what, arithmetic.what),
        })
    }

    /// Seconds that moving `bytes` takes at least, and computing `flops`.
    pub fn seconds(&self, bytes: u64, flops: u64) -> (f64, f64) {
        (bytes as f64 / self.bytes_per_s, flops as f64 / self.flops_per_s)
    }
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
        let [bf16, f32] = [DType::BF16, DType::F32].map(|dtype| Limits::measure(dtype).unwrap());
        for limits in [&bf16, &f32] {
            // From a slow single core to a large server.
            assert!((1e8..1e13).contains(&limits.bytes_per_s), "{limits:?}");
            assert!((1e8..1e15).contains(&limits.flops_per_s), "{limits:?}");
        }
        // Eight times as many for each cycle, whatever else the machine is doing.
        if bf16.source.contains("AMX") {
            assert!(bf16.flops_per_s > 2.0 * f32.flops_per_s, "{bf16:?} {f32:?}");
        }
    }
}
