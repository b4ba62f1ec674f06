//! Every rule with and without the operation that orders, and random traces against a graph.

mod barriers;
mod blocks;
mod copies;
mod flags;
mod granules;
mod graph;
mod mbarriers;
mod oracle;
mod trace;

use super::*;

const READ: Kind = Kind::Read;
const WRITE: Kind = Kind::Write;
const STRONG_READ: Kind = Kind::StrongRead(Scope::Device);
const STRONG_WRITE: Kind = Kind::StrongWrite(Scope::Device);

const RELAXED: Strength = Strength {
    synchronises: false,
    scope: Scope::Device,
};
const STRONG: Strength = Strength {
    synchronises: true,
    scope: Scope::Device,
};

/// A block with 1 KiB of shared memory.
fn block(threads: usize) -> BlockRaces {
    BlockRaces::new(0, threads, 1024)
}

/// A thread's own access to four bytes; its number is its line.
fn access(kind: Kind, thread: u32) -> Access {
    Access {
        thread,
        actor: Actor::Sync,
        kind,
        bytes: 4,
        line: thread,
    }
}

fn copy(kind: Kind, thread: u32, operation: u32) -> Access {
    Access {
        actor: Actor::Async(operation),
        ..access(kind, thread)
    }
}

impl BlockRaces {
    /// Whether an access to shared memory races.
    fn races(&mut self, kind: Kind, thread: u32, offset: u32) -> bool {
        self.shared(offset, &access(kind, thread)).is_some()
    }

    /// One access to global memory.
    fn one_global(
        &mut self,
        shadow: &GlobalShadow,
        allocation: usize,
        offset: u64,
        access: &Access,
    ) -> Option<Conflict> {
        let mut found = None;
        self.global(shadow, allocation, [(offset, *access)], |_, conflict| {
            found = Some(conflict)
        });
        found
    }

    /// An access that must not race.
    fn fine(&mut self, kind: Kind, thread: u32, offset: u32) {
        assert_eq!(self.shared(offset, &access(kind, thread)), None);
    }

    /// Barrier 0 with these threads, all of which wait.
    fn sync(&mut self, threads: std::ops::Range<u32>) {
        for thread in threads.clone() {
            self.barrier_arrive(0, thread);
        }
        self.barrier_complete(0, threads);
    }

    /// A copy of four bytes to shared memory that must not race; its number.
    fn copies_to(&mut self, thread: u32, offset: u32) -> u32 {
        let operation = self.issue_async(thread);
        assert_eq!(self.shared(offset, &copy(WRITE, thread, operation)), None);
        operation
    }
}
