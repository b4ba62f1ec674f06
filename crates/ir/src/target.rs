//! The limits and speeds of the parts that code is made for. Plain data; nothing is asked of the machine.

use std::fmt;
use std::str::FromStr;

/// A GPU architecture, as `-arch` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// A100.
    Sm80,
    /// RTX 30, A10, A40.
    Sm86,
    /// Orin.
    Sm87,
    /// RTX 40, L4, L40S.
    Sm89,
    /// Hopper, without its own features.
    Sm90,
    /// Hopper.
    Sm90a,
    /// B200, without its own features.
    Sm100,
    /// B200.
    Sm100a,
    /// B300.
    Sm103,
    /// RTX 50.
    Sm120,
    /// GB10.
    Sm121,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 11] = [
        Arch::Sm80,
        Arch::Sm86,
        Arch::Sm87,
        Arch::Sm89,
        Arch::Sm90,
        Arch::Sm90a,
        Arch::Sm100,
        Arch::Sm100a,
        Arch::Sm103,
        Arch::Sm120,
        Arch::Sm121,
    ];

    /// Its compute capability as one number: 90 of sm_90a.
    pub fn number(self) -> u32 {
        let digits = self.name().bytes().filter(u8::is_ascii_digit);
        digits.fold(0, |number, digit| 10 * number + u32::from(digit - b'0'))
    }

    fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm87 => "sm_87",
            Arch::Sm89 => "sm_89",
            Arch::Sm90 => "sm_90",
            Arch::Sm90a => "sm_90a",
            Arch::Sm100 => "sm_100",
            Arch::Sm100a => "sm_100a",
            Arch::Sm103 => "sm_103",
            Arch::Sm120 => "sm_120",
            Arch::Sm121 => "sm_121",
        }
    }

    /// Shared memory of one block, and of an SM, in KiB; threads and blocks of an SM.
    ///
    /// "Technical specifications per compute capability" of the CUDA C++ programming guide. A block may have all of an
    /// SM's but 1 KiB.
    fn limits(self) -> (usize, usize, usize, usize) {
        match self {
            Arch::Sm80 => (163, 164, 2048, 32),
            // An Orin holds 48 warps an SM, as the other small parts do.
            Arch::Sm87 => (163, 164, 1536, 16),
            Arch::Sm86 => (99, 100, 1536, 16),
            Arch::Sm89 | Arch::Sm120 | Arch::Sm121 => (99, 100, 1536, 24),
            Arch::Sm90 | Arch::Sm90a | Arch::Sm100 | Arch::Sm100a | Arch::Sm103 => (227, 228, 2048, 32),
        }
    }

    fn usual_part(self) -> &'static Part {
        let name = match self {
            Arch::Sm80 => "a100",
            Arch::Sm86 => "rtx3090",
            Arch::Sm87 => "orin",
            Arch::Sm89 => "rtx4090",
            Arch::Sm90 | Arch::Sm90a => "h100",
            Arch::Sm100 | Arch::Sm100a => "b200",
            Arch::Sm103 => "b300",
            Arch::Sm120 => "rtx5090",
            Arch::Sm121 => "gb10",
        };
        PARTS.iter().find(|part| part.name == name).unwrap_or(&PARTS[0])
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arch {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Arch, TargetError> {
        Arch::ALL
            .into_iter()
            .find(|arch| arch.name() == text)
            .ok_or_else(|| TargetError::Arch {
                found: text.to_string(),
                known: Arch::ALL.map(Arch::name).join(", "),
            })
    }
}

/// A name that stands for no architecture or part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an architecture.
    #[error("architecture \"{found}\": expected one of {known}")]
    Arch {
        /// The name as given.
        found: String,
        /// Those that are known.
        known: String,
    },
    /// Not a part.
    #[error("GPU \"{found}\": expected one of {known}")]
    Gpu {
        /// The name as given.
        found: String,
        /// Those that are known.
        known: String,
    },
}

/// A part's limits and speeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The part's name, in lower case.
    pub name: String,
    /// What code is made for.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub sm_count: usize,
    /// Bytes of shared memory a block may have.
    pub shared_per_block: usize,
    /// Bytes of shared memory of an SM; each block takes 1 KiB besides its own.
    pub shared_per_sm: usize,
    /// 32-bit registers a thread may have.
    pub registers_per_thread: usize,
    /// 32-bit registers of an SM.
    pub registers_per_sm: usize,
    /// Resident threads of an SM.
    pub threads_per_sm: usize,
    /// Resident blocks of an SM.
    pub blocks_per_sm: usize,
    /// Bytes of second-level cache.
    pub l2_bytes: usize,
    /// Dense bf16 tensor-core operations a second, f32 accumulation; a multiply-add is two.
    pub tensor_flops: f64,
    /// f32 operations a second outside the tensor cores.
    pub fma_flops: f64,
    /// Bytes a second from device memory.
    pub dram_bytes_per_s: f64,
}

