//! What a launch did, in numbers that a profiler asks for.

use std::collections::BTreeMap;

use serde::Serialize;

/// Classes of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Arithmetic and moves of registers.
    Alu,
    /// `mma`.
    Tensor,
    /// Loads and stores of global memory, atomics included.
    Global,
    /// Loads and stores of shared memory, `ldmatrix` included.
    Shared,
    /// Those of other spaces.
    OtherMemory,
    /// `cp.async` and its commits and waits.
    Async,
    /// Shuffles, votes and the like.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// Branches, calls and returns.
    Control,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Class; 9] = [
        Class::Alu,
        Class::Tensor,
        Class::Global,
        Class::Shared,
        Class::OtherMemory,
        Class::Async,
        Class::Warp,
        Class::Barrier,
        Class::Control,
    ];
}

/// Counts of one launch, or of one PTX line of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Instructions that warps executed.
    pub instructions: u64,
    /// Those of each class, in the order of [`Class::ALL`].
    pub by_class: [u64; 9],
    /// Floating-point or integer operations of `mma`: two for each multiply-add.
    pub tensor_flops: u64,
    /// `mma` instructions.
    pub tensor_instructions: u64,
    /// Bytes that lanes loaded from global memory.
    pub global_bytes_read: u64,
    /// Bytes that lanes stored to global memory.
    pub global_bytes_written: u64,
    /// 32-byte sectors that loads asked for, counted once an instruction.
    pub global_sectors_read: u64,
    /// Likewise of stores.
    pub global_sectors_written: u64,
    /// Sectors that would do if each instruction's bytes lay side by side; no more than it asked for.
    pub global_sectors_ideal: u64,
    /// Passes through shared memory's banks.
    pub shared_wavefronts: u64,
    /// Passes that would do without bank conflicts.
    pub shared_wavefronts_ideal: u64,
    /// Barriers that warps arrived at.
    pub barriers: u64,
    /// Branches after which lanes of a warp went different ways.
    pub divergent_branches: u64,
}

impl Counters {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Counters) {
        self.each(other, |sum, count| *sum += count);
    }

    /// Applies `f` to each count and the other's.
    fn each(&mut self, other: &Counters, f: impl Fn(&mut u64, u64)) {
        f(&mut self.instructions, other.instructions);
        for (count, other) in self.by_class.iter_mut().zip(other.by_class) {
            f(count, other);
        }
        f(&mut self.tensor_flops, other.tensor_flops);
        f(&mut self.tensor_instructions, other.tensor_instructions);
        f(&mut self.global_bytes_read, other.global_bytes_read);
        f(&mut self.global_bytes_written, other.global_bytes_written);
        f(&mut self.global_sectors_read, other.global_sectors_read);
        f(&mut self.global_sectors_written, other.global_sectors_written);
        f(&mut self.global_sectors_ideal, other.global_sectors_ideal);
        f(&mut self.shared_wavefronts, other.shared_wavefronts);
        f(&mut self.shared_wavefronts_ideal, other.shared_wavefronts_ideal);
        f(&mut self.barriers, other.barriers);
        f(&mut self.divergent_branches, other.divergent_branches);
    }

    /// Adds what `after` has more than `before`.
    pub(crate) fn add_difference(&mut self, after: &Counters, before: &Counters) {
        let mut difference = after.clone();
        difference.each(before, |count, before| *count -= before);
        self.add(&difference);
    }

    /// Bytes that lanes loaded or stored.
    pub fn global_bytes(&self) -> u64 {
        self.global_bytes_read + self.global_bytes_written
    }

    /// Sectors that loads and stores asked for.
    pub fn global_sectors(&self) -> u64 {
        self.global_sectors_read + self.global_sectors_written
    }
}

/// Sectors of an allocation that a launch touched, each counted once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// The allocation.
    pub allocation: String,
    /// Sectors that were read.
    pub sectors_read: u64,
    /// Sectors that were written.
    pub sectors_written: u64,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Of the whole launch.
    pub total: Counters,
    /// By PTX line, where asked for.
    pub lines: BTreeMap<u32, Counters>,
    /// By allocation, those that were touched.
    pub traffic: Vec<Traffic>,
}
