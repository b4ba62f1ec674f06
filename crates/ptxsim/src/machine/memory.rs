//! Global memory: allocations with red zones between them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::address::HEAP_BASE;

/// Bytes that belong to nothing after each allocation, at least.
const RED_ZONE: u64 = 512;
/// Alignment of allocations.
const ALIGN: u64 = 256;
/// Bytes of a DRAM sector.
pub(crate) const SECTOR: u64 = 32;

/// What an allocation holds at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zeros that count as never written.
    Uninitialised,
    /// Zeros that count as written.
    Zeros,
}

/// Whether a kernel may store to an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A store is a memcheck report.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// An allocation cannot be had, or an address lies in none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More than the host has.
    #[error("cannot allocate {bytes} bytes for {name}")]
    OutOfMemory {
        /// The allocation's name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// A range that is not inside of one allocation.
    #[error("{bytes} bytes at {address:#x} lie in no allocation")]
    Range {
        /// Where it begins.
        address: u64,
        /// Its size.
        bytes: u64,
    },
}

/// Device memory. Several threads may access it at once, as blocks of a grid do.
#[derive(Debug, Default)]
pub struct Memory {
    /// In order of address.
    allocations: Vec<Allocation>,
}

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub name: String,
    pub base: u64,
    pub bytes: u64,
    pub access: Access,
    /// In `.const` space.
    pub constant: bool,
    words: Box<[AtomicU32]>,
    /// One bit a byte; `None` where every byte was written.
    written: Option<Box<[AtomicU64]>>,
    /// One bit a sector that some kernel read, and likewise wrote.
    sectors_read: Box<[AtomicU64]>,
    sectors_written: Box<[AtomicU64]>,
}

