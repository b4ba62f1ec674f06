//! What stands between two launches of one kernel that is timed alone.

use std::hint::black_box;

use mlafuse_cpu::on_threads;

/// More than a core's own caches hold, in words.
const WORDS: usize = (8 << 20) / size_of::<u64>();

/// Leaves other things in the caches of the processor's cores than a kernel did, as the rest of a step would. What is shared among
/// cores keeps what the kernel read the last time, as it may between two steps of a layer.
#[derive(Clone, Debug)]
pub struct Sweep {
    words: Vec<u64>,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep { words: vec![1; WORDS] }
    }
}

impl Sweep {
    /// On the threads that kernels run on, which are awake afterwards, as they are within a step.
    pub fn run(&self) {
        on_threads(rayon::current_num_threads(), &|_| {
            black_box(self.words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        });
    }
}
