//! The remembered accesses that do not fit into a cell.

use super::access::Kind;
use super::cell::Record;
use super::clock::View;

/// An access to some bytes of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masked {
    pub record: Record,
    /// One bit for each byte.
    pub mask: u8,
}

/// Accesses of one kind, none of which makes another superfluous, plus as many again that may be.
#[derive(Debug, Default)]
struct List {
    accesses: Vec<Masked>,
    /// The length at which superfluous ones are looked for.
    limit: usize,
}

/// What one cell has beyond its inline accesses: a list for each kind.
#[derive(Debug, Default)]
pub(super) struct Side {
    lists: [List; Kind::ALL.len()],
}

/// All of a shadow's [`Side`]s; number 0 stands for none.
#[derive(Debug, Default)]
pub(super) struct Sides {
    sides: Vec<Side>,
    free: Vec<u32>,
}

/// The first length at which a list is looked through.
const FIRST_LIMIT: usize = 4;

impl List {
    /// Adds an access that has no conflict with those there.
    fn push(&mut self, access: Masked, view: &View, kind: Kind) {
        if self.accesses.len() >= self.limit {
            self.prune(access.mask, view, kind);
            self.limit = FIRST_LIMIT.max(2 * self.accesses.len());
        }
        self.accesses.push(access);
    }

    /// Drops accesses without which the same conflicts are found.
    fn prune(&mut self, mask: u8, view: &View, kind: Kind) {
        // Whatever conflicts with an earlier access of the same kind also conflicts with this one, which is after it; but
        // for the block scope only in the same block.
        for access in &mut self.accesses {
            let same = !kind.narrow() || access.record.block == view.block;
            if same && view.ordered(access.record) {
                access.mask &= !mask;
            }
        }
        // An actor's later access is known only where its earlier one is.
        self.accesses.sort_unstable_by_key(|access| {
            (
                access.record.block,
                access.record.actor(),
                std::cmp::Reverse(access.record.epoch),
            )
        });
        let (mut last, mut later) = (None, 0);
        for access in &mut self.accesses {
            let actor = Some((access.record.block, access.record.actor()));
            if actor != last {
                (last, later) = (actor, 0);
            }
            access.mask &= !later;
            later |= access.mask;
        }
        self.accesses.retain(|access| access.mask != 0);
    }

    fn conflict(&self, mask: u8, view: &View, kind: Kind, other: Kind) -> Option<Record> {
        let unordered = |access: &&Masked| {
            access.mask & mask != 0
                && kind.conflicts(other, access.record.block == view.block)
                && !view.ordered(access.record)
        };
        self.accesses.iter().find(unordered).map(|access| access.record)
    }

    fn forget(&mut self, mask: u8) {
        self.accesses.retain_mut(|access| {
            access.mask &= !mask;
            access.mask != 0
        });
    }
}

impl Side {
    /// An access there that conflicts with one to the bytes of `mask`.
    pub(super) fn conflict(&self, mask: u8, view: &View, kind: Kind) -> Option<(Record, Kind)> {
        Kind::ALL.into_iter().find_map(|other| {
            let list = &self.lists[other.index()];
            // Most lists are empty or hold what cannot conflict with this kind, which needs no look at each access.
            if list.accesses.is_empty() || !kind.conflicts(other, false) {
                return None;
            }
            list.conflict(mask, view, kind, other).map(|record| (record, other))
        })
    }

    /// Whether a weak read can conflict with nothing here.
    pub(super) fn only_reads(&self) -> bool {
        let write = |kind: &Kind| kind.writes() && !self.lists[kind.index()].accesses.is_empty();
        !Kind::ALL.iter().any(write)
    }

    pub(super) fn push(&mut self, access: Masked, view: &View, kind: Kind) {
        self.lists[kind.index()].push(access, view, kind);
    }

    /// Drops what is known of the bytes of `mask`; whether nothing remains.
    pub(super) fn forget(&mut self, mask: u8) -> bool {
        self.lists.iter_mut().for_each(|list| list.forget(mask));
        self.lists.iter().all(|list| list.accesses.is_empty())
    }
}

impl Sides {
    /// The one with the number, which is made if there is none.
    pub(super) fn at(&mut self, number: &mut u32) -> &mut Side {
        if *number == 0 {
            *number = self.free.pop().unwrap_or_else(|| {
                self.sides.push(Side::default());
                self.sides.len() as u32
            });
        }
        &mut self.sides[*number as usize - 1]
    }

    /// The one with the number.
    pub(super) fn get(&self, number: u32) -> Option<&Side> {
        self.sides.get((number as usize).wrapping_sub(1))
    }

    /// Drops what is known of the bytes of `mask`, and the whole where nothing remains.
    pub(super) fn forget(&mut self, number: &mut u32, mask: u8) {
        if *number != 0 && self.sides[*number as usize - 1].forget(mask) {
            self.free.push(*number);
            *number = 0;
        }
    }
}