struct Part {
    name: &'static str,
    arch: Arch,
    sm_count: usize,
    l2_mib: usize,
    tensor_tflops: f64,
    fma_tflops: f64,
    dram_gbs: f64,
}

const fn part(
    name: &'static str,
    arch: Arch,
    (sm_count, l2_mib): (usize, usize),
    (tensor_tflops, fma_tflops, dram_gbs): (f64, f64, f64),
) -> Part {
    Part {
        name,
        arch,
        sm_count,
        l2_mib,
        tensor_tflops,
        fma_tflops,
        dram_gbs,
    }
}

/// From the makers' data sheets: (SMs, L2 MiB), (dense bf16 TFLOP/s with f32 accumulation, f32 TFLOP/s, GB/s).
const PARTS: [Part; 18] = [
    part("a100", Arch::Sm80, (108, 40), (312.0, 19.5, 2039.0)),
    part("a10", Arch::Sm86, (72, 6), (125.0, 31.2, 600.0)),
    part("a40", Arch::Sm86, (84, 6), (149.7, 37.4, 696.0)),
    part("rtx3090", Arch::Sm86, (82, 6), (71.0, 35.6, 936.0)),
    part("orin", Arch::Sm87, (16, 4), (42.0, 5.3, 205.0)),
    part("rtx4090", Arch::Sm89, (128, 72), (165.2, 82.6, 1008.0)),
    part("l40s", Arch::Sm89, (142, 96), (362.0, 91.6, 864.0)),
    part("l4", Arch::Sm89, (58, 48), (121.0, 30.3, 300.0)),
    part("h100", Arch::Sm90a, (132, 50), (989.0, 66.9, 3350.0)),
    part("h200", Arch::Sm90a, (132, 50), (989.0, 66.9, 4800.0)),
    part("h800", Arch::Sm90a, (132, 50), (989.0, 66.9, 3350.0)),
    part("h20", Arch::Sm90a, (78, 60), (148.0, 44.0, 4000.0)),
    part("gh200", Arch::Sm90a, (132, 50), (989.0, 66.9, 4900.0)),
    part("b200", Arch::Sm100a, (148, 126), (2250.0, 75.0, 8000.0)),
    part("b300", Arch::Sm103, (148, 126), (2250.0, 75.0, 8000.0)),
    part("rtx5090", Arch::Sm120, (170, 96), (209.5, 104.8, 1792.0)),
    part("rtx6000pro", Arch::Sm120, (188, 128), (503.8, 125.0, 1792.0)),
    part("gb10", Arch::Sm121, (48, 24), (125.0, 31.0, 273.0)),
];

impl Target {
    /// The usual part of an architecture.
    pub fn for_arch(arch: Arch) -> Target {
        Target {
            arch,
            ..Target::of(arch.usual_part())
        }
    }

    /// The part named `name`, in any case, with or without spaces and dashes.
    pub fn gpu(name: &str) -> Result<Target, TargetError> {
        let wanted: String = name
            .chars()
            .filter(|c| !matches!(c, ' ' | '-' | '_'))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        PARTS
            .iter()
            .find(|part| part.name == wanted)
            .map(Target::of)
            .ok_or_else(|| TargetError::Gpu {
                found: name.to_string(),
                known: PARTS.each_ref().map(|part| part.name).join(", "),
            })
    }

    fn of(part: &Part) -> Target {
        let (shared_per_block, shared_per_sm, threads_per_sm, blocks_per_sm) = part.arch.limits();
        Target {
            name: part.name.to_string(),
            arch: part.arch,
            sm_count: part.sm_count,
            shared_per_block: shared_per_block << 10,
            shared_per_sm: shared_per_sm << 10,
            registers_per_thread: 255,
            registers_per_sm: 65536,
            threads_per_sm,
            blocks_per_sm,
            l2_bytes: part.l2_mib << 20,
            tensor_flops: part.tensor_tflops * 1e12,
            fma_flops: part.fma_tflops * 1e12,
            dram_bytes_per_s: part.dram_gbs * 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_round_trip() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse(), Ok(arch));
            assert_eq!(Target::for_arch(arch).arch, arch);
        }
        let error = "sm_70".parse::<Arch>().unwrap_err().to_string();
        assert!(error.contains("\"sm_70\"") && error.contains("sm_80, sm_86"), "{error}");
    }

    #[test]
    fn usual_parts_share_their_architectures_limits() {
        for arch in Arch::ALL {
            assert_eq!(arch.usual_part().arch.limits(), arch.limits(), "{arch}");
        }
        assert_eq!(Target::for_arch(Arch::Sm120).shared_per_block, 99 * 1024);
    }

    #[test]
    fn parts_are_found_by_any_spelling() {
        assert_eq!(Target::gpu("RTX 4090").map(|target| target.arch), Ok(Arch::Sm89));
        assert!(Target::gpu("v100").unwrap_err().to_string().contains("rtx4090"));
    }
}