impl Memory {
    /// No allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// A new allocation; its address. No bytes give an address too, at which nothing can be accessed.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn allocate(&mut self, name: &str, bytes: u64, contents: Contents, access: Access) -> Result<u64, MemoryError> {
        let end = self
            .allocations
            .iter()
            .map(Allocation::end)
            .filter(|end| *end >= HEAP_BASE)
            .max();
        let base = end.map_or(HEAP_BASE, |end| (end + RED_ZONE).next_multiple_of(ALIGN));
        self.allocate_at(base, name, bytes, contents, access)?;
        Ok(base)
    }

    /// A new allocation at `base`, where nothing is.
    pub(crate) fn allocate_at(
        &mut self,
        base: u64,
        name: &str,
        bytes: u64,
        contents: Contents,
        access: Access,
    ) -> Result<(), MemoryError> {
        let refused = || MemoryError::OutOfMemory {
            name: name.to_owned(),
            bytes,
        };
        let written = match contents {
            Contents::Zeros => None,
            Contents::Uninitialised => Some(zeroed(bytes.div_ceil(64), AtomicU64::default).ok_or_else(refused)?),
        };
        let sectors = bytes.div_ceil(SECTOR).div_ceil(64);
        let allocation = Allocation {
            name: name.to_owned(),
            base,
            bytes,
            access,
            constant: false,
            words: zeroed(bytes.div_ceil(4), AtomicU32::default).ok_or_else(refused)?,
            written,
            sectors_read: zeroed(sectors, AtomicU64::default).ok_or_else(refused)?,
            sectors_written: zeroed(sectors, AtomicU64::default).ok_or_else(refused)?,
        };
        let place = self.allocations.partition_point(|other| other.base < base);
        self.allocations.insert(place, allocation);
        Ok(())
    }

    /// Gives an allocation back. Its address is not used again while later ones are there.
    pub fn free(&mut self, address: u64) {
        self.allocations.retain(|allocation| allocation.base != address);
    }

    /// Makes an allocation read-only, or writable again.
    ///
    /// # Errors
    /// [`MemoryError::Range`] where none begins at `address`.
    pub fn protect(&mut self, address: u64, access: Access) -> Result<(), MemoryError> {
        let found = self
            .allocations
            .iter_mut()
            .find(|allocation| allocation.base == address);
        let error = MemoryError::Range { address, bytes: 0 };
        found.ok_or(error)?.access = access;
        Ok(())
    }

    /// Makes an allocation one of `.const` space, which no kernel may store to.
    pub(crate) fn make_constant(&mut self, address: u64) -> Result<(), MemoryError> {
        self.protect(address, Access::ReadOnly)?;
        for allocation in self
            .allocations
            .iter_mut()
            .filter(|allocation| allocation.base == address)
        {
            allocation.constant = true;
        }
        Ok(())
    }

    /// The size of each allocation, in order.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.allocations.iter().map(|allocation| allocation.bytes)
    }

    /// Copies bytes to device memory; they count as written.
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        if from.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, from.len() as u64)?;
        allocation.store_bytes(offset, from);
        Ok(())
    }

    /// Copies bytes from device memory.
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        if out.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, out.len() as u64)?;
        allocation.load_bytes(offset, out);
        Ok(())
    }

    /// Whether every byte of a range was written.
    ///
    /// # Errors
    /// [`MemoryError::Range`].
    pub fn is_written(&self, address: u64, bytes: u64) -> Result<bool, MemoryError> {
        if bytes == 0 {
            return Ok(true);
        }
        let (allocation, offset) = self.range(address, bytes)?;
        Ok(allocation.is_written(offset, bytes))
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(&Allocation, u64), MemoryError> {
        let found = self.find(address).map(|index| &self.allocations[index]);
        found
            .filter(|allocation| bytes <= allocation.end() - address)
            .map(|allocation| (allocation, address - allocation.base))
            .ok_or(MemoryError::Range { address, bytes })
    }

    /// The allocation that holds `address`.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let after = self
            .allocations
            .partition_point(|allocation| allocation.base <= address);
        let index = after.checked_sub(1)?;
        (address < self.allocations[index].end()).then_some(index)
    }

    #[inline(always)]
    pub(crate) fn allocation(&self, index: usize) -> &Allocation {
        &self.allocations[index]
    }

    /// The allocation that an address lies in or is near to, with where an address outside of it is.
    pub(crate) fn nearest(&self, address: u64) -> Option<(&Allocation, String)> {
        let after = self
            .allocations
            .partition_point(|allocation| allocation.base <= address);
        let before = after.checked_sub(1).map(|index| &self.allocations[index]);
        let behind = self.allocations.get(after);
        // An address inside of an allocation is that one's: what may not be stored to lies there too.
        let past = before.map(|allocation| (allocation, address.saturating_sub(allocation.end())));
        let short = behind.map(|allocation| (allocation, allocation.base - address));
        match (past, short) {
            (Some((allocation, distance)), other) if other.is_none_or(|(_, short)| distance <= short) => Some((
                allocation,
                format!(
                    "{distance} bytes past the end of {} ({} bytes)",
                    allocation.name, allocation.bytes
                ),
            )),
            (_, Some((allocation, distance))) => Some((
                allocation,
                format!("{distance} bytes before the start of {}", allocation.name),
            )),
            _ => None,
        }
    }

    /// Forgets which sectors were accessed.
    pub(crate) fn reset_sectors(&self) {
        for allocation in &self.allocations {
            let bits = allocation.sectors_read.iter().chain(&*allocation.sectors_written);
            bits.for_each(|bits| bits.store(0, Ordering::Relaxed));
        }
    }

    /// For each allocation: its name, and how many sectors were read and written since `reset_sectors`.
    pub(crate) fn sectors(&self) -> Vec<(String, u64, u64)> {
        let count = |bits: &[AtomicU64]| {
            bits.iter()
                .map(|bits| u64::from(bits.load(Ordering::Relaxed).count_ones()))
                .sum()
        };
        self.allocations
            .iter()
            .map(|a| (a.name.clone(), count(&a.sectors_read), count(&a.sectors_written)))
            .collect()
    }
}

