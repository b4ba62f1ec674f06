use super::*;

#[test]
fn a_copy_that_was_not_waited_for_is_not_seen() {
    let mut block = block(32);
    block.copies_to(0, 0);
    let conflict = block.shared(0, &access(READ, 0)).unwrap();
    assert!(conflict.previous.asynchronous);
    assert!(conflict.missing.contains("cp.async.wait_group"));
}

#[test]
fn a_wait_shows_a_copy_to_its_thread() {
    let mut block = block(32);
    let operation = block.copies_to(0, 0);
    block.complete_async(0, operation);
    block.fine(READ, 0, 0);
}

#[test]
fn a_wait_shows_a_copy_to_no_other_thread() {
    let mut block = block(64);
    let operation = block.copies_to(0, 0);
    block.complete_async(0, operation);
    assert!(block.races(READ, 33, 0));
}

#[test]
fn a_wait_and_a_barrier_show_a_copy_to_all() {
    let mut block = block(64);
    let operation = block.copies_to(0, 0);
    block.complete_async(0, operation);
    block.sync(0..64);
    block.fine(READ, 33, 0);
}

#[test]
fn a_barrier_without_a_wait_shows_no_copy() {
    let mut block = block(64);
    block.copies_to(0, 0);
    block.sync(0..64);
    let conflict = block.shared(0, &access(READ, 33)).unwrap();
    assert_eq!(
        conflict.missing,
        "the copy was not waited for (cp.async.wait_group) before a barrier"
    );
}

#[test]
fn another_thread_s_wait_completes_nothing_of_this_one() {
    let mut block = block(2);
    block.copies_to(0, 0);
    let operation = block.copies_to(1, 4);
    block.complete_async(1, operation);
    block.sync(0..2);
    block.fine(READ, 0, 4);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn a_wait_after_the_barrier_comes_too_late_for_others() {
    let mut block = block(2);
    let operation = block.copies_to(0, 0);
    block.sync(0..2);
    block.complete_async(0, operation);
    block.fine(READ, 0, 0);
    assert!(block.races(READ, 1, 0));
}

#[test]
fn of_two_groups_in_flight_the_older_can_be_waited_for() {
    let mut block = block(64);
    let first = block.copies_to(0, 0);
    block.copies_to(0, 4);
    block.complete_async(0, first);
    block.sync(0..64);
    block.fine(READ, 1, 0);
    assert!(block.races(READ, 1, 4));
}

#[test]
fn a_copy_is_after_what_came_before_its_issue_even_if_it_happens_late() {
    let mut block = block(64);
    block.fine(READ, 0, 0);
    let operation = block.issue_async(0);
    block.fine(READ, 0, 4);
    assert_eq!(block.shared(0, &copy(WRITE, 0, operation)), None);
    // The thread reads while the copy is in flight.
    let conflict = block.shared(4, &copy(WRITE, 0, operation)).unwrap();
    assert!(conflict.missing.contains("issued the copy already"));
}

#[test]
fn a_buffer_that_others_read_is_copied_to_after_a_barrier_only() {
    for barrier in [true, false] {
        let mut block = block(64);
        block.fine(READ, 40, 0);
        if barrier {
            block.sync(0..64);
        }
        let operation = block.issue_async(0);
        // A barrier after the issue does not help.
        block.sync(0..64);
        let conflict = block.shared(0, &copy(WRITE, 0, operation));
        assert_eq!(conflict.is_none(), barrier);
    }
}

#[test]
fn two_copies_of_a_thread_are_not_ordered() {
    let mut block = block(1);
    let first = block.copies_to(0, 0);
    let second = block.issue_async(0);
    assert!(block.shared(0, &copy(WRITE, 0, second)).is_some());
    block.complete_async(0, first + 1);
    block.copies_to(0, 0);
}

#[test]
fn a_copy_may_touch_bytes_twice() {
    let mut block = block(1);
    let operation = block.copies_to(0, 0);
    assert_eq!(block.shared(0, &copy(WRITE, 0, operation)), None);
}

#[test]
fn what_a_copy_reads_must_not_be_written_before_the_wait() {
    for wait in [true, false] {
        let (mut block, shadow) = (block(1), GlobalShadow::new([64]));
        let operation = block.issue_async(0);
        assert_eq!(block.one_global(&shadow, 0, 0, &copy(READ, 0, operation)), None);
        if wait {
            block.complete_async(0, operation);
        }
        assert_eq!(block.one_global(&shadow, 0, 0, &access(WRITE, 0)).is_none(), wait);
    }
}
