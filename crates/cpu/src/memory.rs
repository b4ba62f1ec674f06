//! Device memory of the CPU: byte buffers that a launch may read and write from many threads.

use std::marker::PhantomData;
use std::ops::Range;
#[cfg(not(target_arch = "x86_64"))]
use std::sync::atomic::Ordering;
use std::sync::atomic::{AtomicU16, AtomicU32};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::CpuError;
use crate::lines::{Line, Lines};

/// Bytes that every buffer, and every part of one, is aligned to: a cache line.
const ALIGN: usize = Line::BYTES;

/// A buffer of bytes, 64-byte aligned, without an element type: a kernel's parameter says how it is read. Clones are the
/// same memory, and so is a part of it.
///
/// Elements are in the machine's byte order. A launch locks the memory it is given, for reading or for writing, and fails
/// with [`CpuError::Busy`] rather than wait; host copies wait.
#[derive(Clone)]
pub struct CpuBuffer {
    memory: Arc<RwLock<Lines>>,
    /// Bytes of the memory that are this buffer's.
    range: Range<usize>,
}

impl CpuBuffer {
    /// A buffer of `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> CpuBuffer {
        let lines = Lines::zeroed(bytes.div_ceil(ALIGN));
        CpuBuffer {
            memory: Arc::new(RwLock::new(lines)),
            range: 0..bytes,
        }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> CpuBuffer {
        let mut lines = Lines::zeroed(bytes.len().div_ceil(ALIGN));
        bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        CpuBuffer {
            memory: Arc::new(RwLock::new(lines)),
            range: 0..bytes.len(),
        }
    }

    /// The `bytes` bytes from `offset` on, a multiple of 64, as a buffer of their own. A launch may read one part and
    /// write another that does not overlap it; launches at the same time may not use the same memory, whatever the parts.
    ///
    /// # Errors
    /// [`CpuError::Part`] where that reaches past the end, or `offset` is no such multiple.
    pub fn part(&self, offset: usize, bytes: usize) -> Result<CpuBuffer, CpuError> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.len());
        if !inside || !offset.is_multiple_of(ALIGN) {
            let buffer = self.len();
            return Err(CpuError::Part { offset, bytes, buffer });
        }
        let start = self.range.start + offset;
        Ok(CpuBuffer {
            memory: Arc::clone(&self.memory),
            range: start..start + bytes,
        })
    }

    /// Whether another buffer has the same memory, or a part of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.memory) > 1
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// A copy of all its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let lines = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        bytemuck::cast_slice::<Line, u8>(&lines)[self.range.clone()].to_vec()
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Errors
    /// [`CpuError::HostRange`] where that reaches past the end.
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) -> Result<(), CpuError> {
        let range = self.host_range(offset, out.len())?;
        let lines = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        out.copy_from_slice(&bytemuck::cast_slice::<Line, u8>(&lines)[range]);
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// # Errors
    /// [`CpuError::HostRange`] where that reaches past the end.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) -> Result<(), CpuError> {
        let range = self.host_range(offset, from.len())?;
        let mut lines = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[range].copy_from_slice(from);
        Ok(())
    }

    /// Where in the memory `len` bytes from `offset` on are.
    fn host_range(&self, offset: usize, len: usize) -> Result<Range<usize>, CpuError> {
        let buffer = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= buffer => Ok(self.range.start + offset..self.range.start + end),
            _ => Err(CpuError::HostRange { offset, len, buffer }),
        }
    }

    /// Its bytes in the memory that it is a part of.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Whether the two are parts of the same memory.
    pub(crate) fn same_memory(&self, other: &CpuBuffer) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// Whether the two have a byte in common.
    pub(crate) fn overlaps(&self, other: &CpuBuffer) -> bool {
        let (a, b) = (&self.range, &other.range);
        self.same_memory(other) && a.start.max(b.start) < a.end.min(b.end)
    }

    /// A lock for a launch that only reads the memory; `None` while another launch writes it.
    pub(crate) fn lock_read(&self) -> Option<ReadLock<'_>> {
        match self.memory.try_read() {
            Ok(guard) => Some(ReadLock(guard)),
            Err(TryLockError::Poisoned(error)) => Some(ReadLock(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A lock for a launch that writes the memory; `None` while any other launch uses it.
    pub(crate) fn lock_write(&self) -> Option<WriteLock<'_>> {
        match self.memory.try_write() {
            Ok(guard) => Some(WriteLock(guard)),
            Err(TryLockError::Poisoned(error)) => Some(WriteLock(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl std::fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuBuffer({} bytes)", self.len())
    }
}

/// Holds memory for reading.
pub(crate) struct ReadLock<'a>(RwLockReadGuard<'a, Lines>);

impl ReadLock<'_> {
    /// All of its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice::<Line, u8>(&self.0)
    }
}

/// Holds memory for writing.
pub(crate) struct WriteLock<'a>(RwLockWriteGuard<'a, Lines>);

