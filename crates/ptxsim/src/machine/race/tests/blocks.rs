//! Several blocks and global memory.

use super::*;

/// Address of a counter, in allocation 1.
const COUNTER: u64 = 0x1000;

fn blocks(count: u32) -> (Vec<BlockRaces>, GlobalShadow) {
    let blocks = (0..count).map(|block| BlockRaces::new(block, 64, 64)).collect();
    (blocks, GlobalShadow::new([1 << 40, 64]))
}

/// `atomicAdd` of thread 0: relaxed.
fn add(block: &mut BlockRaces, shadow: &GlobalShadow, scope: Scope) {
    let mut place = shadow.place(COUNTER);
    let relaxed = Strength { scope, ..RELAXED };
    let conflict = block.one_global(shadow, 1, 0, &access(Kind::StrongWrite(scope), 0));
    assert_eq!(conflict, None);
    block.strong_read(Place::Global(&mut place), 0, relaxed);
    block.strong_write(Place::Global(&mut place), 0, relaxed, true);
}

/// Every block stores a partial result by thread 40 and counts itself; the last one reads them all. Whether it may.
fn last_arriver(before: Option<Scope>, after: Option<Scope>, barriers: bool) -> bool {
    let (mut blocks, shadow) = blocks(5);
    for (index, block) in blocks.iter_mut().enumerate() {
        let partial = block.one_global(&shadow, 0, 8192 * index as u64, &access(WRITE, 40));
        assert_eq!(partial, None);
        if barriers {
            block.sync(0..64);
        }
        before.iter().for_each(|scope| block.fence(0, *scope));
        add(block, &shadow, Scope::Device);
        after.iter().for_each(|scope| block.fence(0, *scope));
        if barriers {
            block.sync(0..64);
        }
    }
    (0..4).all(|index| {
        blocks[4]
            .one_global(&shadow, 0, 8192 * index, &access(READ, 50))
            .is_none()
    })
}

#[test]
fn the_last_block_reads_what_all_stored() {
    assert!(last_arriver(Some(Scope::Device), Some(Scope::Device), true));
}

#[test]
fn the_last_block_needs_fences_and_barriers() {
    assert!(!last_arriver(None, Some(Scope::Device), true));
    assert!(!last_arriver(Some(Scope::Device), None, true));
    assert!(!last_arriver(Some(Scope::Block), Some(Scope::Device), true));
    assert!(!last_arriver(Some(Scope::Device), Some(Scope::Block), true));
    assert!(!last_arriver(Some(Scope::Device), Some(Scope::Device), false));
}

#[test]
fn a_conflict_of_blocks_is_found_whichever_runs_first() {
    for (first, second) in [(0, 1), (1, 0)] {
        let (mut blocks, shadow) = blocks(2);
        assert_eq!(blocks[first].one_global(&shadow, 0, 64, &access(WRITE, 3)), None);
        let conflict = blocks[second].one_global(&shadow, 0, 64, &access(READ, 3)).unwrap();
        assert_eq!(conflict.previous.block, first as u32);
        assert_eq!(conflict.current.block, second as u32);
        assert_eq!(
            conflict.missing,
            "different blocks: only atomics with fences order them"
        );
    }
}

#[test]
fn blocks_that_write_next_to_each_other_do_not_race() {
    let (mut blocks, shadow) = blocks(2);
    let half = |thread| Access {
        bytes: 2,
        ..access(WRITE, thread)
    };
    assert_eq!(blocks[0].one_global(&shadow, 0, 64, &half(0)), None);
    assert_eq!(blocks[1].one_global(&shadow, 0, 66, &half(0)), None);
    assert_eq!(blocks[0].one_global(&shadow, 0, 64, &half(0)), None);
    assert!(blocks[1].one_global(&shadow, 0, 64, &half(0)).is_some());
}

#[test]
fn an_access_may_cross_a_page() {
    let (mut blocks, shadow) = blocks(2);
    let long = Access {
        bytes: 16,
        ..access(WRITE, 0)
    };
    assert_eq!(blocks[0].one_global(&shadow, 0, 4088, &long), None);
    assert!(blocks[1].one_global(&shadow, 0, 4100, &access(READ, 0)).is_some());
    assert!(blocks[1].one_global(&shadow, 0, 4088, &access(READ, 0)).is_some());
}

#[test]
fn atomics_of_block_scope_race_between_blocks() {
    for (one, two) in [
        (Scope::Block, Scope::Block),
        (Scope::Block, Scope::Device),
        (Scope::Device, Scope::Block),
        (Scope::Device, Scope::Device),
    ] {
        let (mut blocks, shadow) = blocks(2);
        let atomic = |scope, thread| access(Kind::StrongWrite(scope), thread);
        assert_eq!(blocks[0].one_global(&shadow, 0, 0, &atomic(one, 0)), None);
        assert_eq!(blocks[0].one_global(&shadow, 0, 0, &atomic(two, 1)), None);
        let conflict = blocks[1].one_global(&shadow, 0, 0, &atomic(two, 0));
        assert_eq!(conflict.is_some(), (one, two) != (Scope::Device, Scope::Device));
    }
}

