//! Random traces: a conflict is reported exactly where the graph has an earlier access that nothing orders.

use std::collections::HashMap;

use proptest::prelude::*;

use super::graph::{Graph, Id, Key};
use super::trace::{BLOCKS, BYTES, Op, Range, Space, Step, THREADS, steps};
use super::*;

/// A copy: its node, and its access unless that was made.
struct Copy {
    node: usize,
    late: Option<(Range, Kind)>,
}

/// The same trace told to both.
struct Both {
    blocks: Vec<BlockRaces>,
    shadow: GlobalShadow,
    graph: Graph,
    /// Bytes with a conflict, of which no more is compared; global memory is the last.
    done: Vec<[bool; BYTES as usize]>,
    copies: HashMap<Id, Vec<Copy>>,
    /// Arrivals of copies that have not happened, with the number of copies.
    arrivals: Vec<(Id, usize, AsyncArrival)>,
    barriers: HashMap<(u32, u32), Vec<usize>>,
    phases: HashMap<u32, Vec<usize>>,
    completed: HashMap<u32, Vec<usize>>,
}

const MBARRIER: u32 = 512;

impl Both {
    fn new() -> Both {
        Both {
            blocks: (0..BLOCKS)
                .map(|block| BlockRaces::new(block, THREADS as usize, BYTES as usize))
                .collect(),
            shadow: GlobalShadow::new([BYTES.into()]),
            graph: Graph::default(),
            done: vec![[false; BYTES as usize]; BLOCKS as usize + 1],
            copies: HashMap::new(),
            arrivals: Vec::new(),
            barriers: HashMap::new(),
            phases: HashMap::new(),
            completed: HashMap::new(),
        }
    }

    fn block(&mut self, id: Id) -> &mut BlockRaces {
        &mut self.blocks[id.0 as usize]
    }

    /// An access by the event `node`.
    fn access(&mut self, (block, thread): Id, actor: Actor, (range, kind): (Range, Kind), node: usize) {
        let access = Access {
            thread,
            actor,
            kind,
            bytes: range.bytes,
            line: 7,
        };
        let races = &mut self.blocks[block as usize];
        let (found, memory) = match range.space {
            Space::Shared => (races.shared(range.offset, &access), block),
            Space::Global => (races.one_global(&self.shadow, 0, range.offset.into(), &access), BLOCKS),
        };
        let expected = self.graph.access(range, kind, block, node);
        let bytes = range.offset as usize..(range.offset + range.bytes) as usize;
        let done = &mut self.done[memory as usize][bytes];
        if done.iter().all(|done| !done) {
            assert_eq!(
                found.is_some(),
                expected,
                "{range:?} {kind:?} by {block}:{thread} {actor:?}: {found:?}"
            );
        }
        if found.is_some() || expected {
            done.fill(true);
        }
    }

    fn copy(&mut self, id: Id, access: (Range, Kind), late: bool) {
        let operation = self.block(id).issue_async(id.1);
        let issue = self.graph.event(id, &[]);
        let node = self.graph.node(&[issue]);
        if !late {
            self.access(id, Actor::Async(operation), access, node);
        }
        let late = late.then_some(access);
        self.copies.entry(id).or_default().push(Copy { node, late });
    }

    /// The first copies of a thread happen, if they did not yet; their nodes.
    fn finish(&mut self, id: Id, count: usize) -> Vec<usize> {
        for index in 0..count {
            let copy = &mut self.copies.get_mut(&id).unwrap()[index];
            let node = copy.node;
            if let Some(access) = copy.late.take() {
                self.access(id, Actor::Async(index as u32 + 1), access, node);
            }
        }
        let copies = self.copies.get(&id).into_iter().flatten();
        copies.take(count).map(|copy| copy.node).collect()
    }

    fn issued(&self, id: Id) -> usize {
        self.copies.get(&id).map_or(0, Vec::len)
    }

    fn wait(&mut self, id: Id, but: u32) {
        let up_to = self.issued(id).saturating_sub(but as usize);
        // Arrivals that their copies allow happen before.
        self.arrive_late(|(other, count, _)| *other == id && *count <= up_to);
        let nodes = self.finish(id, up_to);
        self.block(id).complete_async(id.1, up_to as u32);
        self.graph.event(id, &nodes);
    }

    fn arrive_late(&mut self, which: impl Fn(&(Id, usize, AsyncArrival)) -> bool) {
        let (now, later) = std::mem::take(&mut self.arrivals).into_iter().partition(which);
        self.arrivals = later;
        for (id, count, arrival) in now as Vec<_> {
            let nodes = self.finish(id, count);
            let node = self.graph.node(&nodes);
            self.block(id).mbarrier_arrive_async(MBARRIER, &arrival);
            self.phases.entry(id.0).or_default().push(node);
        }
    }