impl WriteLock<'_> {
    /// A handle through which many threads may store to all of its bytes.
    pub(crate) fn stores(&mut self) -> Stores<'_> {
        let bytes = bytemuck::cast_slice_mut::<Line, u8>(&mut self.0);
        Stores {
            start: bytes.as_mut_ptr(),
            len: bytes.len(),
            borrow: PhantomData,
        }
    }
}

/// Stores into a buffer that this launch alone uses. Two blocks of a wrong program may store to one element: each store is
/// a relaxed atomic or what is as good ([`store_halves`]), so each of the element's bytes then is of one of the two.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    start: *mut u8,
    len: usize,
    borrow: PhantomData<&'a [AtomicU16]>,
}

// SAFETY: `Stores` borrows the buffer uniquely for its lifetime and touches it by relaxed atomics, or by stores in assembly that
// leave each byte one of those that were stored.
unsafe impl Send for Stores<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for Stores<'_> {}

impl<'a> Stores<'a> {
    /// The part of it that is `buffer`'s.
    pub(crate) fn part(self, buffer: &CpuBuffer) -> Stores<'a> {
        let range = buffer.range();
        assert!(range.end <= self.len);
        Stores {
            // SAFETY: no further than the end of the memory that `start` points into.
            start: unsafe { self.start.add(range.start) },
            len: range.len(),
            borrow: PhantomData,
        }
    }

    /// Its bytes, to be read instead of stored to.
    ///
    /// # Safety
    /// Nothing stores to them during 'a.
    pub(crate) unsafe fn into_bytes(self) -> &'a [u8] {
        // SAFETY: they are initialised, and borrowed for 'a, in which nothing stores to them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its whole 2-byte elements.
    pub(crate) fn halves(&self) -> &'a [AtomicU16] {
        // SAFETY: the part is 64-byte aligned, has at least len / 2 · 2 bytes, and is borrowed uniquely for 'a, in which
        // only atomics reach it.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len / 2) }
    }

    /// Its whole 4-byte elements.
    pub(crate) fn words(&self) -> &'a [AtomicU32] {
        // SAFETY: as in `halves`, with 4 bytes.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len / 4) }
    }
}

/// The memory behind a tensor parameter of one launch.
#[derive(Clone, Copy)]
pub(crate) enum Bound<'a> {
    Read(&'a [u8]),
    Write(Stores<'a>),
}

impl Bound<'_> {
    /// Bytes of the buffer.
    pub(crate) fn len(&self) -> usize {
        match self {
            Bound::Read(bytes) => bytes.len(),
            Bound::Write(stores) => stores.len(),
        }
    }
}

