//! Cases on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// `of` each item, in the items' order. The threads are not the pool's: one that waits for a device must not be lent to
/// another case meanwhile, which might wait for the same device.
pub fn map<T: Sync, R: Send>(items: &[T], threads: usize, of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = of(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [0, 1, 7, 1000] {
            let doubled = map(&items, threads, |n| 2 * n);
            assert!(doubled.iter().enumerate().all(|(n, &twice)| twice == 2 * n));
            assert_eq!(doubled.len(), 100);
        }
        assert!(map(&[0; 0], 4, |n| *n).is_empty());
    }
}
