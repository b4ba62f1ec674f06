//! One block: the clocks of its threads, and how barriers, waits and mbarriers join them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::access::{Access, Actor, Conflict, Kind, Scope};
use super::cell::{MAX_THREADS, Record};
use super::clock::{Base, Clock, Gather, View};
use super::knowledge::Knowledge;
use super::shadow::{Cells, GlobalShadow, Places};
use super::strong::History;

/// One block's clocks and what is remembered of its shared memory.
#[derive(Debug)]
pub(crate) struct BlockRaces {
    block: u32,
    threads: Vec<Thread>,
    shared: Cells<2>,
    barriers: [Gather; BARRIERS],
    mbarriers: HashMap<u32, Mbarrier>,
    /// What was published in shared memory.
    places: Places,
    warp: Gather,
    memo: Memo,
}

/// Named barriers of a block.
const BARRIERS: usize = 16;

#[derive(Debug)]
struct Thread {
    clock: Clock,
    copies: Copies,
    /// Most threads have none.
    history: Option<Box<History>>,
}

/// The asynchronous operations of a thread.
#[derive(Debug, Default)]
struct Copies {
    issued: u32,
    /// The thread's clock when it issued each of the operations that are not complete.
    pending: VecDeque<Clock>,
    last: Option<Clock>,
}

#[derive(Debug, Default)]
struct Mbarrier {
    phase: Gather,
    /// What the arrivals of the last completed phase knew.
    completed: Option<Arc<Base>>,
}

/// An arrival at an mbarrier that happens once the copies issued before it are complete (`cp.async.mbarrier.arrive`).
#[derive(Clone, Debug)]
pub(crate) struct AsyncArrival {
    thread: u32,
    up_to: u32,
    last: Option<Clock>,
}

/// The last joins: the lanes of a warp, and warps after a barrier, mostly ask for the same, and shall share the result.
#[derive(Debug, Default)]
struct Memo {
    joined: Option<[Arc<Base>; 3]>,
    learnt: Option<(Arc<Base>, Arc<Knowledge>, Arc<Base>)>,
}

impl BlockRaces {
    /// A block of at most 1024 threads before its first instruction.
    pub(crate) fn new(block: u32, threads: usize, shared_bytes: usize) -> BlockRaces {
        assert!(threads <= MAX_THREADS, "a block of {threads} threads");
        let base = Arc::new(Base::new(threads));
        let thread = || Thread {
            clock: Clock {
                base: base.clone(),
                epoch: 1,
                done: 0,
            },
            copies: Copies::default(),
            history: None,
        };
        BlockRaces {
            block,
            threads: (0..threads).map(|_| thread()).collect(),
            shared: Cells::new(shared_bytes),
            barriers: Default::default(),
            mbarriers: HashMap::new(),
            places: Places::new(),
            warp: Gather::default(),
            memo: Memo::default(),
        }
    }

    /// An access to shared memory, inside of it: the conflict with an earlier one, if there is any.
    #[inline]
    pub(crate) fn shared(&mut self, offset: u32, access: &Access) -> Option<Conflict> {
        // Every access to it is of this block, so that scopes make no difference.
        let kind = match access.kind {
            Kind::StrongRead(_) => Kind::StrongRead(Scope::Device),
            Kind::StrongWrite(_) => Kind::StrongWrite(Scope::Device),
            weak => weak,
        };
        let view = view(&self.threads, self.block, access);
        let (record, other) = self
            .shared
            .access(offset as usize, access.bytes as usize, &view, kind)?;
        Some(Conflict::new(record.info(other), view.record.info(access.kind)))
    }

    /// Accesses to an allocation in global memory, inside of it, such as those of the lanes of a warp: the offset and the
    /// access of each. What conflicts is given to `report` with its offset.
    #[inline]
    pub(crate) fn global(
        &mut self,
        shadow: &GlobalShadow,
        allocation: usize,
        accesses: impl IntoIterator<Item = (u64, Access)>,
        mut report: impl FnMut(u64, Conflict),
    ) {
        let mut pages = shadow.pages(allocation);
        for (offset, access) in accesses {
            let view = view(&self.threads, self.block, &access);
            if let Some((record, other)) = pages.access(offset, access.bytes, &view, access.kind) {
                report(offset, Conflict::new(record.info(other), view.record.info(access.kind)));
            }
        }
    }

    /// The thread issues an asynchronous operation; its number.
    pub(crate) fn issue_async(&mut self, thread: u32) -> u32 {
        let Thread { clock, copies, .. } = &mut self.threads[thread as usize];
        copies.issued += 1;
        copies.pending.push_back(clock.clone());
        copies.last = Some(clock.clone());
        // What the thread does from now on is not before the operation.
        clock.epoch += 1;
        copies.issued
    }

    /// The thread waited for its operations up to this one, all of whose accesses have been told.
    pub(crate) fn complete_async(&mut self, thread: u32, up_to: u32) {
        let Thread { clock, copies, .. } = &mut self.threads[thread as usize];
        clock.done = clock.done.max(up_to);
        copies.drop_pending(up_to);
    }

    /// A thread arrives at a barrier (below 16), whether or not it waits there.
    pub(crate) fn barrier_arrive(&mut self, barrier: u32, thread: u32) {
        let clock = &mut self.threads[thread as usize].clock;
        self.barriers[barrier as usize].add(thread, clock);
        clock.epoch += 1;
    }

    /// The barrier is complete: those of the arrived threads that wait there go on.
    pub(crate) fn barrier_complete(&mut self, barrier: u32, waiting: impl IntoIterator<Item = u32>) {
        let joined = self.barriers[barrier as usize].take();
        self.go_on(joined, waiting);
    }

