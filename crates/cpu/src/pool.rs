//! The threads that kernels run on: those of the current rayon pool.

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Makes the global pool of so many threads, or with 0 of one for each processor. The calling thread is one of them: launches that
/// it makes begin without waking another. Those of a thread outside the pool may wait until this one has ended.
///
/// # Errors
/// Where there is a global pool already, or the system gives no more threads.
pub fn compute_here(threads: usize) -> Result<(), ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .build_global()
}
