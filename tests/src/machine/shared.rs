//! The shared memory of a block, with the checks of a race detector.

use super::Stats;
use std::collections::VecDeque;

/// Where shared memory begins in the shared address space. Not 0, so that an offset without its base shows.
pub(super) const BASE: usize = 0x400;

/// Every access is of at least two bytes at an even address.
const GRANULE: usize = 2;

/// What is known of two bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    written: bool,
    /// An asynchronous copy of this thread, plus one, may be writing it.
    in_flight: u16,
    /// Barriers before the last write, plus one, and the warp that wrote.
    write_epoch: u32,
    writer: u16,
    /// Barriers before the last reads, plus one, and the warps that read since.
    read_epoch: u32,
    readers: u32,
    /// The last statement that wrote it.
    statement: u64,
}

/// One asynchronous copy under way.
#[derive(Clone, Debug)]
struct Copy {
    at: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Copies {
    uncommitted: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    /// Barriers so far, plus one.
    epoch: u32,
    statement: u64,
    copies: Vec<Copies>,
    eager: bool,
}

impl Shared {
    pub fn new(bytes: usize, threads: usize, eager: bool) -> Shared {
        Shared {
            bytes: vec![0xff; bytes],
            cells: vec![Cell::default(); bytes.div_ceil(GRANULE)],
            epoch: 1,
            statement: 0,
            copies: vec![Copies::default(); threads],
            eager,
        }
    }

    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    /// A new statement begins: two threads of a warp may not write the same bytes in one.
    pub fn next_statement(&mut self) {
        self.statement += 1;
    }

    fn range(&self, address: i64, count: usize) -> Result<usize, String> {
        let offset = usize::try_from(address)
            .ok()
            .and_then(|address| address.checked_sub(BASE));
        let fits = offset.filter(|offset| offset + count <= self.bytes.len());
        let at = fits.ok_or_else(|| {
            format!(
                "shared bytes {}..+{count} of {}",
                address - BASE as i64,
                self.bytes.len()
            )
        })?;
        match at.is_multiple_of(count) {
            true => Ok(at),
            false => Err(format!("{count} shared bytes at {at}, which is not a multiple")),
        }
    }

    fn cells(at: usize, count: usize) -> std::ops::Range<usize> {
        at / GRANULE..(at + count) / GRANULE
    }

    /// `count` bytes at `address`, read by `thread`.
    pub fn read(&mut self, address: i64, count: usize, thread: usize) -> Result<&[u8], String> {
        let at = self.range(address, count)?;
        let warp = (thread / 32) as u16;
        for index in Shared::cells(at, count) {
            let cell = &mut self.cells[index];
            let byte = index * GRANULE;
            if cell.in_flight > 0 {
                return Err(format!(
                    "thread {thread} reads shared byte {byte}: a copy of thread {} may be writing it",
                    cell.in_flight - 1
                ));
            }
            if !cell.written {
                return Err(format!(
                    "thread {thread} reads shared byte {byte}, which nobody has written"
                ));
            }
            if cell.write_epoch == self.epoch && cell.writer != warp {
                return Err(format!(
                    "race: thread {thread} reads shared byte {byte}, written by warp {} since the last barrier",
                    cell.writer
                ));
            }
            if cell.read_epoch != self.epoch {
                (cell.read_epoch, cell.readers) = (self.epoch, 0);
            }
            cell.readers |= 1 << warp;
        }
        Ok(&self.bytes[at..at + count])
    }

    /// Fails where a write by `thread` to these bytes conflicts with anything since the last barrier.
    fn check_write(&self, at: usize, count: usize, thread: usize) -> Result<(), String> {
        let warp = (thread / 32) as u16;
        for index in Shared::cells(at, count) {
            let cell = &self.cells[index];
            let byte = index * GRANULE;
            let who = if cell.in_flight > 0 {
                format!("a copy of thread {} may be writing it", cell.in_flight - 1)
            } else if cell.write_epoch == self.epoch && cell.writer != warp {
                format!("warp {} wrote it since the last barrier", cell.writer)
            } else if cell.read_epoch == self.epoch && cell.readers & !(1 << warp) != 0 {
                format!("warps {:#b} read it since the last barrier", cell.readers)
            } else if cell.statement == self.statement {
                "another thread of the warp does so at the same time".to_string()
            } else {
                continue;
            };
            return Err(format!("race: thread {thread} writes shared byte {byte}: {who}"));
        }
        Ok(())
    }

    fn note_write(&mut self, at: usize, count: usize, thread: usize) {
        let (epoch, statement) = (self.epoch, self.statement);
        for cell in &mut self.cells[Shared::cells(at, count)] {
            let writer = (thread / 32) as u16;
            *cell = Cell {
                written: true,
                in_flight: 0,
                write_epoch: epoch,
                writer,
                statement,
                ..*cell
            };
        }
    }

    pub fn write(&mut self, address: i64, bytes: &[u8], thread: usize) -> Result<(), String> {
        let at = self.range(address, bytes.len())?;
        self.check_write(at, bytes.len(), thread)?;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.note_write(at, bytes.len(), thread);
        Ok(())
    }

    /// Begins an asynchronous copy of `thread`.
    pub fn copy(&mut self, address: i64, bytes: Vec<u8>, thread: usize) -> Result<(), String> {
        let at = self.range(address, bytes.len())?;
        self.check_write(at, bytes.len(), thread)?;
        for cell in &mut self.cells[Shared::cells(at, bytes.len())] {
            cell.in_flight = thread as u16 + 1;
        }
        if self.eager {
            self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        self.copies[thread].uncommitted.push(Copy { at, bytes });
        Ok(())
    }

    pub fn commit(&mut self, thread: usize) {
        let copies = &mut self.copies[thread];
        let group = std::mem::take(&mut copies.uncommitted);
        copies.groups.push_back(group);
    }

    /// Waits until at most `left` groups of `thread` are under way.
    pub fn wait(&mut self, left: usize, thread: usize) {
        while self.copies[thread].groups.len() > left {
            for copy in self.copies[thread].groups.pop_front().unwrap_or_default() {
                self.bytes[copy.at..copy.at + copy.bytes.len()].copy_from_slice(&copy.bytes);
                self.note_write(copy.at, copy.bytes.len(), thread);
            }
        }
    }

    /// Fails where a thread leaves copies that it never waited for.
    pub fn check_done(&self) -> Result<(), String> {
        let open = |copies: &Copies| !copies.uncommitted.is_empty() || copies.groups.iter().any(|g| !g.is_empty());
        match self.copies.iter().position(open) {
            Some(thread) => Err(format!("thread {thread} ends with copies that it never waited for")),
            None => Ok(()),
        }
    }
}

/// Counts the wavefronts of one warp's access of words: bank conflicts make more than one.
pub(super) fn count_wavefronts(addresses: impl Iterator<Item = i64>, stats: &mut Stats) {
    let mut words: Vec<i64> = addresses.map(|address| address / 4).collect();
    if words.is_empty() {
        return;
    }
    words.sort_unstable();
    words.dedup();
    let mut banks = [0usize; 32];
    words.iter().for_each(|word| banks[(word % 32) as usize] += 1);
    stats.shared_accesses += 1;
    stats.shared_wavefronts += banks.into_iter().max().unwrap_or(1).max(1);
}
