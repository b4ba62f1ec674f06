//! Who tells how long a kernel takes under a schedule.

use mlafuse_codegen::schedule::Schedule;
use mlafuse_profile::ProfileError;
use mlafuse_runtime::{Identity, RuntimeError};

use crate::{FileError, Task};

/// A device that is timed, or a model of one.
pub trait Judge {
    /// What its figures hold for.
    fn identity(&self) -> Identity;

    /// Whether its figures are always the same: once is then enough.
    fn is_exact(&self) -> bool;

    /// Whether a kernel can be judged at all: asked of every kernel before the first is.
    ///
    /// # Errors
    /// Where it cannot.
    fn check(&self, task: &Task<'_>) -> Result<(), TuneError>;

    /// The schedules that are worth judging, first the one that is taken where nothing is known.
    ///
    /// # Errors
    /// Where there is none.
    fn candidates(&self, task: &Task<'_>) -> Result<Vec<Schedule>, TuneError>;

    /// Gets ready to judge schedules of a kernel.
    ///
    /// # Errors
    /// Where its memory cannot be had.
    fn contest<'a>(&'a self, task: &'a Task<'a>) -> Result<Box<dyn Contest + 'a>, TuneError>;
}

/// One kernel in launches of one size.
pub trait Contest {
    /// Microseconds of one launch under a schedule, made ready at the first call.
    ///
    /// # Errors
    /// Where it cannot run under this schedule.
    fn us(&mut self, schedule: &Schedule) -> Result<f64, TuneError>;
}

/// Why something cannot be tuned.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// A kernel cannot be built or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A kernel's memory cannot be filled.
    #[error(transparent)]
    Memory(#[from] ProfileError),
    /// More memory than is free.
    #[error(
        "kernel {kernel} ({bucket}) needs {needed} MiB of memory, and {free} MiB are free: take fewer or shorter sequences"
    )]
    TooLarge {
        /// The kernel.
        kernel: String,
        /// The sizes of its launches.
        bucket: String,
        /// MiB that its buffers take.
        needed: usize,
        /// MiB that are free.
        free: usize,
    },
    /// Records cannot be kept.
    #[error(transparent)]
    Records(#[from] FileError),
}
