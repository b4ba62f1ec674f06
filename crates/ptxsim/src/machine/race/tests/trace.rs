//! Random operations of a few threads of two blocks.

use proptest::prelude::*;

use super::*;

pub(super) const BLOCKS: u32 = 2;
pub(super) const THREADS: u32 = 4;
pub(super) const BYTES: u32 = 48;

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Shared,
    Global,
}

/// Some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub space: Space,
    pub offset: u32,
    pub bytes: u32,
}

/// A thread's operation, or one that a thread stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Access(Range, Kind),
    /// An asynchronous operation with one access, made at once or as late as may be.
    Copy {
        range: Range,
        kind: Kind,
        late: bool,
    },
    /// Waits for all but the last copies.
    Wait {
        but: u32,
    },
    /// Arrives at a barrier and goes on.
    Arrive {
        barrier: u32,
    },
    /// The barrier completes with these threads, which wait.
    Barrier {
        barrier: u32,
        threads: u32,
    },
    WarpSync {
        threads: u32,
    },
    MbarrierArrive,
    MbarrierAsync {
        late: bool,
    },
    /// Arrivals that were late happen.
    MbarrierLate,
    MbarrierPhase,
    MbarrierWait,
    Fence(Scope),
    StrongWrite {
        space: Space,
        place: u32,
        strength: Strength,
        atomic: bool,
    },
    StrongRead {
        space: Space,
        place: u32,
        strength: Strength,
    },
}

/// An operation and who does it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub block: u32,
    pub thread: u32,
    pub op: Op,
}

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![Just(Space::Shared), Just(Space::Global)]
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![1 => Just(Scope::Block), 3 => Just(Scope::Device)]
}

fn strength() -> impl Strategy<Value = Strength> {
    (any::<bool>(), scope()).prop_map(|(synchronises, scope)| Strength { synchronises, scope })
}

/// Mostly words and whole sixteen bytes; sometimes anything.
fn range() -> impl Strategy<Value = Range> {
    let bytes = prop_oneof![6 => Just(4u32), 3 => Just(16u32), 3 => Just(2u32), 1 => Just(8u32), 1 => 1..=16u32];
    (space(), bytes, 0..BYTES, 0..8u32).prop_map(|(space, bytes, at, odd)| {
        let aligned = if odd == 0 { at } else { at / bytes * bytes };
        Range {
            space,
            offset: aligned.min(BYTES - bytes),
            bytes,
        }
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::Read),
        3 => Just(Kind::Write),
        1 => scope().prop_map(Kind::StrongRead),
        2 => scope().prop_map(Kind::StrongWrite),
    ]
}

fn copy() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(Kind::Read), Just(Kind::Write)];
    (range(), kind, any::<bool>()).prop_map(|(range, kind, late)| Op::Copy { range, kind, late })
}

fn op() -> impl Strategy<Value = Op> {
    let threads = prop_oneof![2 => Just((1 << THREADS) - 1), 3 => 1..1u32 << THREADS];
    let places = || (space(), 0..2u32, strength(), any::<bool>());
    prop_oneof![
        12 => (range(), kind()).prop_map(|(range, kind)| Op::Access(range, kind)),
        3 => copy(),
        2 => (0..3u32).prop_map(|but| Op::Wait { but }),
        1 => (0..2u32).prop_map(|barrier| Op::Arrive { barrier }),
        3 => (0..2u32, threads.clone()).prop_map(|(barrier, threads)| Op::Barrier { barrier, threads }),
        2 => threads.prop_map(|threads| Op::WarpSync { threads }),
        1 => Just(Op::MbarrierArrive),
        1 => any::<bool>().prop_map(|late| Op::MbarrierAsync { late }),
        1 => Just(Op::MbarrierLate),
        1 => Just(Op::MbarrierPhase),
        2 => Just(Op::MbarrierWait),
        2 => scope().prop_map(Op::Fence),
        4 => places().prop_map(|(space, place, strength, atomic)| Op::StrongWrite { space, place, strength, atomic }),
        4 => places().prop_map(|(space, place, strength, _)| Op::StrongRead { space, place, strength }),
    ]
}

/// A trace.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..BLOCKS, 0..THREADS, op()).prop_map(|(block, thread, op)| Step { block, thread, op });
    prop::collection::vec(step, 1..90)
}
