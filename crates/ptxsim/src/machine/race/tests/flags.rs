//! Release and acquire through strong accesses to shared memory.

use super::*;

const FLAG: u32 = 512;

/// Thread 0 writes data and sets a flag that thread 1 sees; whether thread 1's read of the data races.
fn flag_races(release_fence: bool, write: Strength, read: Strength, acquire_fence: bool) -> bool {
    let mut block = block(2);
    block.fine(WRITE, 0, 0);
    if release_fence {
        block.fence(0, Scope::Block);
    }
    block.fine(STRONG_WRITE, 0, FLAG);
    block.strong_write(Place::Shared(FLAG), 0, write, false);
    block.fine(STRONG_READ, 1, FLAG);
    block.strong_read(Place::Shared(FLAG), 1, read);
    if acquire_fence {
        block.fence(1, Scope::Block);
    }
    block.races(READ, 1, 0)
}

#[test]
fn a_flag_orders_with_a_release_and_an_acquire_of_either_form() {
    for (release_fence, write) in [(true, RELAXED), (false, STRONG), (true, STRONG), (false, RELAXED)] {
        for (acquire_fence, read) in [(true, RELAXED), (false, STRONG), (true, STRONG), (false, RELAXED)] {
            let released = release_fence || write.synchronises;
            let acquired = acquire_fence || read.synchronises;
            let races = flag_races(release_fence, write, read, acquire_fence);
            assert_eq!(
                races,
                !(released && acquired),
                "{release_fence} {write:?} {read:?} {acquire_fence}"
            );
        }
    }
}

#[test]
fn a_fence_tells_nothing_that_follows_it() {
    let mut block = block(2);
    block.fence(0, Scope::Block);
    block.fine(WRITE, 0, 0);
    block.strong_write(Place::Shared(FLAG), 0, RELAXED, false);
    block.strong_read(Place::Shared(FLAG), 1, STRONG);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn a_fence_before_the_read_acquires_nothing() {
    let mut block = block(2);
    block.fine(WRITE, 0, 0);
    block.strong_write(Place::Shared(FLAG), 0, STRONG, false);
    block.fence(1, Scope::Block);
    block.strong_read(Place::Shared(FLAG), 1, RELAXED);
    assert!(block.races(READ, 1, 0));
}

/// Thread 0 releases, thread 1 writes the place again without a release, thread 2 acquires.
fn handed_on(atomic: bool) -> bool {
    let mut block = block(3);
    block.fine(WRITE, 0, 0);
    block.strong_write(Place::Shared(FLAG), 0, STRONG, false);
    block.strong_write(Place::Shared(FLAG), 1, RELAXED, atomic);
    block.strong_read(Place::Shared(FLAG), 2, STRONG);
    !block.races(READ, 2, 0)
}

#[test]
fn atomic_operations_hand_on_a_release_and_plain_writes_hide_it() {
    assert!(handed_on(true));
    assert!(!handed_on(false));
}

#[test]
fn a_release_on_a_place_covers_later_strong_writes_of_it_alone() {
    for (place, ordered) in [(FLAG, true), (FLAG + 4, false)] {
        let mut block = block(2);
        block.fine(WRITE, 0, 0);
        block.strong_write(Place::Shared(FLAG), 0, STRONG, false);
        block.strong_write(Place::Shared(place), 0, RELAXED, false);
        block.strong_read(Place::Shared(place), 1, STRONG);
        assert_eq!(!block.races(READ, 1, 0), ordered);
    }
}

#[test]
fn an_acquire_on_a_place_covers_earlier_strong_reads_of_it_alone() {
    for (place, ordered) in [(FLAG, true), (FLAG + 4, false)] {
        let mut block = block(3);
        block.fine(WRITE, 0, 0);
        block.strong_write(Place::Shared(FLAG), 0, STRONG, false);
        block.strong_read(Place::Shared(FLAG), 1, RELAXED);
        // Hides the release from the second read.
        block.strong_write(Place::Shared(FLAG), 2, RELAXED, false);
        block.strong_read(Place::Shared(place), 1, STRONG);
        assert_eq!(!block.races(READ, 1, 0), ordered);
    }
}

#[test]
fn strong_accesses_race_with_weak_ones_alone() {
    let kinds = [READ, WRITE, STRONG_READ, STRONG_WRITE];
    for first in kinds {
        for second in kinds {
            let (mut block, weak) = (block(2), |kind| kind == READ || kind == WRITE);
            block.fine(first, 0, 0);
            let races = (first.writes() || second.writes()) && (weak(first) || weak(second));
            assert_eq!(block.races(second, 1, 0), races, "{first:?} {second:?}");
        }
    }
}

#[test]
fn an_earlier_atomic_is_remembered_behind_a_later_one() {
    let mut block = block(3);
    block.fine(STRONG_WRITE, 0, 0);
    block.fine(STRONG_WRITE, 1, 0);
    block.sync(1..3);
    // After the atomic of thread 1, but not after that of thread 0.
    let conflict = block.shared(0, &access(READ, 2)).unwrap();
    assert_eq!(conflict.previous.thread, 0);
}

#[test]
fn threads_that_knew_the_same_learn_from_the_flag_they_read() {
    let mut block = block(4);
    for thread in [0, 1] {
        block.fine(WRITE, thread, 4 * thread);
        block.strong_write(Place::Shared(FLAG + 4 * thread), thread, STRONG, false);
    }
    block.strong_read(Place::Shared(FLAG), 2, STRONG);
    block.strong_read(Place::Shared(FLAG + 4), 3, STRONG);
    block.fine(READ, 2, 0);
    block.fine(READ, 3, 4);
    assert!(block.races(READ, 2, 4));
    assert!(block.races(READ, 3, 0));
}