    /// `bar.warp.sync` of these threads.
    pub(crate) fn warp_sync(&mut self, threads: impl IntoIterator<Item = u32> + Clone) {
        for thread in threads.clone() {
            let clock = &mut self.threads[thread as usize].clock;
            self.warp.add(thread, clock);
            clock.epoch += 1;
        }
        let joined = self.warp.take();
        self.go_on(joined, threads);
    }

    fn go_on(&mut self, joined: Option<Arc<Base>>, threads: impl IntoIterator<Item = u32>) {
        let Some(joined) = joined else {
            return;
        };
        for thread in threads {
            self.threads[thread as usize].clock.base = joined.clone();
        }
    }

    /// `mbarrier.init` or `mbarrier.inval` of the object at this offset: nothing arrived there yet.
    pub(crate) fn mbarrier_init(&mut self, offset: u32) {
        self.mbarriers.remove(&offset);
    }

    /// The thread arrives at an mbarrier.
    pub(crate) fn mbarrier_arrive(&mut self, offset: u32, thread: u32) {
        let clock = &mut self.threads[thread as usize].clock;
        self.mbarriers.entry(offset).or_default().phase.add(thread, clock);
        clock.epoch += 1;
    }

    /// The thread executes `cp.async.mbarrier.arrive`; [`BlockRaces::mbarrier_arrive_async`] is what happens later.
    pub(crate) fn async_arrival(&self, thread: u32) -> AsyncArrival {
        let copies = &self.threads[thread as usize].copies;
        AsyncArrival {
            thread,
            up_to: copies.issued,
            last: copies.last.clone(),
        }
    }

    /// The arrival happens: the copies are complete and all of their accesses have been told.
    ///
    /// It tells of the copies and of what the thread did before it issued them, but of nothing that the thread did since.
    pub(crate) fn mbarrier_arrive_async(&mut self, offset: u32, arrival: &AsyncArrival) {
        let phase = &mut self.mbarriers.entry(offset).or_default().phase;
        if let Some(clock) = &arrival.last {
            phase.add(arrival.thread, clock);
            phase.mark_done(arrival.thread, arrival.up_to);
        }
        self.threads[arrival.thread as usize].copies.drop_pending(arrival.up_to);
    }

    /// A phase of the mbarrier is complete: what its arrivals told is what waiting threads learn.
    pub(crate) fn mbarrier_phase_done(&mut self, offset: u32) {
        let mbarrier = self.mbarriers.entry(offset).or_default();
        mbarrier.completed = mbarrier.phase.take();
    }

    /// The thread saw that the last phase is complete (`mbarrier.test_wait`, `try_wait`).
    pub(crate) fn mbarrier_wait(&mut self, offset: u32, thread: u32) {
        let completed = self
            .mbarriers
            .get(&offset)
            .and_then(|mbarrier| mbarrier.completed.as_ref());
        if let Some(completed) = completed {
            let clock = &mut self.threads[thread as usize].clock;
            clock.base = self.memo.join(&clock.base, completed);
        }
    }

    pub(super) fn block(&self) -> u32 {
        self.block
    }

    pub(super) fn clock(&mut self, thread: u32) -> &mut Clock {
        &mut self.threads[thread as usize].clock
    }

    pub(super) fn history(&mut self, thread: u32) -> &mut History {
        self.threads[thread as usize].history.get_or_insert_default()
    }

    pub(super) fn places(&mut self) -> &mut Places {
        &mut self.places
    }

    /// The thread learns what was published.
    pub(super) fn learn(&mut self, thread: u32, published: &Arc<Knowledge>) {
        let clock = &mut self.threads[thread as usize].clock;
        clock.base = self.memo.learn(&clock.base, self.block, published);
    }
}

impl Copies {
    fn drop_pending(&mut self, up_to: u32) {
        let open = self.issued.saturating_sub(up_to) as usize;
        self.pending.drain(..self.pending.len().saturating_sub(open));
    }

    /// The clock with which an operation runs.
    fn clock(&self, operation: u32) -> &Clock {
        let from_end = (self.issued - operation) as usize + 1;
        &self.pending[self.pending.len() - from_end]
    }
}

impl Memo {
    fn join(&mut self, one: &Arc<Base>, two: &Arc<Base>) -> Arc<Base> {
        if let Some([a, b, joined]) = &self.joined
            && Arc::ptr_eq(a, one)
            && Arc::ptr_eq(b, two)
        {
            return joined.clone();
        }
        let joined = Base::join(one, two);
        self.joined = Some([one.clone(), two.clone(), joined.clone()]);
        joined
    }

    fn learn(&mut self, base: &Arc<Base>, block: u32, published: &Arc<Knowledge>) -> Arc<Base> {
        if let Some((a, b, learnt)) = &self.learnt
            && Arc::ptr_eq(a, base)
            && Arc::ptr_eq(b, published)
        {
            return learnt.clone();
        }
        let learnt = base.learn(block, published);
        self.learnt = Some((base.clone(), published.clone(), learnt.clone()));
        learnt
    }
}

/// The clock of whoever makes the access, with what is remembered of the access.
#[inline(always)]
fn view<'a>(threads: &'a [Thread], block: u32, access: &Access) -> View<'a> {
    let thread = &threads[access.thread as usize];
    let (clock, asynchronous, epoch) = match access.actor {
        Actor::Sync => (&thread.clock, false, thread.clock.epoch),
        Actor::Async(operation) => (thread.copies.clock(operation), true, operation),
    };
    View {
        clock,
        block,
        thread: access.thread,
        record: Record::new(block, access.thread, asynchronous, epoch, access.line),
    }
}
