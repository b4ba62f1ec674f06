//! The processor's caches.

/// Bytes of a core's second-level cache; `None` where the processor does not say.
pub fn second_level_cache() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    return x86::second_level();
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// The leaves that list caches: Intel's, and AMD's of the same form.
    const LEAVES: [u32; 2] = [4, 0x8000_001d];

    pub(super) fn second_level() -> Option<usize> {
        LEAVES.into_iter().find_map(size)
    }

    fn size(leaf: u32) -> Option<usize> {
        let last = __cpuid(leaf & 0x8000_0000).eax;
        let mut caches = (0..16).filter(|_| leaf <= last).map(|i| __cpuid_count(leaf, i));
        let cache = caches.find(|cache| matches!(cache.eax & 31, 1 | 3) && cache.eax >> 5 & 7 == 2)?;
        let field = |shift: u32, bits: u32| (cache.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        Some(field(22, 10) * field(12, 10) * field(0, 12) * (cache.ecx as usize + 1))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_level_cache_is_of_a_likely_size() {
        let likely = |bytes| (64 << 10..=64 << 20).contains(&bytes);
        assert!(super::second_level_cache().is_none_or(likely));
    }
}
