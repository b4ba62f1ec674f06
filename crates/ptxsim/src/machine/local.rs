//! Local memory: bytes of each lane's own.

use super::registers::LANES;

/// Most bytes of a lane, as on the hardware.
pub(crate) const MAX_LOCAL: u32 = 512 * 1024;

/// The local memory of a warp's lanes, grown as calls need it.
#[derive(Debug, Default)]
pub(crate) struct LocalMemory {
    bytes: u32,
    data: Vec<Vec<u8>>,
    written: Vec<Vec<bool>>,
}

impl LocalMemory {
    pub(crate) fn new(bytes: u32) -> LocalMemory {
        let mut memory = LocalMemory::default();
        memory.grow(bytes);
        memory
    }

    /// Makes room for at least `bytes` of each lane; whether there may be so many.
    pub(crate) fn grow(&mut self, bytes: u32) -> bool {
        if bytes > self.bytes && bytes <= MAX_LOCAL {
            self.bytes = bytes;
            self.data.resize(LANES, Vec::new());
            self.written.resize(LANES, Vec::new());
            self.data.iter_mut().for_each(|lane| lane.resize(bytes as usize, 0xff));
            self.written
                .iter_mut()
                .for_each(|lane| lane.resize(bytes as usize, false));
        }
        bytes <= MAX_LOCAL
    }

    /// Bytes of each lane.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Copies bytes that lie inside; whether all were written before.
    pub(crate) fn read(&self, lane: usize, offset: u32, out: &mut [u8]) -> bool {
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(&self.data[lane][range.clone()]);
        self.written[lane][range].iter().all(|written| *written)
    }

    /// Stores bytes that lie inside.
    pub(crate) fn write(&mut self, lane: usize, offset: u32, from: &[u8]) {
        let range = offset as usize..offset as usize + from.len();
        self.data[lane][range.clone()].copy_from_slice(from);
        self.written[lane][range].fill(true);
    }

    /// Copies bytes from one place to another, with whether they were written.
    pub(crate) fn copy(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        let range = from as usize..(from + bytes) as usize;
        self.data[lane].copy_within(range.clone(), to as usize);
        self.written[lane].copy_within(range, to as usize);
    }

    /// What was written before a call used the same bytes is not any more.
    pub(crate) fn forget(&mut self, lane: usize, from: u32, bytes: u32) {
        self.written[lane][from as usize..(from + bytes) as usize].fill(false);
    }
}
