use super::*;
use crate::plan::{fused, unfused};
use crate::size::Symbol;
use crate::text::parse;
use proptest::prelude::*;

fn wanted(buffers: &[(usize, usize, usize)]) -> Vec<Wanted> {
    let one = |(index, &(first, last, bytes)): (usize, &(usize, usize, usize))| Wanted {
        buffer: BufferId(index),
        lifetime: first..=last,
        bytes,
    };
    buffers.iter().enumerate().map(one).collect()
}

fn alive(placement: &Placement, kernel: usize) -> bool {
    placement.lifetime.contains(&kernel)
}

proptest! {
    /// First kernel, kernels after it, bytes.
    #[test]
    fn what_lives_together_lies_apart(
        buffers in proptest::collection::vec((0..12usize, 0..6usize, 0..5000usize), 0..24),
    ) {
        let buffers: Vec<_> = buffers.into_iter().map(|(first, more, bytes)| (first, first + more, bytes)).collect();
        let arena = place(wanted(&buffers)).unwrap();
        prop_assert_eq!(arena.placements.len(), buffers.len());
        let mut ends = 0;
        for (index, (a, &(first, last, bytes))) in arena.placements.iter().zip(&buffers).enumerate() {
            prop_assert_eq!((a.buffer.0, &a.lifetime, a.bytes), (index, &(first..=last), bytes));
            prop_assert!(a.offset.is_multiple_of(ARENA_ALIGN));
            ends = ends.max((a.offset + a.bytes).next_multiple_of(ARENA_ALIGN));
            for b in &arena.placements[index + 1..] {
                let together = (0..20).any(|kernel| alive(a, kernel) && alive(b, kernel));
                let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                prop_assert!(apart || !together, "{:?} and {:?}", a, b);
            }
        }
        prop_assert_eq!(arena.bytes, ends);
        let padded = |placement: &Placement| placement.bytes.next_multiple_of(ARENA_ALIGN);
        let live = |kernel| arena.placements.iter().filter(|p| alive(p, kernel)).map(padded).sum::<usize>();
        let peak = (0..20).map(live).max().unwrap_or(0);
        let sum = arena.placements.iter().map(padded).sum::<usize>();
        prop_assert!(peak <= arena.bytes && arena.bytes <= sum);
        prop_assert_eq!(arena.separate_bytes, sum);
    }
}

#[test]
fn a_chain_takes_two_buffers_and_a_gap_is_filled() {
    let chain: Vec<_> = (0..7).map(|kernel| (kernel, kernel + 1, 1000)).collect();
    let arena = place(wanted(&chain)).unwrap();
    assert_eq!((arena.bytes, arena.separate_bytes), (2 * 1024, 7 * 1024));
    // The short-lived one lies where the first was, beside the one that lives throughout.
    let arena = place(wanted(&[(0, 1, 900), (0, 3, 600), (2, 3, 500)])).unwrap();
    let offsets: Vec<usize> = arena.placements.iter().map(|placement| placement.offset).collect();
    assert_eq!((offsets, arena.bytes), (vec![0, 1024, 0], 1024 + 768));
}

#[test]
fn buffers_without_bytes_take_none() {
    let arena = place(wanted(&[(0, 1, 0), (0, 1, 1), (0, 1, 0)])).unwrap();
    assert_eq!(arena.bytes, ARENA_ALIGN);
    assert_eq!(place(Vec::new()).unwrap().bytes, 0);
}

#[test]
fn what_cannot_be_counted_is_named() {
    let most = isize::MAX as usize;
    assert_eq!(place(wanted(&[(0, 1, 1), (0, 1, most - 255)])), Err(BufferId(0)));
    assert_eq!(place(wanted(&[(0, 1, most)])), Err(BufferId(0)));
    assert!(place(wanted(&[(0, 1, 1), (0, 1, most - 511)])).is_ok());
    let text = "graph g { %x = input \"x\" : f32[T, 4] %a = scale factor=2.0 %x : f32[T, 4]
        %b = scale factor=2.0 %a : f32[T, 4] output \"b\" %b }";
    let plan = unfused(&parse(text).unwrap()).unwrap();
    let error = "the size of buffer a, 4*T elements, is unknown or too large";
    for dims in [Dims::new(), Dims::new().with(Symbol::T, usize::MAX / 8)] {
        assert_eq!(plan.arena(&dims).unwrap_err().to_string(), error);
    }
}

#[test]
fn lifetimes_go_from_writer_to_last_reader() {
    let text = "graph g { %x = input \"x\" : f32[T, 4] %a = scale factor=2.0 %x : f32[T, 4]
        %b = scale factor=2.0 %a : f32[T, 4] %c = scale factor=2.0 %b : f32[T, 4]
        %d = add %a, %c : f32[T, 4] output \"d\" %d }";
    let plan = fused(&parse(text).unwrap()).unwrap();
    let arena = plan.arena(&Dims::new().with(Symbol::T, 3)).unwrap();
    let found: Vec<_> = arena
        .placements
        .iter()
        .map(|placement| (plan.buffer(placement.buffer).name.as_str(), placement.lifetime.clone()))
        .collect();
    // The input and the output are the caller's.
    assert_eq!(found, [("a", 0..=3), ("b", 1..=2), ("c", 2..=3)]);
    assert_eq!(arena.placements.iter().map(|p| p.bytes).collect::<Vec<_>>(), [48; 3]);
    assert_eq!(plan.lifetime(BufferId(99)), None);
}