    fn barrier(&mut self, block: u32, barrier: u32, threads: &[u32]) {
        for &thread in threads {
            self.arrive((block, thread), barrier);
        }
        self.blocks[block as usize].barrier_complete(barrier, threads.iter().copied());
        let arrived = self.barriers.remove(&(block, barrier)).unwrap_or_default();
        for &thread in threads {
            self.graph.event((block, thread), &arrived);
        }
    }

    fn arrive(&mut self, id: Id, barrier: u32) {
        self.block(id).barrier_arrive(barrier, id.1);
        let node = self.graph.event(id, &[]);
        self.barriers.entry((id.0, barrier)).or_default().push(node);
    }

    fn warp_sync(&mut self, block: u32, threads: &[u32]) {
        self.blocks[block as usize].warp_sync(threads.iter().copied());
        let arrived: Vec<usize> = threads
            .iter()
            .map(|&thread| self.graph.event((block, thread), &[]))
            .collect();
        for &thread in threads {
            self.graph.event((block, thread), &arrived);
        }
    }

    fn mbarrier(&mut self, id: Id, op: Op) {
        let (block, thread) = id;
        match op {
            Op::MbarrierArrive => {
                self.block(id).mbarrier_arrive(MBARRIER, thread);
                let node = self.graph.event(id, &[]);
                self.phases.entry(block).or_default().push(node);
            }
            Op::MbarrierPhase => {
                self.block(id).mbarrier_phase_done(MBARRIER);
                let arrived = self.phases.remove(&block).unwrap_or_default();
                self.completed.insert(block, arrived);
            }
            _ => {
                self.block(id).mbarrier_wait(MBARRIER, thread);
                let arrived = self.completed.get(&block).cloned().unwrap_or_default();
                self.graph.event(id, &arrived);
            }
        }
    }

    fn strong(&mut self, id: Id, (space, place): (Space, u32), strength: Strength, atomic: Option<bool>) {
        let races = &mut self.blocks[id.0 as usize];
        let mut global = self.shadow.place(place.into());
        let (key, place): (Key, Place) = match space {
            Space::Shared => ((Some(id.0), place), Place::Shared(place)),
            Space::Global => ((None, place), Place::Global(&mut global)),
        };
        match atomic {
            Some(atomic) => {
                races.strong_write(place, id.1, strength, atomic);
                self.graph.strong_write(id, key, strength, atomic);
            }
            None => {
                races.strong_read(place, id.1, strength);
                self.graph.strong_read(id, key, strength);
            }
        }
    }

    fn step(&mut self, Step { block, thread, op }: Step) {
        let id = (block, thread);
        let list = |mask: u32| {
            (0..THREADS)
                .filter(|thread| mask >> thread & 1 == 1)
                .collect::<Vec<_>>()
        };
        match op {
            Op::Access(range, kind) => {
                let node = self.graph.event(id, &[]);
                self.access(id, Actor::Sync, (range, kind), node);
            }
            Op::Copy { range, kind, late } => self.copy(id, (range, kind), late),
            Op::Wait { but } => self.wait(id, but),
            Op::Arrive { barrier } => self.arrive(id, barrier),
            Op::Barrier { barrier, threads } => self.barrier(block, barrier, &list(threads)),
            Op::WarpSync { threads } => self.warp_sync(block, &list(threads)),
            Op::MbarrierAsync { late } => {
                let arrival = self.block(id).async_arrival(thread);
                self.arrivals.push((id, self.issued(id), arrival));
                self.arrive_late(|(other, ..)| *other == id && !late);
            }
            Op::MbarrierLate => self.arrive_late(|(other, ..)| *other == id),
            Op::MbarrierArrive | Op::MbarrierPhase | Op::MbarrierWait => self.mbarrier(id, op),
            Op::Fence(scope) => {
                self.block(id).fence(thread, scope);
                self.graph.fence(id, scope);
            }
            Op::StrongWrite {
                space,
                place,
                strength,
                atomic,
            } => self.strong(id, (space, place), strength, Some(atomic)),
            Op::StrongRead { space, place, strength } => self.strong(id, (space, place), strength, None),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn conflicts_are_those_of_the_graph(steps in steps()) {
        let mut both = Both::new();
        steps.into_iter().for_each(|step| both.step(step));
    }
}
