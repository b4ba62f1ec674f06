use super::*;

const BAR: u32 = 512;

/// The copies of thread 0 arrive, the phase ends, and `thread` waits for it.
fn copies_arrive_for(block: &mut BlockRaces, thread: u32) {
    let arrival = block.async_arrival(0);
    block.mbarrier_arrive_async(BAR, &arrival);
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, thread);
}

#[test]
fn a_wait_learns_what_the_arrivals_of_the_phase_told() {
    let mut block = block(3);
    block.fine(WRITE, 0, 0);
    block.fine(WRITE, 1, 4);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, 2);
    block.fine(READ, 2, 0);
    assert!(block.races(READ, 2, 4));
}

#[test]
fn an_arrival_tells_nothing_that_follows_it() {
    let mut block = block(2);
    block.mbarrier_arrive(BAR, 0);
    block.fine(WRITE, 0, 0);
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, 1);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn a_thread_that_does_not_wait_learns_nothing() {
    let mut block = block(2);
    block.fine(WRITE, 0, 0);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_phase_done(BAR);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn an_arrival_in_the_next_phase_is_not_in_this_one() {
    let mut block = block(2);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_phase_done(BAR);
    block.fine(WRITE, 0, 0);
    block.fine(WRITE, 0, 4);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_wait(BAR, 1);
    assert!(block.races(READ, 1, 0));
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, 1);
    block.fine(READ, 1, 4);
}

#[test]
fn an_object_that_is_initialised_again_has_no_past() {
    let mut block = block(2);
    block.fine(WRITE, 0, 0);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_init(BAR);
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, 1);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn an_arrival_can_be_that_of_copies() {
    let mut block = block(2);
    let first = block.issue_async(0);
    let arrival = block.async_arrival(0);
    let second = block.issue_async(0);
    for (operation, offset) in [(first, 0), (second, 4)] {
        assert_eq!(block.shared(offset, &copy(WRITE, 0, operation)), None);
    }
    block.mbarrier_arrive_async(BAR, &arrival);
    block.mbarrier_phase_done(BAR);
    for thread in [0, 1] {
        block.mbarrier_wait(BAR, thread);
        block.fine(READ, thread, 0);
    }
    // Issued after the instruction.
    assert!(block.races(READ, 1, 4));
}

#[test]
fn a_thread_passes_on_what_it_learnt_of_its_own_copies() {
    let mut block = block(2);
    block.copies_to(0, 0);
    copies_arrive_for(&mut block, 0);
    block.sync(0..2);
    block.fine(READ, 1, 0);
}

#[test]
fn an_ordinary_arrival_tells_of_no_copy_in_flight() {
    let mut block = block(2);
    block.copies_to(0, 0);
    block.mbarrier_arrive(BAR, 0);
    block.mbarrier_phase_done(BAR);
    block.mbarrier_wait(BAR, 1);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn the_arrival_of_copies_tells_nothing_that_follows_their_issue() {
    let mut block = block(2);
    block.fine(WRITE, 0, 0);
    block.copies_to(0, 4);
    block.fine(WRITE, 0, 8);
    copies_arrive_for(&mut block, 1);
    block.fine(READ, 1, 0);
    block.fine(READ, 1, 4);
    assert!(block.races(READ, 1, 8));
}

#[test]
fn a_release_passes_on_what_a_thread_learnt_of_its_own_copies() {
    let mut block = block(2);
    block.copies_to(0, 0);
    copies_arrive_for(&mut block, 0);
    block.strong_write(Place::Shared(520), 0, STRONG, false);
    block.strong_read(Place::Shared(520), 1, STRONG);
    block.fine(READ, 1, 0);
}

#[test]
fn threads_that_knew_the_same_learn_from_the_mbarrier_they_wait_for() {
    let mut block = block(4);
    for (thread, bar) in [(0, BAR), (1, BAR + 8)] {
        block.fine(WRITE, thread, 4 * thread);
        block.mbarrier_arrive(bar, thread);
        block.mbarrier_phase_done(bar);
    }
    block.mbarrier_wait(BAR, 2);
    block.mbarrier_wait(BAR + 8, 3);
    block.fine(READ, 2, 0);
    block.fine(READ, 3, 4);
    assert!(block.races(READ, 2, 4));
    assert!(block.races(READ, 3, 0));
}
