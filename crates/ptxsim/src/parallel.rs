//! Independent pieces of work on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does the pieces `0..count` and gives their results in order, up to and including the first for which `stops` holds,
/// whatever the number of workers.
pub(crate) fn in_order<T: Send>(
    count: usize,
    workers: usize,
    work: impl Fn(usize) -> T + Sync,
    stops: impl Fn(&T) -> bool + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let last = AtomicUsize::new(usize::MAX);
    let results = Mutex::new(Vec::new());
    let worker = || {
        loop {
            // Pieces are taken in order, so that all before the one that stops are done.
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count || index > last.load(Ordering::Relaxed) {
                return;
            }
            let result = work(index);
            if stops(&result) {
                last.fetch_min(index, Ordering::Relaxed);
            }
            if let Ok(mut results) = results.lock() {
                results.push((index, result));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(count) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    let last = last.into_inner();
    results
        .into_iter()
        .take_while(|(index, _)| *index <= last)
        .map(|(_, result)| result)
        .collect()
}

/// How many threads the machine runs at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_end_at_the_first_that_stops() {
        for workers in [1, 3, 8] {
            let all = in_order(20, workers, |index| index * 2, |_| false);
            assert_eq!(all, (0..20).map(|index| index * 2).collect::<Vec<_>>());
            let some = in_order(20, workers, |index| index, |index| *index == 17 || *index == 6);
            assert_eq!(some, (0..=6).collect::<Vec<_>>());
        }
        assert!(in_order(0, 4, |index| index, |_| true).is_empty());
    }
}
