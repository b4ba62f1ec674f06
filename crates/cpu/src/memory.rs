//! Device memory of the CPU: byte buffers that a launch may read and write from many threads.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::CpuError;

/// A cache line, the alignment of every buffer.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

struct Storage {
    lines: Vec<Line>,
    len: usize,
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the lines are initialised, contiguous bytes without padding, at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the lines are borrowed uniquely, and any byte is a valid u8.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A buffer of bytes, 64-byte aligned, without an element type: a kernel's parameter says how it is read.
///
/// Elements are in the machine's byte order. A launch locks each buffer it is given, for reading or for writing, and fails
/// with [`CpuError::Busy`] rather than wait; host copies wait.
pub struct CpuBuffer(RwLock<Storage>);

impl CpuBuffer {
    /// A buffer of `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> CpuBuffer {
        let lines = vec![Line([0; 64]); bytes.div_ceil(64)];
        CpuBuffer(RwLock::new(Storage { lines, len: bytes }))
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> CpuBuffer {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        lines
            .as_mut_slice()
            .iter_mut()
            .zip(bytes.chunks(64))
            .for_each(|(line, part)| {
                line.0.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            });
        CpuBuffer(RwLock::new(Storage {
            lines,
            len: bytes.len(),
        }))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.read().len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.read().bytes().to_vec()
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Errors
    /// [`CpuError::HostRange`] where that reaches past the end.
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) -> Result<(), CpuError> {
        let storage = self.read();
        let range = host_range(offset, out.len(), storage.len)?;
        storage
            .bytes()
            .get(range)
            .into_iter()
            .for_each(|from| out.copy_from_slice(from));
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// # Errors
    /// [`CpuError::HostRange`] where that reaches past the end.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) -> Result<(), CpuError> {
        let mut storage = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let range = host_range(offset, from.len(), storage.len)?;
        storage
            .bytes_mut()
            .get_mut(range)
            .into_iter()
            .for_each(|to| to.copy_from_slice(from));
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Storage> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lock for a launch that reads this buffer; `None` while another launch writes it.
    pub(crate) fn lock_read(&self) -> Option<ReadLock<'_>> {
        match self.0.try_read() {
            Ok(guard) => Some(ReadLock(guard)),
            Err(TryLockError::Poisoned(error)) => Some(ReadLock(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A lock for a launch that writes this buffer; `None` while any other launch uses it.
    pub(crate) fn lock_write(&self) -> Option<WriteLock<'_>> {
        match self.0.try_write() {
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

fn host_range(offset: usize, len: usize, buffer: usize) -> Result<std::ops::Range<usize>, CpuError> {
    match offset.checked_add(len) {
        Some(end) if end <= buffer => Ok(offset..end),
        _ => Err(CpuError::HostRange { offset, len, buffer }),
    }
}

/// Holds a buffer for reading.
pub(crate) struct ReadLock<'a>(RwLockReadGuard<'a, Storage>);

impl ReadLock<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Holds a buffer for writing.
pub(crate) struct WriteLock<'a>(RwLockWriteGuard<'a, Storage>);

impl WriteLock<'_> {
    /// A handle through which many threads may store.
    pub(crate) fn stores(&mut self) -> Stores<'_> {
        let bytes = self.0.bytes_mut();
        Stores {
            start: bytes.as_mut_ptr(),
            len: bytes.len(),
            borrow: PhantomData,
        }
    }
}

/// Stores into a buffer that this launch alone uses. Two blocks of a wrong program may store to one element: each store is
/// a relaxed atomic, so the element then holds one of the two.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    start: *mut u8,
    len: usize,
    borrow: PhantomData<&'a [AtomicU16]>,
}

// SAFETY: `Stores` borrows the buffer uniquely for its lifetime and touches it by atomic stores of one width alone.
unsafe impl Send for Stores<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for Stores<'_> {}

impl<'a> Stores<'a> {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its whole 2-byte elements.
    pub(crate) fn halves(&self) -> &'a [AtomicU16] {
        // SAFETY: the buffer is 64-byte aligned, has at least len / 2 · 2 bytes, and is borrowed uniquely for 'a, in which
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
pub(crate) fn store_halves(to: &[AtomicU16], from: impl Iterator<Item = u16>) {
    to.iter()
        .zip(from)
        .for_each(|(to, value)| to.store(value, Ordering::Relaxed));
}

/// A relaxed store of each value, to consecutive elements.
pub(crate) fn store_words(to: &[AtomicU32], from: impl Iterator<Item = u32>) {
    to.iter()
        .zip(from)
        .for_each(|(to, value)| to.store(value, Ordering::Relaxed));
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
