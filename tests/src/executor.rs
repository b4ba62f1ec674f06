//! Where a case's kernels run.

use crate::machine::Memory;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::Launch;

/// Something that executes kernels and watches them.
pub trait Executor {
    /// What it counts.
    type Stats;

    /// Runs a kernel to its end in every order of events that it knows; all must leave the same bytes in `memory`.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn execute(&mut self, threads: &ThreadProgram, launch: &Launch, memory: &mut Memory)
    -> Result<Self::Stats, String>;
}