/// A relaxed store of each value, to consecutive elements.
pub(crate) fn store_halves(to: &[AtomicU16], from: &[u16]) {
    let len = to.len().min(from.len());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: so many elements are in both.
    unsafe {
        store_bytes(to.as_ptr().cast(), from.as_ptr().cast(), 2 * len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to[..len]
        .iter()
        .zip(from)
        .for_each(|(to, value)| to.store(*value, Ordering::Relaxed));
}

/// A relaxed store of each value, to consecutive elements.
pub(crate) fn store_words(to: &[AtomicU32], from: &[u32]) {
    let len = to.len().min(from.len());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        store_bytes(to.as_ptr().cast(), from.as_ptr().cast(), 4 * len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to[..len]
        .iter()
        .zip(from)
        .for_each(|(to, value)| to.store(*value, Ordering::Relaxed));
}

/// Copies bytes in assembly, many at a time, where a loop of atomics would store element by element. Like those it has a
/// meaning where another thread stores to the same memory: each byte is then of one or the other.
///
/// # Safety
/// `len` bytes are atomics at `to`, and initialised at `from`.
#[cfg(target_arch = "x86_64")]
unsafe fn store_bytes(to: *const u8, from: *const u8, len: usize) {
    let lines = match is_x86_feature_detected!("avx") {
        true => len / ALIGN,
        false => 0,
    };
    let done = lines * ALIGN;
    // SAFETY: the caller's promise, and the feature is there; the direction flag is clear outside of assembly.
    unsafe {
        if lines > 0 {
            store_lines(to, from, lines);
        }
        if done < len {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") len - done => _,
                inout("rdi") to.add(done) => _,
                inout("rsi") from.add(done) => _,
                options(nostack),
            );
        }
    }
}

/// # Safety
/// As [`store_bytes`], for `lines` times [`ALIGN`] bytes, which are some.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline(never)]
unsafe fn store_lines(to: *const u8, from: *const u8, lines: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups {a}, [{from}]",
            "vmovups {b}, [{from} + 32]",
            "vmovups [{to}], {a}",
            "vmovups [{to} + 32], {b}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            a = out(ymm_reg) _,
            b = out(ymm_reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
    // What runs next may be of a lower level, and would wait.
    std::arch::x86_64::_mm256_zeroupper();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_copies_are_checked() {
        let buffer = CpuBuffer::from_bytes(&[1, 2, 3, 4, 5]);
        let mut out = [0; 2];
        buffer.read_bytes(3, &mut out).unwrap();
        assert_eq!(out, [4, 5]);
        assert_eq!(
            buffer.read_bytes(4, &mut out),
            Err(CpuError::HostRange {
                offset: 4,
                len: 2,
                buffer: 5
            })
        );
        assert!(buffer.write_bytes(usize::MAX, &[1]).is_err());
        buffer.write_bytes(1, &[9, 8]).unwrap();
        assert_eq!(buffer.bytes(), [1, 9, 8, 4, 5]);
        assert_eq!(CpuBuffer::zeroed(70).bytes(), [0; 70]);
        // Large enough for a huge page.
        let large = CpuBuffer::zeroed(5 << 20);
        large.write_bytes((5 << 20) - 1, &[7]).unwrap();
        let bytes = large.bytes();
        assert!(bytes.ends_with(&[0, 7]) && bytes[..(5 << 20) - 1].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn parts_are_the_same_memory() {
        let whole = CpuBuffer::zeroed(200);
        let part = whole.part(64, 100).unwrap();
        part.write_bytes(1, &[7]).unwrap();
        assert_eq!((whole.bytes()[65], part.bytes()[1], part.len()), (7, 7, 100));
        let inner = part.part(64, 36).unwrap();
        inner.write_bytes(35, &[9]).unwrap();
        assert_eq!(whole.bytes()[163], 9);
        assert!(inner.overlaps(&part) && !inner.overlaps(&whole.part(0, 128).unwrap()));
        assert!(!inner.overlaps(&part.part(64, 0).unwrap()) && !inner.overlaps(&CpuBuffer::zeroed(200)));
        for (offset, bytes) in [(32, 8), (64, 37), (128, 0), (usize::MAX - 63, 64)] {
            assert!(part.part(offset, bytes).is_err(), "{offset} {bytes}");
        }
        let error = part.write_bytes(99, &[1, 2]).unwrap_err().to_string();
        assert_eq!(error, "bytes 99..99+2 are outside a buffer of 100 bytes");
    }

    #[test]
    fn locks_exclude_each_other() {
        let buffer = CpuBuffer::zeroed(8);
        let first = buffer.lock_read().unwrap();
        assert!(buffer.lock_read().is_some());
        assert!(buffer.lock_write().is_none());
        drop(first);
        let writer = buffer.lock_write().unwrap();
        assert!(buffer.lock_read().is_none());
        drop(writer);
    }
}
