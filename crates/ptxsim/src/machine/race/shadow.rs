//! Cells for memory: one block's shared memory, and the global memory of a launch.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::access::Kind;
use super::cell::{Cell, Record, WHOLE};
use super::clock::View;
use super::place::{GlobalPlace, Published};
use super::side::Sides;

/// A run of memory and what is remembered of it.
#[derive(Debug)]
pub(super) struct Cells<const OTHERS: usize> {
    cells: Vec<Cell<OTHERS>>,
    sides: Sides,
}

/// What is remembered of the allocations of a launch, for all of its blocks.
///
/// Memory is taken where an access happens, a page at a time.
#[derive(Debug)]
pub(crate) struct GlobalShadow {
    allocations: Vec<Allocation>,
    places: Vec<Mutex<Places>>,
}

#[derive(Debug)]
struct Allocation {
    bytes: u64,
    chunks: Lazy<Lazy<OnceLock<Page>>>,
}

/// Pages of an allocation, of which the last one used stays locked: lanes mostly go to the same.
pub(super) struct Pages<'a> {
    allocation: &'a Allocation,
    held: Option<(u64, MutexGuard<'a, Cells<1>>)>,
}

/// A sequence that is made at the first use, as are its elements.
type Lazy<T> = OnceLock<Box<[T]>>;

type Page = Box<Mutex<Cells<1>>>;

/// What was published at addresses.
pub(super) type Places = HashMap<u64, Published>;

/// Bytes of memory of a page.
const PAGE: u64 = 4096;

/// Pages of a chunk.
const CHUNK: u64 = 1024;

/// Locks among which the places are distributed.
const SHARDS: usize = 64;

impl<const OTHERS: usize> Cells<OTHERS> {
    pub(super) fn new(bytes: usize) -> Cells<OTHERS> {
        Cells {
            cells: vec![Cell::default(); bytes.div_ceil(4)],
            sides: Sides::default(),
        }
    }

    /// Checks and remembers an access to bytes inside; the first access that it conflicts with.
    #[inline]
    pub(super) fn access(&mut self, offset: usize, bytes: usize, view: &View, kind: Kind) -> Option<(Record, Kind)> {
        let first = offset / 4;
        if offset.is_multiple_of(4) && bytes == 4 {
            return self.cells[first].access(&mut self.sides, view, kind, WHOLE);
        }
        if offset.is_multiple_of(4) && bytes == 16 && self.alike(first, view, kind) {
            return None;
        }
        let end = offset + bytes;
        let mut conflict = None;
        for index in first..end.div_ceil(4) {
            let mask = mask(offset.max(4 * index) - 4 * index, end.min(4 * index + 4) - 4 * index);
            let found = self.cells[index].access(&mut self.sides, view, kind, mask);
            conflict = conflict.or(found);
        }
        conflict
    }

    /// An access to four cells that remember the same and need no other memory: one check is enough. Whether it was one.
    #[inline]
    fn alike(&mut self, first: usize, view: &View, kind: Kind) -> bool {
        let [one, others @ ..] = &mut self.cells[first..first + 4] else {
            return false;
        };
        if !others.iter().all(|other| one.same(other)) {
            return false;
        }
        let Some(next) = one.frequent(&self.sides, view, kind, WHOLE) else {
            return false;
        };
        *one = next;
        others.fill(next);
        true
    }
}

/// The bytes from `from` to before `to`.
fn mask(from: usize, to: usize) -> u8 {
    ((1 << to) - (1 << from)) as u8
}

impl GlobalShadow {
    /// For allocations of these sizes.
    pub(crate) fn new(bytes: impl IntoIterator<Item = u64>) -> GlobalShadow {
        let allocation = |bytes| Allocation {
            bytes,
            chunks: OnceLock::new(),
        };
        GlobalShadow {
            allocations: bytes.into_iter().map(allocation).collect(),
            places: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A place through which threads of several blocks synchronise, locked against other blocks.
    ///
    /// Keep it from before the memory itself is read or written until the access is told to the block's races; else what
    /// is published can be ahead of, or behind, the value that was read.
    pub(crate) fn place(&self, address: u64) -> GlobalPlace<'_> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(address);
        GlobalPlace::new(address, lock(&self.places[hash as usize % SHARDS]))
    }

    /// The pages of an allocation, for accesses one after the other.
    pub(super) fn pages(&self, allocation: usize) -> Pages<'_> {
        Pages {
            allocation: &self.allocations[allocation],
            held: None,
        }
    }
}

impl Pages<'_> {
    /// Checks and remembers an access to bytes inside of the allocation.
    #[inline]
    pub(super) fn access(&mut self, offset: u64, bytes: u32, view: &View, kind: Kind) -> Option<(Record, Kind)> {
        let (mut at, end) = (offset, offset + u64::from(bytes));
        let mut conflict = None;
        while at < end {
            let next = end.min((at / PAGE + 1) * PAGE);
            let page = self.page(at / PAGE);
            let found = page.access((at % PAGE) as usize, (next - at) as usize, view, kind);
            conflict = conflict.or(found);
            at = next;
        }
        conflict
    }

    #[inline]
    fn page(&mut self, number: u64) -> &mut Cells<1> {
        // Never two at once: another block may want them the other way round.
        let held = self.held.take().filter(|held| held.0 == number);
        let held = held.unwrap_or_else(|| (number, lock(self.allocation.page(number))));
        &mut self.held.insert(held).1
    }
}

impl Allocation {
    fn page(&self, number: u64) -> &Mutex<Cells<1>> {
        let chunks = self.chunks.get_or_init(|| empty(self.bytes.div_ceil(PAGE * CHUNK)));
        let chunk = chunks[(number / CHUNK) as usize].get_or_init(|| empty(CHUNK));
        chunk[(number % CHUNK) as usize].get_or_init(|| Box::new(Mutex::new(Cells::new(PAGE as usize))))
    }
}

fn empty<T>(count: u64) -> Box<[OnceLock<T>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}

/// The lock of a shadow; another block's panic leaves it as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