#[test]
fn knowledge_comes_back_to_its_block_through_another() {
    let (mut blocks, shadow) = blocks(2);
    blocks[0].fine(WRITE, 0, 0);
    for (block, thread, address) in [(0, 0, 0x2000), (1, 5, 0x3000)] {
        let mut place = shadow.place(address);
        blocks[block].strong_write(Place::Global(&mut place), thread, STRONG, false);
        drop(place);
        let (block, thread) = if block == 0 { (1, 5) } else { (0, 1) };
        let mut place = shadow.place(address);
        blocks[block].strong_read(Place::Global(&mut place), thread, STRONG);
    }
    blocks[0].fine(READ, 1, 0);
    assert!(blocks[0].races(READ, 2, 0));
}

#[test]
fn blocks_on_several_threads_see_each_other_s_accesses() {
    let shadow = GlobalShadow::new([1 << 16, 64]);
    let conflicts: usize = std::thread::scope(|scope| {
        let run = |index: u32| {
            let shadow = &shadow;
            scope.spawn(move || {
                let mut block = BlockRaces::new(index, 32, 0);
                let mut write = |thread, offset| block.one_global(shadow, 0, offset, &access(WRITE, thread)).is_some();
                let own = (0..32).filter(|i| write(*i, 4096 + u64::from(128 * index + 4 * i)));
                let own = own.count();
                assert_eq!(own, 0);
                (0..32).filter(|i| write(*i, u64::from(4 * i))).count()
            })
        };
        let threads: Vec<_> = (0..8).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Every block but the first to come finds each word written.
    assert_eq!(conflicts, 7 * 32);
}

/// Thread 0 of block 0 writes data and does `release` on a place; whether an acquire of the place by block 1 may read it.
fn told(release: impl Fn(&mut BlockRaces, &mut GlobalPlace)) -> bool {
    let (mut blocks, shadow) = blocks(2);
    assert_eq!(blocks[0].one_global(&shadow, 0, 0, &access(WRITE, 0)), None);
    let mut place = shadow.place(COUNTER);
    release(&mut blocks[0], &mut place);
    blocks[1].strong_read(Place::Global(&mut place), 0, STRONG);
    blocks[1].one_global(&shadow, 0, 0, &access(READ, 0)).is_none()
}

#[test]
fn a_write_of_block_scope_tells_other_blocks_nothing() {
    for scope in [Scope::Block, Scope::Device] {
        let ordered = told(|block, place| {
            block.fence(0, Scope::Device);
            block.strong_write(Place::Global(place), 0, Strength { scope, ..RELAXED }, false);
        });
        assert_eq!(ordered, scope == Scope::Device);
    }
}

#[test]
fn a_fence_of_block_scope_takes_nothing_from_an_earlier_release() {
    for released in [false, true] {
        let ordered = told(|block, place| {
            let strength = if released { STRONG } else { RELAXED };
            block.strong_write(Place::Global(place), 0, strength, false);
            block.fence(0, Scope::Block);
            block.strong_write(Place::Global(place), 0, RELAXED, false);
        });
        assert_eq!(ordered, released);
    }
}

#[test]
fn an_atomic_of_block_scope_is_remembered_behind_one_of_another_block() {
    // Inside of the cell, and beside it.
    for (threads, full) in [(1, false), (2, false), (12, true)] {
        let (mut blocks, shadow) = blocks(2);
        if full {
            assert_eq!(blocks[0].one_global(&shadow, 0, 0, &access(STRONG_READ, 0)), None);
        }
        let narrow = |thread| access(Kind::StrongWrite(Scope::Block), thread);
        for thread in 0..threads {
            assert_eq!(blocks[0].one_global(&shadow, 0, 0, &narrow(thread)), None);
        }
        blocks[0].sync(0..threads);
        let mut place = shadow.place(COUNTER);
        blocks[0].strong_write(Place::Global(&mut place), 0, STRONG, false);
        blocks[1].strong_read(Place::Global(&mut place), 0, STRONG);
        for _ in 0..8 {
            assert_eq!(blocks[1].one_global(&shadow, 0, 0, &narrow(0)), None);
        }
        // Of the same block as the second, but not after the first.
        let conflict = blocks[1].one_global(&shadow, 0, 0, &access(STRONG_WRITE, 1));
        assert_eq!(conflict.map(|conflict| conflict.previous.block), Some(0));
    }
}
