//! Accesses of every size, at every place in a word.

use super::*;

fn sized(kind: Kind, thread: u32, bytes: u32) -> Access {
    Access {
        bytes,
        ..access(kind, thread)
    }
}

#[test]
fn accesses_conflict_where_they_overlap() {
    let kinds = [
        (WRITE, READ),
        (READ, WRITE),
        (WRITE, WRITE),
        (STRONG_WRITE, READ),
        (READ, STRONG_WRITE),
    ];
    for (first, second) in kinds {
        for (size, other) in [(1, 1), (1, 2), (2, 4), (2, 16), (8, 4), (16, 16), (16, 1), (3, 16)] {
            for at in 0..20u32 {
                let mut block = block(2);
                assert_eq!(block.shared(16, &sized(first, 0, size)), None);
                let overlaps = at < 16 + size && at + other > 16;
                let conflict = block.shared(at, &sized(second, 1, other));
                assert_eq!(conflict.is_some(), overlaps, "{size} bytes, {other} at {at}");
            }
        }
    }
}

#[test]
fn neighbouring_halves_of_a_word_do_not_race() {
    let mut block = block(8);
    for _ in 0..3 {
        for thread in 0..8 {
            assert_eq!(block.shared(2 * thread, &sized(WRITE, thread, 2)), None);
        }
        block.sync(0..8);
        assert_eq!(block.shared(0, &sized(READ, 5, 16)), None);
        block.sync(0..8);
    }
    assert_eq!(block.shared(2, &sized(WRITE, 1, 2)), None);
    let conflict = block.shared(0, &sized(READ, 0, 16)).unwrap();
    assert_eq!(conflict.previous.thread, 1);
}

#[test]
fn one_word_of_sixteen_bytes_is_enough_to_race() {
    for word in 0..4 {
        let mut block = block(3);
        assert_eq!(block.shared(32, &sized(WRITE, 0, 16)), None);
        block.sync(0..3);
        block.fine(WRITE, 1, 32 + 4 * word);
        let conflict = block.shared(32, &sized(READ, 2, 16)).unwrap();
        assert_eq!(conflict.previous.thread, 1);
    }
}

#[test]
fn a_read_of_fewer_bytes_does_not_hide_one_of_more() {
    let mut block = block(3);
    block.fine(READ, 0, 0);
    assert_eq!(block.shared(0, &sized(READ, 0, 2)), None);
    assert_eq!(block.shared(2, &sized(WRITE, 1, 2)).unwrap().previous.thread, 0);
}