/// Memory that the host may refuse.
fn zeroed<T>(count: u64, zero: impl Fn() -> T) -> Option<Box<[T]>> {
    let count = usize::try_from(count).ok()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).ok()?;
    memory.extend((0..count).map(|_| zero()));
    Some(memory.into_boxed_slice())
}

/// `bytes` ones from bit `from` of a word on.
fn span(from: u64, bytes: u64) -> u64 {
    (u64::MAX >> (64 - bytes)) << from
}

impl Allocation {
    /// Whether a kernel may store to it.
    #[inline(always)]
    pub(crate) fn is_writable(&self) -> bool {
        self.access == Access::ReadWrite
    }

    #[inline(always)]
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes
    }

    /// The word at a multiple of 4.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u64) -> &AtomicU32 {
        &self.words[(offset / 4) as usize]
    }

    /// Up to four bytes that lie in one word.
    #[inline(always)]
    pub(crate) fn load(&self, offset: u64, bytes: u32) -> u32 {
        let word = self.word(offset).load(Ordering::Relaxed);
        if bytes == 4 {
            return word;
        }
        let shift = 8 * (offset % 4) as u32;
        word >> shift & ((1 << (8 * bytes)) - 1)
    }

    /// Stores up to four bytes that lie in one word.
    #[inline(always)]
    pub(crate) fn store(&self, offset: u64, bytes: u32, value: u32) {
        let word = self.word(offset);
        if bytes == 4 {
            word.store(value, Ordering::Relaxed);
        } else {
            let shift = 8 * (offset % 4) as u32;
            let mask = ((1_u32 << (8 * bytes)) - 1) << shift;
            // Other threads may store to the word's other bytes meanwhile.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                Some((old & !mask) | (value << shift & mask))
            });
        }
        self.mark(offset, u64::from(bytes));
    }

    /// Marks bytes, of which those up to 64 may cross one word of marks.
    #[inline(always)]
    pub(crate) fn mark(&self, offset: u64, bytes: u64) {
        if let Some(written) = &self.written {
            let marks = &written[(offset / 64) as usize];
            let mask = span(offset % 64, bytes);
            if marks.load(Ordering::Relaxed) & mask != mask {
                marks.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// Whether every byte of a range was written.
    #[inline]
    pub(crate) fn is_written(&self, offset: u64, bytes: u64) -> bool {
        let Some(written) = &self.written else { return true };
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let length = (64 - at % 64).min(end - at);
            let mask = span(at % 64, length);
            if written[(at / 64) as usize].load(Ordering::Relaxed) & mask != mask {
                return false;
            }
            at += length;
        }
        true
    }

    fn store_bytes(&self, offset: u64, from: &[u8]) {
        let mut at = offset;
        let mut rest = from;
        while !rest.is_empty() {
            let length = rest.len().min(4 - (at % 4) as usize);
            let mut word = [0; 4];
            word[..length].copy_from_slice(&rest[..length]);
            self.store(at, length as u32, u32::from_le_bytes(word));
            at += length as u64;
            rest = &rest[length..];
        }
    }

    fn load_bytes(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let length = rest.len().min(4 - (at % 4) as usize);
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&self.load(at, length as u32).to_le_bytes()[..length]);
            at += length as u64;
            rest = later;
        }
    }

    /// Marks the sectors of a range as read or written.
    #[inline]
    pub(crate) fn touch(&self, offset: u64, bytes: u64, write: bool) {
        let sectors = if write {
            &self.sectors_written
        } else {
            &self.sectors_read
        };
        for sector in offset / SECTOR..=(offset + bytes - 1) / SECTOR {
            let marks = &sectors[(sector / 64) as usize];
            let bit = 1 << (sector % 64);
            if marks.load(Ordering::Relaxed) & bit == 0 {
                marks.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}
