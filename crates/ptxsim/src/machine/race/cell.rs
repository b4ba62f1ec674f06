//! What is remembered of four bytes.

use super::access::{AccessInfo, Kind, MAX_LINE};
use super::clock::View;
use super::side::{Masked, Sides};

/// One access: who made it, when, and where in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub block: u32,
    /// The line in the high bits; then the thread; then whether it was an asynchronous operation.
    who: u32,
    /// The thread's epoch, or the number of the operation; 0 where there is no access.
    pub epoch: u32,
}

/// Four bytes: in the frequent case all of them written by one access, and read by few.
///
/// Which bytes an access was to is a mask of one bit for each. An access without bytes is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell<const OTHERS: usize> {
    /// The last weak write, or one of those that wrote some bytes last.
    write: Record,
    /// Further accesses: most often weak reads that no later one makes superfluous.
    others: [Record; OTHERS],
    /// The number of a [`super::side::Side`] with all the rest.
    side: u32,
    write_mask: u8,
    masks: [u8; OTHERS],
    /// Indices of the kinds; that of a weak read where there is no access.
    kinds: [u8; OTHERS],
}

/// The mask of a whole cell.
pub(super) const WHOLE: u8 = 0b1111;

/// The index of a weak read.
const READ: u8 = Kind::Read.index() as u8;

const ACTOR_BITS: u32 = 11;

/// Threads that a record can tell apart.
pub(super) const MAX_THREADS: usize = 1 << (ACTOR_BITS - 1);

impl Record {
    pub(super) fn new(block: u32, thread: u32, asynchronous: bool, epoch: u32, line: u32) -> Record {
        let actor = 2 * thread + u32::from(asynchronous);
        Record {
            block,
            who: line.min(MAX_LINE) << ACTOR_BITS | actor,
            epoch,
        }
    }

    /// The index of who made it in [`super::knowledge::Epochs`].
    pub(super) fn actor(self) -> u32 {
        self.who & ((1 << ACTOR_BITS) - 1)
    }

    pub(super) fn thread(self) -> u32 {
        self.actor() / 2
    }

    pub(super) fn asynchronous(self) -> bool {
        self.who & 1 == 1
    }

    pub(super) fn info(self, kind: Kind) -> AccessInfo {
        AccessInfo {
            block: self.block,
            thread: self.thread(),
            kind,
            line: self.who >> ACTOR_BITS,
            asynchronous: self.asynchronous(),
        }
    }

    /// Whether it is by the same actor, and not later.
    fn same_actor_before(self, later: Record) -> bool {
        self.block == later.block && self.actor() == later.actor() && self.epoch <= later.epoch
    }
}

impl<const OTHERS: usize> Default for Cell<OTHERS> {
    fn default() -> Cell<OTHERS> {
        Cell {
            write: Record::default(),
            others: [Record::default(); OTHERS],
            side: 0,
            write_mask: 0,
            masks: [0; OTHERS],
            kinds: [READ; OTHERS],
        }
    }
}

impl<const OTHERS: usize> Cell<OTHERS> {
    /// Checks an access to the bytes of `mask` and remembers it; the access that it conflicts with.
    #[inline]
    pub(super) fn access(&mut self, sides: &mut Sides, view: &View, kind: Kind, mask: u8) -> Option<(Record, Kind)> {
        if let Some(next) = self.frequent(sides, view, kind, mask) {
            *self = next;
            return None;
        }
        let conflict = self.conflict(sides, view, kind, mask);
        // A weak write is after all that it does not conflict with, and conflicts with all that they do.
        if conflict.is_some() || kind == Kind::Write {
            self.forget(sides, mask);
        }
        self.remember(sides, view, kind, mask);
        conflict
    }

    /// The cell after an access that needs no other memory than the cell, and has no conflict.
    #[inline(always)]
    pub(super) fn frequent(&self, sides: &Sides, view: &View, kind: Kind, mask: u8) -> Option<Cell<OTHERS>> {
        match kind {
            Kind::Read => self.frequent_read(sides, view, mask),
            Kind::Write => self.frequent_write(view, mask),
            Kind::StrongRead(_) | Kind::StrongWrite(_) => None,
        }
    }

    #[inline(always)]
    fn frequent_read(&self, sides: &Sides, view: &View, mask: u8) -> Option<Cell<OTHERS>> {
        let only_reads = self.kinds == [READ; OTHERS] && (self.side == 0 || sides.get(self.side)?.only_reads());
        if !only_reads || !view.ordered(self.write) {
            return None;
        }
        let slot = (0..OTHERS).find(|&slot| self.superfluous(slot, view, Kind::Read, mask))?;
        let mut next = *self;
        next.others[slot] = view.record;
        next.masks[slot] = mask;
        Some(next)
    }

    #[inline(always)]
    fn frequent_write(&self, view: &View, mask: u8) -> Option<Cell<OTHERS>> {
        let masks = self.masks.iter().fold(self.write_mask, |all, mask| all | mask);
        let ordered = |other: &Record| view.ordered(*other);
        if self.side != 0 || masks & !mask != 0 || !view.ordered(self.write) || !self.others.iter().all(ordered) {
            return None;
        }
        Some(Cell {
            write: view.record,
            write_mask: mask,
            ..Cell::default()
        })
    }

    /// Whether another cell remembers the same, in itself alone.
    #[inline(always)]
    pub(super) fn same(&self, other: &Cell<OTHERS>) -> bool {
        self.side == 0 && self == other
    }

    /// Whether a slot has no access, or one that a new one, which is after it, of the same kind and to all of its bytes,
    /// makes superfluous.
    #[inline(always)]
    fn superfluous(&self, slot: usize, view: &View, kind: Kind, mask: u8) -> bool {
        let old = self.others[slot];
        if self.masks[slot] & !mask != 0 || self.masks[slot] != 0 && self.kinds[slot] != kind.index() as u8 {
            return false;
        }
        let comparable = !kind.narrow() || old.block == view.block;
        self.masks[slot] == 0 || old.same_actor_before(view.record) || comparable && view.ordered(old)
    }

    fn conflict(&self, sides: &Sides, view: &View, kind: Kind, mask: u8) -> Option<(Record, Kind)> {
        if self.write_mask & mask != 0 && !view.ordered(self.write) {
            return Some((self.write, Kind::Write));
        }
        for (slot, other) in self.others.iter().enumerate() {
            let other_kind = Kind::ALL[usize::from(self.kinds[slot])];
            let conflicts = kind.conflicts(other_kind, other.block == view.block);
            if self.masks[slot] & mask != 0 && conflicts && !view.ordered(*other) {
                return Some((*other, other_kind));
            }
        }
        sides.get(self.side)?.conflict(mask, view, kind)
    }

    fn forget(&mut self, sides: &mut Sides, mask: u8) {
        self.write_mask &= !mask;
        for (kind, other) in self.kinds.iter_mut().zip(&mut self.masks) {
            *other &= !mask;
            *kind = if *other == 0 { READ } else { *kind };
        }
        sides.forget(&mut self.side, mask);
    }

    fn remember(&mut self, sides: &mut Sides, view: &View, kind: Kind, mask: u8) {
        let record = view.record;
        if kind == Kind::Write && self.write_mask == 0 {
            (self.write, self.write_mask) = (record, mask);
            return;
        }
        let Some(slot) = (0..OTHERS).find(|&slot| self.superfluous(slot, view, kind, mask)) else {
            let access = Masked { record, mask };
            return sides.at(&mut self.side).push(access, view, kind);
        };
        self.others[slot] = record;
        self.masks[slot] = mask;
        self.kinds[slot] = kind.index() as u8;
    }
}
