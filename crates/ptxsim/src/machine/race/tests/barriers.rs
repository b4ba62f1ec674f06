use super::*;
use crate::machine::race::access::AccessInfo;

#[test]
fn a_barrier_orders_a_write_before_a_read() {
    let mut block = block(64);
    block.fine(WRITE, 0, 0);
    block.sync(0..64);
    block.fine(READ, 63, 0);
}

#[test]
fn without_a_barrier_a_read_after_a_write_races() {
    let mut block = block(64);
    block.fine(WRITE, 0, 0);
    let conflict = block.shared(0, &access(READ, 63)).unwrap();
    let previous = AccessInfo {
        block: 0,
        thread: 0,
        kind: WRITE,
        line: 0,
        asynchronous: false,
    };
    assert_eq!(conflict.previous, previous);
    assert_eq!(
        (conflict.current.thread, conflict.current.kind, conflict.current.line),
        (63, READ, 63)
    );
    assert_eq!(conflict.missing, "no barrier orders them");
}

#[test]
fn one_mistake_is_reported_once() {
    let mut block = block(64);
    block.fine(WRITE, 0, 0);
    assert!(block.races(WRITE, 1, 0));
    block.fine(READ, 1, 0);
}

/// Two buffers, written and read in turn with one barrier per step: a buffer is written again two steps later.
fn double_buffer(buffers: u32) -> bool {
    let mut block = block(32);
    (0..6).any(|step| {
        let offset = step % buffers * 128;
        let written = (0..32).any(|thread| block.races(WRITE, thread, offset + 4 * thread));
        block.sync(0..32);
        let read = (0..32).any(|thread| block.races(READ, thread, offset + 4 * (31 - thread)));
        written || read
    })
}

#[test]
fn a_second_buffer_saves_the_barrier_after_the_reads() {
    assert!(!double_buffer(2));
    assert!(double_buffer(1));
}

#[test]
fn lanes_that_write_the_same_word_race() {
    let mut block = block(32);
    block.fine(WRITE, 0, 0);
    let conflict = block.shared(0, &access(WRITE, 1)).unwrap();
    assert!(conflict.missing.contains("bar.warp.sync"));
}

#[test]
fn a_warp_sync_orders_its_lanes_alone() {
    let mut block = block(64);
    block.fine(WRITE, 0, 0);
    block.fine(WRITE, 2, 8);
    block.warp_sync([0, 1]);
    block.fine(READ, 1, 0);
    assert!(block.races(READ, 1, 8));
    assert!(block.races(READ, 32, 0));
}

#[test]
fn a_warp_sync_passes_on_what_a_barrier_told() {
    let mut block = block(4);
    block.fine(WRITE, 0, 0);
    block.sync(0..2);
    block.warp_sync(1..3);
    block.fine(READ, 2, 0);
    assert!(block.races(READ, 3, 0));
}

#[test]
fn a_named_barrier_orders_only_its_warps() {
    let mut block = block(96);
    block.fine(WRITE, 0, 0);
    (0..64).for_each(|thread| block.barrier_arrive(3, thread));
    (64..96).for_each(|thread| block.barrier_arrive(4, thread));
    block.barrier_complete(3, 0..64);
    block.barrier_complete(4, 64..96);
    block.fine(READ, 40, 0);
    assert!(block.races(READ, 70, 0));
}

#[test]
fn an_arrival_that_does_not_wait_releases_and_acquires_nothing() {
    let mut block = block(64);
    // Threads 0..32 produce and go on, the others consume.
    block.fine(WRITE, 0, 0);
    (0..32).for_each(|thread| block.barrier_arrive(1, thread));
    block.fine(WRITE, 0, 4);
    block.fine(WRITE, 32, 8);
    (32..64).for_each(|thread| block.barrier_arrive(1, thread));
    block.barrier_complete(1, 32..64);
    block.fine(READ, 32, 0);
    // Written between the arrival and the barrier's end.
    assert!(block.races(READ, 32, 4));
    // The producer did not wait.
    assert!(block.races(READ, 0, 8));
}

#[test]
fn many_readers_are_all_remembered() {
    for reader in 0..256 {
        let mut block = block(256);
        for _ in 0..3 {
            (0..256).for_each(|thread| block.fine(READ, thread, 0));
        }
        // All but one are ordered before the write.
        let others = (0..256).filter(|thread| *thread != reader);
        others.clone().for_each(|thread| block.barrier_arrive(0, thread));
        block.barrier_complete(0, others);
        let writer = (reader + 1) % 256;
        assert!(block.races(WRITE, writer, 0), "reader {reader}");
    }
}

#[test]
fn threads_that_know_the_same_share_it() {
    let mut block = block(64);
    block.sync(0..64);
    block.mbarrier_arrive(512, 5);
    block.mbarrier_phase_done(512);
    (0..64).for_each(|thread| block.mbarrier_wait(512, thread));
    let base = block.clock(0).base.clone();
    assert!((1..64).all(|thread| std::sync::Arc::ptr_eq(&base, &block.clock(thread).base)));
}
