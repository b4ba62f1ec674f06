//! An owned byte buffer aligned for every element type and SIMD width.

use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Block([u8; 64]);

/// `len` bytes, starting on a 64-byte boundary (a cache line, and the widest vector register).
#[derive(Clone)]
pub(crate) struct AlignedBytes {
    blocks: Vec<Block>,
    len: usize,
}

impl AlignedBytes {
    /// Zeros. Aborts when memory runs out, as `Vec` does.
    pub(crate) fn zeroed(len: usize) -> Self {
        let blocks = bytemuck::zeroed_vec(len.div_ceil(size_of::<Block>()));
        Self { blocks, len }
    }

    /// Zeros, or `None` when memory runs out: for lengths that come from outside.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        let blocks = bytemuck::try_zeroed_vec(len.div_ceil(size_of::<Block>())).ok()?;
        Some(Self { blocks, len })
    }

    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_aligned_and_exact() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let buffer = AlignedBytes::copy_of(&bytes);
            assert_eq!(buffer.as_slice(), bytes);
            assert_eq!(buffer.as_slice().as_ptr().addr() % 64, 0);
        }
        assert!(AlignedBytes::try_zeroed(usize::MAX / 2).is_none());
    }
}
