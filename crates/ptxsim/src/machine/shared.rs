//! Shared memory of a block, and its banks.

use super::registers::lanes_of;

/// What unwritten memory holds: a NaN of every type.
const UNWRITTEN: u32 = u32::MAX;

/// Shared memory of one block.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    bytes: u32,
    words: Vec<u32>,
    /// One bit a byte.
    written: Vec<u64>,
}

impl SharedMemory {
    pub(crate) fn new(bytes: u32) -> SharedMemory {
        SharedMemory {
            bytes,
            words: vec![UNWRITTEN; bytes.div_ceil(4) as usize],
            written: vec![0; bytes.div_ceil(64) as usize],
        }
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Up to four bytes that lie in one word.
    #[inline(always)]
    pub(crate) fn load(&self, offset: u32, bytes: u32) -> u32 {
        let word = self.words[(offset / 4) as usize];
        if bytes == 4 {
            return word;
        }
        word >> (8 * (offset % 4)) & ((1 << (8 * bytes)) - 1)
    }

    /// Stores up to four bytes that lie in one word.
    #[inline(always)]
    pub(crate) fn store(&mut self, offset: u32, bytes: u32, value: u32) {
        let word = &mut self.words[(offset / 4) as usize];
        if bytes == 4 {
            *word = value;
        } else {
            let shift = 8 * (offset % 4);
            let mask = ((1_u32 << (8 * bytes)) - 1) << shift;
            *word = (*word & !mask) | (value << shift & mask);
        }
        let marks = (u64::MAX >> (64 - bytes)) << (offset % 64);
        self.written[(offset / 64) as usize] |= marks;
    }

    /// Whether bytes, at most 16 and aligned to their number, were written.
    #[inline(always)]
    pub(crate) fn is_written(&self, offset: u32, bytes: u32) -> bool {
        let marks = (u64::MAX >> (64 - bytes)) << (offset % 64);
        self.written[(offset / 64) as usize] & marks == marks
    }
}

/// Passes through the banks that an access takes, and that it would take without conflicts.
///
/// There are 32 banks of 4 bytes; lanes that want the same word share it. An access of 8 bytes a lane is made for half of
/// the warp at a time, one of 16 for a quarter.
pub(crate) fn wavefronts(offsets: &[u32; 32], mask: u32, bytes: u32) -> (u64, u64) {
    let lanes_at_once = (128 / bytes.clamp(4, 16)).min(32);
    let (mut passes, mut words) = (0, 0);
    let mut first = 0;
    while first < 32 {
        let group = mask & ((u64::MAX >> (64 - lanes_at_once)) << first) as u32;
        if group != 0 {
            let (worst, distinct) = group_passes(offsets, group, bytes);
            passes += worst;
            words += distinct;
        }
        first += lanes_at_once;
    }
    (passes, words.div_ceil(32).max(u64::from(mask != 0)))
}

/// The largest number of different words in one bank, and the number of different words.
fn group_passes(offsets: &[u32; 32], group: u32, bytes: u32) -> (u64, u64) {
    let mut words = [0_u32; 64];
    let mut count = 0;
    let (mut ascending, mut last) = (true, None);
    for lane in lanes_of(group) {
        let start = offsets[lane] / 4;
        for word in start..start + bytes.div_ceil(4) {
            if last == Some(word) {
                continue;
            }
            ascending &= last.is_none_or(|last| word > last);
            last = Some(word);
            words[count % 64] = word;
            count += 1;
        }
    }
    let words = &mut words[..count.min(64)];
    if ascending && words[words.len() - 1] - words[0] < 32 {
        return (1, words.len() as u64);
    }
    words.sort_unstable();
    let (mut banks, mut distinct, mut last) = ([0_u8; 32], 0, None);
    for word in words {
        if last != Some(*word) {
            banks[(*word % 32) as usize] += 1;
            distinct += 1;
            last = Some(*word);
        }
    }
    (banks.into_iter().max().map_or(0, u64::from), distinct)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stride: u32, bytes: u32) -> (u64, u64) {
        wavefronts(&std::array::from_fn(|lane| lane as u32 * stride), u32::MAX, bytes)
    }

    #[test]
    fn conflicts_are_counted_by_bank() {
        assert_eq!(of(4, 4), (1, 1));
        assert_eq!(of(0, 4), (1, 1));
        assert_eq!(of(8, 4), (2, 1));
        assert_eq!(of(128, 4), (32, 1));
        assert_eq!(of(132, 4), (1, 1));
        assert_eq!(of(2, 2), (1, 1));
        assert_eq!(of(8, 8), (2, 2));
        assert_eq!(of(16, 16), (4, 4));
        assert_eq!(of(128, 16), (32, 4));
        assert_eq!(of(144, 16), (4, 4));
        assert_eq!(wavefronts(&[0; 32], 0, 4), (0, 0));
        assert_eq!(wavefronts(&[8; 32], 1 << 7, 16), (1, 1));
    }
}
