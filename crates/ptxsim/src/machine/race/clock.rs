//! Vector clocks of threads, shared where threads know the same.

use std::sync::Arc;

use super::cell::Record;
use super::knowledge::{Knowledge, covers, raise};

/// What is known of every actor, apart from what a thread knows of itself.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// The block's own actors, as [`super::knowledge::Epochs`].
    own: Box<[u32]>,
    /// Those of other blocks.
    foreign: Arc<Knowledge>,
}

/// A thread's clock. After a barrier all threads share one base, so a barrier costs one copy of it, not one per thread.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub base: Arc<Base>,
    /// The thread's own epoch, from 1. It ends at each release, so that what follows is told from what was released.
    pub epoch: u32,
    /// How many of its asynchronous operations it has waited for.
    pub done: u32,
}

/// Clocks that are joined: collected one by one, and computed once all are there.
#[derive(Debug, Default)]
pub(super) struct Gather {
    bases: Vec<Arc<Base>>,
    /// Actors and how far they are known beyond the bases.
    marks: Vec<(u32, u32)>,
}

/// A clock as one access sees it.
pub(super) struct View<'a> {
    pub clock: &'a Clock,
    pub block: u32,
    pub thread: u32,
    /// The access itself: an actor is never behind itself.
    pub record: Record,
}

impl Base {
    /// Nothing known.
    pub(super) fn new(threads: usize) -> Base {
        Base {
            own: vec![0; 2 * threads].into(),
            foreign: Arc::default(),
        }
    }

    fn covers(&self, other: &Base) -> bool {
        let foreign = Arc::ptr_eq(&self.foreign, &other.foreign)
            || Arc::ptr_eq(&Knowledge::join(&self.foreign, &other.foreign), &self.foreign);
        foreign && covers(&self.own, &other.own)
    }

    fn raise(&mut self, other: &Base) {
        raise(&mut self.own, &other.own);
        self.foreign = Knowledge::join(&self.foreign, &other.foreign);
    }

    /// What either knows; one of the two where it knows all.
    pub(super) fn join(one: &Arc<Base>, two: &Arc<Base>) -> Arc<Base> {
        if Arc::ptr_eq(one, two) || one.covers(two) {
            return one.clone();
        }
        if two.covers(one) {
            return two.clone();
        }
        let mut joined = Base::clone(one);
        joined.raise(two);
        Arc::new(joined)
    }

    /// With what was published, seen from the block `block`.
    pub(super) fn learn(self: &Arc<Base>, block: u32, published: &Arc<Knowledge>) -> Arc<Base> {
        let (others, own) = published.without(block);
        let foreign = Knowledge::join(&self.foreign, &others);
        let new_own = own.filter(|own| !covers(&self.own, own));
        if new_own.is_none() && Arc::ptr_eq(&foreign, &self.foreign) {
            return self.clone();
        }
        let mut base = Base {
            own: self.own.clone(),
            foreign,
        };
        if let Some(own) = new_own {
            raise(&mut base.own, own);
        }
        Arc::new(base)
    }
}

impl Clock {
    /// What the thread `thread` of `block` tells others with this clock.
    pub(super) fn publish(&self, block: u32, thread: u32) -> Arc<Knowledge> {
        let mut own = self.base.own.clone();
        own[2 * thread as usize] = self.epoch;
        own[2 * thread as usize + 1] = self.done.max(own[2 * thread as usize + 1]);
        Arc::new(self.base.foreign.with(block, own.into()))
    }
}

impl Gather {
    /// Adds the clock of a thread, known up to its epoch and with what it waited for.
    pub(super) fn add(&mut self, thread: u32, clock: &Clock) {
        self.marks.push((2 * thread, clock.epoch));
        self.mark_done(thread, clock.done);
        // Threads that share a base mostly follow each other.
        if !self.bases.last().is_some_and(|last| Arc::ptr_eq(last, &clock.base)) {
            self.bases.push(clock.base.clone());
        }
    }

    /// Adds the completion of a thread's operations.
    pub(super) fn mark_done(&mut self, thread: u32, up_to: u32) {
        if up_to > 0 {
            self.marks.push((2 * thread + 1, up_to));
        }
    }

    /// The joined clock, if anything was added; empties the collection.
    pub(super) fn take(&mut self) -> Option<Arc<Base>> {
        self.bases.sort_unstable_by_key(Arc::as_ptr);
        self.bases.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut bases = self.bases.drain(..);
        let mut joined = Base::clone(&*bases.next()?);
        bases.for_each(|base| joined.raise(&base));
        for (actor, epoch) in self.marks.drain(..) {
            let known = &mut joined.own[actor as usize];
            *known = epoch.max(*known);
        }
        Some(Arc::new(joined))
    }
}

impl View<'_> {
    /// Whether a remembered access is before this one. Nothing (epoch 0) is before everything.
    #[inline(always)]
    pub(super) fn ordered(&self, earlier: Record) -> bool {
        if earlier.block != self.block {
            return earlier.epoch == 0 || earlier.epoch <= self.foreign(earlier);
        }
        let known = if earlier.thread() != self.thread {
            self.clock.base.own[earlier.actor() as usize]
        } else if earlier.asynchronous() {
            // Through an mbarrier a thread can learn of its own copies.
            self.clock.done.max(self.clock.base.own[earlier.actor() as usize])
        } else {
            self.clock.epoch
        };
        earlier.epoch <= known || (earlier.actor() == self.record.actor() && earlier.epoch == self.record.epoch)
    }

    #[inline(never)]
    fn foreign(&self, earlier: Record) -> u32 {
        self.clock.base.foreign.get(earlier.block, earlier.actor())
    }
}
